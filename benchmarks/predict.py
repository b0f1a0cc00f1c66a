"""How fast `alexnet_jax.predict` classifies image files, beside PyTorch with the same weights.

    python -m benchmarks.predict --workdir=DIR --photos=FOLDER

From file to the five most probable classes. PyTorch's side reads, resizes and crops with Pillow, on as many threads
and in batches of the same size. The row also has the share of images that both sides assign to the same class.
"""

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.model.layers import LayerShape, layer_shapes
from benchmarks import records
from benchmarks.harness import Contender, columns, jax_environment, race
from benchmarks.work import Work

OURS, BATCH = "predict", 64


def main() -> None:
    """Write the weights to a file for PyTorch's side, run the comparison, and write one row."""
    parser = records.parser(__doc__, repeats=7)
    parser.add_argument("--workdir", required=True, help="a trained or converted net")
    parser.add_argument("--photos", required=True, help="a folder of JPEGs")
    parser.add_argument("--images", type=int, default=256, help="images per repeat; photographs recur (%(default)s)")
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], help="PyTorch's (benchmarks/peer.py)")
    flags = parser.parse_args()
    arguments = {"workdir": flags.workdir, "photos": flags.photos, "images": flags.images}
    lines, notes = [], {}
    with tempfile.TemporaryDirectory(prefix="alexnet_jax_predict_") as folder:
        weights = write_weights(Path(flags.workdir), Path(folder))
        for column, environment in columns("cpu").items():
            contenders = [Contender(OURS, "benchmarks.predict:ours", arguments, jax_environment("cpu"), tuned=True)]
            contenders += [
                Contender(
                    f"PyTorch {mode}",
                    "benchmarks.predict:peer",
                    {**arguments, "weights": str(weights), "mode": mode},
                    environment,
                )
                for mode in flags.modes
            ]
            result = race(contenders, flags.repeats, seconds=0.1)
            times, classes = result.times["images"], {name: each.pop("classes") for name, each in result.notes.items()}
            lines += [
                {
                    "column": column,
                    "contender": name,
                    "images/s": flags.images / times[name].median,
                    "predict is faster": f"{times[name].median / times[OURS].median:.2f}x",
                    "same class as predict": f"{np.mean(np.equal(classes[name], classes[OURS])):.1%}",
                }
                for name in times
            ]
            notes[column] = result.notes
    records.write("predict", flags, lines, notes=notes)


def photo_files(photos: str, images: int) -> list[Path]:
    """Return `images` files: those of the folder, repeated as needed."""
    return list(itertools.islice(itertools.cycle(sorted(Path(photos).glob("*.JPEG"))), images))


def write_weights(workdir: Path, folder: Path) -> Path:
    """Write the parameters of a workdir's net and its mean image, as arrays by name."""
    from alexnet_jax.run.restore import restore

    net = restore(workdir)
    arrays = {f"{layer}/{kind}": value for layer, params in net.params.items() for kind, value in params.items()}
    path = folder / "weights.npz"
    np.savez(path, mean_image=net.dataset_info.statistics.mean_image, **arrays)
    return path


def ours(workdir: str, photos: str, images: int) -> Work:
    """Build the command's work without its start."""
    from alexnet_jax.predict.batching import predict_files
    from alexnet_jax.run.restore import restore

    net, files = restore(Path(workdir)), photo_files(photos, images)
    labels = net.dataset_info.label_names
    notes: dict[str, Any] = {}

    def run(calls: int) -> None:
        for _ in range(calls):
            answers = list(predict_files([net], files, views=1, top=5, broken=[]))
            notes["classes"] = [labels.index(answer["predictions"][0]["label"]) for answer in answers]

    return Work({"images": run}, notes)


def peer(workdir: str, photos: str, images: int, weights: str, mode: str) -> Work:
    """Build the same of PyTorch's and Pillow's functions."""
    import torch

    from alexnet_jax.model.ablations import build_net
    from alexnet_jax.run import workdir as workdirs
    from benchmarks.peer import in_mode, network

    config = workdirs.read_config(Path(workdir))
    net, size = build_net(config.model), config.model.image_size
    arrays = np.load(weights)
    model = network(net, size, config.model.num_classes)
    load_weights(model, layer_shapes(net, size, config.model.num_classes), arrays)
    model.eval()
    stored = arrays["mean_image"].shape[0]
    start = (stored - size) // 2
    mean = torch.from_numpy(arrays["mean_image"][start : start + size, start : start + size])
    classify = in_mode(lambda batch: torch.softmax(model(batch), dim=-1).topk(5), mode)
    files, notes = photo_files(photos, images), {}

    def batches() -> Iterator[torch.Tensor]:
        with ThreadPoolExecutor() as threads:
            pixels = threads.map(lambda path: _central(path, stored, size), files)
            while batch := list(itertools.islice(pixels, BATCH)):
                views = torch.from_numpy(np.stack(batch)) - mean
                yield views.permute(0, 3, 1, 2).contiguous()

    def run(calls: int) -> None:
        with torch.no_grad():
            for _ in range(calls):
                notes["classes"] = [row[0] for batch in batches() for row in classify(batch).indices.tolist()]

    return Work({"images": run}, notes)


def load_weights(model: Any, shapes: Iterable[LayerShape], arrays: Mapping[str, np.ndarray]) -> None:
    """Copy our parameters ("conv1/kernel", ...) into PyTorch's modules: HWIO to OIHW, flat [H, W, C] to [C, H, W]."""
    import torch

    for shape in shapes:
        name = shape.layer.name
        if shape.kernel_shape is None:
            continue
        kernel = arrays[f"{name}/kernel"]
        if kernel.ndim == 2 and len(shape.input_shape) == 1:
            kernel = kernel.T
        else:
            height_width_channels = shape.input_shape if kernel.ndim == 2 else kernel.shape[:-1]
            kernel = kernel.reshape(*height_width_channels, -1).transpose(3, 2, 0, 1)
        module = model.get_submodule(name)
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(kernel.reshape(module.weight.shape).copy()))
            module.bias.copy_(torch.from_numpy(np.array(arrays[f"{name}/bias"])))


def _central(path: Path, stored: int, size: int) -> np.ndarray:
    """Return uint8 [size, size, 3]: the image with its shorter side resized to `stored`, center crop."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    scale = stored / min(image.size)
    image = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


if __name__ == "__main__":
    main()
