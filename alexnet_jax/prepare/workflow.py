"""A whole preparation: checks, both passes, statistics, description, and a final rename.

Everything is made in a hidden folder beside the target. A folder with the target's name is complete.
"""

import contextlib
import functools
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.data.builder import features_dict, write_info
from alexnet_jax.data.image_codec import SUBSAMPLING
from alexnet_jax.data.statistics import Sums, save_statistics
from alexnet_jax.errors import UserError
from alexnet_jax.files import try_lock, write_atomically
from alexnet_jax.prepare.shards import write_split
from alexnet_jax.prepare.source import SourceData, check_no_class_is_empty
from alexnet_jax.prepare.units import TRAIN, Counts, Recipe, Unit, forget_broken, load_sums, process
from alexnet_jax.progress import Progress

REPORT = "prepare_report.json"
_MIN_FILE_BYTES = 2048  # of an image, so that part of a published data set isn't taken for all of it
_MAX_SHOWN = 5  # broken images in the error message

_Units = Mapping[str, list[Unit]]  # by split


def prepare_dataset(source: SourceData, recipe: Recipe, data_dir: Path, *, max_broken: int, num_threads: int) -> Path:
    """Prepare a data set and return its folder; resumes an interrupted preparation with the same arguments.

    UserError if the source is damaged or lacks the images of a split, more than `max_broken` images can't be decoded,
    the disk is full, or `data_dir` is in the source or contains a different preparation.
    """
    target = data_dir / source.name / source.version
    _check_place(source, target)
    _check_splits(source, source.num_images)
    plan = _plan(source, recipe)
    if target.exists():
        _check_same(plan, target / "metadata.json")
        return target
    scratch = target.parent / f".preparing-{source.version}"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with _lock(scratch):
            _begin(plan, source, scratch)
            _check_disk(source, recipe, scratch)
            with Progress(source.num_bytes) as progress:
                units = _make_units(source, recipe, scratch, max_broken, num_threads, progress)
                finished = _write_dataset(source, recipe, units, scratch, num_threads, progress)
            finished.rename(target)
            shutil.rmtree(scratch)
    except OSError as error:
        raise UserError(
            f"{scratch} can't be written ({error.strerror or error}); free some space or choose another data_dir. "
            "The same command resumes where it stopped."
        ) from error
    return target


def _check_place(source: SourceData, target: Path) -> None:
    """Raise UserError if the data set would be written into the folder of its images."""
    if source.folder and target.resolve().is_relative_to(source.folder.resolve()):
        raise UserError(f"{target} is in the source, {source.folder}; choose another name or data_dir.")


def _check_splits(source: SourceData, num_images: Mapping[str, int]) -> None:
    """Raise UserError if a split has no images."""
    for split, count in num_images.items():
        if not count:
            raise UserError(
                f"the source of {source.name} has no images for split {split!r}; add some, remove it, or, if it was to "
                "be held out, hold none out with validation_fraction=0."
            )


def _plan(source: SourceData, recipe: Recipe) -> dict[str, Any]:
    """Return what the result depends on, as JSON: the settings and the identity of the source."""
    return {
        "size": recipe.size,
        "encoding": "PNG" if recipe.quality is None else f"JPEG, quality {recipe.quality}, {SUBSAMPLING}",
        "seed": recipe.seed,
        "keep_originals": recipe.keep_originals,
        "source": dict(source.identity),
    }


