"""Reading training images of 256 x 256 pixels: ours with every `data.feed`, Grain's usual form, and other libraries.

    python -m benchmarks.input --photos=FOLDER [--tensorflow=DIR]

The images are photographs from `--photos`, cropped at random and compressed as `alexnet_jax.prepare` does; without a
folder they are generated. Ours and Grain's usual form, which decodes examples and stacks them, read records from the
system's cache and deliver whole batches to the device; the others have their JPEGs in memory. PyTorch does the paper's
crops and mirroring with Pillow; tf.data and the bare decoder only decode. tf.data takes part if `--tensorflow` names a
folder, into which pip installs it on first use. A second race measures the augmentation beside the training step.
"""

import argparse
import itertools
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.harness import Contender, Race, jax_environment, race
from benchmarks.work import Work

SIZE, CROP = 256, 224
QUALITY, SUBSAMPLING = 95, "420"  # as `alexnet_jax.prepare` stores them
CORES = os.cpu_count() or 1
AHEAD = 2  # batches that each contender may read ahead
JPEGS = "jpegs.pickle"
BARE, BARE_ALL = "simplejpeg, one thread", "simplejpeg, a thread a core"
GRAIN, GRAIN_OUR_ORDER = "Grain, by example", "Grain, by example in our order"
JPEG, RAW, DEVICE = "ours, jpeg", "ours, raw", "ours, device"
STEP, AUGMENTATION = "training step", "augmentation alone"


def main() -> None:
    """Make the images, run both races and write one row."""
    parser = records.parser(__doc__, repeats=7)
    parser.add_argument("--photos", help="a folder of photographs (*.JPEG)")
    parser.add_argument("--images", type=int, default=2048, help="how many images are made (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images in a batch (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long a repeat lasts at least (%(default)s)")
    parser.add_argument("--tensorflow", help="a folder that TensorFlow is or will be installed in")
    parser.add_argument("--step_repeats", type=int, default=3, help="repeats of the training step (%(default)s)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jpeg_bytes = make_images(Path(folder), flags.photos and Path(flags.photos), flags.images)
        reading = race(contenders(folder, flags), flags.repeats, flags.seconds, pause=0.7)
    step = race(steps(flags), flags.step_repeats)
    lines = table(reading, "batch", flags.batch) + table(step, "step", flags.batch)
    records.write("input", flags, lines, jpeg_bytes=jpeg_bytes, notes={**reading.notes, **step.notes})


def contenders(folder: str, flags: argparse.Namespace) -> list[Contender]:
    """Return the contenders that read images."""
    arguments = {"folder": folder, "batch": flags.batch}
    ours = [
        Contender(name, f"benchmarks.input:{task}", {**arguments, **more}, jax_environment("cpu"), tuned=True)
        for name, task, more in (
            (JPEG, "ours", {"feed": "jpeg"}),
            (RAW, "ours", {"feed": "raw"}),
            (DEVICE, "ours", {"feed": "device"}),
            (GRAIN, "grain_examples", {"our_order": False}),
            (GRAIN_OUR_ORDER, "grain_examples", {"our_order": True}),
        )
    ]
    bare = [
        Contender(name, "benchmarks.input:bare", {**arguments, "threads": threads})
        for name, threads in ((BARE, 1), (BARE_ALL, CORES))
    ]
    peers = [Contender(f"PyTorch DataLoader and Pillow, {CORES} workers", "benchmarks.input:pytorch", arguments)]
    if flags.tensorflow:
        install_tensorflow(Path(flags.tensorflow))
        environment = {"PYTHONPATH": flags.tensorflow, "CUDA_VISIBLE_DEVICES": ""}
        peers.append(Contender("tf.data", "benchmarks.input:tensorflow", arguments, environment))
    return [*ours, *bare, *peers]


def steps(flags: argparse.Namespace) -> list[Contender]:
    """Return the contenders of the step: the training step of the paper's net, and its augmentation alone."""
    arguments = {"variant": "paper", "batch": flags.batch, "precision": "float32", "width": 1.0}
    environment = jax_environment("cpu")
    return [
        Contender(STEP, "benchmarks.ours:train_step", {**arguments, "augmentation": True}, environment, tuned=True),
        Contender(AUGMENTATION, "benchmarks.input:augmentation", {"batch": flags.batch}, environment, tuned=True),
    ]


def table(result: Race, unit: str, batch: int) -> list[dict[str, Any]]:
    """Return one line per contender."""
    (contenders_times,) = result.times.values()
    base = contenders_times.get(BARE) or contenders_times[STEP]
    lines = []
    for name, times in contenders_times.items():
        if unit == "batch":
            share = f"{base.median / times.median / CORES:.2f} of the bare library's thread x {CORES}"
        else:
            share = f"{times.median / base.median:.1%} of the step"
        lines.append(
            {
                "contender": name,
                "images/s": batch / times.median,
                "ms": 1e3 * times.median,
                "quartiles": f"{records.rounded(1e3 * times.low)} to {records.rounded(1e3 * times.high)}",
                "share": share,
            }
        )
    return lines


def make_images(folder: Path, photos: Path | None, count: int) -> float:
    """Write the images as a data set and as a list of JPEGs; return their mean size in bytes."""
    import simplejpeg

    from alexnet_jax.data.builder import write_tfds
    from alexnet_jax.data.statistics import save_statistics
    from benchmarks.ours import statistics

    random = np.random.default_rng(0)
    originals = itertools.cycle(photographs(photos) if photos else generated(random))
    crops = (random_crop(image, random) for image in originals)
    jpegs = [simplejpeg.encode_jpeg(crop, QUALITY, "RGB", SUBSAMPLING) for crop in itertools.islice(crops, count)]
    (folder / JPEGS).write_bytes(pickle.dumps(jpegs))
    written = write_tfds(
        folder,
        name="benchmark",
        version="1.0.0",
        description="Images to be read.",
        label_names=["image", "other"],
        splits={
            split: lambda number=number: ((str(i), {"image": jpegs[i], "label": 0}) for i in range(number))
            for split, number in (("train", count), ("validation", 1))
        },
        image_size=SIZE,
        metadata={},
    )
    save_statistics(statistics(SIZE), written)
    return sum(map(len, jpegs)) / count


def photographs(folder: Path) -> list[np.ndarray]:
    """Return all photographs of a folder, with a shorter side of 256 to 384 pixels."""
    import cv2

    images = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in sorted(folder.glob("*.JPEG"))]
    scales = [SIZE * (1 + (i % 3) / 4) / min(image.shape[:2]) for i, image in enumerate(images)]
    return [
        cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        for image, scale in zip(images, scales, strict=True)
    ]


