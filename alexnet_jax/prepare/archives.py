"""Find the reader of a data set by its name, and the form of a user's own by looking."""

import dataclasses
import re
from pathlib import Path

from alexnet_jax.data import DIGITS
from alexnet_jax.data.image_files import is_hidden
from alexnet_jax.errors import UserError
from alexnet_jax.files import reading
from alexnet_jax.prepare.cifar import cifar10
from alexnet_jax.prepare.folders import image_folder
from alexnet_jax.prepare.forms import files, listed, parquet, tfds_sets, webdataset
from alexnet_jax.prepare.imagenet import imagenet2010, imagenet2012
from alexnet_jax.prepare.imagenette import imagenette
from alexnet_jax.prepare.source import Part, SourceData, check_class_names, check_no_class_is_empty, hold_out

_VERSION = re.compile(r"\d+\.\d+\.\d+")  # the name of a folder of TFDS, in that of the data set
_PUBLISHED = {"imagenet2010": imagenet2010, "cifar10": cifar10, "imagenette": imagenette}
_FORMS = (  # of a user's own images, besides a folder of class folders
    (parquet.find, parquet.open_parquet),
    (tfds_sets.find, tfds_sets.open_tfds),
    (webdataset.find, webdataset.open_webdataset),
    (listed.find_annotations, listed.open_annotated),
)


def open_source(
    dataset: str,
    source: Path,
    name: str | None,
    validation_fraction: float,
    *,
    classes: Path | None = None,
    image_list: Path | None = None,
) -> SourceData:
    """Open a published data set or, for dataset="folder", a user's own images.

    Args:
      dataset: a published data set, or "folder".
      source: a folder or a file; its form is found out by looking.
      name: of the user's own data set; by default the source's.
      validation_fraction: held out of each class if there are only training images.
      classes: a file with one class per line: for ImageNet the WordNet ids of those to take, for a user's own data set
        the names of the labels 0, 1, ..., where the source has only numbers.
      image_list: a file with the path and label of each image.

    Raises:
      UserError: anything is missing or damaged, or the form is unknown.
    """
    if dataset == "imagenet2012":
        return imagenet2012(source, classes)
    if dataset in _PUBLISHED:
        return _PUBLISHED[dataset](source)
    place = source.resolve()
    name = name or (place.parent if _VERSION.fullmatch(place.name) else place).name.split(".")[0]
    if name == DIGITS or not re.fullmatch(r"\w[\w.+-]*", name):  # also the name of its folder
        raise UserError(
            f"name={name!r} can't be the name of a data set; use letters, digits and `_.+-`, begin with a letter or "
            f"digit, and avoid {DIGITS!r}, which is built in."
        )
    part = listed.open_list(source, image_list) if image_list else _find(source)
    if part is None:
        return image_folder(source, name=name, validation_fraction=validation_fraction)
    if "train" not in part.num_images:
        raise UserError(f"{source} ({part.form}) has no training images, only {', '.join(part.num_images)}.")
    part = _named(part, source, classes)
    if part.train_labels:
        counts = {name: part.train_labels.get(label, 0) for label, name in enumerate(part.label_names)}
        check_no_class_is_empty(part.label_names, counts, f"{source} ({part.form})")
    if list(part.num_images) == ["train"] and validation_fraction:
        part = hold_out(part, validation_fraction, source)
    folder = part.folder or (source if source.is_dir() else None)
    description = f"The images of {source.name}, {len(part.label_names)} classes."
    return SourceData(**vars(dataclasses.replace(part, folder=folder)), name=name, description=description)


def _find(source: Path) -> Part | None:
    """Open what the source is; None for a folder of class folders, or nothing. UserError if it is two things."""
    found = [(paths, open_found) for find, open_found in _FORMS if source.exists() and (paths := find(source))]
    places = [paths[0] for paths, _ in found]
    if found and source.is_dir() and (folder := _folder_beside(source, found[0][0])):
        places.append(folder)
    if len(places) > 1:
        first, second = places[:2]
        raise UserError(f"{source} has images in two forms, {first} and {second}; move one of them elsewhere.")
    if found:
        return found[0][1](found[0][0])
    return listed.open_archive([source]) if files.kind(source) in ("zip", "tar", "tar.gz") else None


def _folder_beside(source: Path, paths: list[Path]) -> Path | None:
    """Return a folder in the source that has images, but none of the paths that were found."""
    if source in paths:
        return None
    folders = (path for path in sorted(source.iterdir()) if path.is_dir() and not is_hidden(path.name))
    others = (folder for folder in folders if not any(path.is_relative_to(folder) for path in paths))
    return next((folder for folder in others if next(files.walk(folder), None)), None)


def _named(part: Part, source: Path, classes: Path | None) -> Part:
    """Return the part with names for its classes; UserError if they are unknown."""
    if classes is None:
        if not part.label_names:
            raise UserError(
                f"{source} ({part.form}) has numbers for labels, not names; give the names with classes=FILE, one per "
                "line, in the order of their numbers."
            )
        return part
    with reading(str(classes)):
        names = tuple(classes.read_text().splitlines())
    check_class_names(names, classes)
    num_classes = len(part.label_names) or max(part.train_labels) + 1
    if num_classes != len(names):
        raise UserError(f"{classes} names {len(names)} classes, and {source} ({part.form}) has {num_classes}.")
    return dataclasses.replace(part, label_names=names, identity={**part.identity, "classes": ", ".join(names)})
