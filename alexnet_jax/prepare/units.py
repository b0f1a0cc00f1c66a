"""The first pass: every image is decoded, resized, encoded and measured, once, by all cores.

The stream of images is cut into units of 4,096. A finished unit lies on disk as two files: its records, and what is
known of them. After a kill, finished units are skipped; only the one that was at work is made again.
"""

import collections
import dataclasses
import functools
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from alexnet_jax.data.builder import serialize, shuffle_key
from alexnet_jax.data.image_codec import BrokenImageError, Decoded, decode, encode_jpeg, encode_png, resize_and_crop
from alexnet_jax.data.statistics import Sums
from alexnet_jax.prepare.source import SourceImage

UNIT = 4096  # images; their records are held in memory: 120 MB of 256 x 256
TASK = 32  # images that a thread works on at a time
_BUFFER = 16 << 20  # bytes that a task decodes into, enough for 5 million pixels
TRAIN = "train"  # the split whose statistics are taken


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is done to every image. quality: of the JPEGs, 1 to 100; None stores PNGs, without loss."""

    size: int
    quality: int | None
    seed: int
    keep_originals: bool
    name_feature: str


class Unit(NamedTuple):
    """A finished unit. Its records lie in the file one after the other, in the order of their shuffle keys.

    keys: uint64 [n], ascending. ends: int64 [n], where each record ends in the file. num_images: read, [broken] ones
    among them. sums: None outside of the training split. oddities: how many images were odd, by what.
    """

    path: Path
    keys: np.ndarray
    ends: np.ndarray
    sums: Sums | None
    num_images: int
    broken: list[dict[str, str]]
    oddities: dict[str, int]
    labels: dict[str, int]

    @property
    def num_bytes(self) -> int:
        """Of all its records."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, start: int, stop: int) -> list[bytes]:
        """The records from `start` to before `stop`."""
        first = int(self.ends[start - 1]) if start else 0
        with self.path.open("rb") as file:
            file.seek(first)
            data = file.read(int(self.ends[stop - 1]) - first) if stop > start else b""
        cuts = [0, *(self.ends[start:stop] - first).tolist()]
        return [data[begin:end] for begin, end in itertools.pairwise(cuts)]


class _Part(NamedTuple):
    """What became of a task's images."""

    num_images: int
    records: list[tuple[int, bytes]]
    sums: Sums | None
    broken: list[dict[str, str]]
    oddities: collections.Counter[str]
    labels: collections.Counter[str]


def process(
    images: Iterator[SourceImage],
    recipe: Recipe,
    directory: Path,
    num_workers: int,
    done: Callable[[int, int, bool], None],
) -> Iterator[tuple[str, Unit]]:
    """Makes the units of all images that are not yet in `directory`, and yields each with the name of its split.

    Images are loaded here, one after the other, and worked on by threads, a bounded number ahead; what they hand back
    is taken in the order of the images. `done(number of images, position, skipped)` is called after every task.
    OSError if a unit can't be written.
    """
    cv2.setNumThreads(1)  # the threads below are all there should be
    waiting: collections.deque[Callable[[], tuple[str, Unit] | None]] = collections.deque()

    def take(down_to: int) -> Iterator[tuple[str, Unit]]:
        while len(waiting) > down_to:
            if finished := waiting.popleft()():
                yield finished

    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for split, path, of_unit in _divide(images, directory):
                if unit := load(path):
                    *_, last = of_unit  # passes over them; nothing is read
                    waiting.append(functools.partial(_pass_on, split, unit, last.position, done))
                    continue
                work = _UnitAtWork(split, path, done)
                for task in _chunks(of_unit, TASK):
                    loaded = [(image, image.load()) for image in task]
                    future = pool.submit(_work, loaded, recipe)
                    waiting.append(functools.partial(work.add, loaded[-1][0].position, future))
                    yield from take(down_to=2 * num_workers + 2)
                waiting.append(work.finish)  # the threads go on with the next unit meanwhile
            yield from take(down_to=0)
        finally:
            pool.shutdown(cancel_futures=True)


def _divide(images: Iterator[SourceImage], directory: Path) -> Iterator[tuple[str, Path, Iterator[SourceImage]]]:
    """The stream cut into units of one split each: split, where the unit lies without suffix, its images."""
    numbers: collections.Counter[str] = collections.Counter()
    for split, of_split in itertools.groupby(images, lambda image: image.split):
        for of_unit in _chunks(of_split, UNIT):
            yield split, directory / f"{split}-{numbers[split]:05d}", of_unit
            numbers[split] += 1


