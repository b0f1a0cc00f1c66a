"""Fuzzing of every file that a user can hand in: `PYTHONPATH=tests python -m fuzzing --inputs=100000 --seed=0`."""
