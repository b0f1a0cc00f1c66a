"""Small data sets in the layouts of the official archives, and functions that prepare them."""

import gzip
import io
import pickle
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from alexnet_jax.prepare.archives import open_source
from alexnet_jax.prepare.units import Recipe
from alexnet_jax.prepare.workflow import prepare_dataset

REPOSITORY = Path(__file__).resolve().parents[1]

Files = Iterable[tuple[str, bytes]]


def pixels(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """Make a smooth image, uint8 [H, W, 3], that JPEG hardly changes."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encode(image: np.ndarray | Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed: int, **options) -> bytes:
    return encode(pixels(seed), quality=95, **options)


def decoded(data: bytes) -> np.ndarray:
    """RGB, as Pillow sees it."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def tar(files: Files, mode: str = "w") -> bytes:
    """Make a tar of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def turned(data: bytes, orientation: int = 6) -> bytes:
    """Add an EXIF orientation to a JPEG."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    payload = b"Exif\0\0" + exif.tobytes()[6:] if exif.tobytes().startswith(b"Exif") else b"Exif\0\0" + exif.tobytes()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def odd_files() -> dict[str, bytes]:
    """Return decodable files such as ImageNet contains, and more, by their name in the report."""
    gray = Image.fromarray(pixels(1)).convert("L")
    animation = [Image.fromarray(pixels(seed)) for seed in (4, 5)]
    return {
        "gray": encode(gray, quality=95),
        "CMYK": encode(Image.fromarray(pixels(2)).convert("CMYK"), quality=95),
        "PNG": encode(pixels(3), "PNG"),
        "animated": encode(animation[0], "GIF", save_all=True, append_images=animation[1:]),
        "EXIF orientation ignored": turned(jpeg(6)),
        "gzipped": gzip.compress(jpeg(7)),
        "JPEG with errors": jpeg(8)[:-2] + b"abc" + b"\xff\xd9",
        "16 bits": encode(Image.fromarray((np.asarray(gray).astype(np.uint16) << 8) + 77), "PNG"),
    }


def broken_files() -> dict[str, bytes]:
    """Return files that can't be decoded, by description."""
    png_bomb = bytearray(encode(pixels(1), "PNG"))
    png_bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    png_bomb[29:33] = struct.pack(">I", zlib.crc32(png_bomb[12:29]))
    jpeg_bomb = bytearray(jpeg(1))
    start = jpeg_bomb.index(b"\xff\xc0") + 5  # height and width in the frame's header
    jpeg_bomb[start : start + 4] = struct.pack(">HH", 60_000, 60_000)
    return {
        "truncated": jpeg(1)[:-400],
        "empty": b"",
        "a web page": b"<html>not found</html>",
        "a PNG bomb": bytes(png_bomb),
        "a JPEG bomb": bytes(jpeg_bomb),
        "half a PNG": encode(pixels(1), "PNG")[:-2000],
        "gzipped and cut": gzip.compress(jpeg(1))[:-300],
    }


# ImageNet


def kit(year: int, wordnet_ids: list[str], truth: list[int], order: np.ndarray | None = None) -> bytes:
    """Make a development kit whose class number i + 1 is wordnet_ids[order[i]], as MATLAB would save it."""
    order = np.random.default_rng(year).permutation(1000) if order is None else order
    names = [wordnet_ids[index] for index in order] + ["n00001740"]  # and an inner node of the WordNet tree
    kinds = [(f"ILSVRC{year}_ID", float), ("WNID", object), ("words", object), ("num_children", float)]
    synsets = np.array([(i + 1, name, f"word of {name}", i == 1000) for i, name in enumerate(names)], dtype=kinds)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets[:, None]})
    numbers = {int(label): number for number, label in enumerate(order, 1)}
    text = "".join(f"{numbers[label]}\n" for label in truth)
    folder = "ILSVRC2012_devkit_t12" if year == 2012 else "devkit-1.0"
    files = {
        f"{folder}/readme.txt": b"a kit",
        f"{folder}/data/meta.mat": meta.getvalue(),
        f"{folder}/data/ILSVRC{year}_validation_ground_truth.txt": text.encode(),
    }
    return tar(files.items(), "w:gz")


def imagenet2012(folder: Path, train: Mapping[str, Files], validation: Files, devkit: bytes | None) -> Path:
    """Write the official archives; `train` has the files of each WordNet id."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = [(f"{wordnet_id}.tar", tar(files)) for wordnet_id, files in train.items()]
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(classes))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(validation))
    if devkit:
        (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(devkit)
    return folder


# CIFAR-10


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 wrote its strings, as in the real batches."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]  # noqa: RUF012

    def save_string(self, data: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(data)) + data)

    dispatch[bytes] = save_string


def python2_pickle(content: object) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def cifar10(folder: Path, images: np.ndarray, labels: list[int], **replaced: bytes) -> Path:
    """Write six batches of these images, uint8 [n, 32, 32, 3]; `replaced` has other contents for some members."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
    files = {"batches.meta": python2_pickle({b"label_names": names, b"num_vis": 3072})}
    parts = np.array_split(np.arange(len(images)), 6)
    for name, part in zip([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], parts, strict=True):
        data = images[part].transpose(0, 3, 1, 2).reshape(len(part), -1)
        files[name] = python2_pickle({b"batch_label": b"x", b"labels": [labels[i] for i in part], b"data": data})
    members = [(f"cifar-10-batches-py/{name}", replaced.get(name, data)) for name, data in files.items()]
    (folder / "cifar-10-python.tar.gz").write_bytes(tar(members, "w:gz"))
    return folder


# Image folders


def folder(
    root: Path, classes: tuple[str, ...] = ("cat", "dog"), splits: tuple[str, ...] = ("train", "val"), images: int = 4
) -> Path:
    for split in splits:
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(images):
                (root / split / name / f"{number}.jpg").write_bytes(jpeg(100 * label + number))
    return root


# The preparation itself


def prepare_here(dataset: str, root: Path, keep_originals: bool = False, **settings) -> Path:
    """Prepare a data set like the command, in this process."""
    source = open_source(dataset, root / "source", None, 0.1)
    quality = None if source.size else 95
    recipe = Recipe(source.size or 32, quality, 0, keep_originals, source.name_feature)
    return prepare_dataset(source, recipe, root / "data", **{"max_broken": 10, "num_threads": 2, **settings})


def command(dataset: str, root: Path, *flags: str, **options) -> subprocess.CompletedProcess:
    """Run the command on the source, or with --inspect and --name on what was prepared from it."""
    source = () if {"--inspect", "--name=source"} <= set(flags) else (f"--source={root / 'source'}",)
    paths = (f"--dataset={dataset}", *source, f"--data_dir={root / 'data'}")
    return subprocess.run(
        [sys.executable, "-m", "alexnet_jax.prepare", *paths, "--workers=2", *flags],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False, **options,
    )  # fmt: skip


def looks_whole(root: Path) -> list[Path]:
    return [path for path in (root / "data").glob("*/*") if not path.name.startswith(".")]
