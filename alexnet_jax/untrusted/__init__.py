"""Readers for untrusted files: they run nothing in the file and bound the memory that it takes."""
