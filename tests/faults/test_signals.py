"""A process that is killed, or asked to stop, at any moment ends with the results of an uninterrupted one."""

import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import prepare_sources
import pytest

from faults.broken_runs import (
    LAYOUTS,
    Moment,
    Run,
    assert_equal,
    assert_finished,
    config_of,
    ended,
    hit,
    hit_again_and_again,
    start,
)

pytestmark = pytest.mark.faults
SAME = "as uninterrupted, bit for bit"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kill_9_at_random_moments(layout: str, whole: Callable, choice: random.Random, tmp_path: Path, tell) -> None:
    """While it starts, between steps, while a checkpoint is written, during the evaluation."""
    expected = whole(layout)
    hits = hit_again_and_again(Run(tmp_path, expected.config), expected, signal.SIGKILL, 8, choice)
    tell("`kill -9`: start, steps, checkpoint, evaluation", hits.times, SAME, hits.steps_lost)


@pytest.mark.quick
def test_two_kills(whole: Callable, choice: random.Random, tmp_path: Path) -> None:
    expected = whole("jpeg, one device")
    hit_again_and_again(Run(tmp_path, expected.config), expected, signal.SIGKILL, 2, choice)


@pytest.mark.parametrize("layout", list(LAYOUTS)[:4])
def test_sigterm_at_random_moments(layout: str, whole: Callable, choice: random.Random, tmp_path: Path, tell) -> None:
    expected = whole(layout)
    hits = hit_again_and_again(Run(tmp_path, expected.config), expected, signal.SIGTERM, 5, choice)
    tell("SIGTERM: start, steps, checkpoint, evaluation", hits.times, f"status 75, then {SAME}", hits.steps_lost)


def test_kill_9_while_a_run_prepares_its_data(whole: Callable, choice: random.Random, tmp_path: Path, tell) -> None:
    """The digits are written on their first use, and then decoded to raw pixels."""
    expected, times = whole("raw, 2 x 1"), 5
    data = tmp_path / "data" / "digits"
    run = Run(tmp_path, config_of("raw, 2 x 1", tmp_path / "data"))
    for number in range(times):
        seen = (lambda: any(data.glob(".preparing-*"))) if number % 2 else (lambda: any(data.glob("*/raw/.train*")))
        while True:  # until it is hit while it prepares
            shutil.rmtree(tmp_path / "data", ignore_errors=True)
            shutil.rmtree(run.workdir, ignore_errors=True)
            if hit(run.start(), Moment("data", seen, choice.uniform(0, 0.1)), signal.SIGKILL).status == -9:
                break
    assert_finished(run, run.finish())
    assert_equal(run, expected)
    tell("`kill -9` while a run prepares its data", times, SAME, 0)


def test_kill_9_in_prepare(choice: random.Random, tmp_path: Path, tell) -> None:
    """`prepare` of a folder of images: records, statistics and report are those of an uninterrupted one."""
    source = prepare_sources.folder(tmp_path / "source", ("ant", "bee", "cat"), images=60)

    def command(data_dir: Path) -> tuple[object, ...]:
        flags = ("--dataset=folder", f"--source={source}", f"--data_dir={data_dir}", "--size=32")
        return (sys.executable, "-m", "alexnet_jax.prepare", *flags)

    whole, broken, times = tmp_path / "whole", tmp_path / "broken", 3
    assert ended(start(*command(whole))).status == 0
    for _ in range(times):
        begun = lambda: any(broken.glob("*/.preparing-*/units/*"))  # noqa: E731
        while hit(start(*command(broken)), Moment("units", begun, choice.uniform(0, 0.2)), signal.SIGKILL).status == 0:
            shutil.rmtree(broken)  # it was done before it was hit
    last = ended(start(*command(broken)))
    assert last.status == 0, last.output
    found, expected = _contents(broken / "source"), _contents(whole / "source")
    assert found.keys() == expected.keys()
    assert found == expected
    tell("`kill -9` in `prepare`", times, "the same records")


def _contents(folder: Path) -> dict[str, object]:
    """What is in a prepared set: every record in order, and every other file."""
    import tensorflow_datasets as tfds

    (version,) = (path for path in folder.iterdir() if path.is_dir())
    builder = tfds.builder_from_directory(version)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    records = {split: list(builder.as_data_source(split, deserialize_method=raw)) for split in ("train", "validation")}
    others = {path.name: path.read_bytes() for path in version.iterdir() if "array_record" not in path.name}
    return records | others


def test_kill_9_in_evaluate(whole: Callable, choice: random.Random, tmp_path: Path, tell) -> None:
    """The workdir stays as it was; the same command then prints the same result."""
    run = Run(tmp_path, whole("jpeg, one device").config)
    shutil.copytree(whole("jpeg, one device").workdir, run.workdir)
    before, times = run.log(), 2
    command = (sys.executable, "-m", "alexnet_jax.evaluate", f"--workdir={run.workdir}", "--json")
    begun = time.monotonic()
    first = ended(start(*command))
    seconds, said = time.monotonic() - begun, json.loads(first.output)
    assert run.log() == [*before, said]
    lines = (run.workdir / "metrics.jsonl").read_bytes()
    killed = 0
    while killed < times:
        end = hit(start(*command), Moment("evaluate", lambda: True, choice.uniform(0, seconds)), signal.SIGKILL)
        killed += end.status == -signal.SIGKILL
        found = (run.workdir / "metrics.jsonl").read_bytes()
        assert found in (lines, lines + lines.splitlines(keepends=True)[-1])
        (run.workdir / "metrics.jsonl").write_bytes(lines)
    assert json.loads(ended(start(*command)).output) == said
    tell("`kill -9` in `evaluate`", times, "the workdir is as before; the same figures")
