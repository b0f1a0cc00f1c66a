"""A preparation that is killed, fills the disk or finds existing files resumes or reports an error."""

import fcntl
import gc
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import imagenet_forms as forms
import numpy as np
import prepare_sources as sources
import pytest
import tensorflow_datasets as tfds

from alexnet_jax.config import DataConfig
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.image_codec import Decoded
from alexnet_jax.data.statistics import Sums
from alexnet_jax.errors import UserError
from alexnet_jax.prepare import units, workflow
from alexnet_jax.prepare.archives import open_source
from alexnet_jax.prepare.source import SourceImage
from alexnet_jax.prepare.units import TASK, Recipe, process
from alexnet_jax.prepare.workflow import prepare_dataset
from alexnet_jax.progress import Progress

FULL = Path("/dev/full")  # on Linux, writing to it fails as on a full disk

# Prepares with small units and shards; is killed at the end of the n-th call of a function, before its result is used.
# Prints how many images it decoded.
PROGRAM = """
import os, signal, sys
from pathlib import Path
import prepare_sources as sources
from alexnet_jax.prepare import shards, units, workflow

units.UNIT, units.TASK, shards.SHARD_BYTES, calls = 16, 4, 20_000, {"decode": 0}
units.BOUNDARY = 1 << 64  # all units have the full size

def counted(module, name, kill_at):
    original = getattr(module, name)
    def function(*arguments, **options):
        result = original(*arguments, **options)
        calls[name] = calls.get(name, 0) + 1
        if calls[name] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(module, name, function)

counted(units, "decode", 0)
if len(sys.argv) > 2:
    counted({"workflow": workflow, "shards": shards, "units": units}[sys.argv[2]], sys.argv[3], int(sys.argv[4]))
sources.prepare_here("folder", Path(sys.argv[1]))
print(calls["decode"])
"""


