"""A preparation from beginning to end: checks, both passes, statistics, description, and one renaming at last.

Everything is made in a hidden folder beside the target. What has the target's name is whole.
"""

import collections
import contextlib
import fcntl
import functools
import itertools
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from alexnet_jax.data.builder import features_dict, write_info
from alexnet_jax.data.image_codec import SUBSAMPLING
from alexnet_jax.data.statistics import Sums, save_statistics
from alexnet_jax.errors import UserError
from alexnet_jax.prepare.shards import write_split
from alexnet_jax.prepare.source import SourceData, check_no_class_is_empty
from alexnet_jax.prepare.units import TRAIN, Recipe, Unit, forget, process
from alexnet_jax.progress import Progress

REPORT = "prepare_report.json"
_BYTES_PER_PIXEL = 0.45  # of JPEGs of photographs at quality 95, measured; of PNGs: 3
_LEAST_FILE = 2048  # bytes of an image file: a guard against overestimating parts of a published set
_NUM_SHOWN = 5


def prepare(raw: SourceData, recipe: Recipe, data_dir: Path, *, max_broken: int, num_workers: int) -> Path:
    """Prepares a data set and returns its folder; goes on where a killed preparation of the same stopped.

    UserError if the source turns out to be damaged, if more than `max_broken` images can't be decoded, if the disk is
    full, or if `data_dir` holds another preparation.
    """
    target = data_dir / raw.name / raw.version
    plan = _plan(raw, recipe)
    if target.exists():
        _check_same(plan, target / "metadata.json", target)
        return target
    scratch = target.parent / f".preparing-{raw.version}"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with _locked(scratch):
            _resume_or_begin(plan, scratch)
            _check_disk(raw, recipe, scratch)
            with contextlib.closing(Progress(raw.num_bytes)) as progress:
                finished = _prepare(raw, recipe, plan, scratch, max_broken, num_workers, progress)
            finished.rename(target)
            shutil.rmtree(scratch)
    except OSError as error:
        raise UserError(
            f"{scratch} can't be written to ({error.strerror or error}); make room or choose another --data_dir. The "
            "same command goes on where it stopped."
        ) from error
    return target


def _plan(raw: SourceData, recipe: Recipe) -> dict[str, Any]:
    """What the result depends on, as JSON: the settings, and the identity of the source."""
    encoding = "PNG" if recipe.quality is None else f"JPEG, quality {recipe.quality}, {SUBSAMPLING}"
    return {
        "size": recipe.size,
        "encoding": encoding,
        "seed": recipe.seed,
        "keep_originals": recipe.keep_originals,
        "source": dict(raw.identity),
    }


def _resume_or_begin(plan: Mapping[str, Any], scratch: Path) -> None:
    path = scratch / "plan.json"
    if path.exists():
        _check_same(plan, path, scratch)
    else:
        path.with_suffix(".unfinished").write_text(json.dumps({"preparation": plan}))
        path.with_suffix(".unfinished").replace(path)
    (scratch / "units").mkdir(exist_ok=True)


