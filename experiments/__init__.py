"""The paper's claims as experiments: `python -m experiments` lists them, `docs/reproduction.md` has the results."""
