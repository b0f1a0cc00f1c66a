"""What is to run on a GPU one day: its commands are valid, time ends it, and what it brings along is complete."""

import argparse
import importlib
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from absl import flags as absl_flags
from ml_collections import config_flags

from alexnet_jax import validation
from alexnet_jax.config import Config
from alexnet_jax.model.layers import Convolution
from benchmarks import choices, gpu_bundle, kernels, on_gpu_runs
from benchmarks.nets import net_config, net_shapes
from benchmarks.on_gpu import FULL, SHORT, Part, Scale, parts, run
from benchmarks.trainings import command

ROOT = Path(__file__).resolve().parents[1]
HERE = Path("here")


def flags_of(part: Part, scale: Scale, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Parse the command of a part as its module does."""
    shared = (f"--platform={scale.platform}", "--results=r.jsonl", "--commit=abc")
    monkeypatch.setattr(sys, "argv", part.command(*shared)[2:])
    return importlib.import_module(f"benchmarks.{part.module}").parse()


def config_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return the config that `alexnet_jax.main` would get."""
    monkeypatch.setattr(sys, "argv", ["main", *arguments])  # where ml_collections looks for overrides
    values = absl_flags.FlagValues()
    parsed = config_flags.DEFINE_config_file("config", flag_values=values)
    absl_flags.DEFINE_string("workdir", None, "", flag_values=values)
    values(sys.argv)
    return parsed.value


@pytest.mark.parametrize("scale", [FULL, SHORT], ids=["full", "short"])
def test_every_part_is_a_valid_command(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    everything = parts(scale, HERE, HERE)
    assert len({part.name for part in everything}) == len(everything)
    for part in everything:
        flags = flags_of(part, scale, monkeypatch)
        assert flags.platform == scale.platform
        assert tuple(getattr(flags, "overrides", ())) == part.overrides
        for setting in getattr(flags, "each", ["seed=0"] if part.overrides else []):
            overrides = [f"--config.{setting}", *part.overrides]
            validation.validate(config_of(command(flags.config, HERE, overrides)[3:], monkeypatch))


def test_full_runs_are_the_experiments_with_another_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    trained = [
        arguments[2:] for arguments in on_gpu_runs.commands(HERE, short=False) if arguments[1] != "alexnet_jax.evaluate"
    ]
    configs = [config_of(arguments, monkeypatch) for arguments in trained]
    for config in configs:
        validation.validate(config)
        assert config.data.feed == "device"
    assert [config.num_epochs for config in configs].count(520.0) == 6


def test_a_part_ends_with_its_time_and_says_how(capfd: pytest.CaptureFixture) -> None:
    assert run(Part("none", "table", ()), (), 1.0) == "no time left"
    assert run(Part("wrong", "there_is_none", ()), (), 60.0) == "failed with status 1"
    assert "there_is_none" in capfd.readouterr().err


@pytest.mark.parametrize("variant", ["paper", "caffenet", "one_weird_trick"])
def test_space_to_depth_is_the_same_convolution(variant: str) -> None:
    shape = next(shape for shape in net_shapes(net_config(variant, 0.1)) if isinstance(shape.layer, Convolution))
    random = np.random.default_rng(0)
    images = random.normal(size=(1, *shape.input_shape)).astype(np.float32)
    kernel = random.normal(size=shape.kernel_shape).astype(np.float32)
    expected = choices.convolve(images, kernel, shape.layer)
    np.testing.assert_allclose(choices.space_to_depth(images, kernel, shape.layer), expected, atol=1e-3)


def test_kernels_have_the_rate_of_what_they_move() -> None:
    times = {("fusion", "fusion"): 0.004, ("conv", "sm90_conv"): 0.002, ("memset", "memset"): 0.001}
    longest, *others, everything = kernels.table(
        times, {"fusion": "jit(f)/relu"}, {"fusion": 10**9, "conv": 10**8}, 2, 2
    )
    assert (longest["made from"], longest["ms"], longest["MB"]) == ("relu", 2.0, 1000.0)
    assert longest["GB/s"] == pytest.approx(500)
    assert [line["operation"] for line in others] == ["conv", "1 others"]
    assert everything["MB"] == 1100.0
    assert "MB" not in kernels.table(times, {}, {}, 2, 2)[0]


def test_the_bundle_has_locked_wheels_and_the_images_as_they_are(tmp_path: Path) -> None:
    lock = (ROOT / "requirements-lock.txt").read_text()
    entries = gpu_bundle.locked(lock, gpu_bundle.LACKING)
    assert entries.count("==") == len(gpu_bundle.LACKING)
    assert entries.count("--hash=sha256:") > len(gpu_bundle.LACKING)

    jpegs = [b"first", b"second one", b"third"]
    for split in ("train", "val"):
        np.savez(
            tmp_path / f"imagenette128_{split}.npz",
            data=np.frombuffer(b"".join(jpegs), np.uint8),
            offsets=np.cumsum([0, *map(len, jpegs)]),
            labels=np.array([0, 1, 0]),
            names=np.array(["a.JPEG", "b.JPEG", "c.JPEG"]),
            classes=np.array(["n1", "n2"]),
        )
    gpu_bundle.write_images(tmp_path, tmp_path / "images.tgz")
    with tarfile.open(tmp_path / "images.tgz") as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}
    train = {"train/n1/a.JPEG": b"first", "train/n2/b.JPEG": b"second one", "train/n1/c.JPEG": b"third"}
    assert content == train | {"val/n1/a.JPEG": b"first", "val/n1/c.JPEG": b"third"}
