"""Stopped in the middle of an epoch and resumed, in every layout and feeding mode: the same bits."""

import os
import signal
from pathlib import Path

import pytest

from alexnet_jax import train
from alexnet_jax.config import set_field
from alexnet_jax.errors import PreemptedError
from alexnet_jax.run.reporter import Reporter
from faults.broken_runs import Run, assert_equal, config_of

pytestmark = pytest.mark.faults

FEEDS = ("jpeg", "raw", "device")
MESHES = {f"{data} x {tower}": {"mesh.data": data, "mesh.tower": tower} for data in (1, 2) for tower in (1, 2)}
OTHERS = {
    "2 x 2, sharded momentum, 2 micro-batches": {
        "mesh.data": 2,
        "mesh.tower": 2,
        "mesh.shard_momentum": True,
        "gradient_accumulation": 2,
    },
    "bfloat16": {"mesh.data": 1, "precision": "bfloat16"},
    "hybrid on 2": {"model.variant": "one_weird_trick", "mesh.data": 2, "mesh.shard_fully_connected": True},
}
CASES = [(feed, name) for feed in FEEDS for name in MESHES] + [("jpeg", name) for name in OTHERS]
QUICK = [("device", "2 x 2"), ("raw", "2 x 1")]
SIGNALED_AT, STOPPED_AFTER = 3, 4


class Stopping(Reporter):
    """SIGTERM arrives once a step was reported: one more is done, and saved."""

    def training(self, step: int, *more) -> None:
        """Report the step, and send the signal."""
        super().training(step, *more)
        if step == SIGNALED_AT:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("feed", "layout"), [pytest.param(*case, marks=[pytest.mark.quick] * (case in QUICK)) for case in CASES]
)
def test_resumed_to_the_bit(feed: str, layout: str, digits_dir: Path, tmp_path: Path, monkeypatch, tell) -> None:
    config = config_of("jpeg, one device", digits_dir)
    config.data.flip, config.data.color_noise, config.data.feed = True, "original", feed
    for name, value in (MESHES | OTHERS)[layout].items():
        set_field(config, name, value)
    whole, broken = Run(tmp_path / "whole", config), Run(tmp_path / "broken", config)
    train.train_and_evaluate(config, whole.workdir)
    with monkeypatch.context() as patch:
        patch.setattr(train, "Reporter", Stopping)
        with pytest.raises(PreemptedError, match=f"after step {STOPPED_AFTER} "):
            train.train_and_evaluate(config, broken.workdir)
    assert broken.saved() == broken.logged() == STOPPED_AFTER
    train.train_and_evaluate(config, broken.workdir)
    assert_equal(broken, whole)
    tell(f"stopped and resumed: {layout}", 1, "as uninterrupted, bit for bit", 0)
