"""Classes and validation labels from the development kits of ILSVRC-2010 and ILSVRC-2012.

A kit numbers its classes 1 to 1000 in its own order, which is neither that of the WordNet ids nor that of the archives.
In this project, as in TFDS, Caffe and PyTorch, label i is the i-th WordNet id in alphabetical order.
"""

from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from alexnet_jax import matlab_file
from alexnet_jax.errors import UserError
from alexnet_jax.prepare import tars

_MAX_BYTES = 1 << 26  # that meta.mat may unpack to; a real one has a thirtieth of that
NUM_CLASSES = 1000  # of the challenge; the kit also lists inner nodes of the WordNet tree, with higher numbers


class Classes(NamedTuple):
    """wordnet_ids: in alphabetical order. words: their English names, empty without a kit.

    validation: the label of each validation image, by image number. labels_by_id: labels by the kit's own numbers.
    """

    wordnet_ids: tuple[str, ...]
    words: tuple[str, ...]
    validation: tuple[int, ...]
    labels_by_id: dict[int, int]


def read_kit(path: Path, year: int) -> Classes:
    """Read ILSVRC2012_devkit_t12.tar.gz or ILSVRC2010_devkit-1.0.tar.gz; UserError if it is damaged or another file."""
    meta, truth = "meta.mat", f"ILSVRC{year}_validation_ground_truth.txt"
    files = {m.path.name: tars.read(m, path) for m in tars.walk(path) if m.path.name in (meta, truth)}
    for name in (meta, truth):
        if name not in files:
            raise UserError(f"{path} does not contain {name}; it must be the development kit of ILSVRC-{year}.")
    classes = _read_classes(files[meta], path, year)
    ordered = sorted(classes, key=lambda number: classes[number])  # by WordNet id
    labels_by_id = {number: label for label, number in enumerate(ordered)}
    wordnet_ids, words = zip(*(classes[number] for number in ordered), strict=True)
    validation = parse_ground_truth(files[truth], labels_by_id, f"{path}, {truth}")
    return Classes(wordnet_ids, words, validation, labels_by_id)


def _read_classes(meta: bytes, path: Path, year: int) -> dict[int, tuple[str, str]]:
    """Return WordNet id and English names of the classes, by the kit's numbers."""
    try:
        rows = matlab_file.read_variables(meta, _MAX_BYTES)["synsets"]
        synsets = {int(row[f"ILSVRC{year}_ID"]): (str(row["WNID"]), str(row["words"])) for row in rows}
    except matlab_file.DAMAGE as error:
        problem = f"meta.mat has no table of synsets as in ILSVRC-{year} ({error})"
        raise UserError(f"{path}: {problem}; download it again.") from error
    classes = {number: synset for number, synset in synsets.items() if number <= NUM_CLASSES}
    count = len({wordnet_id for wordnet_id, _ in classes.values()})
    if sorted(classes) != list(range(1, NUM_CLASSES + 1)) or count != NUM_CLASSES:
        raise UserError(f"{path}: meta.mat has {count} different classes, not {NUM_CLASSES}; download it again.")
    return classes


def parse_ground_truth(text: bytes, labels_by_id: dict[int, int], where: str) -> tuple[int, ...]:
    """Return the labels of images 1, 2, ... from a file with the kit's class numbers; UserError if one is invalid."""
    labels = []
    for line, entry in enumerate(text.split(), 1):
        if not entry.isdigit() or int(entry) not in labels_by_id:
            shown = entry[:20].decode(errors="replace")
            raise UserError(f"{where}, line {line}: {shown!r} is not a class; they are numbered 1 to {NUM_CLASSES}.")
        labels.append(labels_by_id[int(entry)])
    return tuple(labels)


def without_kit() -> Classes:
    """Return the classes, without words, and validation labels of ILSVRC-2012 that TFDS includes."""
    folder = tfds.core.tfds_path("datasets/imagenet2012")
    wordnet_ids = tuple((folder / "labels.txt").read_text().split())
    labels = {wordnet_id: label for label, wordnet_id in enumerate(wordnet_ids)}
    validation = (folder / "validation_labels.txt").read_text().split()
    return Classes(wordnet_ids, (), tuple(labels[wordnet_id] for wordnet_id in validation), {})
