"""Paths from users, and locks, also where the file system has none."""

import errno
import fcntl
import os
import pwd
import subprocess
import sys
import threading
from pathlib import Path

import jax
import prepare_sources as sources
import pytest

import alexnet_jax
from alexnet_jax import cli, runtime
from alexnet_jax.config import Config, DataConfig
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.image_files import find_images
from alexnet_jax.errors import UserError
from alexnet_jax.files import exclusive, expanded, try_lock
from alexnet_jax.run import workdir as workdirs
from alexnet_jax.train import train_and_evaluate

NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


# Paths


@pytest.mark.parametrize(
    "path", ["gs://b/w", "s3://b", "http://host/a.jpg", "hdfs://host/x", "file:///tmp", Path("gs://b")]
)
def test_remote_paths_are_refused(path: str | Path) -> None:
    with pytest.raises(UserError, match=r"^--workdir=\w+:/.* is remote; copy it to this machine, or mount it"):
        expanded(path, "--workdir")


@pytest.mark.parametrize("path", ["runs/a:b", "a:b/c", "./gs:/b", "runs/a, b", "12:30", "~"])
def test_local_paths_with_odd_names_are_taken(path: str) -> None:
    assert expanded(path) == Path(path).expanduser()


def test_a_workdir_that_is_not_utf_8_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Orbax could not save in it, and would say so only at the first checkpoint."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    for call in (lambda: workdirs.lock(folder), lambda: workdirs.open_for_training(folder, Config(), None)):
        with pytest.raises(UserError, match=r"is not UTF-8, which checkpoints need; choose another name"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_functions_refuse_remote_paths(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: alexnet_jax.load("gs://b/w"),
        lambda: alexnet_jax.load(Path("gs://b/w")),
        lambda: train_and_evaluate(Config(), Path("gs://b/w")),
        lambda: open_dataset(DataConfig(name="digits", dir="gs://b/w")),
        lambda: find_images(["http://host/x.jpg"]),
    ):
        with pytest.raises(UserError, match=r"is remote; copy it to this machine"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_path_is_not_the_current_folder() -> None:
    for call in (lambda: alexnet_jax.load(""), lambda: find_images([""])):
        with pytest.raises(UserError, match="is empty; give a path"):
            call()


def test_commas_separate_paths_unless_all_of_it_exists(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    parser = cli._PathsParser("--workdir")
    assert parser.parse("a,b") == [Path("a"), Path("b")]
    (tmp_path / "a,b").mkdir()
    assert parser.parse("a,b") == [Path("a,b")]


def test_without_a_home_folder_there_is_no_compilation_cache(monkeypatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    before = jax.config.jax_compilation_cache_dir
    runtime.use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == before
    with pytest.raises(UserError, match=r"^--workdir=~/w: the home folder that '~' stands for is unknown; write"):
        expanded("~/w", "--workdir")


# Locks


@pytest.fixture(params=NO_LOCKS, ids=errno.errorcode.get)
def no_locks(request, monkeypatch) -> None:
    """A file system without locks."""

    def fail(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", fail)


def test_without_locks_everything_that_needs_one_is_refused(no_locks, tmp_path: Path) -> None:
    """Instead of the claim that another process has it, and instead of going ahead."""
    sources.folder(tmp_path / "source")

    def enter_exclusive() -> None:
        with exclusive(tmp_path / "lock"):
            pass

    users = (
        lambda: workdirs.lock(tmp_path),
        enter_exclusive,
        lambda: sources.prepare_here("folder", tmp_path),
    )
    for user in users:
        with pytest.raises(
            UserError, match=r"can't be locked .*: its file system has no locks \(.*\); have them enabled"
        ):
            user()


def test_locks_of_this_machine_take_their_place_on_request(no_locks, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ALEXNET_JAX_LOCAL_LOCKS", "1")
    with workdirs.lock(tmp_path):
        with pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "):
            workdirs.lock(tmp_path)
        (tmp_path / "other").mkdir()
        workdirs.lock(tmp_path / "other").close()
    workdirs.lock(tmp_path).close()
    sources.folder(tmp_path / "source")
    sources.prepare_here("folder", tmp_path)


def try_lock_elsewhere(path: Path) -> subprocess.Popen:
    """Try to lock a file in another process, without flock; it prints whether it did, and waits."""
    program = f"""
import errno, fcntl, pathlib, sys
from alexnet_jax.files import try_lock
def flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = flock
lock = try_lock(pathlib.Path({str(path)!r}))
print(lock is not None, flush=True)
sys.stdin.read()
"""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "ALEXNET_JAX_LOCAL_LOCKS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_locks_of_this_machine_keep_out_other_processes_until_their_owner_dies(
    no_locks, tmp_path: Path, monkeypatch
) -> None:
    """Whatever way leads to the file."""
    monkeypatch.setenv("ALEXNET_JAX_LOCAL_LOCKS", "1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    with try_lock_elsewhere(tmp_path / "link" / "lock") as owner:
        assert owner.stdout.readline() == "True\n"
        assert try_lock(tmp_path / "folder" / "lock") is None
        owner.kill()
        owner.wait()
    with try_lock(tmp_path / "folder" / "lock"), try_lock_elsewhere(tmp_path / "link" / "lock") as other:
        assert other.stdout.readline() == "False\n"
        other.stdin.close()


@pytest.mark.parametrize("local", [False, True])
def test_exclusive_waits(local: bool, tmp_path: Path, monkeypatch) -> None:
    if local:
        monkeypatch.setenv("ALEXNET_JAX_LOCAL_LOCKS", "1")
        monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "none")))
    lock = try_lock(tmp_path / "lock")
    released = threading.Event()

    def release() -> None:
        released.set()
        lock.close()

    threading.Timer(0.3, release).start()
    with exclusive(tmp_path / "lock"):
        assert released.is_set()
