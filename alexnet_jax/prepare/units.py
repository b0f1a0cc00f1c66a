"""The first pass: all cores decode, resize, encode and measure every image, once.

The stream of images is cut into units of at most 4,096. A finished unit is two files: its records, and an index of
them. After a kill, finished units are skipped; only the unit in progress is made again. Units of image files are named
by a hash of what is in them, and end where the hash of a file's name says, so that after a change of some files, only
the units that had them are made again.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from alexnet_jax.data.builder import serialize, shuffle_key
from alexnet_jax.data.image_codec import BrokenImageError, Decoded, decode, encode, resize_and_crop
from alexnet_jax.data.statistics import Sums
from alexnet_jax.data.threads import map_ahead
from alexnet_jax.errors import UserError
from alexnet_jax.files import atomic
from alexnet_jax.prepare.source import SourceImage

UNIT = 4096  # images; their records are held in memory: 120 MB of 256 x 256
UNIT_BYTES = 128 << 20  # expected, of the records of a unit
BOUNDARY = 2048  # of this many files, one on average ends a unit
TASK = 32  # images that a thread processes at a time
TASK_BYTES = 8 << 20  # of loaded images, after which a task has enough
_JPEG_BYTES_PER_PIXEL = 0.45  # of photographs at quality 95, measured
_PNG_BYTES_PER_PIXEL = 3.0
_BUFFER = 16 << 20  # bytes that a task decodes into, enough for 5 million pixels
TRAIN = "train"  # the split that statistics are computed from

OnImages = Callable[[int, int, bool], None]  # receives the number of images, the position, and whether they are skipped


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is done to every image. quality: of the JPEGs, 1 to 100; None stores PNGs, losslessly."""

    size: int
    quality: int | None
    seed: int
    keep_originals: bool
    name_feature: str

    @property
    def num_bytes(self) -> int:
        """Return about how many bytes a prepared image has."""
        return int(self.size**2 * (_PNG_BYTES_PER_PIXEL if self.quality is None else _JPEG_BYTES_PER_PIXEL))


@dataclasses.dataclass
class Counts:
    """How many images there are, which are broken (split, file, reason), and how many have each oddity and label."""

    num_images: int = 0
    broken: list[dict[str, str]] = dataclasses.field(default_factory=list)
    oddities: Counter[str] = dataclasses.field(default_factory=Counter)
    labels: Counter[str] = dataclasses.field(default_factory=Counter)  # labels as text, for JSON

    def __add__(self, other: "Counts") -> "Counts":
        """Return the counts of all images of both."""
        return Counts(*(getattr(self, field) + getattr(other, field) for field in vars(self)))


class Unit(NamedTuple):
    """A finished unit. Its file contains the records one after the other, in the order of their shuffle keys.

    keys: uint64 [n], ascending. bounds: int64 [n + 1], record i is from bounds[i] to before bounds[i + 1] in the file.
    """

    path: Path
    keys: np.ndarray
    bounds: np.ndarray
    counts: Counts

    @property
    def num_bytes(self) -> int:
        """Return the size of the file of records."""
        return int(self.bounds[-1])

    def read(self, start: int, stop: int) -> list[bytes]:
        """Read the records from `start` to before `stop`."""
        with self.path.open("rb") as file:
            file.seek(self.bounds[start])
            return [file.read(length) for length in np.diff(self.bounds[start : stop + 1]).tolist()]


class _Prepared(NamedTuple):
    """The processed images of a task. records: shuffle key and bytes of each."""

    records: list[tuple[int, bytes]]
    sums: Sums
    counts: Counts


class _Task(NamedTuple):
    """Loaded images of a unit; or none, and the unit, if that is finished. position: of the last image."""

    split: str
    path: Path  # of the unit, without suffix
    position: int
    images: Sequence[tuple[SourceImage, bytes | np.ndarray]]
    finished: Unit | None

    @property
    def num_bytes(self) -> int:
        """Return the memory that the loaded images take."""
        return sum(_num_bytes(data) for _, data in self.images)


def process(
    images: Iterator[SourceImage],
    recipe: Recipe,
    directory: Path,
    num_threads: int,
    on_images: OnImages,
    *,
    any_order: bool = False,
) -> Iterator[tuple[str, Unit]]:
    """Make the units that are not yet in `directory`; yield every unit with the name of its split.

    This thread loads the images, one after the other; others process them, a bounded number of bytes ahead. `on_images`
    is called after every task. `any_order`: the images are files, which can be loaded at any time. UserError if there
    are units of another version; OSError if one can't be written.
    """
    cv2.setNumThreads(1)  # parallelism comes from the threads below
    prepare = functools.partial(_prepare, recipe=recipe)
    tasks = _tasks(images, recipe, directory, any_order)
    # However small its images, a task also counts for its results.
    results = map_ahead(
        prepare, tasks, num_threads, (2 * num_threads + 2) * TASK_BYTES, lambda task: max(task.num_bytes, TASK_BYTES)
    )
    for (split, path), unit_results in itertools.groupby(results, lambda result: (result[0].split, result[0].path)):
        records, sums, counts, unit = [], Sums.of(()), Counts(), None
        for task, prepared in unit_results:
            records += prepared.records
            sums, counts, unit = sums + prepared.sums, counts + prepared.counts, task.finished
            on_images((unit or prepared).counts.num_images, task.position, unit is not None)
        yield split, unit or _save(records, sums, counts, path)


