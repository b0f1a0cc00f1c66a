"""Images of ILSVRC-2012 in any tree of files, known by ImageNet's own names for files and folders.

`n01440764_10026.JPEG` is a training image, `ILSVRC2012_val_00000293.JPEG` a validation image. Its class is, if there
is one: the WordNet id that Hugging Face adds to the name (`..._n01440764.JPEG`), the folder `n01440764`, the id with
which a training image's name begins, what Kaggle's `LOC_val_solution.csv` says, or the number's label in the
development kit.
"""

import csv
import dataclasses
import functools
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alexnet_jax.errors import UserError
from alexnet_jax.prepare.folders import SPLIT_FOLDERS
from alexnet_jax.prepare.forms import files
from alexnet_jax.prepare.search import Search
from alexnet_jax.prepare.source import Part, SourceImage

SOLUTION = "LOC_val_solution.csv"
OFFICIAL_NAME = re.compile(
    r"(?P<stem>(?P<train>n\d{8})_\d+|ILSVRC2012_(?P<split>val|test)_(?P<number>\d{8}))(?:_(?P<id>n\d{8}))?",
    re.IGNORECASE,
)
WORDNET_ID = re.compile(r"n\d{8}")


@dataclasses.dataclass(frozen=True)
class Labels:
    """What is known of the classes.

    wordnet_ids: of all, in order. wanted: those to take. validation: the WordNet id of each validation image, by
    number. solution: the same by name, where Kaggle's list is there.
    """

    wordnet_ids: tuple[str, ...]
    wanted: tuple[str, ...]
    validation: Sequence[str]
    solution: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def known(self) -> frozenset[str]:
        """All WordNet ids."""
        return frozenset(self.wordnet_ids)

    def of_number(self, stem: str, number: int) -> str | None:
        """Return the WordNet id of a validation image; None if the list doesn't have it."""
        if self.solution:
            return self.solution.get(stem)
        return self.validation[number - 1] if 1 <= number <= len(self.validation) else None


class _Identity(NamedTuple):
    """What path and lists say of an image; wordnet_id: None for a test image."""

    split: str
    name: str
    wordnet_id: str | None


def named_images(form: str, containers: Sequence[Path], labels: Labels, published: Mapping[str, int]) -> Part:
    """Open folders, zips or tars with images of ImageNet.

    What can be listed is, and checked. Gzipped tars can't: to list them is to decompress them; `published` has the
    numbers of their images.

    Raises:
      UserError: a container is damaged, or an image has no label or an unknown one.
    """
    fingerprint, counts, train_labels = files.Fingerprint(), Counter[str](), Counter[int]()
    by_id, num_bytes = {wordnet_id: label for label, wordnet_id in enumerate(labels.wanted)}, 0
    can_list = not any(files.kind(container) == "tar.gz" for container in containers)
    are_folders = all(container.is_dir() for container in containers)
    with Search() as search:
        for container in containers:
            last = 0
            for file in files.walk(container, search.leave_out) if can_list else ():
                fingerprint.add(file.path, file.size)
                last = file.position
                image = _identify(file.path, labels, container)
                if image.wordnet_id in by_id:
                    search.found()
                    counts[image.split] += 1
                    if image.split == "train":
                        train_labels[by_id[image.wordnet_id]] += 1
                else:
                    reason = "images of other classes" if image.wordnet_id else "test images, which have no labels"
                    search.leave_out(reason, file.path.as_posix())
            num_bytes += last if container.is_dir() else container.stat().st_size

    def images() -> Iterator[SourceImage]:
        start = 0
        for container in containers:
            for file in files.walk(container):
                image = _identify(file.path, labels, container)
                if image.wordnet_id in by_id:
                    yield SourceImage(
                        image.split, image.name, by_id[image.wordnet_id], file.load, start + file.position, file.size
                    )
            start += 0 if container.is_dir() else container.stat().st_size

    identity: dict[str, int | str] = {p.name: p.stat().st_size for p in containers if not p.is_dir()}
    if can_list:
        identity["names and sizes"] = str(fingerprint)
    num_images = counts if can_list else published
    return Part(
        form=form,
        label_names=labels.wanted,
        num_images=num_images,
        num_bytes=num_bytes,
        identity=identity,
        images=images,
        left_out=search.left_out(),
        train_labels=train_labels,
        folder=containers[0] if are_folders else None,
        any_order=are_folders,
    )


def official_stem(name: str) -> re.Match[str] | None:
    """Return the match of a file name, without its folder and suffix, with ImageNet's names; None for other names."""
    return OFFICIAL_NAME.fullmatch(PurePosixPath(name).stem)


def is_named(path: Path) -> bool:
    """Return whether a file or folder has one of ImageNet's names."""
    return bool(WORDNET_ID.fullmatch(path.name) or official_stem(path.name))


def _identify(path: PurePosixPath, labels: Labels, container: Path) -> _Identity:
    """Return what is known of an image; UserError if nothing says its class."""
    match = official_stem(path.name)
    folder_split, folder_id = _folders(path.parent)
    split = folder_split or (match and match["split"] and SPLIT_FOLDERS[match["split"].lower()]) or "train"
    wordnet_id = (match and match["id"]) or folder_id or (match and match["train"])
    name = f"{match['stem']}.JPEG" if match else f"{folder_id}/{path.name}"
    if wordnet_id is None and split == "test":
        return _Identity(split, name, None)
    if wordnet_id is None and match:
        wordnet_id = labels.of_number(match["stem"], int(match["number"]))
    if wordnet_id is None:
        reason = f"{SOLUTION} has no line for it" if match and labels.solution else "neither name nor folder tells it"
        raise UserError(
            f"{container} contains {path}, an image without a class: {reason}. Remove it, or, if this is another data "
            "set, prepare it with dataset=folder."
        )
    if wordnet_id not in labels.known:
        raise UserError(
            f"{container} contains {path}: {wordnet_id} is not one of the {len(labels.known)} classes of ILSVRC-2012; "
            "remove it, or prepare other classes with dataset=folder."
        )
    return _Identity(split, name, wordnet_id)


@functools.lru_cache(maxsize=1024)
def _folders(folder: PurePosixPath) -> tuple[str | None, str | None]:
    """Return the split and the WordNet id that the nearest folders name."""
    split = next((SPLIT_FOLDERS[part.lower()] for part in folder.parts[::-1] if part.lower() in SPLIT_FOLDERS), None)
    return split, next((part for part in folder.parts[::-1] if WORDNET_ID.fullmatch(part)), None)


def read_solution(text: bytes, where: str, known: Collection[str]) -> dict[str, str]:
    """Return the WordNet id of each validation image from Kaggle's list; UserError if one is unknown.

    A line has the image's name, and the WordNet id and box of each object in it: "ILSVRC2012_val_00048981,n03995372 85
    1 499 272 ". All objects are of one class.
    """
    solution = {}
    rows = csv.reader(io.StringIO(text.decode(errors="replace")))
    for line, row in enumerate(rows, 1):
        if not row or row[0] == "ImageId":
            continue
        wordnet_id = row[1].split(" ")[0] if len(row) > 1 else ""
        if wordnet_id not in known:
            raise UserError(f"{where}, line {line}: {wordnet_id[:20]!r} is not one of the {len(known)} classes.")
        solution[row[0]] = wordnet_id
    return solution
