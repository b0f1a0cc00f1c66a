"""The input of `predict` and `prepare`: images, archives, and prepared data sets."""

import contextlib
import gzip
import pickle
from pathlib import Path

import cv2
import numpy as np
import prepare_sources as sources
from PIL import Image

from alexnet_jax.config import DataConfig
from alexnet_jax.data.builder import write_tfds
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.image_codec import BrokenImageError, decode
from alexnet_jax.data.image_files import in_a_sentence, load_image
from alexnet_jax.data.preprocessing import Preparation
from alexnet_jax.errors import UserError
from alexnet_jax.prepare import devkit, tars
from alexnet_jax.prepare.cifar import cifar10
from alexnet_jax.prepare.imagenette import CLASSES, imagenette
from fuzzing.campaign import Sample, Subject


def images(folder: Path) -> Subject:
    """`predict FILE`: every supported format, color mode and depth."""
    picture = Image.fromarray(sources.pixels(1))
    path = folder / "photo.jpg"
    files = [
        *(sources.jpeg(0), sources.jpeg(1, progressive=True), sources.turned(sources.jpeg(2)), sources.encode(picture)),
        *(sources.encode(picture, "PNG"), sources.encode(picture, "BMP"), sources.encode(picture, "GIF")),
        *(sources.encode(picture.convert("RGBA"), "PNG"), sources.encode(picture.quantize(16), "PNG")),
        *(sources.encode(picture, "TIFF"), sources.encode(picture, "TIFF", compression="tiff_lzw")),
        *(sources.encode(picture, "WEBP"), *sources.odd_files().values()),
    ]

    def read() -> None:
        try:
            load_image(path, Preparation("paper", 32, 32))
        except BrokenImageError as error:
            raise UserError(in_a_sentence(path, error)) from error

    still = [data for data in files if not data.startswith(b"GIF89a")]
    return Subject([Sample(path, data) for data in still], read, path.name)


def archives(folder: Path) -> Subject:
    """`prepare --dataset=imagenette`: a tar of folders of JPEGs, gzipped or not."""
    path = folder / "imagenette2.tgz"
    small = sources.encode(sources.pixels(1, 12, 12))
    tar = sources.tar([(f"imagenette2/train/{name}/{name}_1.JPEG", small) for name in CLASSES])

    def read() -> None:
        for image in imagenette(path).images():
            decode_or_list(image.load())

    return Subject(
        [Sample(path, tar, gzip.compress), Sample(path, tar), Sample(path, gzip.compress(tar))], read, path.name
    )


def archives_in_archives(folder: Path) -> Subject:
    """`prepare --dataset=imagenet2012`: a tar of tars."""
    path = folder / "ILSVRC2012_img_train.tar"
    inner = sources.tar([(f"n01440764_{number}.JPEG", b"\xff\xd8" * 100) for number in range(3)])

    def read() -> None:
        for member in tars.walk(path):
            for image in tars.walk_inner(member, f"{path}, {member.path}"):
                tars.read(image, path)

    return Subject([Sample(path, sources.tar([("n01440764.tar", inner), ("n01443537.tar", inner)]))], read, path.name)


def development_kits(folder: Path) -> Subject:
    """`prepare --dataset=imagenet2012` with the development kit: a MATLAB table and a list of labels."""
    path = folder / "ILSVRC2012_devkit_t12.tar.gz"
    ids = [f"n{number:08d}" for number in range(1000)]
    path.write_bytes(sources.kit(2012, ids, list(range(20))))
    files = {member.path.name: tars.read(member, path) for member in tars.walk(path)}
    meta, truth = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"

    def kit_with(name: str):
        return lambda data: sources.tar({**files, name: data}.items())

    samples = [Sample(path, files[name], kit_with(name)) for name in (meta, truth)]
    return Subject(samples, lambda: devkit.read_kit(path, 2012), path.name)


def cifar_batches(folder: Path) -> Subject:
    """`prepare --dataset=cifar10`: pickles in an archive."""
    random = np.random.default_rng(0)
    pictures, labels = random.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), [number % 10 for number in range(12)]
    path = folder / "cifar-10-python.tar.gz"

    def archive_with(name: str):
        def wrap(data: bytes) -> bytes:
            sources.cifar10(folder, pictures, labels, **{name: data})
            return path.read_bytes()

        return wrap

    data = random.integers(0, 256, (2, 3072), dtype=np.uint8)
    batch = sources.python2_pickle({b"labels": [1, 2], b"data": data})
    newer = pickle.dumps({b"labels": [1, 2], b"data": data}, protocol=4)
    meta = sources.python2_pickle({b"label_names": [f"{number}".encode() for number in range(10)]})
    samples = [Sample(path, batch, archive_with("data_batch_1")), Sample(path, newer, archive_with("test_batch"))]
    samples.append(Sample(path, meta, archive_with("batches.meta")))

    def read() -> None:
        for image in cifar10(folder).images():
            image.load()

    return Subject(samples, read, path.name)


def prepared_sets(folder: Path) -> Subject:
    """`--config.data.dir`: the files of a TFDS data set."""

    def examples(split: str):
        for number in range(4):
            picture = sources.pixels(number, 16, 16)
            data = sources.encode(picture) if number % 2 else cv2.imencode(".png", picture)[1].tobytes()
            yield f"{split}{number}", {"image": data, "label": number % 2}

    names = ("train", "validation")
    splits = {name: lambda name=name: examples(name) for name in names}
    directory = write_tfds(
        folder, name="pictures", version="1.0.0", description="", label_names=("a", "b"), splits=splits, image_size=16,
        metadata={"class_names": ["A", "B"]},
    )  # fmt: skip
    config = DataConfig(name="pictures", dir=str(folder), read_threads=0)

    def read() -> None:
        dataset = open_dataset(config)
        for source in (dataset.train, dataset.evaluation):
            pixels = np.empty((len(source), source.image_size, source.image_size, 3), np.uint8)
            source.read(range(len(source)), pixels, np.empty(len(source), np.int32))

    read()  # writes the statistics
    return Subject([Sample(path, path.read_bytes()) for path in sorted(directory.iterdir())], read, "pictures")


def decode_or_list(data: bytes) -> None:
    """Decode an image like `prepare`, which lists those that can't be decoded in its report."""
    with contextlib.suppress(BrokenImageError):
        decode(data)
