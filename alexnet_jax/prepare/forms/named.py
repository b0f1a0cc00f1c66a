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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from alexnet_jax.data.image_codec import EXTENSIONS
from alexnet_jax.errors import UserError
from alexnet_jax.prepare.folders import SPLIT_FOLDERS
from alexnet_jax.prepare.forms import files
from alexnet_jax.prepare.source import Part, SourceImage, check_no_class_is_empty

SOLUTION = "LOC_val_solution.csv"
OFFICIAL_NAME = re.compile(
    r"(?P<stem>(?P<train>n\d{8})_\d+|ILSVRC2012_(?P<split>val|test)_(?P<number>\d{8}))(?:_(?P<id>n\d{8}))?",
    re.IGNORECASE,
)
WORDNET_ID = re.compile(r"n\d{8}")
_NO_LABEL = "test images, which have no labels"


@dataclasses.dataclass(frozen=True)
class Labels:
    """The classes: WordNet ids in order. validation: labels by image number. solution: labels by name, of Kaggle."""

    wordnet_ids: tuple[str, ...]
    validation: Sequence[int]
    solution: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def by_id(self) -> dict[str, int]:
        """The label of each WordNet id."""
        return {wordnet_id: label for label, wordnet_id in enumerate(self.wordnet_ids)}

    def of_number(self, stem: str, number: int) -> int | None:
        """Return the label of a validation image; None if neither list has it."""
        if self.solution:
            return self.solution.get(stem)
        return self.validation[number - 1] if 1 <= number <= len(self.validation) else None


def named_images(form: str, containers: Sequence[Path], labels: Labels, published: Mapping[str, int]) -> Part:
    """Open folders, zips or tars with images of ImageNet.

    What can be listed is, and checked. Gzipped tars can't: to list them is to decompress them; `published` has the
    numbers of their images.

    Raises:
      UserError: a container is damaged, an image has no label or an unknown one, or a class has no training images.
    """
    fingerprint, counts, left_out = files.Fingerprint(), Counter[str](), Counter[str]()
    classes, num_bytes = Counter[str](), 0
    can_list = not any(files.kind(container) == "tar.gz" for container in containers)
    for container in containers:
        last = 0
        for file in files.walk(container) if can_list else ():
            fingerprint.add(file)
            last = file.position
            if image := _identify(file.path, labels, container):
                split, _, label = image
                if label is None:
                    left_out[_NO_LABEL] += 1
                    continue
                counts[split] += 1
                classes[labels.wordnet_ids[label]] += split == "train"
        num_bytes += last if container.is_dir() else container.stat().st_size
    if can_list and counts["train"]:
        check_no_class_is_empty(labels.wordnet_ids, classes, containers[0])

    def images() -> Iterator[SourceImage]:
        start = 0
        for container in containers:
            for file in files.walk(container):
                if (image := _identify(file.path, labels, container)) and image[2] is not None:
                    yield SourceImage(*image[:2], image[2], file.load, start + file.position)
            start += 0 if container.is_dir() else container.stat().st_size

    listed = {"names and sizes": str(fingerprint)} if can_list else {}
    sizes = {path.name: path.stat().st_size for path in containers if not path.is_dir()}
    return Part(
        form, labels.wordnet_ids, counts if can_list else published, num_bytes, sizes | listed, images, left_out
    )


def official_stem(name: str) -> re.Match[str] | None:
    """Return the match of a file name, without its folder and suffix, with ImageNet's names; None for other names."""
    return OFFICIAL_NAME.fullmatch(PurePosixPath(name).stem)


def is_named(path: Path) -> bool:
    """Return whether a file or folder has one of ImageNet's names."""
    return bool(WORDNET_ID.fullmatch(path.name) or official_stem(path.name))


def _identify(path: PurePosixPath, labels: Labels, container: Path) -> tuple[str, str, int | None] | None:
    """Return split, name and label of an image, None for other files; the label is None for test images."""
    if path.suffix.lower() not in EXTENSIONS:
        return None
    match = official_stem(path.name)
    folder_split, folder_id = _folders(path.parent)
    split = folder_split or (match and match["split"] and SPLIT_FOLDERS[match["split"].lower()]) or "train"
    wordnet_id = (match and match["id"]) or folder_id or (match and match["train"])
    name = f"{match['stem']}.JPEG" if match else f"{folder_id}/{path.name}"
    if wordnet_id:
        if wordnet_id not in labels.by_id:
            count = len(labels.wordnet_ids)
            raise UserError(f"{container} contains {path}: {wordnet_id} is not one of the {count} classes.")
        return split, name, labels.by_id[wordnet_id]
    if split == "test":
        return split, name, None
    label = labels.of_number(match["stem"], int(match["number"])) if match else None
    if label is None:
        source = f"{SOLUTION} has no line for it" if match and labels.solution else "neither name nor folder gives one"
        raise UserError(f"{container} contains {path}, an image without a class: {source}.")
    return split, name, label


@functools.lru_cache(maxsize=1024)
def _folders(folder: PurePosixPath) -> tuple[str | None, str | None]:
    """Return the split and the WordNet id that the nearest folders name."""
    split = next((SPLIT_FOLDERS[part.lower()] for part in folder.parts[::-1] if part.lower() in SPLIT_FOLDERS), None)
    return split, next((part for part in folder.parts[::-1] if WORDNET_ID.fullmatch(part)), None)


def read_solution(text: bytes, where: str, by_id: Mapping[str, int]) -> dict[str, int]:
    """Return the label of each validation image from Kaggle's list; UserError if it is damaged.

    A line has the image's name, and the WordNet id and box of each object in it: "ILSVRC2012_val_00048981,n03995372 85
    1 499 272 ". All objects are of one class.
    """
    labels = {}
    rows = csv.reader(io.StringIO(text.decode(errors="replace")))
    for line, row in enumerate(rows, 1):
        if line == 1 and row[:1] == ["ImageId"] or not row:
            continue
        wordnet_id = row[1].split(" ")[0] if len(row) > 1 else ""
        if wordnet_id not in by_id:
            raise UserError(f"{where}, line {line}: {wordnet_id[:20]!r} is not one of the {len(by_id)} classes.")
        labels[row[0]] = by_id[wordnet_id]
    return labels
