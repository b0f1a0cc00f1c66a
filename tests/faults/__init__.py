"""Runs of the real program that are broken on purpose; see docs/reliability.md."""