def run_program(root: Path, *kill: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), *map(str, kill)],
        cwd=sources.REPOSITORY, env={**os.environ, "PYTHONPATH": f".:{sources.REPOSITORY / 'tests'}"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def contents(root: Path) -> dict[str, bytes]:
    """Return every record of the data set in order, and its other files."""
    directory = root / "data" / "source" / "1.0.0"
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    builder = tfds.builder_from_directory(directory)
    records = {
        split: b"".join(builder.as_data_source(split, deserialize_method=raw)) for split in ("train", "validation")
    }
    others = {path.name: path.read_bytes() for path in directory.iterdir() if "array_record" not in path.name}
    return records | others


def test_killed_at_any_time_it_resumes_to_the_same_records(tmp_path):
    """SIGKILL in a unit, at the end of a unit, in the second pass and before the end; then it may finish."""
    folder = tmp_path / "interrupted" / "source"
    sources.folder(folder, ("ant", "bee", "cat", "dog", "eel"), images=10)
    shutil.copytree(folder, tmp_path / "whole" / "source")
    kills = [
        ("units", "serialize", 37),
        ("units", "_save", 1),
        ("shards", "write_records", 2),
        ("workflow", "write_info", 1),
    ]
    for kill in kills:
        killed = run_program(tmp_path / "interrupted", *kill)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not sources.looks_whole(tmp_path / "interrupted")
    resumed = run_program(tmp_path / "interrupted")
    assert (resumed.returncode, resumed.stdout) == (0, "0\n"), resumed.stderr  # every unit was finished before
    uninterrupted = run_program(tmp_path / "whole")
    assert (uninterrupted.returncode, uninterrupted.stdout) == (0, "100\n"), uninterrupted.stderr
    assert contents(tmp_path / "interrupted") == contents(tmp_path / "whole")
    assert len(list((tmp_path / "whole").rglob("*train.array_record*"))) > 1  # several shards
    assert not list((tmp_path / "interrupted" / "data").rglob("*unfinished*"))


# `python -m alexnet_jax.prepare`, with small units; Ctrl-C arrives at the n-th image. Prints how many it decoded.
COMMAND = """
import os, runpy, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background of a script ignores it
sys.argv = ["-m", *sys.argv[2:]]
stop_at, sys.orig_argv = int(sys.orig_argv[3]), [sys.executable, "-m", "alexnet_jax.prepare", *sys.argv[1:]]
from alexnet_jax.prepare import units

units.UNIT, units.TASK, calls, decode = 16, 4, [], units.decode

def counted(*arguments):
    calls.append(1)
    if len(calls) == stop_at:
        os.kill(os.getpid(), signal.SIGINT)
    if len(calls) >= stop_at:
        signal.pause()
    return decode(*arguments)

units.decode = counted
try:
    runpy.run_module("alexnet_jax.prepare", run_name="__main__", alter_sys=True)
finally:
    print(len(calls), "decoded")
"""


def run_command(root: Path, stop_at: int) -> subprocess.CompletedProcess:
    paths = f"--source={root / 'pets'}", f"--data_dir={root / 'data'}"
    return subprocess.run(
        [sys.executable, "-c", COMMAND, str(stop_at), "--dataset=folder", "--name=source", *paths, "--size=8"],
        cwd=sources.REPOSITORY,
        env={**os.environ, "GLIBC_TUNABLES": ""}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_after_ctrl_c_the_same_command_resumes_from_shards(tmp_path):
    """It ends in one line, finished units are not made again, and the result is that of an uninterrupted run."""
    pictures = {split: [(n, label % 2, data) for n, label, data in m[:80]] for split, m in forms.contents().items()}
    for root in (tmp_path / "interrupted", tmp_path / "whole"):
        forms.parquet(root / "pets", pictures, ["cat", "dog"])
    interrupted = run_command(tmp_path / "interrupted", 60)
    lines = [line for line in interrupted.stderr.splitlines() if not line.endswith("left")]  # of the progress
    assert interrupted.returncode == 128 + signal.SIGINT
    assert lines == ["error: stopped by SIGINT with nothing to save; run the same command again."]
    assert not sources.looks_whole(tmp_path / "interrupted")
    resumed, whole = run_command(tmp_path / "interrupted", 1000), run_command(tmp_path / "whole", 1000)
    assert (resumed.returncode, whole.returncode) == (0, 0), resumed.stderr + whole.stderr
    decoded = [int(run.stdout.splitlines()[-1].split()[0]) for run in (resumed, whole)]
    assert decoded[0] <= decoded[1] - 16 == 110 - 16
    assert contents(tmp_path / "interrupted") == contents(tmp_path / "whole")


def test_finished_units_are_not_made_again(tmp_path):
    sources.folder(tmp_path / "source", ("ant", "bee", "cat", "dog", "eel"), images=10)
    assert run_program(tmp_path, "units", "_save", 3).returncode == -signal.SIGKILL
    resumed = run_program(tmp_path)
    assert resumed.stdout == f"{100 - 3 * 16}\n", resumed.stderr


def test_other_settings_do_not_resume_a_preparation(tmp_path):
    interrupted(tmp_path)
    with pytest.raises(UserError, match=r"\.preparing-1\.0\.0 was prepared differently \(keep_originals was False and"):
        sources.prepare_here("folder", tmp_path, keep_originals=True)


def interrupted(root: Path) -> None:
    """Prepare a folder, and stop before it is described: all images are decoded, and all shards written."""
    sources.folder(root / "source", images=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "write_info", lambda *_, **__: stop())
        with pytest.raises(KeyboardInterrupt):
            sources.prepare_here("folder", root)


def stop() -> None:
    raise KeyboardInterrupt


def test_files_that_change_meanwhile_cost_only_their_units(tmp_path, monkeypatch):
    """One repaired, one added, one removed and one moved to another class: most of the images are not decoded again."""
    monkeypatch.setattr(units, "BOUNDARY", 4)
    interrupted(tmp_path)
    train = tmp_path / "source" / "train"
    (train / "cat" / "3.jpg").write_bytes(sources.jpeg(99, comment=b"repaired"))
    (train / "cat" / "new.jpg").write_bytes(sources.jpeg(98))
    (train / "dog" / "5.jpg").unlink()
    (train / "dog" / "20.jpg").rename(train / "cat" / "moved.jpg")
    shutil.copytree(tmp_path / "source", tmp_path / "anew" / "source")
    decoded, decode = [], units.decode
    monkeypatch.setattr(units, "decode", lambda data, buffer: decoded.append(1) or decode(data, buffer))
    sources.prepare_here("folder", tmp_path)
    assert 3 <= len(decoded) < 80
    sources.prepare_here("folder", tmp_path / "anew")
    assert contents(tmp_path) == contents(tmp_path / "anew")


def rename_a_class(source: Path) -> None:
    (source / "train" / "cat").rename(source / "train" / "hat")
    (source / "val" / "cat").rename(source / "val" / "hat")


def exchange_two_images(source: Path) -> None:
    (source / "train" / "cat" / "0.jpg").rename(source / "train" / "dog" / "new.jpg")
    (source / "train" / "dog" / "0.jpg").rename(source / "train" / "cat" / "0.jpg")


@pytest.mark.parametrize("change", [rename_a_class, exchange_two_images])
def test_other_labels_are_another_source(tmp_path, change):
    """Even with the same number of images and bytes."""
    for path in sources.folder(tmp_path / "source").rglob("*.jpg"):
        path.write_bytes(path.read_bytes().ljust(4096, b"\0"))
    sources.prepare_here("folder", tmp_path)
    change(tmp_path / "source")
    with pytest.raises(UserError, match=r"1\.0\.0 was prepared differently \(source was .* and is now"):
        sources.prepare_here("folder", tmp_path)


def test_a_repaired_source_is_read_again(tmp_path):
    """Units with broken images are not finished: an image of the same size replaces one, and the rest is kept."""
    path = sources.folder(tmp_path / "source") / "train" / "cat" / "0.jpg"
    whole = path.read_bytes()
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(UserError, match=r"1 images can't be decoded.*Repair the source"):
        sources.prepare_here("folder", tmp_path, max_broken=0)
    path.write_bytes(whole)
    target = sources.prepare_here("folder", tmp_path, max_broken=0)
    assert len(tfds.builder_from_directory(target).as_data_source("train")) == 8


@pytest.mark.parametrize("kind", ["npz", "records"])
def test_a_unit_that_is_cut_is_made_again(tmp_path, kind):
    """As after a power failure."""
    sources.folder(tmp_path / "source", ("ant", "bee", "cat", "dog", "eel"), images=10)
    assert run_program(tmp_path, "units", "_save", 3).returncode == -signal.SIGKILL
    units_made = tmp_path / "data" / "source" / ".preparing-1.0.0" / "units"
    with min(units_made.glob(f"train-*.{kind}")).open("r+b") as unit:
        unit.truncate(0)
    resumed = run_program(tmp_path)
    assert resumed.stdout == f"{100 - 2 * 16}\n", resumed.stderr


# The disk


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "file", ["units/train-{unit}.records", "source/1.0.0/.unfinished-source-train.array_record-{shard}"]
)
def test_full_disk_is_reported_and_the_same_command_resumes(tmp_path, file):
    """In the first pass and in the second: the next file to be written is on a full device."""
    sources.folder(tmp_path / "source")
    images = [
        image for image in open_source("folder", tmp_path / "source", None, 0.1).images() if image.split == "train"
    ]
    file = file.format(shard="00000-of-00001", unit=units.fingerprint(images))
    path = tmp_path / "data" / "source" / ".preparing-1.0.0" / file
    path.parent.mkdir(parents=True)
    path.symlink_to(FULL)
    with pytest.raises(UserError, match=r"\.preparing-1\.0\.0 can't be written \(.*No space left on device.*resumes"):
        sources.prepare_here("folder", tmp_path)
    assert not sources.looks_whole(tmp_path)
    path.unlink(missing_ok=True)
    sources.prepare_here("folder", tmp_path)
    assert len(open_dataset(DataConfig(name="source", dir=str(tmp_path / "data"))).train) == 8


def test_disk_that_is_too_small_is_refused_at_once(tmp_path, monkeypatch):
    sources.folder(tmp_path / "source")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 999, 1))
    with pytest.raises(UserError, match=r"has 0\.0 GB free, but about 0\.0 GB are needed"):
        sources.prepare_here("folder", tmp_path)


