"""Imagenette: ten easily classified classes of ImageNet. Source: github.com/fastai/imagenette, version 2."""

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
    """Open the archive, or the best archive in a folder; UserError if there is none."""
    candidates = [source / name for name in ARCHIVES] if source.is_dir() else [source]
    archive = next(filter(Path.is_file, candidates), None)
    if archive is None:
        problem = f"contains none of {', '.join(ARCHIVES)}" if source.is_dir() else "does not exist"
        raise UserError(f"{source} {problem}; download {ARCHIVES[0]} from {HOMEPAGE}.")
    labels = {wordnet_id: label for label, wordnet_id in enumerate(CLASSES)}

    def images() -> Iterator[SourceImage]:
        for member in tars.walk(archive):
            if member.path.suffix.lower() not in tars.JPEG_SUFFIXES:
                continue  # a table of noisy labels
            split, wordnet_id = member.path.parts[-3:-1] if len(member.path.parts) >= 3 else ("", "")
            if split not in _SPLITS or wordnet_id not in labels:
                raise UserError(
                    f"{archive} contains {member.path}, but Imagenette has train/ and val/ with one folder for each of "
                    f"{', '.join(labels)}; prepare other data sets with dataset=folder."
                )
            load = functools.partial(tars.read, member, archive)
            label = labels[wordnet_id]
            yield SourceImage(_SPLITS[split], member.path.name, label, load, member.position, member.size)

    return SourceData(
        name="imagenette",
        description="Imagenette version 2: ten easily classified classes of ImageNet.",
        homepage=HOMEPAGE,
        form="the archive of Imagenette",
        label_names=tuple(CLASSES),
        num_images={"train": 9469, "validation": 3925},
        num_bytes=archive.stat().st_size,
        identity={archive.name: archive.stat().st_size},
        images=images,
        metadata={"wordnet_ids": list(CLASSES), "class_names": list(CLASSES.values())},
    )
