"""What the development kits of ILSVRC-2010 and -2012 say: the classes, and the labels of the validation images.

A kit numbers its classes 1 to 1000 in an order of its own, neither that of the WordNet ids nor that of the archives.
Here, as in TFDS, Caffe and PyTorch, label i is the i-th WordNet id in alphabetical order.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from alexnet_jax.errors import UserError
from alexnet_jax.prepare import tars
from alexnet_jax.prepare.matlab import read_synsets

NUM_CLASSES = 1000  # of the challenge; the kit also lists the inner nodes of the WordNet tree, with higher numbers
_TFDS_FOLDER = "datasets/imagenet2012"  # in TFDS's package: the WordNet ids, and those of the validation images


class Classes(NamedTuple):
    """wordnet_ids: in alphabetical order. words: their names in English, where a kit gives them.

    validation: the label of each validation image, in the order of their numbers. labels_by_id: from the kit's own
    numbers.
    """

    wordnet_ids: tuple[str, ...]
    words: tuple[str, ...]
    validation: tuple[int, ...]
    labels_by_id: dict[int, int]


def read_kit(path: Path, year: int) -> Classes:
    """Reads ILSVRC2012_devkit_t12.tar.gz or ILSVRC2010_devkit-1.0.tar.gz; UserError if it is damaged or another."""
    wanted = ("meta.mat", f"ILSVRC{year}_validation_ground_truth.txt")
    files = {member.path.name: tars.read(member, path) for member in tars.walk(path) if member.path.name in wanted}
    if missing := [name for name in wanted if name not in files]:
        raise UserError(f"{path} holds no {missing[0]}; it must be the development kit of ILSVRC-{year}.")
    words_by_number, ids_by_number = _read_classes(files["meta.mat"], path, year)
    wordnet_ids = tuple(sorted(ids_by_number.values()))
    by_wordnet_id = {wordnet_id: label for label, wordnet_id in enumerate(wordnet_ids)}
    labels_by_id = {number: by_wordnet_id[wordnet_id] for number, wordnet_id in ids_by_number.items()}
    words = {ids_by_number[number]: text for number, text in words_by_number.items()}
    return Classes(
        wordnet_ids=wordnet_ids,
        words=tuple(words[wordnet_id] for wordnet_id in wordnet_ids),
        validation=parse_ground_truth(files[wanted[1]], labels_by_id, f"{path}, {wanted[1]}"),
        labels_by_id=labels_by_id,
    )


def _read_classes(meta: bytes, path: Path, year: int) -> tuple[dict[int, str], dict[int, str]]:
    """Words and WordNet ids by the kit's numbers, from its table of synsets in MATLAB's format."""
    try:
        rows = read_synsets(meta, year)
    except ValueError as error:
        raise UserError(
            f"{path}: its meta.mat has no table of synsets as in ILSVRC-{year} ({error}); download it again."
        ) from error
    classes = [row for row in rows if row[0] <= NUM_CLASSES]
    ids = {number: wordnet_id for number, wordnet_id, _ in classes}
    if sorted(ids) != list(range(1, NUM_CLASSES + 1)) or len(set(ids.values())) != NUM_CLASSES:
        found = len(set(ids.values()))
        raise UserError(f"{path}: its meta.mat must number {NUM_CLASSES} different classes; it has {found}.")
    return {number: words for number, _, words in classes}, ids


def parse_ground_truth(text: bytes, labels_by_id: dict[int, int], where: str) -> tuple[int, ...]:
    """The labels of images 1, 2, ... from a file with the kit's number of each; UserError if one is no class."""
    labels = []
    for line, entry in enumerate(text.split(), 1):
        if not entry.isdigit() or int(entry) not in labels_by_id:
            shown = entry[:20].decode(errors="replace")
            raise UserError(f"{where}, line {line}: {shown!r} is no class; they are numbered 1 to {NUM_CLASSES}.")
        labels.append(labels_by_id[int(entry)])
    return tuple(labels)


def without_kit() -> Classes:
    """ILSVRC-2012's classes and validation labels from the files that TFDS carries; without words."""
    wordnet_ids = tuple(_lines("labels.txt"))
    labels = {wordnet_id: label for label, wordnet_id in enumerate(wordnet_ids)}
    return Classes(wordnet_ids, (), tuple(labels[line] for line in _lines("validation_labels.txt")), {})


def _lines(name: str) -> Sequence[str]:
    return tfds.core.tfds_path(f"{_TFDS_FOLDER}/{name}").read_text().split()
