"""How fast `alexnet_jax.prepare` turns photographs into 256 x 256 JPEGs, beside the bare libraries.

    python -m benchmarks.prepare --photos=FOLDER

The bare libraries (OpenCV and libjpeg-turbo) decode, resize and encode the same files in memory, on as many threads,
and discard the result. The preparation reads them from a file in each of several forms, computes the statistics of the
training set, and writes a shuffled data set.
"""

import io
import itertools
import resource
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from alexnet_jax.data.builder import write_tfds
from alexnet_jax.data.image_codec import SUBSAMPLING
from alexnet_jax.prepare.archives import open_source
from alexnet_jax.prepare.units import TASK, Recipe
from alexnet_jax.prepare.workflow import prepare_dataset
from benchmarks import records
from benchmarks.harness import Contender, race
from benchmarks.work import Work

SIZE, QUALITY = 256, 95
BARE, TAR = "bare", "tar"  # of forms, the one that others are compared with


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
        *(Contender(form, "benchmarks.prepare:whole", {**arguments, "form": form}, tuned=True) for form in FORMS),
    ]
    result = race(contenders, flags.repeats, seconds=0.1)
    times = result.times["images"]
    lines = [
        {
            **{"": name, "images/s": flags.images / times[name].median},
            **{f"of {other}": times[other].median / times[name].median for other in (BARE, TAR)},
        }
        for name in (BARE, *FORMS)
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


def whole(photos: str, images: int, workers: int, form: str) -> Work:
    """Build the preparation of a training set in one of the FORMS, up to the finished folder."""
    directory = tempfile.TemporaryDirectory(prefix="alexnet_jax_prepare_")
    examples = list(enumerate(photographs(photos, images)))
    source = FORMS[form](Path(directory.name) / "source", examples)
    names = Path(directory.name) / "names"
    names.write_text("".join(f"{name}\n" for name in CLASSES))
    notes: dict[str, float] = {}

    def run(calls: int) -> None:
        for _ in range(calls):
            classes = names if form == "WebDataset" else None
            data = open_source("folder", source, "photographs", 0.0, classes=classes)
            with tempfile.TemporaryDirectory(dir=directory.name) as data_dir:
                recipe = Recipe(SIZE, QUALITY, seed=0, keep_originals=False, name_feature="file_name")
                prepare_dataset(data, recipe, Path(data_dir), max_broken=0, num_threads=workers)
        notes["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    return Work({"images": run}, notes)


# The same photographs in several forms

Examples = list[tuple[int, bytes]]


def _in_folders(number: int) -> str:
    return f"{CLASSES[number % len(CLASSES)]}/{number:06d}.JPEG"


def _tar(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def tar(path: Path, examples: Examples) -> Path:
    """Write a tar of class folders."""
    return _tar(path, ((_in_folders(number), data) for number, data in examples))


def zipped(path: Path, examples: Examples) -> Path:
    """Write a zip of class folders."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, data in examples:
            archive.writestr(_in_folders(number), data)
    return path


def parquet(path: Path, examples: Examples) -> Path:
    """Write a parquet shard with row groups of 100 images, as the library `datasets` does."""
    path.mkdir()
    rows = [{"bytes": data, "path": f"{number:06d}.JPEG"} for number, data in examples]
    labels = [CLASSES[number % len(CLASSES)] for number, _ in examples]
    pq.write_table(pa.table({"image": rows, "label": labels}), path / "train.parquet", row_group_size=100)
    return path


def webdataset(path: Path, examples: Examples) -> Path:
    """Write a WebDataset shard."""
    pairs = (
        [(f"{number:06d}.jpg", data), (f"{number:06d}.cls", str(number % len(CLASSES)).encode())]
        for number, data in examples
    )
    return _tar(path, itertools.chain.from_iterable(pairs))


def array_record(path: Path, examples: Examples) -> Path:
    """Write a data set of TFDS with images of any size."""
    rows = [(str(number), {"image": data, "label": number % len(CLASSES)}) for number, data in examples]
    about = {"description": "", "metadata": {}, "label_names": CLASSES, "image_size": None}
    return write_tfds(path, name="photographs", version="1.0.0", splits={"train": lambda: rows}, **about)


CLASSES = tuple("abcdefghij")
FORMS = {"tar": tar, "zip": zipped, "parquet": parquet, "WebDataset": webdataset, "ArrayRecord of TFDS": array_record}


if __name__ == "__main__":
    main()
