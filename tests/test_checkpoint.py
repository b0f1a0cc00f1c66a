"""Checkpoints: what is saved comes back with the same bits, on any mesh, whatever happened to the folder meanwhile."""

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging as absl_logging
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import checkpoint, checkpoint_folder
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import UserError


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: tuple


def host_state(step: int, classes: int = 8) -> State:
    """A small train state whose every number depends on the step."""
    rng = np.random.default_rng(step)
    params = {
        "conv1": {"kernel": rng.normal(size=(3, 3, 4, 16)), "bias": rng.normal(size=16)},
        "fc8": {"kernel": rng.normal(size=(64, classes)), "bias": rng.normal(size=classes)},
    }
    params = jax.tree.map(np.float32, params)
    params["conv1"]["bias"] = params["conv1"]["bias"].astype(jnp.bfloat16)
    optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.trace(0.9), optax.scale_by_schedule(lambda _: 0.01))
    return State(np.int32(step), params, jax.tree.map(np.asarray, optimizer.init(params)))


def mesh_of(data: int, tower: int) -> jax.sharding.Mesh:
    axis_types = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((data, tower), ("data", "tower"), axis_types, devices=jax.devices()[: data * tower])


def sharding_of(leaf, mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(*(None,) * (leaf.ndim - 1), "tower") if leaf.ndim else P())


def device_state(step: int, mesh: jax.sharding.Mesh | None = None, classes: int = 8) -> State:
    mesh = mesh or mesh_of(1, 1)
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding_of(leaf, mesh)), host_state(step, classes))


def abstract_state(mesh: jax.sharding.Mesh | None = None, classes: int = 8) -> State:
    mesh = mesh or mesh_of(1, 1)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding_of(leaf, mesh)),
        host_state(0, classes),
    )


def assert_same_bits(state: State, expected: State) -> None:
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for leaf, expected_leaf in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == expected_leaf.dtype
        assert np.asarray(leaf).tobytes() == np.asarray(expected_leaf).tobytes()


