"""How fast `alexnet_jax.prepare` turns photographs into 256 x 256 JPEGs, beside the bare libraries, and its memory.

    python -m benchmarks.prepare --photos=FOLDER

The bare libraries decode, resize and encode the same files in memory, on as many threads, and discard the result. The
preparation reads them from a tar or another form, computes the statistics of the training set, and writes a shuffled
data set.
"""

import functools
import io
import itertools
import multiprocessing
import resource
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import cv2
import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from alexnet_jax.data.builder import serialize, write_tfds
from alexnet_jax.data.image_codec import SUBSAMPLING
from alexnet_jax.prepare import tars
from alexnet_jax.prepare.archives import open_source
from alexnet_jax.prepare.source import SourceData, SourceImage
from alexnet_jax.prepare.units import TASK, Recipe
from alexnet_jax.prepare.workflow import prepare_dataset
from benchmarks import records
from benchmarks.harness import Contender, race
from benchmarks.work import Work

SIZE, QUALITY = 256, 95
NAMES = "abcdefghij"  # of the classes
CLASSES = len(NAMES)
BARE = "OpenCV and libjpeg-turbo, bare"
CLEAR_REFS = Path("/proc/self/clear_refs")


def main() -> None:
    """Run the comparison and write one row."""
    parser = records.parser(__doc__, repeats=7)
    parser.add_argument("--photos", required=True, help="a folder of JPEGs as large as ImageNet's")
    parser.add_argument("--images", type=int, default=1000, help="images per repeat; photographs recur (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads of each side (%(default)s)")
    parser.add_argument("--forms", default=",".join(FORMS), help="that the photographs are read from (%(default)s)")
    flags = parser.parse_args()
    arguments = {"photos": flags.photos, "images": flags.images, "workers": flags.workers}
    contenders = [Contender(BARE, "benchmarks.prepare:bare", arguments, tuned=True)]
    for form in flags.forms.split(","):
        given = {**arguments, "form": form}
        contenders.append(Contender(f"prepare, {form}", "benchmarks.prepare:whole", given, tuned=True))
    result = race(contenders, flags.repeats, seconds=0.1)
    times = {name: seconds.median for name, seconds in result.times["images"].items()}
    first_form = times[contenders[1].name]
    lines = [
        {
            "": name,
            "images/s": flags.images / seconds,
            "of bare": times[BARE] / seconds,
            f"of {contenders[1].name}": first_form / seconds,
            "peak, MiB": result.notes[name].get("peak MiB"),
        }
        for name, seconds in times.items()
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
    """Build the preparation of a training set, from one of the FORMS to the finished folder."""
    directory = tempfile.TemporaryDirectory(prefix="alexnet_jax_prepare_")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # whose memory is not ours
        source = pool.submit(_write, form, Path(directory.name), photos, images).result()()
    notes: dict[str, float] = {}
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")  # forgets the peak so far: see proc(5)

    def run(calls: int) -> None:
        for _ in range(calls):
            with tempfile.TemporaryDirectory(dir=directory.name) as data_dir:
                recipe = Recipe(SIZE, QUALITY, seed=0, keep_originals=False, name_feature="file_name")
                prepare_dataset(source, recipe, Path(data_dir), max_broken=0, num_threads=workers)
        notes["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    return Work({"images": run}, notes)


# Forms: each function writes the photographs, and returns what opens them.

Open = Callable[[], SourceData]


def _write(form: str, directory: Path, photos: str, images: int) -> Open:
    return FORMS[form](directory, photographs(photos, images))


def _opened(source: Path, **options: Path) -> Open:
    return functools.partial(open_source, "folder", source, "x", 0, **options)


def _tar(path: Path, files: Iterable[tuple[str, bytes]], mode: Literal["w", "w:gz"] = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def tar(directory: Path, images: list[bytes]) -> Open:
    """Write a tar of photographs, read as the reader of ImageNet's archives reads one."""
    archive = _tar(directory / "photographs.tar", ((f"{number}.JPEG", data) for number, data in enumerate(images)))
    return functools.partial(_open_tar, archive, len(images))


def _open_tar(archive: Path, count: int) -> SourceData:
    def read() -> Iterator[SourceImage]:
        for number, member in enumerate(tars.walk(archive)):
            load = functools.partial(tars.read, member, archive)
            yield SourceImage("train", member.path.name, number % CLASSES, load, member.position)

    return SourceData("tar", tuple(NAMES), {"train": count}, archive.stat().st_size, {}, read, name="x")


def folder(directory: Path, images: list[bytes]) -> Open:
    """Write a folder for each class."""
    for number, data in enumerate(images):
        path = directory / "photographs" / str(number % CLASSES) / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return _opened(directory / "photographs")


def parquet(directory: Path, images: list[bytes]) -> Open:
    """Write one shard as recent versions of the library `datasets`: at most 100 images and 100 MB in a row group."""
    path = directory / "train-00000-of-00001.parquet"
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
    rows = min(100, max(1, 100_000_000 * len(images) // sum(map(len, images))))
    chunks: Any = {"min_chunk_size": 1 << 18, "max_chunk_size": 1 << 20, "norm_level": 0}  # bytes in a page
    with pq.ParquetWriter(path, schema, use_content_defined_chunking=chunks, write_page_index=True) as writer:
        for start in range(0, len(images), rows):
            group = [
                {"image": {"bytes": data, "path": f"{number}.JPEG"}, "label": number % CLASSES}
                for number, data in enumerate(images[start : start + rows], start)
            ]
            writer.write_table(pa.Table.from_pylist(group, schema))
    return _opened(path, classes=_class_names(directory))


def webdataset(directory: Path, images: list[bytes]) -> Open:
    """Write one shard with `.jpg` and `.cls`."""
    examples = (
        (f"{number:08d}.{suffix}", data)
        for number, image in enumerate(images)
        for suffix, data in (("cls", str(number % CLASSES).encode()), ("jpg", image))
    )
    path = _tar(directory / "train-000000.tar", examples)
    return _opened(path, classes=_class_names(directory))


def zipped(directory: Path, images: list[bytes]) -> Open:
    """Write a zip of class folders."""
    path = directory / "photographs.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, data in enumerate(images):
            archive.writestr(f"{NAMES[number % CLASSES]}/{number}.JPEG", data)
    return _opened(path)


def gzipped_tar(directory: Path, images: list[bytes]) -> Open:
    """Write a gzipped tar of class folders."""
    files = ((f"{NAMES[number % CLASSES]}/{number}.JPEG", data) for number, data in enumerate(images))
    return _opened(_tar(directory / "photographs.tgz", files, "w:gz"))


def array_record(directory: Path, images: list[bytes]) -> Open:
    """Write a data set of TFDS as ArrayRecord."""
    return _opened(_tfds_set(directory, images))


def tfrecord(directory: Path, images: list[bytes]) -> Open:
    """Write a data set of TFDS as TFRecord: lengths and records, each with its masked CRC-32C."""
    folder = _tfds_set(directory, images)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with (folder / "photographs-train.tfrecord-00000-of-00001").open("wb") as file:
        for _, features in _examples(images):
            record = serialize(features)
            for data in (struct.pack("<Q", len(record)), record):
                crc = google_crc32c.value(data)
                file.write(data + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF))
    return _opened(folder)


def _tfds_set(directory: Path, images: list[bytes]) -> Path:
    about = {"description": "", "metadata": {}, "label_names": NAMES, "image_size": None, "file_names": True}
    splits = {"train": lambda: _examples(images)}
    return write_tfds(directory, name="photographs", version="1.0.0", splits=splits, **about)


def _examples(images: list[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, data in enumerate(images):
        yield str(number), {"image": data, "label": number % CLASSES, "file_name": f"{number}.JPEG"}


def _class_names(directory: Path) -> Path:
    path = directory / "classes.txt"
    path.write_text("\n".join(NAMES))
    return path


FORMS: dict[str, Callable[[Path, list[bytes]], Open]] = {
    "tar": tar,
    "folder": folder,
    "parquet": parquet,
    "WebDataset": webdataset,
    "TFRecord": tfrecord,
    "ArrayRecord": array_record,
    "zip": zipped,
    "gzipped tar": gzipped_tar,
}

if __name__ == "__main__":
    main()
