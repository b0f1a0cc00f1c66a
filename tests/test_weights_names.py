"""ImageNet's class names against two independent lists."""

from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from conftest import SHARED_DATA

from alexnet_jax.data.class_names import imagenet_classes, names_for_people


def test_ids_are_those_of_tfds_in_its_order():
    labels = Path(tfds.__file__).parent / "datasets" / "imagenet2012" / "labels.txt"
    assert list(imagenet_classes()) == labels.read_text().split()


def test_ids_and_names_are_caffes():
    """Each name is one of the synset's lemmas; the two cranes have one more word."""
    path = SHARED_DATA / "weights" / "synset_words.txt"
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    synsets = dict(line.split(" ", 1) for line in path.read_text().splitlines())
    assert list(imagenet_classes()) == list(synsets)
    for wordnet_id, name in imagenet_classes().items():
        lemmas = synsets[wordnet_id].split(", ")
        assert name in lemmas or name in ("crane (bird)", "crane (machine)")


def test_no_two_classes_share_a_name():
    assert len({name.lower() for name in imagenet_classes().values()}) == 1000


def test_other_labels_stay_as_they_are():
    assert names_for_people(["n01440764", "zero"]) == ("tench", "zero")
