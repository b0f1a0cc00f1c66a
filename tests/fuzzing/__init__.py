"""Fuzzing of every file that a user can provide: `PYTHONPATH=tests python -m fuzzing --inputs=100000 --seed=0`."""
