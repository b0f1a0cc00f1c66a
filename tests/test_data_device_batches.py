"""Every `data.feed` gives the same batches and the same training, on any devices and with any threads."""

import copy
import fcntl
import math
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
import pytest
from training_pieces import pieces

from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config
from alexnet_jax.data import device_batches
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.device_batches import open_train_batches
from alexnet_jax.data.raw import open_raw
from alexnet_jax.errors import UserError
from alexnet_jax.parallel.mesh import batch_sharding, create_mesh
from alexnet_jax.state import abstract_train_state
from alexnet_jax.train import train_and_evaluate

REPOSITORY = Path(__file__).resolve().parents[1]
NUM_TRAINING = 1437  # of the digits


@pytest.fixture
def config(tiny_config: Config, tmp_path: Path, digits_dir: Path) -> Config:
    """Digits of its own: raw pixels are written beside them."""
    shutil.copytree(digits_dir, tmp_path / "data")
    tiny_config.data.dir = str(tmp_path / "data")
    return tiny_config


def raw_folder(config: Config) -> Path:
    return next(Path(config.data.dir).glob("digits/*")) / "raw" / "train"


def batches(config: Config, feed: str, devices: int, start: int, count: int, threads: int = 1):
    """Return the next batches as NumPy arrays; check that they are sharded as a batch must be."""
    config = copy.deepcopy(config)
    config.data.feed, config.data.read_threads, config.mesh.data = feed, threads, devices
    mesh = create_mesh(config.mesh)
    opened = open_train_batches(open_dataset(config.data).train, config, mesh, start)
    taken = []
    for _ in range(count):
        batch = next(opened)
        for values in batch.values():
            assert values.sharding.is_equivalent_to(batch_sharding(mesh), values.ndim)
        taken.append(jax.device_get(batch))
    opened.close()
    return taken


def assert_same(found, expected) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys() == {"image", "label"}
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture(params=["jpeg", "raw", "device", "device, split"])
def feed(request, monkeypatch) -> str:
    """Every way; "split" over the devices because the images don't fit into one."""
    name, _, split = request.param.partition(", ")
    if split:
        needed = NUM_TRAINING * 72 * 72 * 3
        monkeypatch.setattr(
            device_batches, "free_memory", lambda mesh: needed if mesh.shape["data"] > 1 else 2 * needed
        )
    return name


# The batches


def test_same_batches_on_any_devices_with_any_threads(config: Config, feed: str) -> None:
    """Across the end of an epoch, which is in the middle of a batch (1,437 images, 120 in a batch)."""
    expected = batches(config, "jpeg", devices=1, start=10, count=4, threads=0)
    for devices, threads in ((1, 0), (2, 1), (8, 4)):
        assert_same(batches(config, feed, devices, start=10, count=4, threads=threads), expected)


def test_a_run_resumed_in_mid_epoch_sees_each_image_once(config: Config, feed: str) -> None:
    """Five batches, then a new start from the position; the epoch ends within the twelfth."""
    config.batch_size = 128
    dataset = open_dataset(config.data)
    number_of = {image.tobytes(): number for number, image in enumerate(all_images(dataset.train))}
    assert len(number_of) == NUM_TRAINING
    before, after = batches(config, feed, 2, start=0, count=5), batches(config, feed, 8, start=5, count=7)
    seen = [number_of[image.tobytes()] for batch in before + after for image in batch["image"]]
    assert sorted(seen[:NUM_TRAINING]) == list(range(NUM_TRAINING))


def all_images(source) -> np.ndarray:
    images = np.empty((len(source), source.image_size, source.image_size, 3), np.uint8)
    source.read(range(len(source)), images, np.empty(len(source), np.int32))
    return images


def test_a_batch_keeps_its_pixels_while_others_are_made(config: Config, feed: str) -> None:
    """Memory is reused, but never while something still refers to it, to a part of it or to a copy on a device."""
    config.data.feed, config.mesh.data = feed, 2
    opened = open_train_batches(open_dataset(config.data).train, config, create_mesh(config.mesh), 0)
    parts = [next(opened)["image"].addressable_shards[1].data for _ in range(5)]
    kept = [np.array(part) for part in parts]
    for _ in range(10):
        next(opened)
    opened.close()
    for part, pixels in zip(parts, kept, strict=True):
        np.testing.assert_array_equal(part, pixels)


# Training


def final_state(config: Config, workdir: Path):
    """Step and arrays of the latest checkpoint."""
    state = abstract_train_state(config, *pieces(config))
    with Checkpoints(workdir / "checkpoints", keep_last=1, keep_best=0) as checkpoints:
        restored = checkpoints.restore_latest(state)
    return restored.step, jax.device_get(restored.state)


