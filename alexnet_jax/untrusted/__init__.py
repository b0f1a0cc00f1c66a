"""Untrusted files: nothing in them is run, and they take no more memory than they may."""