def _chunks(images: Iterator[SourceImage], size: int) -> Iterator[Iterator[SourceImage]]:
    for first in images:
        yield itertools.chain([first], itertools.islice(images, size - 1))


def _pass_on(split: str, unit: Unit, position: int, done: Callable[[int, int, bool], None]) -> tuple[str, Unit]:
    done(unit.num_images, position, True)
    return split, unit


class _UnitAtWork:
    """Collects the parts of a unit in the order of its images."""

    def __init__(self, split: str, path: Path, done: Callable[[int, int, bool], None]):
        self._split = split
        self._path = path
        self._done = done
        self._parts: list[_Part] = []
        self._sums: Sums | None = None

    def add(self, position: int, future: Future[_Part]) -> None:
        """Waits for a task and takes what it made."""
        part = future.result()
        if part.sums:
            self._sums = self._sums + part.sums if self._sums else part.sums
        self._parts.append(part._replace(sums=None))
        self._done(part.num_images, position, False)

    def finish(self) -> tuple[str, Unit]:
        """Sorts and writes the records."""
        records = sorted(itertools.chain.from_iterable(part.records for part in self._parts))
        unit = Unit(
            path=_records_path(self._path),
            keys=np.array([key for key, _ in records], np.uint64),
            ends=np.cumsum([len(record) for _, record in records], dtype=np.int64),
            sums=self._sums,
            num_images=sum(part.num_images for part in self._parts),
            broken=[entry for part in self._parts for entry in part.broken],
            oddities=dict(sum((part.oddities for part in self._parts), collections.Counter())),
            labels=dict(sum((part.labels for part in self._parts), collections.Counter())),
        )
        _save(unit, self._path, [record for _, record in records])
        return self._split, unit


def _work(images: Sequence[tuple[SourceImage, Any]], recipe: Recipe) -> _Part:
    """Prepares some images; runs in a thread. OpenCV and libjpeg-turbo let go of the interpreter lock."""
    records, training, broken = [], [], []
    oddities, labels = collections.Counter[str](), collections.Counter[str]()
    buffer = np.empty(_BUFFER, np.uint8)
    for image, data in images:
        try:
            decoded = Decoded(data, ()) if isinstance(data, np.ndarray) else decode(data, buffer)
        except BrokenImageError as error:
            broken.append({"split": image.split, "file": image.name, "reason": str(error)})
            continue
        pixels = resize_and_crop(decoded.pixels, recipe.size)
        encoded = encode_png(pixels) if recipe.quality is None else encode_jpeg(pixels, recipe.quality)
        features = {"image": encoded, "label": image.label, recipe.name_feature: image.name}
        if recipe.keep_originals:
            features["original"] = data
        records.append((shuffle_key(recipe.seed, image.split, image.name), serialize(features)))
        oddities.update(decoded.oddities)
        labels.update([str(image.label)])
        if image.split == TRAIN:
            training.append(pixels)
    return _Part(len(images), records, Sums.of(training) if training else None, broken, oddities, labels)


# A unit on disk


def _records_path(path: Path) -> Path:
    return path.with_suffix(".records")


def _facts_path(path: Path) -> Path:
    return path.with_suffix(".npz")


def _save(unit: Unit, path: Path, records: Sequence[bytes]) -> None:
    """Writes the records, then what is known of them under a name that makes the unit count as finished."""
    with unit.path.open("wb") as file:
        file.writelines(records)
    facts = {"num_images": unit.num_images, "broken": unit.broken, "oddities": unit.oddities, "labels": unit.labels}
    arrays = {"keys": unit.keys, "ends": unit.ends, "facts": np.array(json.dumps(facts))}
    if unit.sums:
        arrays |= {name: np.asarray(value) for name, value in unit.sums._asdict().items()}
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez(unfinished, allow_pickle=False, **arrays)
    unfinished.replace(_facts_path(path))


def load(path: Path) -> Unit | None:
    """The unit of this name if it is finished; one that a power failure has cut is not."""
    if not _facts_path(path).exists():
        return None
    try:
        with np.load(_facts_path(path), allow_pickle=False) as file:
            arrays = dict(file)
    except (EOFError, ValueError, zipfile.BadZipFile):
        return None
    facts = json.loads(str(arrays["facts"]))
    sums = None
    if "products" in arrays:
        sums = Sums(int(arrays["num_images"]), arrays["pixels"], arrays["products"])
    unit = Unit(_records_path(path), arrays["keys"], arrays["ends"], sums, **facts)
    return unit if unit.path.exists() and unit.path.stat().st_size == unit.num_bytes else None


def forget(unit: Unit) -> None:
    """The unit counts as finished no more."""
    _facts_path(unit.path).unlink()
