"""How fast `alexnet_jax.prepare` turns photographs into 256 x 256 JPEGs, beside the bare libraries.

    python -m benchmarks.prepare --photos=FOLDER

The bare libraries decode, resize and encode the same files in memory, on as many threads, and discard the result. The
preparation reads them from a tar, computes the statistics of the training set, and writes a shuffled data set.
"""

import functools
import io
import itertools
import resource
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from alexnet_jax.data.image_codec import SUBSAMPLING
from alexnet_jax.prepare import tars
from alexnet_jax.prepare.source import SourceData, SourceImage
from alexnet_jax.prepare.units import TASK, Recipe
from alexnet_jax.prepare.workflow import prepare_dataset
from benchmarks import records
from benchmarks.harness import Contender, race
from benchmarks.work import Work

SIZE, QUALITY = 256, 95
BARE, OURS = "OpenCV and libjpeg-turbo, bare", "prepare"


def main() -> None:
    """Run the comparison and write one row."""
    parser = records.parser(__doc__, repeats=7)
    parser.add_argument("--photos", required=True, help="a folder of JPEGs as large as ImageNet's")
    parser.add_argument("--images", type=int, default=1000, help="images per repeat; photographs recur (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads of each side (%(default)s)")
    flags = parser.parse_args()
    arguments = {"photos": flags.photos, "images": flags.images, "workers": flags.workers}
    contenders = [
        Contender(BARE, "benchmarks.prepare:bare", arguments, tuned=True),
        Contender(OURS, "benchmarks.prepare:whole", arguments, tuned=True),
    ]
    result = race(contenders, flags.repeats, seconds=0.1)
    times = result.times["images"]
    lines = [
        {"": name, "images/s": flags.images / times[name].median, "of bare": times[BARE].median / times[name].median}
        for name in (BARE, OURS)
    ]
    records.write("prepare", flags, lines, notes=result.notes)


def photographs(photos: str, images: int) -> list[bytes]:
    """Return `images` encoded photographs: those of the folder, repeated as needed."""
    files = [path.read_bytes() for path in sorted(Path(photos).glob("*.JPEG"))]
    if not files:
        sys.exit(f"error: {photos} has no *.JPEG files")
    return list(itertools.islice(itertools.cycle(files), images))


def bare(photos: str, images: int, workers: int) -> Work:
    """Build the work of the libraries alone."""
    cv2.setNumThreads(1)
    files = photographs(photos, images)

    def resize(data: bytes) -> bytes:
        pixels = simplejpeg.decode_jpeg(data, "RGB")
        height, width = pixels.shape[:2]
        scale = SIZE / min(height, width)
        sizes = round(scale * width), round(scale * height)
        resized = cv2.resize(pixels, sizes, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        top, left = (resized.shape[0] - SIZE) // 2, (resized.shape[1] - SIZE) // 2
        cropped = np.ascontiguousarray(resized[top : top + SIZE, left : left + SIZE])
        return simplejpeg.encode_jpeg(cropped, QUALITY, "RGB", SUBSAMPLING)

    def task(start: int) -> list[bytes]:
        return [resize(data) for data in files[start : start + TASK]]

    def run(calls: int) -> None:
        with ThreadPoolExecutor(workers) as pool:
            for _ in range(calls):
                list(pool.map(task, range(0, images, TASK)))

    return Work({"images": run}, {})


def whole(photos: str, images: int, workers: int) -> Work:
    """Build the preparation of a training set, from a tar to the finished folder."""
    directory = tempfile.TemporaryDirectory(prefix="alexnet_jax_prepare_")
    archive = Path(directory.name) / "photographs.tar"
    with tarfile.open(archive, "w") as tar:
        for number, data in enumerate(photographs(photos, images)):
            member = tarfile.TarInfo(f"{number}.JPEG")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    notes: dict[str, float] = {}

    def read() -> Iterator[SourceImage]:
        for number, member in enumerate(tars.walk(archive)):
            yield SourceImage(
                "train", member.path.name, number % 10, functools.partial(tars.read, member, archive), number
            )

    def run(calls: int) -> None:
        for _ in range(calls):
            raw = SourceData("x", "1.0.0", "", "", tuple("abcdefghij"), {"train": images}, 1, {}, read)
            with tempfile.TemporaryDirectory(dir=directory.name) as data_dir:
                recipe = Recipe(SIZE, QUALITY, seed=0, keep_originals=False, name_feature="file_name")
                prepare_dataset(raw, recipe, Path(data_dir), max_broken=0, num_threads=workers)
        notes["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    return Work({"images": run}, notes)


if __name__ == "__main__":
    main()
