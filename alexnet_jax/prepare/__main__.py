"""Prepare a data set once, from its official archives or any other form of it, for training to read.

    python -m alexnet_jax.prepare --dataset=imagenet2012|imagenet2010|cifar10|imagenette|folder --source=PATH \
        --data_dir=DIR

Makes images of shorter side 256, center 256 x 256 (paper section 2), and stores them as a TFDS data set with its mean
image and colors. After a kill, the same command resumes. --inspect draws what was prepared. See docs/prepare.md.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from alexnet_jax import cli, runtime
from alexnet_jax.data import PREPARABLE
from alexnet_jax.errors import UserError, printable

_FOLDER = "folder"
_DATASETS = (*PREPARABLE, _FOLDER)
_DATASET = flags.DEFINE_enum("dataset", None, _DATASETS, "the data set to prepare")
_SOURCE = cli.define_path_flag("source", "the folder or file with the images, in any form of docs/prepare.md")
_DATA_DIR = cli.define_path_flag("data_dir", "the folder that data sets are written to (config.data.dir)")
_NAME = flags.DEFINE_string("name", None, "the name of the data set of --dataset=folder; by default the folder's")
_CLASSES = cli.define_path_flag("classes", "a file: ImageNet's WordNet ids to take, or names for labels 0, 1, ...")
_LIST = cli.define_path_flag("list", "a file with a line `path,label` or `path,label,split` for each image")
_SIZE = flags.DEFINE_integer("size", None, "side of the prepared images in pixels; by default 256", lower_bound=8)
_FORMAT = flags.DEFINE_enum("format", None, ["jpeg", "png"], "how images are stored, png without loss; by default jpeg")
_QUALITY = flags.DEFINE_integer("quality", 95, "quality of the stored JPEGs", lower_bound=1, upper_bound=100)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the order of the records", lower_bound=0, upper_bound=2**32 - 1)
_KEEP_ORIGINALS = flags.DEFINE_bool("keep_originals", False, "also store each original file in its record")
_MAX_BROKEN = flags.DEFINE_integer("max_broken", 10, "how many images may be impossible to decode", lower_bound=0)
_VALIDATION = flags.DEFINE_float("validation_fraction", 0.1, "held out of each class without val/; 0: none", 0.0, 0.9)
_THREADS = flags.DEFINE_integer("workers", None, "number of threads; by default one per core", lower_bound=1)
_INSPECT = flags.DEFINE_bool("inspect", False, "draw a contact sheet of the prepared images, stored and augmented")
flags.adopt_module_key_flags(cli)


def main(arguments: Sequence[str]) -> None:
    """Prepare a data set and print where it is; or only draw one that was prepared before."""
    cli.no_arguments(arguments)
    if _DATASET.value is None:
        raise UserError(f"--dataset is missing: give one of {', '.join(_DATASETS)}.")
    if _NAME.value is not None and _DATASET.value != _FOLDER:
        raise UserError(f"--name={_NAME.value} is only for --dataset=folder; {_DATASET.value} already has a name.")
    if _LIST.value is not None and _DATASET.value != _FOLDER:
        raise UserError(f"--list={_LIST.value} is only for --dataset=folder.")
    if _CLASSES.value is not None and _DATASET.value not in (_FOLDER, "imagenet2012"):
        raise UserError(f"--classes={_CLASSES.value} is only for --dataset=imagenet2012 and --dataset=folder.")
    data_dir = cli.required(_DATA_DIR)
    if _INSPECT.value and not _SOURCE.value:
        name = cli.required(_NAME) if _DATASET.value == _FOLDER else _DATASET.value
    else:
        name = _prepare(_DATASET.value, cli.required(_SOURCE), data_dir)
    if _INSPECT.value:
        print(inspect(name, data_dir))


def _prepare(dataset: str, path: Path, data_dir: Path) -> str:
    """Prepare a data set as the flags say, print what was made, and return its name."""
    from alexnet_jax.prepare.archives import open_source
    from alexnet_jax.prepare.units import Recipe
    from alexnet_jax.prepare.workflow import REPORT, prepare_dataset

    if _FORMAT.value == "png" and flags.FLAGS["quality"].present:
        raise UserError(f"--quality={_QUALITY.value} is for JPEGs, but --format=png; leave one of them out.")
    files = {"classes": _CLASSES.value, "image_list": _LIST.value}
    source = open_source(dataset, path, _NAME.value, _VALIDATION.value, **files)
    if source.size and _KEEP_ORIGINALS.value:
        raise UserError(f"--keep_originals: the images of {source.name} are not files; leave the flag out.")
    if source.size and _SIZE.value not in (None, source.size):  # enlarged; a different data set than the exact one
        source = dataclasses.replace(source, name=f"{source.name}_{_SIZE.value}", size=None)
    if source.size and _FORMAT.value == "jpeg":
        raise UserError(f"--format=jpeg: {source.name} keeps its exact pixels, as png; leave the flag out.")
    quality = None if source.size or _FORMAT.value == "png" else _QUALITY.value
    recipe = Recipe(source.size or _SIZE.value or 256, quality, _SEED.value, _KEEP_ORIGINALS.value, source.name_feature)
    for line in source.in_words():
        print(printable(line), flush=True)
    num_threads = _THREADS.value or len(runtime.cores())
    target = prepare_dataset(source, recipe, data_dir, max_broken=_MAX_BROKEN.value, num_threads=num_threads)
    report = json.loads((target / REPORT).read_text())
    for split, counts in report["splits"].items():
        print(f"{split}: {counts['images']:,} images, {counts['broken']:,} broken; published: {counts['published']:,}")
    if report["broken"]:
        first = report["broken"][0]
        print(f"the first broken image: {printable(first['file'])}: {first['reason']}; all are in {target / REPORT}")
    fields = [f"config.data.name={source.name}", f"config.data.dir={data_dir}"]
    if "validation" not in source.num_images:  # the default of config.data.eval_split
        fields.append(f"config.data.eval_split={[*source.num_images][-1]}")
    print(f"{target} is ready: {', '.join(fields)}")
    return source.name


def inspect(name: str, data_dir: Path) -> Path:
    """Draw the contact sheet of a prepared data set and return its path; UserError if the data set can't be read."""
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