def save_steps(folder: Path, *steps: int) -> None:
    """One complete checkpoint for each step, with nothing else in the folder."""
    with Checkpoints(folder, keep_last=len(steps), keep_best=0) as checkpoints:
        for step in steps:
            checkpoints.save(step, device_state(step))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def messages():
    """What is logged while the test runs, at the verbosity that the commands use."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record)

    handler, logger, verbosity = Keep(), absl_logging.get_absl_logger(), absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
    absl_logging.set_verbosity(verbosity)


# What is saved comes back.


def test_round_trip_through_other_meshes(tmp_path):
    shapes = [(1, 2), (1, 1), (2, 2)]
    state, step = device_state(7, mesh_of(*shapes[0])), 7
    for index, (data, tower) in enumerate(shapes[1:]):
        with Checkpoints(tmp_path / str(index), keep_last=1, keep_best=0) as checkpoints:
            checkpoints.save(step, state)
            wanted = abstract_state(mesh_of(data, tower))
            state, step, _ = checkpoints.restore_latest(wanted)
        assert step == 7
        assert_same_bits(state, host_state(7))
        shardings = jax.tree.map(lambda leaf, like: leaf.sharding == like.sharding, state, wanted)
        assert all(jax.tree.leaves(shardings))


def test_donating_the_state_straight_after_saving_is_safe(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(jnp.zeros_like, state), donate_argnums=0)
    state = {"weights": jnp.arange(1 << 20, dtype=jnp.float32)}
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        checkpoints.save(1, state)
        zeros = overwrite(state)
        assert not np.any(zeros["weights"])
        like = jax.ShapeDtypeStruct((1 << 20,), jnp.float32, sharding=zeros["weights"].sharding)
        restored = checkpoints.restore_latest({"weights": like})
    np.testing.assert_array_equal(restored.state["weights"], np.arange(1 << 20, dtype=np.float32))


def test_what_the_caller_changes_later_is_not_saved(tmp_path):
    metrics = {"top1_error": 1.0}
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        checkpoints.save(1, device_state(1), metrics)
        metrics["top1_error"] = 2.0
    assert checkpoint_folder.read_manifest(tmp_path / "1")["metrics"] == {"top1_error": 1.0}


def test_metrics_that_are_not_json_are_refused_at_once(tmp_path):
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints, pytest.raises(TypeError):
        checkpoints.save(1, device_state(1), {"top1_error": np.arange(3)})


def test_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path / "missing", keep_last=1, keep_best=0) as checkpoints:
        assert checkpoints.restore_latest(abstract_state()) is None
        assert checkpoints.steps() == []
        assert checkpoints.latest_step() is None
        with pytest.raises(UserError, match="missing has no checkpoint of step 3; it has none"):
            checkpoints.restore(3, abstract_state())
    assert not (tmp_path / "missing").exists()


def test_a_folder_that_can_not_be_read(tmp_path):
    checkpoints = Checkpoints(tmp_path / (300 * "x"), keep_last=1, keep_best=0)
    with pytest.raises(UserError, match=r"/x+ can't be read \(File name too long\)"):
        checkpoints.restore_latest(abstract_state())


def test_restoring_a_step(tmp_path):
    save_steps(tmp_path, 10, 20)
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best=0)
    assert_same_bits(checkpoints.restore(10, abstract_state()).state, host_state(10))
    with pytest.raises(UserError, match="has no checkpoint of step 15; it has 10, 20"):
        checkpoints.restore(15, abstract_state())


# Which checkpoints exist.


def test_keeps_the_last_and_the_best(tmp_path):
    errors = {1: 50.0, 2: 20.0, 3: None, 4: 20.0, 5: 30.0, 6: 40.0, 7: float("nan"), 8: 60.0}
    with Checkpoints(tmp_path, keep_last=2, keep_best=2) as checkpoints:
        for step, error in errors.items():
            metrics = None if error is None else {"top1_error": error, "loss": 1.0}
            checkpoints.save(step, device_state(step), metrics)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 7, 8]
    assert names_in(tmp_path) == {"2", "4", "7", "8"}


def test_the_best_is_the_first_with_the_lowest_error(tmp_path):
    """What counts is whether a state would be the best if it were saved now."""
    with Checkpoints(tmp_path, keep_last=1, keep_best=1) as checkpoints:
        for step, error, is_best in ((1, 50.0, True), (2, 20.0, True), (3, 20.0, False), (4, float("nan"), False)):
            assert checkpoints.is_among_best({"top1_error": error}) is is_best
            checkpoints.save(step, device_state(step), {"top1_error": error})
        assert checkpoints.is_among_best({"top1_error": 19.0})
        checkpoints.save(5, device_state(5))
        restored = checkpoints.restore("best", abstract_state())
        assert (restored.step, restored.metrics) == (2, {"top1_error": 20.0})
        assert_same_bits(restored.state, host_state(2))
        assert checkpoints.restore("latest", abstract_state()).step == 5
    assert names_in(tmp_path) == {"2", "5"}
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        assert not checkpoints.is_among_best({"top1_error": 1.0})


def test_a_best_checkpoint_that_is_none(tmp_path, messages):
    save_steps(tmp_path, 10, 20)
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best=0)
    with pytest.raises(UserError, match=r"has no best checkpoint, because .* evaluated none; .* it has 10, 20"):
        checkpoints.restore("best", abstract_state())
    with pytest.raises(UserError, match=r"step='newest' is not allowed; it must be .* 'latest' or 'best'"):
        checkpoints.restore("newest", abstract_state())
    with Checkpoints(tmp_path, keep_last=3, keep_best=0) as checkpoints:
        checkpoints.save(30, device_state(30), {"top1_error": 3.0})
    flip_a_bit(tmp_path / "10" / checkpoint_folder.MANIFEST)
    assert checkpoints.restore("best", abstract_state()).step == 30
    assert f"{tmp_path / '10'} is damaged; it may have been the best" in messages[-1].getMessage()
    flip_a_bit(max(files_in(tmp_path / "30"), key=lambda path: path.stat().st_size))
    with pytest.raises(UserError, match=r"30 is damaged .* use another step"):
        checkpoints.restore("best", abstract_state())


def test_latest_step_is_one_that_is_complete(tmp_path):
    save_steps(tmp_path, 10)
    with Checkpoints(tmp_path, keep_last=2, keep_best=0) as checkpoints:
        checkpoints.restore_latest(abstract_state())
        assert checkpoints.latest_step() == 10
        checkpoints.save(20, device_state(20))
        checkpoints.wait()
        assert checkpoints.latest_step() == 20


def test_an_existing_step_is_replaced(tmp_path):
    save_steps(tmp_path, 10)
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        checkpoints.restore_latest(abstract_state())
        checkpoints.save(10, device_state(11))
        restored = checkpoints.restore_latest(abstract_state())
    assert_same_bits(restored.state, host_state(11))
    assert names_in(tmp_path) == {"10"}


@pytest.mark.parametrize("restored_first", [True, False])
def test_a_lower_step_is_refused(tmp_path, restored_first):
    save_steps(tmp_path, 10)
    with Checkpoints(tmp_path, keep_last=2, keep_best=0) as checkpoints:
        if restored_first:
            checkpoints.restore_latest(abstract_state())
        with pytest.raises(ValueError, match="step 9 can't be saved after step 10"):
            checkpoints.save(9, device_state(9))


# Damage.


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.parametrize("break_file", [flip_a_bit, cut, Path.unlink])
def test_damage_to_any_file_is_noticed(tmp_path, break_file, messages):
    save_steps(tmp_path / "whole", 10, 20)
    names = [path.relative_to(tmp_path / "whole") for path in files_in(tmp_path / "whole" / "20")]
    assert len(names) > 5
    for name in names:
        broken = tmp_path / "broken"
        shutil.copytree(tmp_path / "whole", broken)
        break_file(broken / name)
        messages.clear()
        restored = Checkpoints(broken, keep_last=2, keep_best=0).restore_latest(abstract_state())
        assert restored.step == 10, name
        assert_same_bits(restored.state, host_state(10))
        [warning] = [record.getMessage() for record in messages if record.levelno >= logging.WARNING]
        assert f"Checkpoint {broken / '20'} is damaged ({name.relative_to('20')}" in warning.replace(" has", "")
        shutil.rmtree(broken)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    content=st.dictionaries(st.text().filter(lambda name: name != "files"), JSON, max_size=4),
    files=st.dictionaries(st.sampled_from(["a", "b/c", "b/d e"]), st.binary(max_size=50), min_size=1),
    data=st.data(),
)
def test_any_manifest_comes_back_and_tells_any_change(tmp_path_factory, content, files, data):
    folder = tmp_path_factory.mktemp("checkpoint")
    for name, written in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(written)
    checkpoint_folder.write_manifest(folder, content)
    assert checkpoint_folder.read_and_check(folder) == content
    changed = folder / data.draw(st.sampled_from([*files, checkpoint_folder.MANIFEST]))
    before = changed.read_bytes()
    place, length = data.draw(st.integers(0, len(before))), data.draw(st.integers(0, 4))
    after = before[:place] + data.draw(st.binary(max_size=4)) + before[place + length :]
    changed.write_bytes(after)
    if changed.name == checkpoint_folder.MANIFEST:  # an `e` for an `E` in a number, or another space, changes nothing
        with contextlib.suppress(checkpoint_folder.DamagedError):
            assert checkpoint_folder.read_and_check(folder) == content
    elif after != before:
        with pytest.raises(checkpoint_folder.DamagedError, match=f"{changed.name} has"):
            checkpoint_folder.read_and_check(folder)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def half_delete(folder: Path) -> None:
    shutil.rmtree(folder / "state")


def rename_to_another_step(folder: Path) -> None:
    folder.rename(folder.with_name("30"))


@pytest.mark.parametrize("break_folder", [empty, half_delete, rename_to_another_step])
def test_damage_to_the_folder_is_noticed(tmp_path, break_folder):
    save_steps(tmp_path, 10, 20)
    break_folder(tmp_path / "20")
    assert Checkpoints(tmp_path, keep_last=2, keep_best=0).restore_latest(abstract_state()).step == 10


def test_training_continues_after_damage(tmp_path):
    """The damaged checkpoint is removed once there is a newer sound one, and never counts as one of the last."""
    save_steps(tmp_path, 10, 20)
    flip_a_bit(tmp_path / "20" / checkpoint_folder.MANIFEST)
    with Checkpoints(tmp_path, keep_last=2, keep_best=1) as checkpoints:
        assert checkpoints.restore_latest(abstract_state()).step == 10
        assert checkpoints.latest_step() == 10
        checkpoints.save(15, device_state(15))
        checkpoints.wait()
        assert checkpoints.steps() == [10, 15]
        checkpoints.save(20, device_state(20))
    assert_same_bits(checkpoints.restore(20, abstract_state()).state, host_state(20))


def test_the_damaged_step_itself_is_saved_again(tmp_path):
    save_steps(tmp_path, 10, 20)
    cut(tmp_path / "20" / checkpoint_folder.MANIFEST)
    with Checkpoints(tmp_path, keep_last=2, keep_best=0) as checkpoints:
        checkpoints.restore_latest(abstract_state())
        checkpoints.save(20, device_state(20))
        assert checkpoints.restore_latest(abstract_state()).step == 20
        assert checkpoints.steps() == [10, 20]


def test_nothing_but_damage(tmp_path):
    save_steps(tmp_path, 10, 20)
    flip_a_bit(max(files_in(tmp_path / "10"), key=lambda path: path.stat().st_size))
    empty(tmp_path / "20")
    with pytest.raises(
        UserError, match=rf"No checkpoint in {tmp_path} can be used \(20: manifest.*; 10: state.*put back"
    ):
        Checkpoints(tmp_path, keep_last=2, keep_best=0).restore_latest(abstract_state())
    assert names_in(tmp_path) == {"10", "20"}  # nothing was removed


def test_a_damaged_step_that_was_requested(tmp_path):
    save_steps(tmp_path, 10, 20)
    half_delete(tmp_path / "10")
    with pytest.raises(UserError, match=r"10 is damaged \(state/.*No such file or directory\); use another step"):
        Checkpoints(tmp_path, keep_last=2, keep_best=0).restore(10, abstract_state())


def test_a_temporary_failure_is_not_taken_for_damage(tmp_path, monkeypatch):
    save_steps(tmp_path, 10, 20)

    def too_many_open_files(path, *_):
        raise OSError(24, "Too many open files", str(path))

    monkeypatch.setattr(checkpoint_folder, "open", too_many_open_files, raising=False)
    with pytest.raises(UserError, match=r"/20/.* can't be read: Too many open files"):
        Checkpoints(tmp_path, keep_last=2, keep_best=0).restore_latest(abstract_state())


def test_another_model_is_not_taken_for_damage(tmp_path):
    save_steps(tmp_path, 10, 20)
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best=0)
    message = (
        r"20 is of another model: its .*fc8/bias is float32\[8\], that of this config is float32\[10\] "
        r"\(\d+ more differ\)"
    )
    with pytest.raises(UserError, match=message):
        checkpoints.restore_latest(abstract_state(classes=10))
    with pytest.raises(UserError, match=r"its step is int32\[\], that of this config is missing"):
        checkpoints.restore(20, {"params": abstract_state().params})


def test_the_optimizer_state_of_an_older_version_is_named(tmp_path):
    """Its parameters can still be read."""
    state = device_state(20)
    older = State(state.step, state.params, {"step": state.step, "velocity": state.params})
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        checkpoints.save(20, older)
        with pytest.raises(UserError, match=r"/20 was written by an older version of this program; use that version"):
            checkpoints.restore_latest(abstract_state())
        with pytest.raises(UserError, match="20 is of another model"):
            checkpoints.restore_latest(abstract_state(classes=10))
        assert_same_bits(checkpoints.restore(20, abstract_state().params, only="params").state, host_state(20).params)


# A training that goes on while another process reads.


@pytest.fixture
def training(tmp_path):
    """A training with keep_last=1 at step 10, evaluated, and a function that saves the next, better one."""
    with Checkpoints(tmp_path, keep_last=1, keep_best=1) as checkpoints:

        def save(step: int) -> None:
            checkpoints.save(step, device_state(step), {"top1_error": 100.0 / step})
            checkpoints.wait()

        save(10)
        yield save


def once(function, action):
    """Return the function, which takes the action before its first call only."""
    pending = [action]

    def wrapped(*args, **kwargs):
        if pending:
            pending.pop()()
        return function(*args, **kwargs)

    return wrapped


MOMENTS = {  # when the checkpoint is removed: module, function before whose first call
    "listed": (checkpoint_folder, "_inode"),
    "being checked": (checkpoint_folder, "_checksum"),
    "being read": (checkpoint.ocp, "load"),
}


@pytest.mark.parametrize("which", ["latest", "best"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_checkpoint_removed_meanwhile_gives_way_to_the_newer_one(
    tmp_path, training, monkeypatch, messages, moment, which
):
    module, name = MOMENTS[moment]
    monkeypatch.setattr(module, name, once(getattr(module, name), lambda: (monkeypatch.undo(), training(20))))
    restored = Checkpoints(tmp_path, keep_last=1, keep_best=1).restore(which, abstract_state().params, only="params")
    assert restored.step == 20
    assert_same_bits(restored.state, host_state(20).params)
    assert names_in(tmp_path) == {"20"}
    assert not [record for record in messages if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_step_removed_meanwhile_is_missing(tmp_path, training, monkeypatch, moment):
    module, name = MOMENTS[moment]
    monkeypatch.setattr(module, name, once(getattr(module, name), lambda: (monkeypatch.undo(), training(20))))
    with pytest.raises(UserError, match=f"{tmp_path} has no checkpoint of step 10; it has 20"):
        Checkpoints(tmp_path, keep_last=1, keep_best=1).restore(10, abstract_state())


def test_a_checkpoint_that_orbax_can_not_read_is_refused_not_read_again(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep_last=1, keep_best=1) as checkpoints:
        checkpoints.save(10, device_state(10), {"top1_error": float("nan")})
    loads = []
    monkeypatch.setattr(checkpoint.ocp, "load", lambda path, _: loads.append(path) or {}["array"])
    with pytest.raises(UserError, match=r"10 can't be read by Orbax \(KeyError: 'array'\)"):
        checkpoints.restore("latest", abstract_state())
    assert loads == [tmp_path / "10"]


def test_a_checkpoint_replaced_meanwhile_is_read_again(tmp_path, monkeypatch):
    """A training that was stopped before an evaluation saves the same step again, with its result."""

    def replace():
        monkeypatch.undo()
        with Checkpoints(tmp_path, keep_last=1, keep_best=1) as checkpoints:
            checkpoints.save(10, device_state(11), {"top1_error": 10.0})

    save_steps(tmp_path, 10)
    monkeypatch.setattr(checkpoint_folder, "_checksum", once(checkpoint_folder._checksum, replace))
    restored = Checkpoints(tmp_path, keep_last=1, keep_best=1).restore(10, abstract_state())
    assert restored.metrics == {"top1_error": 10.0}
    assert_same_bits(restored.state, host_state(11))


# Interruptions.


def test_leftovers_are_ignored_and_cleared(tmp_path):
    save_steps(tmp_path, 10, 20)
    shutil.copytree(tmp_path / "10", tmp_path / "30.saving.orbax-checkpoint-tmp")
    shutil.copytree(tmp_path / "10", tmp_path / "40.saving")
    (tmp_path / "40.saving" / checkpoint_folder.MANIFEST).unlink()
    shutil.copytree(tmp_path / "10", tmp_path / "5.removing")
    shutil.copytree(tmp_path / "10", tmp_path / "10.backup")  # the user's own
    with Checkpoints(tmp_path, keep_last=3, keep_best=0) as checkpoints:
        assert checkpoints.steps() == [10, 20]
        assert checkpoints.restore_latest(abstract_state()).step == 20
        checkpoints.save(50, device_state(50))
    assert names_in(tmp_path) == {"10", "10.backup", "20", "50"}


@pytest.mark.parametrize("old_one", ["there", "renamed", "missing"])
def test_a_complete_checkpoint_that_was_not_named_yet_counts(tmp_path, old_one):
    """A kill after the manifest was written, with and without an older checkpoint of this step to replace."""
    save_steps(tmp_path / "new", 20)
    save_steps(tmp_path, 10, 20)
    shutil.copytree(tmp_path / "new" / "20", tmp_path / "20.saving")
    if old_one == "renamed":
        (tmp_path / "20").rename(tmp_path / "20.removing")
    if old_one == "missing":
        shutil.rmtree(tmp_path / "20")
    if old_one == "there":
        flip_a_bit(tmp_path / "20" / checkpoint_folder.MANIFEST)
    shutil.rmtree(tmp_path / "new")
    with Checkpoints(tmp_path, keep_last=3, keep_best=0) as checkpoints:
        assert checkpoints.steps() == [10, 20]
        assert_same_bits(checkpoints.restore_latest(abstract_state()).state, host_state(20))
        checkpoints.save(30, device_state(30))
        checkpoints.wait()
        assert names_in(tmp_path) == {"10", "20", "30"}
        assert_same_bits(checkpoints.restore(20, abstract_state()).state, host_state(20))


def python(script: str, *arguments: object) -> subprocess.Popen:
    """Starts another process of this interpreter."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


