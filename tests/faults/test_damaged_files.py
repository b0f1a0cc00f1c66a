"""Files that are cut, changed or deleted between two runs: skipped or reported, never used."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.broken_runs import STEPS, Run, assert_equal, assert_finished, assert_refused, config_of

pytestmark = pytest.mark.faults
SAME = "as uninterrupted, bit for bit"


def cut(path: Path, choice: random.Random) -> None:
    """Leaves the first part of a file; an empty one grows instead."""
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: choice.randrange(size)] if size else b"x")


def flip(path: Path, choice: random.Random) -> None:
    """Changes one bit."""
    data = bytearray(path.read_bytes() or b"\0")
    data[choice.randrange(len(data))] ^= 1 << choice.randrange(8)
    path.write_bytes(data)


def delete(path: Path, choice: random.Random) -> None:
    """Removes the file."""
    path.unlink()


DAMAGES = (cut, flip, delete)
PAST = {cut: "cut", flip: "with bits flipped", delete: "deleted"}


@pytest.fixture
def finished(whole: Callable, tmp_path: Path) -> Run:
    """A copy of the finished run."""
    run = Run(tmp_path, whole("jpeg, one device").config)
    shutil.copytree(whole("jpeg, one device").workdir, run.workdir)
    return run


def newest(run: Run) -> Path:
    return run.workdir / "checkpoints" / str(run.saved())


def kinds_of_files(checkpoint: Path) -> Iterator[str]:
    """Patterns of the files of a checkpoint; the names of data files are different each time."""
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        folder = path.parent.relative_to(checkpoint)
        yield str(folder / "*") if path.parent.name == "d" else str(folder / path.name)


def test_every_file_of_a_checkpoint(finished: Run, whole: Callable, choice: random.Random, tell) -> None:
    """Each file of the newest checkpoint in turn; the run resumes from the previous one and writes it again."""
    patterns = list(kinds_of_files(newest(finished)))
    assert len(patterns) >= 8
    for number, pattern in enumerate(patterns):
        (path,) = newest(finished).glob(pattern)
        damage = DAMAGES[number % len(DAMAGES)]
        print(f"{damage.__name__}: {path.relative_to(finished.workdir)}")
        damage(path, choice)
        end = finished.finish()
        assert_finished(finished, end)
        assert "resuming from step 9" in end.output
        assert_equal(finished, whole("jpeg, one device"))
    tell("checkpoint: a file cut, with a bit flipped, or deleted", len(patterns), SAME, STEPS - 9)


@pytest.mark.quick
def test_half_of_a_checkpoint_is_gone(finished: Run, whole: Callable, tell) -> None:
    for path in [path for path in sorted(newest(finished).rglob("*")) if path.is_file()][::2]:
        path.unlink()
    assert_finished(finished, finished.finish())
    assert_equal(finished, whole("jpeg, one device"))
    tell("checkpoint half deleted", 1, SAME, STEPS - 9)


def test_all_checkpoints_are_damaged(finished: Run, whole: Callable, choice: random.Random, tell) -> None:
    """Nothing is removed, and the run does not start again by itself."""
    copies = finished.folder / "copies"
    shutil.copytree(finished.workdir / "checkpoints", copies)
    for folder in (finished.workdir / "checkpoints").iterdir():
        cut(next(folder.rglob("d/*")), choice)
    assert_refused(finished.finish(), r"No checkpoint in .* can be used \(.*put back a copy of one, or remove")
    shutil.rmtree(finished.workdir / "checkpoints")
    shutil.move(copies, finished.workdir / "checkpoints")
    assert_finished(finished, finished.finish())
    assert_equal(finished, whole("jpeg, one device"))
    tell("all checkpoints damaged", 1, f"one sentence, status 2; with a copy put back {SAME}", 0)


SENTENCES = {
    cut: r"array_record-\S+ is damaged: it should hold 1437 records and 0 can be read",
    flip: r"(record \d+ of split 'train' of .* can't be read|array_record-\S+ is damaged)",
    delete: r"array_record-\S+ is missing; restore it, or delete its folder",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_shard_between_two_runs(damage: Callable, digits_dir: Path, whole: Callable, tmp_path: Path, choice, tell):
    """The training stops with a sentence that names it, and keeps its state; it resumes once the shard is back."""
    shutil.copytree(digits_dir, tmp_path / "data")
    run = Run(tmp_path, config_of("jpeg, one device", tmp_path / "data"))
    shutil.copytree(whole("jpeg, one device").workdir, run.workdir)
    shutil.rmtree(run.workdir / "checkpoints" / str(STEPS))
    (shard,) = (tmp_path / "data").rglob("*train.array_record*")
    records = shard.read_bytes()
    damage(shard, choice)
    if damage is flip:  # everywhere, so that the next steps are sure to read it
        data = bytearray(records)
        for start in range(1000, len(data) - 1000, 997):
            data[start] ^= 1
        shard.write_bytes(data)
    assert_refused(run.finish(), SENTENCES[damage])
    assert run.saved() == 9
    shard.write_bytes(records)
    assert_finished(run, run.finish())
    assert_equal(run, whole("jpeg, one device"))
    tell(f"data: a shard {PAST[damage]}", 1, f"one sentence, status 2; with the shard put back {SAME}", 0)


def test_single_bits_of_a_shard(digits_dir: Path, tmp_path: Path, choice: random.Random, tell) -> None:
    """A flipped bit is either noticed or changes no pixel and no label: 100 of them, anywhere in the file."""
    import numpy as np

    from alexnet_jax.data.datasets import open_dataset
    from alexnet_jax.errors import UserError

    config = config_of("jpeg, one device", tmp_path / "data").data
    shutil.copytree(digits_dir, tmp_path / "data", ignore=shutil.ignore_patterns("raw"))

    def pixels() -> tuple[np.ndarray, np.ndarray]:
        source = open_dataset(config).evaluation
        images = np.empty((len(source), source.image_size, source.image_size, 3), np.uint8)
        labels = np.empty(len(source), np.int32)
        source.read(range(len(source)), images, labels)
        return images, labels

    (shard,) = (tmp_path / "data").rglob("*validation.array_record*")
    records, expected = shard.read_bytes(), pixels()
    noticed = 0
    for _ in range(100):
        flip(shard, choice)
        try:
            found = pixels()
        except UserError:
            noticed += 1
        else:
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])
        shard.write_bytes(records)
    assert noticed > 0
    tell("data: any bit of a shard flipped", 100, f"noticed, one sentence ({noticed}), or of no effect")
