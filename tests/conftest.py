"""Tests run on eight simulated CPU devices."""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Programs that tests start, and the workers of pytest-xdist, compile the same things: they share what was compiled, for
# one session.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="alexnet_jax_xla_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name

import jax
import pytest
from checkouts import make_checkout
from hypothesis import HealthCheck, settings

from alexnet_jax.config import Config
from configs import quickstart

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# The same examples each time, however slow the machine is.
settings.register_profile("suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

SHARED_DATA = Path(
    os.environ.get("ALEXNET_JAX_TEST_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data")
)


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the built-in digits are prepared, once."""
    from alexnet_jax.data import digits

    root = tmp_path_factory.mktemp("data")
    digits.prepare(root)
    return root


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository whose environment is the one that the tests run in."""
    script = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    return make_checkout(tmp_path_factory.mktemp("checkout"), {"python": script, "pip": script})


@pytest.fixture
def tiny_config(digits_dir: Path) -> Config:
    """The paper's net as narrow as it goes, on the digits: 24 steps of 120 images."""
    return _tiny_config(digits_dir)


@pytest.fixture(scope="session")
def trained_folder(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a finished training of that net. Tests read it, and copy what they change."""
    from alexnet_jax.train import train_and_evaluate

    folder = tmp_path_factory.mktemp("trained") / "net"
    train_and_evaluate(_tiny_config(digits_dir), folder)
    return folder


def _tiny_config(digits_dir: Path) -> Config:
    config = quickstart.get_config()
    config.batch_size = 120
    config.num_epochs = 2.0
    config.model.conv_width = 0.0833
    config.model.fc_width = 0.0079
    config.mesh.data = 1
    config.data.dir = str(digits_dir)
    config.eval.every_epochs = 1.0
    config.checkpoint.every_epochs = 0.5
    config.log.every_steps = 1
    return config
