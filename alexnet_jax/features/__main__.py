"""Writes what a layer of a trained net makes of images, or finds the images that are nearest in its eyes.

    python -m alexnet_jax.features --workdir=DIR [--layer=fc7] --output=FILE.npy|FILE.parquet IMAGE|FOLDER ...
    python -m alexnet_jax.features --workdir=DIR --output=FILE --split=train [--dataset=NAME] [--data_dir=DIR]
    python -m alexnet_jax.features --workdir=DIR --neighbors=IMAGE[,IMAGE2,...] [--count=6] [--json] IMAGE|FOLDER ...

A convolution or hidden fully connected layer is meant with its nonlinearity: fc7 is the last hidden layer, as in
figure 4 of the paper. The other layers have the names that `alexnet_jax.summary` shows. See docs/use.md.
"""

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from alexnet_jax import cli
from alexnet_jax.errors import UserError, printable
from alexnet_jax.files import expanded

if TYPE_CHECKING:
    import numpy as np

    from alexnet_jax.data.sources import JpegSource
    from alexnet_jax.restore import RestoredNet

_WORKDIR = cli.define_workdir_flag("the folder of a trained net")
_LAYER = flags.DEFINE_string("layer", "fc7", "the layer, by its name in the summary")
_OUTPUT = flags.DEFINE_string("output", None, "the file to write, .npy or .parquet")
_SPLIT = flags.DEFINE_string("split", None, "a split of a data set, instead of images")
_DATASET = flags.DEFINE_string("dataset", None, "the data set of --split; by default the one of training")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "where the data set lies, if not where training found it")
_NEIGHBORS = flags.DEFINE_list("neighbors", [], "images whose nearest neighbors are searched among the others")
_COUNT = flags.DEFINE_integer("count", 6, "how many neighbors are shown", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "print neighbors as a JSON object a line")
_STEP = flags.DEFINE_integer("step", None, "the checkpoint; by default the latest", lower_bound=0)
_TOWER = flags.DEFINE_enum("tower", "1", ["1", "2"], "over how many devices the two towers are spread")
_PRECISION = flags.DEFINE_enum("precision", None, ["float32", "bfloat16"], "of the computation; by default as trained")
flags.adopt_module_key_flags(cli)


class Rows(NamedTuple):
    """Some images: uint8 [n, S, S, 3], their names, and their labels, int32 [n], where they are known."""

    images: "np.ndarray"
    names: Sequence[str]
    labels: "np.ndarray | None"


def main(arguments: Sequence[str]) -> None:
    """Computes the features of images or of a split, batch by batch, and writes or compares them."""
    folder = cli.required_path(_WORKDIR)
    if bool(arguments) == bool(_SPLIT.value):
        raise UserError("name images, or folders of images, behind the flags, or a split of a data set with --split.")
    if not _OUTPUT.value and not _NEIGHBORS.value:
        raise UserError("--output is missing: give the file to write; or search with --neighbors=IMAGE.")
    import numpy as np

    from alexnet_jax.data.image_files import find_images
    from alexnet_jax.features.nearest import Nearest
    from alexnet_jax.features.output import open_for_writing
    from alexnet_jax.predict import batching
    from alexnet_jax.predict_step import create_feature_step, feature_shape
    from alexnet_jax.restore import restore

    net = restore(folder, _STEP.value, int(_TOWER.value))
    net.config.precision = _PRECISION.value or net.config.precision
    shape = feature_shape(net.config, _LAYER.value)
    program = net.predictor(create_feature_step(net.config, net.mesh, _LAYER.value))
    batch_size = batching.batch_size_for(batching.BATCH_SIZES[-1], net.mesh)

    def features_of(images: "np.ndarray") -> "np.ndarray":
        return batching.run(program, net.mesh, images, batch_size)

    broken: list[str] = []
    with contextlib.ExitStack() as stack:
        takers: list[Callable] = []
        if _OUTPUT.value:
            takers.append(stack.enter_context(open_for_writing(expanded(_OUTPUT.value, "--output"), shape)))
        if _NEIGHBORS.value:
            queries = list(_of_files(net, find_images(_NEIGHBORS.value), batch_size, broken))
            if broken:
                raise UserError("\n".join(broken))
            nearest = Nearest(np.concatenate([features_of(batch.images) for batch in queries]), _COUNT.value)
            takers.append(lambda features, names, labels: nearest.see(features, names))
        if _SPLIT.value:
            source = _open_split(net)
            total, rows = len(source), _of_split(source, batch_size)
        else:
            files = find_images(arguments)
            total, rows = len(files), _of_files(net, files, batch_size, broken)
        count = 0
        for images, names, labels in batching.with_progress(rows, total, lambda batch: len(batch.images)):
            features = features_of(images)
            for take in takers:
                take(features, names, labels)
            count += len(images)
    if _OUTPUT.value:
        print(f"{_OUTPUT.value}: {_LAYER.value} of {count:,} images, {' x '.join(map(str, shape))} each")
    if _NEIGHBORS.value:
        asked = [name for batch in queries for name in batch.names]
        for query, found in zip(asked, nearest.found(), strict=True):
            print(neighbors_as_json(query, found) if _JSON.value else neighbors_as_text(query, found))
    if broken:
        raise UserError("\n".join(broken))


def _of_files(net: "RestoredNet", files: Sequence[Path], batch_size: int, broken: list[str]) -> Iterator[Rows]:
    from alexnet_jax.predict import batching

    names: deque[Path] = deque()
    for images in batching.in_batches(batching.readable(files, net, names, broken), batch_size):
        yield Rows(images, [str(names.popleft()) for _ in images], None)


def _open_split(net: "RestoredNet") -> "JpegSource":
    """The images of --split. UserError if they are not of the size that the net was trained on."""
    from alexnet_jax.data.datasets import open_dataset
    from alexnet_jax.run.startup import check_image_size

    data = net.config.data
    data.name, data.dir = _DATASET.value or data.name, _DATA_DIR.value or data.dir
    data.train_split = data.eval_split = cli.required(_SPLIT)
    dataset = open_dataset(data)
    check_image_size(net, dataset)
    return dataset.evaluation


def _of_split(source: "JpegSource", batch_size: int) -> Iterator[Rows]:
    """All images in order, named "SPLIT/NUMBER"."""
    from alexnet_jax.data.pipeline import consecutive_batches

    start = 0
    for batch in consecutive_batches(source, 0, len(source), batch_size=batch_size, read_threads=-1):
        count = len(batch["label"])
        yield Rows(batch["image"], [f"{source.split}/{start + row}" for row in range(count)], batch["label"])
        start += count


def neighbors_as_json(query: str, found: Sequence[tuple[str, float]]) -> str:
    """One line for programs."""
    neighbors: list[dict[str, Any]] = [{"image": name, "distance": distance} for name, distance in found]
    return json.dumps({"image": query, "neighbors": neighbors})


def neighbors_as_text(query: str, found: Sequence[tuple[str, float]]) -> str:
    """The lines for people."""
    lines = [query, *(f"  {distance:10.4g}  {name}" for name, distance in found)]
    return "\n".join(map(printable, lines))


if __name__ == "__main__":
    cli.run(main)