def test_folder_that_cannot_be_written_to(tmp_path):
    sources.folder(tmp_path / "source")
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match=r"can't be written \(Not a directory\)"):
        sources.prepare_here("folder", tmp_path)


# Existing folders


def test_finished_set_is_left_alone_and_other_settings_are_refused(tmp_path):
    sources.folder(tmp_path / "source")
    target = sources.prepare_here("folder", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert sources.prepare_here("folder", tmp_path) == target
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    data = open_source("folder", tmp_path / "source", None, 0.1)
    other = Recipe(40, 95, seed=0, keep_originals=False, name_feature="file_name")
    with pytest.raises(UserError, match=r"was prepared differently \(size was 32 and is now 40\); delete it"):
        prepare_dataset(data, other, tmp_path / "data", max_broken=0, num_threads=1)


def test_folder_of_another_maker_is_left_alone(tmp_path):
    sources.folder(tmp_path / "source")
    (tmp_path / "data" / "source" / "1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"1\.0\.0 was not made by this command"):
        sources.prepare_here("folder", tmp_path)


def test_second_preparation_at_the_same_time_is_refused(tmp_path):
    sources.folder(tmp_path / "source")
    scratch = tmp_path / "data" / "source" / ".preparing-1.0.0"
    scratch.mkdir(parents=True)
    with (scratch / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is preparing source"):
            sources.prepare_here("folder", tmp_path)


# Memory and progress


def streamed(count: int, load) -> Iterator[SourceImage]:
    return (SourceImage("train", f"{number}", 0, load, number, 12_000_000) for number in range(count))


@pytest.mark.parametrize(("file_bytes", "limit"), [(0, 8 * TASK), (12_000_000, 7)])
def test_only_a_bounded_number_of_images_and_bytes_is_loaded_ahead(tmp_path, file_bytes, limit):
    """However many images there are, they are loaded as fast as they are processed: with two threads, 84 MB of them."""
    loaded, finished, most_ahead = 0, 0, 0

    def load() -> bytes:
        nonlocal loaded, most_ahead
        loaded += 1
        most_ahead = max(most_ahead, loaded - finished)
        return data

    def done(num_images: int, position: int, skipped: bool) -> None:
        nonlocal finished
        finished += num_images

    data = sources.jpeg(1).ljust(file_bytes, b"\0")
    count = 2000 if not file_bytes else 60
    ((_, unit),) = process(streamed(count, load), Recipe(8, 95, 0, False, "file_name"), tmp_path, 2, done)
    assert loaded == finished == len(unit.keys) == count
    assert most_ahead <= limit


def test_a_unit_is_bounded_by_the_bytes_of_its_records(tmp_path, monkeypatch):
    """With originals of 12 MB, it has ten images, not 4,096; the sums of units stay on disk."""
    monkeypatch.setattr(units, "decode", lambda *_: Decoded(np.zeros((8, 8, 3), np.uint8), ()))
    recipe = Recipe(8, 95, seed=0, keep_originals=True, name_feature="file_name")
    found = [unit for _, unit in process(streamed(25, lambda: b"x"), recipe, tmp_path, 2, lambda *_: None)]
    assert [len(unit.keys) for unit in found] == [11, 11, 3]
    assert not any(isinstance(value, Sums) for unit in found for value in unit)
    assert sum(units.load_sums(unit).num_images for unit in found) == 25


def test_units_of_another_version_are_not_mixed_with_ours(tmp_path, monkeypatch):
    """Of archives, units have numbers: their sizes tell whether they end at the same images."""
    recipe = Recipe(8, 95, seed=0, keep_originals=False, name_feature="file_name")

    def make(size: int) -> list:
        monkeypatch.setattr(units, "UNIT", size)
        return list(process(streamed(10, lambda: sources.jpeg(1)), recipe, tmp_path, 1, lambda *_: None))

    assert len(make(4)) == 3
    with pytest.raises(UserError, match=f"has 4 images, and should have 8: .* delete {tmp_path.parent}"):
        make(8)


def test_an_interrupt_ends_all_threads_and_the_same_command_resumes(tmp_path, monkeypatch):
    """In the first pass and in the second."""
    sources.folder(tmp_path / "source", images=40)
    before = threading.active_count()
    for function in ("images", "shards"):
        with monkeypatch.context() as patch:
            patch.setattr(Progress, function, lambda *_, **__: stop())
            with pytest.raises(KeyboardInterrupt):
                sources.prepare_here("folder", tmp_path)
        gc.collect()
        assert threading.active_count() == before
        assert not list((tmp_path / "data").rglob("*unfinished*"))
        assert not sources.looks_whole(tmp_path)
    sources.prepare_here("folder", tmp_path)
    assert len(open_dataset(DataConfig(name="source", dir=str(tmp_path / "data"))).train) == 80


def test_progress_says_how_far_it_is_and_how_long_it_will_take(monkeypatch):
    """A quarter of the bytes was done before a kill, another took a minute: two minutes are left."""
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    stream = io.StringIO()
    progress = Progress(4_000_000, stream)
    progress.images(100, 1_000_000, skipped=True)
    now += 60
    progress.images(120, 2_000_000, skipped=False)
    now += 1
    progress.images(1, 2_000_001, skipped=False)  # too soon for another line in a log
    assert stream.getvalue() == "220 images, 50.0% of 4.00MB, 2 images/s, 2 min 0 s left\n"
    progress.shards("train", 1, 1)
    progress.close()
    assert stream.getvalue().endswith("left\nshuffling train: 1 of 1 shards\n")


def test_a_long_search_says_how_many_images_it_has_found(monkeypatch):
    """A short one says nothing."""
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    stream = io.StringIO()
    with Progress(0, stream) as progress:
        progress.found(1)
        now += 31
        progress.found(120_000)
        progress.found(120_001)
    assert stream.getvalue() == "120,000 images found\n"
