"""How fast `alexnet_jax.prepare` turns photographs into 256 x 256 JPEGs, beside the bare libraries, and its memory.

    python -m benchmarks.prepare --photos=FOLDER

The bare libraries decode, resize and encode the same files in memory, on as many threads, and discard the result. The
preparation reads them from a tar or another form, computes the statistics of the training set, and writes a shuffled
data set.
"""

import functools
import io
import itertools
import resource
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

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
CLASSES = 10
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
    source = FORMS[form](Path(directory.name), photographs(photos, images))
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


def _tar(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def tar(directory: Path, images: list[bytes]) -> SourceData:
    """Write a tar of photographs, read as the reader of ImageNet's archives reads one."""
    archive = _tar(directory / "photographs.tar", ((f"{number}.JPEG", data) for number, data in enumerate(images)))

    def read() -> Iterator[SourceImage]:
        for number, member in enumerate(tars.walk(archive)):
            load = functools.partial(tars.read, member, archive)
            yield SourceImage("train", member.path.name, number % CLASSES, load, member.position)

    num_images, num_bytes = {"train": len(images)}, archive.stat().st_size
    return SourceData("x", "1.0.0", "", "", tuple("abcdefghij"), num_images, num_bytes, {}, read)


def folder(directory: Path, images: list[bytes]) -> SourceData:
    """Write a folder for each class."""
    for number, data in enumerate(images):
        path = directory / "photographs" / str(number % CLASSES) / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return open_source("folder", directory / "photographs", "x", 0)


def parquet(directory: Path, images: list[bytes]) -> SourceData:
    """Write one shard as on Hugging Face: 100 images in a row group."""
    path = directory / "train-00000-of-00001.parquet"
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(images), 100):
            rows = [
                {"image": {"bytes": data, "path": f"{number}.JPEG"}, "label": number % CLASSES}
                for number, data in enumerate(images[start : start + 100], start)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return open_source("folder", path, "x", 0, classes=_class_names(directory))


def webdataset(directory: Path, images: list[bytes]) -> SourceData:
    """Write one shard with `.jpg` and `.cls`."""
    examples = (
        (f"{number:08d}.{suffix}", data)
        for number, image in enumerate(images)
        for suffix, data in (("cls", str(number % CLASSES).encode()), ("jpg", image))
    )
    path = _tar(directory / "train-000000.tar", examples)
    return open_source("folder", path, "x", 0, classes=_class_names(directory))


def _class_names(directory: Path) -> Path:
    path = directory / "classes.txt"
    path.write_text("\n".join("abcdefghij"))
    return path


FORMS: dict[str, Callable[[Path, list[bytes]], SourceData]] = {
    "tar": tar,
    "folder": folder,
    "parquet": parquet,
    "WebDataset": webdataset,
}

if __name__ == "__main__":
    main()
