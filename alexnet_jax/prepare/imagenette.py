"""Imagenette: ten easily told classes of ImageNet. Source: github.com/fastai/imagenette, version 2."""

import functools
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.errors import UserError
from alexnet_jax.prepare import tars
from alexnet_jax.prepare.source import SourceData, SourceImage

CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
ARCHIVES = ("imagenette2.tgz", "imagenette2-320.tgz", "imagenette2-160.tgz")  # best first
HOMEPAGE = "https://github.com/fastai/imagenette"
_SPLITS = {"train": "train", "val": "validation"}


def imagenette(source: Path) -> SourceData:
    """The archive, or the best one in a folder; UserError if there is none."""
    archive = source
    if source.is_dir():
        there = [source / name for name in ARCHIVES if (source / name).is_file()]
        if not there:
            raise UserError(f"{source} holds none of {', '.join(ARCHIVES)}; download one of them from {HOMEPAGE}.")
        archive = there[0]
    elif not source.is_file():
        raise UserError(f"--source={source} is missing; download {ARCHIVES[0]} from {HOMEPAGE}.")
    labels = {wordnet_id: label for label, wordnet_id in enumerate(CLASSES)}

    def images() -> Iterator[SourceImage]:
        for member in tars.walk(archive):
            if member.path.suffix.lower() not in (".jpeg", ".jpg"):
                continue  # a table of noisy labels
            split, wordnet_id = member.path.parts[-3:-1] if len(member.path.parts) >= 3 else ("", "")
            if split not in _SPLITS or wordnet_id not in labels:
                raise UserError(
                    f"{archive} holds {member.path}; Imagenette has train/ and val/ with a folder for each of "
                    f"{', '.join(labels)}. Other sets: unpack them and use --dataset=folder."
                )
            load = functools.partial(tars.read, member, archive)
            yield SourceImage(_SPLITS[split], member.path.name, labels[wordnet_id], load, member.position)

    return SourceData(
        name="imagenette",
        version="1.0.0",
        description="Imagenette version 2: ten easily told classes of ImageNet.",
        homepage=HOMEPAGE,
        label_names=tuple(CLASSES),
        num_images={"train": 9469, "validation": 3925},
        num_bytes=archive.stat().st_size,
        identity={archive.name: archive.stat().st_size},
        images=images,
        metadata={"wordnet_ids": list(CLASSES), "class_names": list(CLASSES.values())},
    )
