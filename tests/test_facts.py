"""A workdir tells what its net was trained on, without the data set."""

import json

import numpy as np
import pytest

from alexnet_jax import workdir
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.facts import load_facts
from alexnet_jax.errors import UserError


@pytest.fixture
def folder(tiny_config, tmp_path):
    """The folder of a training that has just begun."""
    workdir.open_for_training(tmp_path / "run", tiny_config, open_dataset(tiny_config.data).facts)
    return tmp_path / "run"


def test_what_is_written_is_read(folder, tiny_config):
    dataset, facts = open_dataset(tiny_config.data), load_facts(folder)
    assert (facts.name, facts.num_examples) == ("digits", len(dataset.train))
    assert facts.label_names == facts.class_names == tuple("0123456789")
    for mine, theirs in zip(facts.statistics, dataset.statistics, strict=True):
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
        load_facts(folder)


def test_damaged_statistics_are_named(folder):
    (folder / "statistics.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"statistics.npz is damaged"):
        load_facts(folder)