def _check_same(plan: Mapping[str, Any], path: Path) -> None:
    """Raise UserError if the plan of a folder, in the JSON file `path`, is a different one."""
    try:
        earlier = dict(json.loads(path.read_text())["preparation"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path.parent} was not made by this command; delete it or choose another data_dir.") from None
    keys = [key for key in plan if earlier.get(key) != plan[key]]
    if changes := "; ".join(f"{key} was {earlier.get(key)} and is now {plan[key]}" for key in keys):
        raise UserError(f"{path.parent} was prepared differently ({changes}); delete it or choose another data_dir.")


def _begin(plan: Mapping[str, Any], source: SourceData, scratch: Path) -> None:
    """Write the plan; UserError if it differs from that of an interrupted preparation.

    Image files may have been repaired, added or removed since: the units of the others stay, but no shards of them.
    """
    path = scratch / "plan.json"
    if path.exists():
        changeable = ["source"] if source.any_order else []
        _check_same({key: value for key, value in plan.items() if key not in changeable}, path)
        if json.loads(path.read_text())["preparation"] == plan:
            return
        if (scratch / source.name).exists():
            shutil.rmtree(scratch / source.name)
    write_atomically(path, json.dumps({"preparation": plan}))


def _lock(scratch: Path) -> contextlib.AbstractContextManager:
    """Keep other preparations out until the context or the process ends."""
    lock = try_lock(scratch / "lock")
    if lock is None:
        raise UserError(f"another process is preparing {scratch.parent.name} in {scratch}; wait for it.")
    return lock


def _check_disk(source: SourceData, recipe: Recipe, scratch: Path) -> None:
    """Raise UserError if the result, which temporarily exists twice, won't fit."""
    num_images = min(sum(source.num_images.values()), source.num_bytes // _MIN_FILE_BYTES)
    result = num_images * recipe.num_bytes + source.num_bytes * recipe.keep_originals
    needed = 2 * result - sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    free = shutil.disk_usage(scratch).free
    if needed > free:
        raise UserError(
            f"{scratch.parent} has {free / 1e9:.1f} GB free, but about {needed / 1e9:.1f} GB are needed (half of them "
            "only during the preparation); free some space or choose another data_dir."
        )


def _make_units(
    source: SourceData, recipe: Recipe, scratch: Path, max_broken: int, num_threads: int, progress: Progress
) -> _Units:
    """Carry out the first pass; return the units of each split."""
    directory = scratch / "units"
    directory.mkdir(exist_ok=True)
    _read_broken_again(scratch, max_broken)
    units: _Units = {split: [] for split in source.num_images}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of large images and damaged EXIF data: see image_codec.py
        made = process(source.images(), recipe, directory, num_threads, progress.images, any_order=source.any_order)
        for split, unit in made:
            units[split].append(unit)
            _check_broken(source, units, max_broken, scratch)
    _check_classes(source, units, scratch)
    return units


def _write_dataset(
    source: SourceData, recipe: Recipe, units: _Units, scratch: Path, num_threads: int, progress: Progress
) -> Path:
    """Carry out the second pass, and write statistics, report and description; return the finished folder."""
    finished = scratch / source.name / source.version  # TFDS takes name and version from this path, until the rename
    finished.mkdir(parents=True, exist_ok=True)
    splits = []
    for split, split_units in units.items():
        done = functools.partial(progress.shards, split)
        splits.append(write_split(split_units, finished, source.name, split, num_threads, done))
    sums = functools.reduce(Sums.__add__, map(load_sums, units[TRAIN]))
    save_statistics(sums.statistics(), finished)
    write_atomically(finished / REPORT, json.dumps(_report(source, units), indent=2))
    text_features = [recipe.name_feature, *(["original"] if recipe.keep_originals else [])]
    features = features_dict(source.label_names, recipe.size, "jpeg" if recipe.quality else "png", text_features)
    write_info(
        finished,
        name=source.name,
        version=source.version,
        description=source.description,
        homepage=source.homepage,
        features=features,
        splits=splits,
        metadata={**source.metadata, "preparation": _plan(source, recipe)},
    )
    return finished


def _counts(units: _Units) -> dict[str, Counts]:
    """Return the counts of each split."""
    return {split: sum((unit.counts for unit in split_units), Counts()) for split, split_units in units.items()}


def _report(source: SourceData, units: _Units) -> dict[str, Any]:
    """Return the images per split, found and published, what is odd or left out (counts), and all broken images."""
    splits, counts_by_split = {}, _counts(units)
    for split, counts in counts_by_split.items():
        num_broken, published = len(counts.broken), source.num_images[split]
        splits[split] = {"images": counts.num_images - num_broken, "broken": num_broken, "published": published}
    total = sum(counts_by_split.values(), Counts())
    odd, left_out = dict(total.oddities), dict(source.left_out)
    return {"splits": splits, "odd": odd, "left_out": left_out, "broken": total.broken}


def _check_broken(source: SourceData, units: _Units, max_broken: int, scratch: Path) -> None:
    """Raise UserError if too many images are broken."""
    broken = [image for split_units in units.values() for unit in split_units for image in unit.counts.broken]
    if len(broken) <= max_broken:
        return
    write_atomically(scratch / REPORT, json.dumps(_report(source, units), indent=2))
    shown = "; ".join(f"{image['file']}: {image['reason']}" for image in broken[:_MAX_SHOWN])
    more = "; ..." if len(broken) > _MAX_SHOWN else ""
    raise UserError(
        f"{len(broken)} images can't be decoded, but max_broken={max_broken} ({shown}{more}); {scratch / REPORT} lists "
        f"them. Repair the source, or continue with max_broken={len(broken)} or more."
    )


def _read_broken_again(scratch: Path, max_broken: int) -> None:
    """Forget the units with broken images if they stopped an earlier run and aren't allowed now either.

    So the source was repaired.
    """
    path = scratch / REPORT
    if path.exists() and len(json.loads(path.read_text())["broken"]) > max_broken:
        forget_broken(scratch / "units")


def _check_classes(source: SourceData, units: _Units, scratch: Path) -> None:
    """Raise UserError if a split is empty, or a class has no training image that could be decoded."""
    counts = _counts(units)
    try:
        _check_splits(source, {split: sum(counts[split].labels.values()) for split in counts})
        by_name = {name: counts[TRAIN].labels[str(label)] for label, name in enumerate(source.label_names)}
        remedy = "add images, or remove the class; of ImageNet, classes=FILE takes a part of the classes"
        check_no_class_is_empty(source.label_names, by_name, f"the training split of {source.name}", remedy)
    except UserError:
        forget_broken(scratch / "units")  # for a repaired source
        raise