SAVE_UNTIL_KILLED = """
    import sys
    import jax, jax.numpy as jnp
    from alexnet_jax.checkpoint import Checkpoints
    checkpoints = Checkpoints(sys.argv[1], keep_last=2, keep_best=0)
    like = jax.ShapeDtypeStruct((1 << 22,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    restored = checkpoints.restore_latest({"weights": like})
    step = restored.step if restored else 0
    while True:
        step += 1
        checkpoints.save(step, {"weights": jnp.full(1 << 22, step, jnp.float32)})
        print(step, flush=True)
"""


def test_kill_while_saving(tmp_path):
    """`save` of step n returns once n - 1 is complete, so a process killed after that loses nothing older."""
    rng = np.random.default_rng(0)
    like = jax.ShapeDtypeStruct((1 << 22,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    complete = 0
    for _ in range(3):
        process = python(SAVE_UNTIL_KILLED, tmp_path)
        for _ in range(3):
            begun = int(process.stdout.readline())
        assert begun == complete + 3
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        begun = max([begun, *map(int, process.stdout.read().split())])
        process.wait()
        restored = Checkpoints(tmp_path, keep_last=2, keep_best=0).restore_latest({"weights": like})
        assert restored.step in (begun - 1, begun, begun + 1)
        np.testing.assert_array_equal(restored.state["weights"], restored.step)
        complete = restored.step
    save_steps(tmp_path, complete + 1)
    assert names_in(tmp_path) == {str(complete + 1)}


DISK_TROUBLE = """
    import os, resource, sys, tempfile
    import jax.numpy as jnp, numpy as np
    from alexnet_jax.checkpoint import Checkpoints
    from alexnet_jax.errors import UserError

    def state(step):
        return {"weights": jnp.asarray(np.random.default_rng(step).normal(size=1 << 18))}

    def limit_files_to(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def refused(function):
        try:
            function()
        except UserError as error:
            print(error)

    def save_and_wait(step):
        checkpoints.save(step, state(step))
        checkpoints.wait()

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        checkpoints = Checkpoints(folder + "/checkpoints", keep_last=2, keep_best=0)
        save_and_wait(1)
        limit_files_to(1 << 16)
        refused(lambda: save_and_wait(2))
        print(checkpoints.latest_step(), checkpoints.steps())
        limit_files_to(resource.RLIM_INFINITY)
        if os.geteuid() == 0:
            os.seteuid(65534)  # a user who may not write there
        else:
            os.chmod(folder + "/checkpoints", 0o555)
        refused(lambda: save_and_wait(3))
        os.seteuid(os.getuid())
        os.chmod(folder + "/checkpoints", 0o755)
        save_and_wait(4)
        print(checkpoints.latest_step(), sorted(os.listdir(folder + "/checkpoints")))
"""


def test_full_disk_and_read_only_folder():
    """One sentence each; earlier checkpoints are intact, and saving works again once there is space."""
    output, _ = python(DISK_TROUBLE).communicate(timeout=120)
    full, after_full, read_only, at_the_end = output.splitlines()
    assert full.startswith("The checkpoint of step 2 can't be written to ")
    assert "(File too large); earlier checkpoints are intact: free some space" in full
    assert after_full == "1 [1]"
    assert read_only.startswith("The checkpoint of step 3 can't be written to ")
    assert "(Permission denied); earlier" in read_only
    assert at_the_end == "4 ['1', '4']"


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=1, keep_best=0)
    assert checkpoints.restore_latest(abstract_state()) is None
    with pytest.raises(UserError, match=r"step 1 can't be written to .*checkpoints \(File exists\)"):
        checkpoints.save(1, device_state(1))


# Several processes, and side effects.


SEVERAL_PROCESSES = """
    import os, shutil, sys
    import jax, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    from alexnet_jax.checkpoint import Checkpoints
    from alexnet_jax.errors import UserError

    folder, port, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"localhost:{port}", 2, index)
    mesh = jax.make_mesh((1, 2), ("data", "tower"), (jax.sharding.AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, P(None, "tower"))
    like = {"kernel": jax.ShapeDtypeStruct((8, 6), np.float32, sharding=sharding)}

    def state(step):
        whole = np.arange(48, dtype=np.float32).reshape(8, 6) * step
        return {"kernel": jax.make_array_from_callback((8, 6), sharding, lambda part: whole[part])}

    with Checkpoints(folder, keep_last=2, keep_best=1) as checkpoints:
        assert checkpoints.restore_latest(like) is None
        for step in (1, 2, 3, 4):
            error = float(abs(step - 2))
            assert checkpoints.is_among_best({"top1_error": error}) == (step <= 2)
            checkpoints.save(step, state(step), {"top1_error": error})
        checkpoints.wait()
        assert checkpoints.restore("best", like).step == 2
        if index == 0:
            os.remove(folder + "/4/manifest.json")
        restored = checkpoints.restore_latest(like)
        assert restored.step == 3
        for shard in restored.state["kernel"].addressable_shards:
            np.testing.assert_array_equal(shard.data, np.asarray(state(3)["kernel"].addressable_shards[0].data))
        try:
            checkpoints.restore(17, like)
        except UserError as error:
            print(error)
        checkpoints.save(4, state(40))
"""


def test_several_processes(tmp_path, unused_tcp_port):
    processes = [python(SEVERAL_PROCESSES, tmp_path / "ckpt", unused_tcp_port, index) for index in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for output in outputs:
        assert "has no checkpoint of step 17; it has 2, 3" in output
    assert names_in(tmp_path / "ckpt") == {"2", "3", "4"}
    like = jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    restored = Checkpoints(tmp_path / "ckpt", keep_last=2, keep_best=1).restore_latest({"kernel": like})
    np.testing.assert_array_equal(restored.state["kernel"], np.arange(48).reshape(8, 6) * 40)


@pytest.fixture
def unused_tcp_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_says_nothing_and_leaves_no_threads_behind(tmp_path, messages):
    save_steps(tmp_path / "first", 1)  # the pools that Orbax keeps
    save_steps(tmp_path / "second", 1, 2, 3, 4, 5)
    Checkpoints(tmp_path / "second", keep_last=1, keep_best=0).restore_latest(abstract_state())
    assert [record.getMessage() for record in messages] == []