def generated(random: np.random.Generator) -> list[np.ndarray]:
    """Return noise with the spectrum of photographs, whose amplitude falls with the inverse of the frequency."""
    frequencies = np.hypot(np.fft.fftfreq(384)[:, None], np.fft.rfftfreq(384)[None])[..., None] + 1 / 384
    images = []
    for _ in range(50):
        spectrum = np.fft.rfft2(random.normal(size=(384, 384, 3)), axes=(0, 1)) / frequencies
        noise = np.fft.irfft2(spectrum, axes=(0, 1))
        images.append((127 + 50 * noise / noise.std()).clip(0, 255).astype(np.uint8))
    return images


def random_crop(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return 256 x 256 pixels of an image that is at least as large."""
    row, column = (random.integers(0, side - SIZE + 1) for side in image.shape[:2])
    return np.ascontiguousarray(image[row : row + SIZE, column : column + SIZE])


def install_tensorflow(folder: Path) -> None:
    """Install TensorFlow into a folder of its own, unless it is already installed there."""
    if not (folder / "tensorflow").is_dir():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "tensorflow-cpu"], check=True
        )


def consumed(batches: Iterator[Any], ahead: int) -> Work:
    """Return the work of taking batches; those read ahead during the turns of others are taken too, but not counted."""

    def run(calls: int) -> None:
        for _ in range(calls + ahead):
            next(batches)

    return Work({"reading": run}, {"read ahead": ahead})


def ours(folder: str, batch: int, feed: str) -> Work:
    """Read as training does: batches on the device."""
    import jax

    from alexnet_jax.data.datasets import open_dataset
    from alexnet_jax.data.device_batches import open_train_batches
    from alexnet_jax.parallel.mesh import create_mesh

    config = training_config(folder, batch)
    config.data.feed = feed
    device_batches = open_train_batches(open_dataset(config.data).train, config, create_mesh(config.mesh), 0)
    batches = (jax.block_until_ready(next(device_batches)) for _ in itertools.count())
    return consumed(batches, 0 if feed == "device" else max(AHEAD, CORES) + 1)


def grain_examples(folder: str, batch: int, our_order: bool) -> Work:
    """Read in Grain's usual form, one example at a time, and deliver to the device as ours does."""
    import grain
    import jax

    from alexnet_jax.data.datasets import open_dataset
    from alexnet_jax.data.device_batches import HostBatches
    from alexnet_jax.data.pipeline import epoch_order
    from alexnet_jax.parallel.mesh import create_mesh

    config = training_config(folder, batch)
    source = open_dataset(config.data).train

    def decode(index: int) -> dict[str, Any]:
        images, labels = np.empty((1, SIZE, SIZE, 3), np.uint8), np.empty(1, np.int32)
        source.read([index], images, labels)
        return {"image": images[0], "label": labels[0]}

    def in_our_order(position: int) -> int:
        epoch, place = divmod(position, len(source))
        return int(epoch_order(len(source), config.seed, epoch)[place])

    if our_order:
        indices = grain.MapDataset.range(sys.maxsize).map(in_our_order)
    else:
        indices = grain.MapDataset.range(len(source)).seed(config.seed).shuffle().repeat()
    options = grain.ReadOptions(num_threads=CORES, prefetch_buffer_size=max(AHEAD, CORES))
    host_batches = iter(indices.map(decode).batch(batch).to_iter_dataset(options))
    device_batches = HostBatches(host_batches, create_mesh(config.mesh))
    batches = (jax.block_until_ready(next(device_batches)) for _ in itertools.count())
    return consumed(batches, max(AHEAD, CORES) + 1)


def training_config(folder: str, batch: int) -> Any:
    """Return the config of a training on the images of `make_images`, on one device."""
    from alexnet_jax.config import Config

    config = Config(batch_size=batch)
    config.data.name, config.data.dir, config.data.prefetch_batches = "benchmark", folder, AHEAD
    config.mesh.data = 1
    return config


def bare(folder: str, batch: int, threads: int) -> Work:
    """Decode with the library alone: JPEGs in memory to arrays that are thrown away."""
    import simplejpeg

    jpegs = pickle.loads((Path(folder) / JPEGS).read_bytes())
    parts = [itertools.cycle(jpegs[i::threads]) for i in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def decode(part: Iterator[bytes]) -> None:
        for jpeg in itertools.islice(part, batch // threads):
            simplejpeg.decode_jpeg(jpeg, "RGB")

    def batches() -> Iterator[None]:
        while True:
            if threads == 1:
                decode(parts[0])
            else:
                list(pool.map(decode, parts))
            yield None

    return consumed(batches(), 0)


class PillowImages:
    """A data set for PyTorch: the paper's random crop and mirroring, by Pillow."""

    def __init__(self, jpegs: list[bytes]):
        self._jpegs = jpegs
        self._random = np.random.default_rng()

    def __len__(self) -> int:
        return len(self._jpegs)

    def __getitem__(self, index: int) -> np.ndarray:
        import io

        from PIL import Image

        image = Image.open(io.BytesIO(self._jpegs[index])).convert("RGB")
        left, top = self._random.integers(0, SIZE - CROP + 1, 2).tolist()
        image = image.crop((left, top, left + CROP, top + CROP))
        if self._random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(image)


def pytorch(folder: str, batch: int) -> Work:
    """Read with a DataLoader, one worker process per core."""
    from torch.utils.data import DataLoader, RandomSampler

    images = PillowImages(pickle.loads((Path(folder) / JPEGS).read_bytes()))
    endless: Any = RandomSampler(images, replacement=True, num_samples=2**40)
    loader: Any = DataLoader(images, batch, sampler=endless, num_workers=CORES, prefetch_factor=AHEAD)  # type: ignore
    return consumed(iter(loader), AHEAD * CORES)


def tensorflow(folder: str, batch: int) -> Work:
    """Read with tf.data, which decodes as exactly as libjpeg-turbo does by default."""
    import tensorflow as tf

    jpegs = tf.data.Dataset.from_tensor_slices(pickle.loads((Path(folder) / JPEGS).read_bytes()))

    def decode(jpeg: Any) -> Any:
        return tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")

    decoded = jpegs.shuffle(len(jpegs)).repeat().map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return consumed(iter(decoded.batch(batch).prefetch(AHEAD)), AHEAD)


def augmentation(batch: int) -> Work:
    """Run the augmentation of the paper's net alone: from bytes to the views that the net sees."""
    import jax

    from alexnet_jax.data.augmentation import augment
    from alexnet_jax.parallel.mesh import create_mesh
    from alexnet_jax.rng import Purpose, example_keys
    from benchmarks.ours import compiled, config_of, random_batch, repeated

    config = config_of("paper", batch, "float32", 1.0, augmentation=True)
    examples, measured = random_batch(config, create_mesh(config.mesh), SIZE)

    def augmented(images: jax.Array) -> jax.Array:
        keys = example_keys(config.seed, Purpose.AUGMENTATION, jax.numpy.arange(batch))
        data, size = config.data, config.model.image_size
        kinds = {"crop": data.crop, "flip": data.flip, "color_noise": data.color_noise, "mean": data.mean}
        return augment(images, keys, measured, image_size=size, **kinds)

    function = compiled(augmented)
    return Work({"training": repeated(lambda: function(examples["image"]))}, {})


if __name__ == "__main__":
    main()
