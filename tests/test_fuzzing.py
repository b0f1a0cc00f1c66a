"""A small part of the fuzzing campaign (`fuzzing/`), with the same files each time."""

from pathlib import Path

import pytest
from fuzzing.campaign import fuzz
from fuzzing.kinds import KINDS

# Slow kinds: they start a process or draw a figure.
FEW = {"development kit": 3, "metrics.jsonl, drawn": 2, "checkpoint": 15, "checkpoint, checksums forged": 15}


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("kind", KINDS)
def test_no_file_ends_in_a_crash(kind: str, tmp_path: Path) -> None:
    inputs = FEW.get(kind, 120)
    result = fuzz(kind, KINDS[kind].subject(tmp_path), inputs, seed=7)
    assert not result.crashes
    assert result.accepted + result.refused == inputs
    if inputs > 100 and kind not in ("metrics.jsonl", "outcome.json"):  # invalid lines are skipped
        assert result.accepted
        assert result.refused
