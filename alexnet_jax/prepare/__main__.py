"""Prepares a data set once, from its official archives or an image folder, for training to read.

    python -m alexnet_jax.prepare --dataset=imagenet2012|imagenet2010|cifar10|imagenette|folder --source=PATH \
        --data_dir=DIR

Images of shorter side 256, center 256 x 256 (paper section 2), as a TFDS data set with its mean image and colors beside
it. Killed, the same command goes on where it stopped. With --inspect it draws what was prepared. See docs/prepare.md.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from alexnet_jax import cli, runtime
from alexnet_jax.data import PREPARABLE
from alexnet_jax.errors import UserError

_FOLDER = "folder"
_DATASETS = (*PREPARABLE, _FOLDER)
_DATASET = flags.DEFINE_enum("dataset", None, _DATASETS, "what is prepared")
_SOURCE = flags.DEFINE_string("source", None, "the folder with the official archives, the archive, or the image folder")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "the folder that data sets are written to (config.data.dir)")
_NAME = flags.DEFINE_string("name", None, "a name for the data set of --dataset=folder; by default the folder's")
_SIZE = flags.DEFINE_integer("size", None, "the side of the prepared images in pixels; by default 256", lower_bound=8)
_QUALITY = flags.DEFINE_integer("quality", 95, "of the JPEGs that are stored", lower_bound=1, upper_bound=100)
_SEED = flags.DEFINE_integer("seed", 0, "of the order of the records", lower_bound=0, upper_bound=2**32 - 1)
_KEEP_ORIGINALS = flags.DEFINE_bool("keep_originals", False, "also store every original file, in the record")
_MAX_BROKEN = flags.DEFINE_integer("max_broken", 10, "how many images may be undecodable", lower_bound=0)
_VALIDATION = flags.DEFINE_float(
    "validation_fraction",
    0.1,
    "of each class, where a folder has only train/",
    lower_bound=0.0,
    upper_bound=0.9,
)
_WORKERS = flags.DEFINE_integer("workers", None, "threads; by default one a core", lower_bound=1)
_INSPECT = flags.DEFINE_bool(
    "inspect", False, "draw a contact sheet of the prepared images, as stored and as augmented"
)
flags.adopt_module_key_flags(cli)


def main(arguments: Sequence[str]) -> None:
    """Checks what is there, prepares it, says where it lies; or only draws what was prepared before."""
    cli.no_arguments(arguments)
    if _DATASET.value is None:
        raise UserError(f"--dataset is missing: give one of {', '.join(_DATASETS)}.")
    if _NAME.value is not None and _DATASET.value != _FOLDER:
        raise UserError(f"--name={_NAME.value} is for --dataset=folder; {_DATASET.value} has its name already.")
    data_dir = cli.required_path(_DATA_DIR)
    if _INSPECT.value and not _SOURCE.value:
        name = cli.required(_NAME) if _DATASET.value == _FOLDER else _DATASET.value
    else:
        name = _prepare(cli.required_path(_SOURCE), data_dir)
    if _INSPECT.value:
        print(inspect(name, data_dir))


def _prepare(source: Path, data_dir: Path) -> str:
    """Prepares the data set and returns its name."""
    from alexnet_jax.prepare.archives import open_source
    from alexnet_jax.prepare.preparation import REPORT, prepare
    from alexnet_jax.prepare.units import Recipe

    raw = open_source(cli.required(_DATASET), source, _NAME.value, _VALIDATION.value)
    if raw.size and _KEEP_ORIGINALS.value:
        raise UserError(f"--keep_originals: the images of {raw.name} are no files that could be kept; leave it away.")
    if raw.size and _SIZE.value not in (None, raw.size):  # enlarged, beside the exact one
        raw = dataclasses.replace(raw, name=f"{raw.name}_{_SIZE.value}", size=None)
    recipe = Recipe(
        size=raw.size or _SIZE.value or 256,
        quality=None if raw.size else _QUALITY.value,
        seed=_SEED.value,
        keep_originals=_KEEP_ORIGINALS.value,
        name_feature=raw.name_feature,
    )
    workers = _WORKERS.value or len(runtime.cores())
    target = prepare(raw, recipe, data_dir, max_broken=_MAX_BROKEN.value, num_workers=workers)
    for split, counts in json.loads((target / REPORT).read_text())["splits"].items():
        print(f"{split}: {counts['images']:,} images, {counts['broken']:,} broken; published: {counts['published']:,}")
    print(f"{target} is ready: config.data.name={raw.name}, config.data.dir={data_dir}")
    return raw.name


def inspect(name: str, data_dir: Path) -> Path:
    """Draws the contact sheet of a prepared data set and returns its path; UserError if the set can't be read."""
    from alexnet_jax.config import DataConfig
    from alexnet_jax.data.datasets import find_directory, open_builder, open_dataset
    from alexnet_jax.prepare.inspection import FILE_NAME, draw_contact_sheet

    directory = find_directory(data_dir, name)
    builder, _ = open_builder(directory)
    splits = [split for split in builder.info.splits if split not in ("train", "all")]
    dataset = open_dataset(DataConfig(name=name, dir=str(data_dir), eval_split=splits[0] if splits else "train"))
    draw_contact_sheet(dataset, directory / FILE_NAME)
    return directory / FILE_NAME


if __name__ == "__main__":
    cli.run(main)