def test_same_training_to_the_bit(config: Config, tmp_path: Path) -> None:
    """From start to end, and started in one way, stopped in the middle of an epoch and finished in another."""
    config.num_epochs, config.eval.every_epochs = 1.0, 1.0
    train_and_evaluate(config, tmp_path / "jpeg")
    expected = final_state(config, tmp_path / "jpeg")
    assert expected[0] == 12
    for feed in ("raw", "device"):
        config.data.feed = feed
        shutil.copytree(tmp_path / "jpeg", tmp_path / f"jpeg, then {feed}")
        shutil.rmtree(tmp_path / f"jpeg, then {feed}" / "checkpoints" / "12")
        for name in (feed, f"jpeg, then {feed}"):
            train_and_evaluate(config, tmp_path / name)
            step, state = final_state(config, tmp_path / name)
            assert step == 12
            jax.tree.map(np.testing.assert_array_equal, state, expected[1])


# Raw pixels


def test_raw_pixels_are_written_once_as_arrays_that_numpy_reads(config: Config, capsys) -> None:
    source = open_dataset(config.data).train
    images = all_images(source)
    np.testing.assert_array_equal(all_images(open_raw(source, 2)), images)
    assert "Decoding 1,437 images" in capsys.readouterr().out
    folder = raw_folder(config)
    np.testing.assert_array_equal(np.load(folder / "images.npy", mmap_mode="r"), images)
    times = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    open_raw(source, 2)
    assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")} == times
    assert capsys.readouterr().out == ""


def test_raw_pixels_of_other_records_are_made_again(config: Config) -> None:
    source = open_dataset(config.data).train
    open_raw(source, 2)
    np.save(raw_folder(config) / "labels.npy", np.zeros(3, np.int32))
    source.identity["bytes"] += 1
    assert len(open_raw(source, 2)) == NUM_TRAINING


def prepare_raw(config: Config) -> int:
    return len(open_raw(open_dataset(config.data).train, 1))


def test_processes_that_decode_at_once_all_succeed(config: Config) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(prepare_raw, [config] * 2, chunksize=1) == [NUM_TRAINING] * 2
    assert sorted(path.name for path in raw_folder(config).parent.iterdir()) == [".train.lock", "train"]


def test_a_process_killed_while_it_decodes_leaves_nothing_that_looks_whole(config: Config) -> None:
    program = f"""
import os
from alexnet_jax.config import DataConfig
from alexnet_jax.data import raw
from alexnet_jax.data.datasets import open_dataset
raw.np.save = lambda *_: os._exit(9)
raw.open_raw(open_dataset(DataConfig(name="digits", dir={config.data.dir!r})).train, 1)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False, timeout=120).returncode == 9
    folder = raw_folder(config)
    assert (folder.with_name(".train.unfinished") / "images.npy").exists()  # it was far enough
    assert not folder.exists()
    assert prepare_raw(config) == NUM_TRAINING
    assert not folder.with_name(".train.unfinished").exists()


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_a_raw_file_that_is_cut_or_missing_is_named(config: Config, name: str) -> None:
    source = open_dataset(config.data).train
    open_raw(source, 2)
    path = raw_folder(config) / name
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(UserError, match=rf"{name} is damaged .*delete its folder, and it will be made again"):
        open_raw(source, 2)
    path.unlink()
    with pytest.raises(UserError, match=rf"{name} is damaged .*No such file"):
        open_raw(source, 2)


def test_raw_pixels_that_the_disk_has_no_room_for(config: Config, monkeypatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(20 * 2**20))
    with pytest.raises(UserError, match=r"data\.feed='raw' needs 0\.0 GiB in .* free; free some space or use"):
        open_raw(open_dataset(config.data).train, 2)
    assert not raw_folder(config).exists()


def test_a_disk_that_is_full_in_the_middle_leaves_nothing(config: Config, monkeypatch) -> None:
    """The limit on the size of files stands for the disk: writing fails, as it would on a full one."""
    program = f"""
import resource, signal
from alexnet_jax.config import DataConfig
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.raw import open_raw
from alexnet_jax.errors import UserError
source = open_dataset(DataConfig(name="digits", dir={config.data.dir!r})).train
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try:
    open_raw(source, 1)
except UserError as error:
    print(error)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "data.feed='raw': the pixels can't be written to" in done.stdout
    assert "File too large" in done.stdout
    assert [path.name for path in raw_folder(config).parent.iterdir()] == [".train.lock"]


