"""The classes of ImageNet (ILSVRC-2012), built in for nets that come without their data set.

`imagenet_names.txt` has one class per line: the WordNet 3.0 id and a name. The ids are sorted, which is the order of
Caffe, torchvision and TFDS, but not of the challenge's development kit. The name is the first lemma of the synset in
WordNet, or the second if two classes share the first; the two cranes have no second, so their names say which is meant.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

NUM_CLASSES = 1000
NUM_EXAMPLES = 1_281_167  # in the training set: ILSVRC-2012 development kit, readme.txt


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """Return the names of all 1000 classes by WordNet id, in order: {"n01440764": "tench", ...}."""
    lines = Path(__file__).with_name("imagenet_names.txt").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def names_for_people(label_names: Sequence[str]) -> tuple[str, ...]:
    """Return the labels, with the WordNet ids of ImageNet's classes replaced by their names."""
    return tuple(imagenet_classes().get(label, label) for label in label_names)
