"""A workdir says what its net was trained on and with, without the data set."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from alexnet_jax.cluster import agreement
from alexnet_jax.data.dataset_info import load_dataset_info
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.run import startup, workdir


@pytest.fixture
def folder(tiny_config, tmp_path):
    """Return the folder of a training that has just started."""
    workdir.open_for_training(tmp_path / "run", tiny_config, open_dataset(tiny_config.data).info)
    return tmp_path / "run"


def test_what_is_written_is_read(folder, tiny_config):
    dataset, info = open_dataset(tiny_config.data), load_dataset_info(folder)
    assert (info.name, info.num_examples) == ("digits", len(dataset.train))
    assert info.label_names == info.class_names == tuple("0123456789")
    for mine, theirs in zip(info.statistics, dataset.statistics, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_text(path.read_text()[:40]), "is damaged"),
        (lambda path: path.write_text("[]"), "is damaged"),
        (lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "class_names": []})), "is damaged"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is damaged"),
        (lambda path: path.unlink() or path.mkdir(), r"can't be read \(Is a directory\)"),
    ],
)
def test_a_damaged_file_is_named(folder, damage, message):
    damage(folder / "dataset.json")
    with pytest.raises(UserError, match=f"dataset.json {message}"):
        load_dataset_info(folder)


def test_damaged_statistics_are_named(folder):
    (folder / "statistics.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"statistics.npz is damaged"):
        load_dataset_info(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: {"num_examples": 60}, r"the number of training images is 60 \(the run has 1437\)"),
        (lambda info: {"label_names": info.label_names[:2]}, r"the number of classes is 2 \(the run has 10\)"),
        (lambda info: {"label_names": info.label_names[::-1]}, r"class 0 is '9' \(the run has '0'\)"),
        (
            lambda info: {"statistics": info.statistics._replace(mean_image=info.statistics.mean_image + 1)},
            r"the mean image \(CRC-32\) is '[0-9a-f]{8}' \(the run has '[0-9a-f]{8}'\); set config.data.dir",
        ),
    ],
)
def test_a_run_resumes_only_with_its_own_data(folder, tiny_config, change, message):
    info = load_dataset_info(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    workdir.open_for_training(folder, tiny_config, info)
    with pytest.raises(UserError, match=f"holds a run on other data: {message}"):
        workdir.open_for_training(folder, tiny_config, dataclasses.replace(info, **change(info)))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_resumes_only_where_its_numbers_stay_the_same(folder, tiny_config, monkeypatch):
    """Where only rounding may differ it is a warning, once; a file that is missing or damaged is written again."""
    info, warnings = load_dataset_info(folder), []
    monkeypatch.setattr(workdir.logging, "warning", lambda text, *values: warnings.append(text % values))
    kept = folder / "numerics.json"

    def start() -> None:
        with workdir.opened_for_training(folder, tiny_config, info, startup.numerics()):
            assert json.loads(kept.read_text()) == startup.numerics()

    for text in (None, "{", "[1]"):
        if text:
            kept.write_text(text)
        start()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    tiny_config.log.every_steps = 7  # may change, but not where the run is refused
    with (
        jax.enable_x64(True),
        pytest.raises(
            UserError,
            match=r"^JAX_ENABLE_X64=True changes the numbers of a training, and the run in --workdir=.* has False; set "
            "JAX_ENABLE_X64 back, in the environment or in jax.config, or choose another --workdir.$",
        ),
    ):
        start()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x --xla_cpu_enable_fast_math=true")
    start()
    start()
    (warning,) = warnings
    assert warning.startswith("XLA_FLAGS is '--xla_cpu_enable_fast_math=true', but was '' when the run in ")


def test_processes_must_compute_the_same_numbers(tiny_config, monkeypatch):
    mine = startup.program(tiny_config)
    with jax.default_matmul_precision("highest"):
        theirs = startup.program(tiny_config)
    monkeypatch.setattr(agreement, "gather", lambda value: [value, {**value, "values": theirs}])
    sentence = r"JAX_DEFAULT_MATMUL_PRECISION is None in process 0 .* and 'highest' in process 1"
    with pytest.raises(UserError, match=sentence):
        agreement.check_agreement(mine)


@pytest.mark.parametrize("name", ["dataset.json", "statistics.npz"])
def test_resuming_fixes_what_is_damaged_or_missing(folder, tiny_config, name):
    for damage in ((folder / name).unlink, lambda: (folder / name).write_bytes(b"PK")):
        damage()
        workdir.open_for_training(folder, tiny_config, open_dataset(tiny_config.data).info)
        assert load_dataset_info(folder).num_examples == len(open_dataset(tiny_config.data).train)
