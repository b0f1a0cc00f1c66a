"""Which sections a report has, and what each needs: records, a checkpoint, the data set."""

import datetime
import itertools
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import flax
import jax
import numpy as np

from alexnet_jax import __version__
from alexnet_jax.config import Config, differences
from alexnet_jax.data.datasets import Dataset, open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.features.nearest import Nearest
from alexnet_jax.metrics import read_records
from alexnet_jax.model.ablations import build_net
from alexnet_jax.predict_step import Predictor, create_feature_step, create_predict_step
from alexnet_jax.report import confusion, curves, filters, neighbors, outputs, predictions
from alexnet_jax.report.section import Section, Table
from alexnet_jax.restore import RestoredNet, check_same_data, restore
from alexnet_jax.run import startup, workdir


class Contents(NamedTuple):
    """All of a report: its title, facts of the run by name, its settings, and the sections."""

    title: str
    facts: dict[str, str]
    settings: Table
    sections: list[Section]


def collect(folder: Path, step: int | None, data_dir: str | None, max_images: int) -> Contents:
    """Reports on the run in a workdir; a section whose checkpoint or data set is missing says so instead.

    Args:
      folder: the workdir.
      step: which checkpoint; None is the latest.
      data_dir: where the data set lies; None is where training found it.
      max_images: how many images of each split are looked at.

    Raises:
      UserError: the folder holds no run.
    """
    config = workdir.read_config(folder)
    facts = {
        "Net": f"{config.model.variant}, {config.model.num_classes} classes",
        "Data": f"{config.data.name}: {config.data.train_split}, {config.data.eval_split}",
        "Schedule": f"{config.num_epochs:g} epochs, batches of {config.batch_size}, seed {config.seed}",
    }
    sections = [curves.curves_section(read_records(folder))]
    try:
        net = restore(folder, step)
    except UserError as error:  # a run in progress, or one whose checkpoints are gone: its curves are there
        sections += [Section(title, [str(error)]) for title in (filters.TITLE, *_OF_THE_DATA)]
    else:
        facts["Checkpoint"] = _checkpoint_in_words(net)
        sections += [_filters(net), *_sections_with_data(net, data_dir, max_images)]
    facts["Versions"] = (
        f"alexnet_jax {__version__}, jax {jax.__version__}, flax {flax.__version__}, Python "
        f"{platform.python_version()} (of this report)"
    )
    name = Path(*folder.resolve().parts[-2:])  # runs/quickstart, or with seeds imagenette/0
    return Contents(f"{name}: AlexNet on {config.data.name}", facts, _settings(config), sections)


_OF_THE_DATA = (predictions.TITLE, neighbors.TITLE, confusion.TITLE)


def _filters(net: RestoredNet) -> Section:
    return filters.filters_section(np.asarray(net.params["conv1"]["kernel"]), build_net(net.config.model).towers)


def _sections_with_data(net: RestoredNet, data_dir: str | None, max_images: int) -> list[Section]:
    """What needs the data set; where that is missing or does not fit, each section gives the reason."""
    try:
        net.config.data.dir = data_dir or net.config.data.dir
        dataset = open_dataset(net.config.data)
        check_same_data(net, dataset.info, f"{dataset.name!r} in {dataset.train.directory}")
        startup.check_data_fits(net.config, dataset)
        return _look_at(dataset, net, max_images)
    except UserError as error:
        return [Section(title, [str(error)]) for title in _OF_THE_DATA]


def _look_at(dataset: Dataset, net: RestoredNet, max_images: int) -> list[Section]:
    """Predictions, nearest neighbors and confusion, of images drawn evenly from each split."""
    parts = net.mesh.shape["data"]
    batch_size = -(-net.config.eval.batch_size // parts) * parts

    def run(predictor: Predictor, subset: outputs.Subset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return outputs.outputs_of(predictor, subset, net.mesh, batch_size, net.config.data.read_threads)

    seen = outputs.drawn_evenly(dataset.evaluation, max_images)
    predict = net.predictor(create_predict_step(net.config, net.mesh, views=1))
    log_probabilities, labels = map(np.concatenate, zip(*run(predict, seen), strict=True))
    shown = outputs.one_of_each_class(labels, predictions.NUM_IMAGES)

    layer = outputs.last_hidden_layer(build_net(net.config.model))
    features = net.predictor(create_feature_step(net.config, net.mesh, layer))
    queries = outputs.Subset(seen, outputs.one_of_each_class(labels, neighbors.NUM_QUERIES))
    searched = outputs.drawn_evenly(dataset.train, max_images)
    of_queries = np.concatenate([values for values, _ in run(features, queries)])
    nearest = Nearest(of_queries, neighbors.NUM_NEIGHBORS)
    places = map(str, itertools.count())
    for values, _ in run(features, searched):
        nearest.add(values, list(itertools.islice(places, len(values))))
    found = [searched.fetch(np.array([int(place) for place, _ in row])) for row in nearest.neighbors()]

    names = dataset.class_names
    return [
        predictions.predictions_section(*seen.fetch(shown), np.exp(log_probabilities[shown]), names),
        neighbors.neighbors_section(
            *queries.fetch(np.arange(len(queries))),
            np.stack([images for images, _ in found]),
            np.stack([classes for _, classes in found]),
            np.array([[distance for _, distance in row] for row in nearest.neighbors()]),
            names,
            f"Compared are the {of_queries[0].size:,} outputs of {layer}; searched were {len(searched):,} of "
            f"{len(dataset.train):,} training images.",
        ),
        confusion.confusion_section(
            labels,
            log_probabilities.argmax(axis=1),
            names,
            f"{len(seen):,} of {len(dataset.evaluation):,} images of the split {net.config.data.eval_split!r}.",
        ),
    ]


def _checkpoint_in_words(net: RestoredNet) -> str:
    written = (workdir.checkpoints_in(net.folder) / str(net.step)).stat().st_mtime
    date = datetime.datetime.fromtimestamp(written, datetime.UTC)
    return f"step {net.step:,}, epoch {net.epoch:.2f}, written {date:%Y-%m-%d %H:%M} UTC"


def _settings(config: Config) -> Table:
    rows = [(name, *map(_in_short, values)) for name, values in differences(config, Config()).items()]
    return Table(("field", "value", "default"), rows)


def _in_short(value: object) -> str:
    """A setting as it is written on the command line, fractions to four digits."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_in_short, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
