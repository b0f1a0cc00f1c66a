"""Tests run on eight simulated CPU devices."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_num_cpu_devices", 8)

SHARED_DATA = Path(
    os.environ.get("ALEXNET_JAX_TEST_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data")
)