def test_raw_pixels_in_a_read_only_folder(config: Config, monkeypatch) -> None:
    """Whole ones are read; others can't be made."""
    source = open_dataset(config.data).train

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"can't be written to .*raw/train \(Permission denied\).*data\.feed='jpeg'"):
        open_raw(source, 2)
    monkeypatch.undo()
    open_raw(source, 2)
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert len(open_raw(source, 2)) == NUM_TRAINING


# Memory


def test_batches_beyond_the_memory_of_this_machine_are_refused(config: Config, tmp_path: Path) -> None:
    """Before a single image is read: otherwise the system would kill the process, or another one."""
    config.batch_size = 10**7
    with pytest.raises(UserError, match=r"batches of 10,000,000 images .* GiB are free; make config.batch_size"):
        train_and_evaluate(config, tmp_path / "w")


def test_images_that_the_devices_have_no_memory_for(config: Config, monkeypatch) -> None:
    config.data.feed = "device"
    needed = NUM_TRAINING * 72 * 72 * 3
    source = open_dataset(config.data).train
    for devices in (1, 4):
        config.mesh.data = devices
        mesh = create_mesh(config.mesh)
        enough = math.ceil(needed / devices / device_batches.MEMORY_SHARE)
        monkeypatch.setattr(device_batches, "free_memory", lambda mesh, enough=enough: enough - 1)
        with pytest.raises(UserError, match=r"data\.feed='device' needs 0\.0 GiB for all training images.* 'jpeg'"):
            open_train_batches(source, config, mesh, 0)
        monkeypatch.setattr(device_batches, "free_memory", lambda mesh, enough=enough: enough)
        opened = open_train_batches(source, config, mesh, 0)
        assert len(next(opened)["label"]) == config.batch_size
        opened.close()


@pytest.mark.parametrize("num_rows", [1, 9, 64])
@pytest.mark.parametrize("split", [False, True])
def test_rows_of_any_number_are_placed_and_gathered(config: Config, num_rows: int, split: bool) -> None:
    """Also if some devices hold no row at all; towers share a shard of the batch."""
    from alexnet_jax.parallel.mesh import local_rows
    from alexnet_jax.parallel.resident import create_gather, place_rows

    config.mesh.data, config.mesh.tower = 4, 2
    mesh = create_mesh(config.mesh)
    random = np.random.default_rng(0)
    rows = {"a": random.integers(0, 256, (num_rows, 3, 2)).astype(np.uint8), "b": np.arange(num_rows, dtype=np.int32)}

    def read(start: int, stop: int):
        for at in range(start, stop, 5):
            yield {name: column[at : min(at + 5, stop)] for name, column in rows.items()}

    placed = place_rows(mesh, num_rows, read, split=split)
    for name, column in rows.items():
        np.testing.assert_array_equal(placed[name][:num_rows], column)
        share = placed[name].addressable_shards[0].data.shape[0]
        assert share == (math.ceil(num_rows / 4) if split else num_rows)
    indices = random.integers(0, num_rows, 24).astype(np.int32)
    gathered = create_gather(mesh, split=split)(placed, indices, local_rows(mesh, 24))
    for name, column in rows.items():
        np.testing.assert_array_equal(gathered[name], column[indices])
        assert gathered[name].sharding.is_equivalent_to(batch_sharding(mesh), gathered[name].ndim)


# Processes

PROGRAM_OF_A_PROCESS = """
import sys

import jax

jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np

from alexnet_jax.config import Config
from alexnet_jax.data import device_batches
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.parallel.mesh import create_mesh

config = Config(batch_size=32)
config.data.name, config.data.dir = "digits", sys.argv[3]
config.mesh.data, config.mesh.tower = 2, 2
mesh = create_mesh(config.mesh)
source = open_dataset(config.data).train
free = device_batches.free_memory(mesh)
assert 2**27 < free < 2**50, free
expected = np.load(sys.argv[4])
for feed, memory in (("jpeg", free), ("device", free), ("device", len(source) * 72 * 72 * 3)):
    config.data.feed = feed
    device_batches.free_memory = lambda mesh: memory
    opened = device_batches.open_train_batches(source, config, mesh, 5)
    batch = next(opened)
    for name in ("image", "label"):
        for shard in batch[name].addressable_shards:
            np.testing.assert_array_equal(shard.data, expected[name][shard.index])
    opened.close()
"""


def test_two_processes_read_what_one_does(config: Config, tmp_path: Path) -> None:
    """Two devices each; every shard of the batch is on one device of each tower."""
    config.batch_size = 32
    (expected,) = batches(config, "jpeg", devices=1, start=5, count=1)
    np.savez(tmp_path / "expected.npz", **expected)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM_OF_A_PROCESS, address, str(i), config.data.dir, tmp_path / "expected.npz"],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    for process in running:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