def _tasks(images: Iterator[SourceImage], recipe: Recipe, directory: Path, any_order: bool) -> Iterator[_Task]:
    """Cut the stream into units of one split each, and those into tasks; load the images of unfinished units."""
    for (split, number), group in itertools.groupby(images, _unit_numbers(recipe, any_order)):
        name, unit_images = _named(group, number, any_order)
        path = directory / f"{split}-{name}"
        if finished := load(path):
            *others, last = (image.position for image in unit_images)
            if len(others) + 1 != finished.counts.num_images:
                problem = f"has {finished.counts.num_images} images, and should have {len(others) + 1}"
                raise UserError(f"{path} {problem}: another version made it; delete {directory.parent}.")
            yield _Task(split, path, last, (), finished)
            continue
        for loaded in _loaded(unit_images):
            yield _Task(split, path, loaded[-1][0].position, loaded, None)


def _unit_numbers(recipe: Recipe, any_order: bool) -> Callable[[SourceImage], tuple[str, int]]:
    """Return a function that, called with one image after the other, returns its split and the number of its unit."""
    numbers = Counter[str]()
    split, num_images, num_bytes, at_end = "", 0, 0, False

    def number(image: SourceImage) -> tuple[str, int]:
        nonlocal split, num_images, num_bytes, at_end
        size = recipe.num_bytes + image.size * recipe.keep_originals
        if image.split != split or at_end or num_images == UNIT or num_bytes + size > UNIT_BYTES:
            split, num_images, num_bytes = image.split, 0, 0
            numbers[split] += 1
        num_images, num_bytes = num_images + 1, num_bytes + size
        at_end = any_order and shuffle_key(0, "", image.name) % BOUNDARY == 0
        return split, numbers[split] - 1

    return number


def _named(images: Iterator[SourceImage], number: int, any_order: bool) -> tuple[str, Iterable[SourceImage]]:
    """Return the name of a unit and its images."""
    if not any_order:
        return f"{number:05d}", images
    listed = list(images)
    return fingerprint(listed), listed


def fingerprint(images: Sequence[SourceImage]) -> str:
    """Return a hash of the names, labels and sizes of images."""
    content = repr([(image.name, image.label, image.size) for image in images])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _loaded(images: Iterable[SourceImage]) -> Iterator[list[tuple[SourceImage, bytes | np.ndarray]]]:
    """Load the images, and yield those of one task at a time."""
    loaded: list[tuple[SourceImage, bytes | np.ndarray]] = []
    num_bytes = 0
    for image in images:
        data = image.load()
        loaded.append((image, data))
        num_bytes += _num_bytes(data)
        if len(loaded) == TASK or num_bytes >= TASK_BYTES:
            yield loaded
            loaded, num_bytes = [], 0
    if loaded:
        yield loaded


def _num_bytes(data: bytes | np.ndarray) -> int:
    return data.nbytes if isinstance(data, np.ndarray) else len(data)


def _prepare(task: _Task, recipe: Recipe) -> tuple[_Task, _Prepared]:
    """Process the images of a task; runs in a thread. OpenCV and libjpeg-turbo release the interpreter lock."""
    counts = Counts(len(task.images))
    records, training_pixels = [], []
    buffer = np.empty(_BUFFER, np.uint8)
    for image, data in task.images:
        try:
            decoded = Decoded(data, ()) if isinstance(data, np.ndarray) else decode(data, buffer)
        except BrokenImageError as error:
            counts.broken.append({"split": image.split, "file": image.name, "reason": str(error)})
            continue
        pixels = resize_and_crop(decoded.pixels, recipe.size)
        features = {"image": encode(pixels, recipe.quality), "label": image.label, recipe.name_feature: image.name}
        if recipe.keep_originals:
            features["original"] = data
        records.append((shuffle_key(recipe.seed, image.split, image.name), serialize(features)))
        counts.oddities.update(decoded.oddities)
        counts.labels[str(image.label)] += 1
        if image.split == TRAIN:
            training_pixels.append(pixels)
    return task._replace(images=()), _Prepared(records, Sums.of(training_pixels), counts)


# A unit on disk


def _save(records: list[tuple[int, bytes]], sums: Sums, counts: Counts, path: Path) -> Unit:
    """Sort and write the records of a unit, then the index under the name that marks the unit as finished."""
    records.sort()
    keys = np.array([key for key, _ in records], np.uint64)
    bounds = np.cumsum([0, *(len(record) for _, record in records)], dtype=np.int64)
    unit = Unit(path.with_suffix(".records"), keys, bounds, counts)
    with unit.path.open("wb") as file:
        file.writelines(record for _, record in records)
    arrays = {"keys": keys, "bounds": bounds, "counts": np.array(json.dumps(vars(counts))), **sums._asdict()}
    with atomic(path.with_suffix(".npz")) as unfinished:
        np.savez(unfinished, allow_pickle=False, **arrays)
    return unit


def load(path: Path) -> Unit | None:
    """Load a unit; None if it is not finished, or was truncated by a power failure."""
    try:
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
            arrays = dict(file)
        num_images, broken, oddities, labels = json.loads(str(arrays["counts"])).values()
        counts = Counts(num_images, broken, Counter(oddities), Counter(labels))
        _sums(arrays)
        unit = Unit(path.with_suffix(".records"), arrays["keys"], arrays["bounds"], counts)
    except (FileNotFoundError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return unit if unit.path.exists() and unit.path.stat().st_size == unit.num_bytes else None


def load_sums(unit: Unit) -> Sums:
    """Return the sums over the training images of a finished unit; zeros if it has none."""
    with np.load(unit.path.with_suffix(".npz"), allow_pickle=False) as file:
        return _sums(file)


def _sums(arrays: Mapping[str, np.ndarray]) -> Sums:
    return Sums(int(arrays["num_images"]), arrays["pixels"], arrays["products"])


def forget_broken(directory: Path) -> None:
    """Mark all units in a folder that have broken images as not finished."""
    for path in directory.glob("*.npz"):
        unit = load(path)
        if unit and unit.counts.broken:
            path.unlink()