def _check_same(plan: Mapping[str, Any], path: Path, folder: Path) -> None:
    """UserError if what lies in the folder was prepared, or begun, differently."""
    try:
        found = dict(json.loads(path.read_text())["preparation"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{folder} is there, but not made by this command; delete it or choose another --data_dir."
        ) from None
    differing = [name for name, value in plan.items() if found.get(name) != value]
    if differing:
        changes = "; ".join(f"{name} was {found.get(name)} and is now {plan[name]}" for name in differing)
        raise UserError(f"{folder} was prepared differently ({changes}); delete it or choose another --data_dir.")


@contextlib.contextmanager
def _locked(scratch: Path) -> Iterator[None]:
    """Keeps a second preparation out; the lock ends with the process, however that ends."""
    with (scratch / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is preparing {scratch.parent.name} in {scratch}; wait for it.") from None
        except OSError:
            pass  # a file system without locks, as some clusters have: then it is the user who takes care
        yield


def _check_disk(raw: SourceData, recipe: Recipe, scratch: Path) -> None:
    """UserError if the result, which for a while is there twice, won't fit."""
    per_pixel = _BYTES_PER_PIXEL if recipe.quality is not None else 3.0
    num_images = min(sum(raw.num_images.values()), raw.num_bytes // _LEAST_FILE)
    needed = num_images * recipe.size**2 * per_pixel + raw.num_bytes * recipe.keep_originals
    there = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    free = shutil.disk_usage(scratch).free
    if 2 * needed - there > free:
        raise UserError(
            f"{scratch.parent} has {free / 1e9:.1f} GB free, and about {(2 * needed - there) / 1e9:.1f} GB are needed "
            f"(half of them only during the preparation); make room or choose another --data_dir."
        )


def _prepare(
    raw: SourceData,
    recipe: Recipe,
    plan: Mapping[str, Any],
    scratch: Path,
    max_broken: int,
    num_workers: int,
    progress: Progress,
) -> Path:
    """Makes everything in the hidden folder; returns the finished part of it."""
    units: dict[str, list[Unit]] = {split: [] for split in raw.splits}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # images.py has a limit of its own
        for split, unit in process(raw.images(), recipe, scratch / "units", num_workers, progress.images):
            units[split].append(unit)
            _check_broken(raw, units, max_broken, scratch)
    _check_classes(raw, units)

    finished = scratch / raw.name / raw.version  # TFDS takes name and version from here, until it is renamed
    finished.mkdir(parents=True, exist_ok=True)
    written = {
        split: write_split(of_split, finished, raw.name, split, num_workers, functools.partial(progress.shards, split))
        for split, of_split in units.items()
    }
    save_statistics(
        functools.reduce(Sums.__add__, [unit.sums for unit in units[TRAIN] if unit.sums]).statistics(), finished
    )
    (finished / REPORT).write_text(json.dumps(report(raw, units), indent=2))
    write_info(
        finished,
        name=raw.name,
        version=raw.version,
        description=raw.description,
        homepage=raw.homepage,
        features=features_dict(
            raw.label_names,
            recipe.size,
            "png" if recipe.quality is None else "jpeg",
            text_features=[recipe.name_feature, *(["original"] if recipe.keep_originals else [])],
        ),
        splits=written,
        metadata={**raw.metadata, "preparation": plan},
    )
    return finished


def report(raw: SourceData, units: Mapping[str, list[Unit]]) -> dict[str, Any]:
    """What was found: images per split and how many the publisher counts, what is odd, every broken image."""
    everything = [unit for of_split in units.values() for unit in of_split]
    counts = {
        split: {
            "images": sum(len(unit.keys) for unit in of_split),
            "broken": sum(len(unit.broken) for unit in of_split),
            "published": raw.num_images[split],
        }
        for split, of_split in units.items()
    }
    odd = sum((collections.Counter(unit.oddities) for unit in everything), collections.Counter[str]())
    return {"splits": counts, "odd": dict(odd), "broken": [entry for unit in everything for entry in unit.broken]}


def _check_broken(raw: SourceData, units: Mapping[str, list[Unit]], max_broken: int, scratch: Path) -> None:
    found = report(raw, units)
    if len(broken := found["broken"]) <= max_broken:
        return
    (scratch / REPORT).write_text(json.dumps(found, indent=2))
    for unit in itertools.chain.from_iterable(units.values()):
        if unit.broken:
            forget(unit)  # so that a repaired source is read again
    shown = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in broken[:_NUM_SHOWN])
    more = "; ..." if len(broken) > _NUM_SHOWN else ""
    raise UserError(
        f"{len(broken)} images can't be decoded, and --max_broken allows {max_broken} ({shown}{more}); "
        f"{scratch / REPORT} lists them. Repair the source, or go on with --max_broken={len(broken)} or more."
    )


def _check_classes(raw: SourceData, units: Mapping[str, list[Unit]]) -> None:
    """UserError if a split is empty, or a class has no training image that could be decoded."""
    for split, of_split in units.items():
        if not any(len(unit.keys) for unit in of_split):
            raise UserError(f"the source of {raw.name} holds no image for the split {split!r}; add some, or remove it.")
    labels = sum((collections.Counter(unit.labels) for unit in units[TRAIN]), collections.Counter[str]())
    found = {name: labels[str(label)] for label, name in enumerate(raw.label_names)}
    check_no_class_is_empty(raw.label_names, found, f"the training split of {raw.name}")
