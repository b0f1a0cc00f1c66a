"""Writes the outputs of layers for images, or finds the images whose outputs are nearest to those of others.

    python -m alexnet_jax.features --workdir=DIR [--layer=relu7,...] --output=FILE.npy|FILE.parquet IMAGE|FOLDER ...
    python -m alexnet_jax.features --workdir=DIR --output=FILE --split=train [--dataset=NAME] [--data_dir=DIR]
    python -m alexnet_jax.features --workdir=DIR --neighbors=IMAGE[,IMAGE2,...] [--count=6] [--json] IMAGE|FOLDER ...

relu7 is the last hidden layer, as in figure 4 of the paper; fc7 has the same values before the nonlinearity.
`alexnet_jax.summary` shows the names of all layers. See docs/use.md.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from alexnet_jax import cli
from alexnet_jax.errors import UserError, printable
from alexnet_jax.files import writing

_WORKDIR = cli.define_path_flag("workdir", "the folder of a trained net")
_LAYER = flags.DEFINE_list("layer", "relu7", "the layer, by its name in the summary; several, separated by commas")
_OUTPUT = cli.define_path_flag("output", "the file to write, .npy or .parquet")
_SPLIT = flags.DEFINE_string("split", None, "a split of a data set, instead of images")
_DATASET = flags.DEFINE_string("dataset", None, "the data set of --split; by default that of the training")
_DATA_DIR = cli.define_path_flag("data_dir", "where the data set is, if not where training found it")
_NEIGHBORS = cli.define_paths_flag("neighbors", "images whose nearest neighbors to find among the others")
_COUNT = flags.DEFINE_integer("count", 6, "how many neighbors to show", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "print one JSON object per image of --neighbors")
_STEP = cli.define_step_flag()
_TOWER = flags.DEFINE_enum("tower", "1", ["1", "2"], "how many devices the two towers are spread over")
_PRECISION = cli.define_precision_flag()
_PREPROCESSING = cli.define_preprocessing_flag()
flags.adopt_module_key_flags(cli)


def main(arguments: Sequence[str]) -> None:
    """Check the flags, then compute."""
    folder = cli.required(_WORKDIR)
    if bool(arguments) == bool(_SPLIT.value):
        raise UserError("name images or folders of images after the flags, or a split of a data set with --split.")
    if not _OUTPUT.value and not _NEIGHBORS.value:
        raise UserError("--output is missing: give the file to write, or search with --neighbors=IMAGE.")
    output = _OUTPUT.value
    if output and output.suffix not in (".npy", ".parquet"):
        raise UserError(f"--output={_OUTPUT.value} must end in .npy or .parquet.")
    if len(set(_LAYER.value)) != len(_LAYER.value) or not _LAYER.value:
        raise UserError(f"--layer={','.join(_LAYER.value)} must name at least one layer, and none twice.")
    if _NEIGHBORS.value and len(_LAYER.value) > 1:
        raise UserError(f"--neighbors compares one layer; --layer={','.join(_LAYER.value)} names {len(_LAYER.value)}.")
    if _PREPROCESSING.value and _SPLIT.value and not _NEIGHBORS.value:
        raise UserError(
            "--preprocessing needs original images, named after the flags: those of a split were resized and cropped "
            "when it was prepared."
        )
    compute(folder, output, arguments)


def compute(folder: Path, output: Path | None, paths: Sequence[str]) -> None:
    """Compute the features of the images in `paths` or of --split; write and compare them batch by batch."""
    import numpy as np

    from alexnet_jax.data.image_files import find_images
    from alexnet_jax.feature_step import feature_shape, following_nonlinearity
    from alexnet_jax.features import split
    from alexnet_jax.features.nearest import Nearest
    from alexnet_jax.features.output import open_for_writing
    from alexnet_jax.predict.batching import BATCH_SIZES, BatchedProgram, with_progress
    from alexnet_jax.run.restore import restore

    net = restore(folder, _STEP.value, int(_TOWER.value), _PRECISION.value, _PREPROCESSING.value)
    layers = _LAYER.value
    try:
        shapes = {layer: feature_shape(net.config, net.model.net, layer) for layer in layers}
    except UserError as error:  # "layer='fc9' is not a layer ...": the argument has the name of the flag
        raise UserError(f"--{error}") from error
    program = BatchedProgram(net, net.feature_extractor(layers), BATCH_SIZES[-1])
    broken: list[str] = []
    files = {layer: output if len(layers) == 1 else _of_layer(output, layer) for layer in layers} if output else {}
    with contextlib.ExitStack() as stack:
        if output:
            stack.enter_context(writing(f"--output={_OUTPUT.value}"))
        write = {layer: stack.enter_context(open_for_writing(path, shapes[layer])) for layer, path in files.items()}
        if _NEIGHBORS.value:
            queries = list(program.run_on_files(find_images(_NEIGHBORS.value), broken))
            if broken:
                raise UserError("\n".join(broken))
            query_names = [name for batch in queries for name in batch.names]
            features = np.concatenate([batch.values[layers[0]] for batch in queries])
            nearest = Nearest(features, _COUNT.value, list(map(os.path.realpath, query_names)))
        if _SPLIT.value:
            source = split.open_split(net, _SPLIT.value, _DATASET.value, _DATA_DIR.value)
            num_images, batches = len(source), split.run_on_split(program, source)
        else:
            images = find_images(paths)
            num_images, batches = len(images), program.run_on_files(images, broken)
        for batch in with_progress(batches, num_images):
            for layer in files:
                write[layer](batch.values[layer], batch.names, batch.labels)
            if _NEIGHBORS.value:
                identities = batch.names if _SPLIT.value else list(map(os.path.realpath, batch.names))
                nearest.add(batch.values[layers[0]], batch.names, identities)
    for layer, path in files.items():
        size = " x ".join(map(str, shapes[layer]))
        after = following_nonlinearity(net.model.net, layer)
        note = f", before {after}" if after else ""
        print(f"{path}: {layer} of {num_images - len(broken):,} images, {size} each{note}")
    if _NEIGHBORS.value:
        for query, neighbors in zip(query_names, nearest.neighbors(), strict=True):
            print_neighbors(query, neighbors)
    if broken:
        raise UserError("\n".join(broken))


def _of_layer(output: Path, layer: str) -> Path:
    """Return where one of several layers goes: x.npy becomes x.relu7.npy."""
    return output.with_suffix(f".{layer}{output.suffix}")


def print_neighbors(query: str, neighbors: Sequence[tuple[str, float]]) -> None:
    """Print an image and the names and distances of its neighbors, as JSON or one per line."""
    if _JSON.value:
        print(json.dumps({"image": query, "neighbors": [{"image": name, "distance": d} for name, d in neighbors]}))
    else:
        lines = [query, *(f"  {distance:10.4g}  {name}" for name, distance in neighbors)]
        print("\n".join(map(printable, lines)))


if __name__ == "__main__":
    cli.run(main)
