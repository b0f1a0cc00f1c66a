"""Which sections a report has, and what each needs: records, a checkpoint, the data set."""

import datetime
import itertools
import platform
from pathlib import Path
from typing import NamedTuple

import flax
import jax
import numpy as np

from alexnet_jax import __version__
from alexnet_jax.checkpoint import Step
from alexnet_jax.config import Config, differences
from alexnet_jax.data.datasets import Dataset, open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.features.nearest import Nearest
from alexnet_jax.metrics import read_records
from alexnet_jax.report import confusion, curves, figure_4, filters, outputs
from alexnet_jax.report.section import Section, Table
from alexnet_jax.run import startup, workdir
from alexnet_jax.run.restore import RestoredNet, check_same_data, restore

_SECTIONS_WITH_DATA = (figure_4.PREDICTIONS, figure_4.NEIGHBORS, confusion.TITLE)


class Contents(NamedTuple):
    """The contents of a report: its title, the run's properties and settings, and the sections."""

    title: str
    properties: dict[str, str]
    settings: Table
    sections: list[Section]


def collect(folder: Path, step: Step, data_dir: Path | None, max_images: int) -> Contents:
    """Report on the run in a workdir; sections whose checkpoint or data set is missing give the reason instead.

    A `data_dir` of None is the one that training used. At most `max_images` of each split are used. UserError if the
    folder holds no run.
    """
    config = workdir.read_config(folder)
    properties = {
        "Net": f"{config.model.variant}, {config.model.num_classes} classes",
        "Data": f"{config.data.name}: {config.data.train_split}, {config.data.eval_split}",
        "Schedule": f"{config.num_epochs:g} epochs, batches of {config.batch_size}, seed {config.seed}",
    }
    sections = [curves.curves_section(read_records(folder))]
    try:
        net = restore(folder, step)
    except UserError as error:  # a run in progress, or one whose checkpoints are gone, still has its curves
        sections += [Section(title, [str(error)]) for title in (filters.TITLE, *_SECTIONS_WITH_DATA)]
    else:
        properties["Checkpoint"] = _describe_checkpoint(net)
        sections.append(filters.filters_section(net.params["conv1"]["kernel"], net.model.net.towers))
        sections += _sections_with_data(net, data_dir, max_images)
    versions = f"alexnet_jax {__version__}, jax {jax.__version__}, flax {flax.__version__}"
    properties["Versions"] = f"{versions}, Python {platform.python_version()} (of this report)"
    name = Path(*folder.resolve().parts[-2:])  # runs/quickstart, or with seeds imagenette/0
    settings = [(field, *map(_in_short, values)) for field, values in differences(config, Config()).items()]
    title = f"{name}: AlexNet on {config.data.name}"
    return Contents(title, properties, Table(("field", "value", "default"), settings), sections)


def _sections_with_data(net: RestoredNet, data_dir: Path | None, max_images: int) -> list[Section]:
    """Return the sections that need the data set; if it is missing or does not fit, each gives the reason."""
    try:
        net.config.data.dir = str(data_dir or net.config.data.dir)
        dataset = open_dataset(net.config.data)
        check_same_data(net, dataset.info, f"{dataset.name!r} in {dataset.train.directory}")
        startup.check_data_fits(net.config, dataset)
        return _evaluate(net, dataset, max_images)
    except UserError as error:
        return [Section(title, [str(error)]) for title in _SECTIONS_WITH_DATA]


def _evaluate(net: RestoredNet, dataset: Dataset, max_images: int) -> list[Section]:
    """Return predictions, nearest neighbors and confusion, for images drawn evenly from each split."""
    evaluated = outputs.drawn_evenly(dataset.evaluation, max_images)
    batches = outputs.compute(net, net.predictor(views=1), evaluated)
    log_probabilities, labels = map(np.concatenate, zip(*batches, strict=True))
    shown = outputs.one_of_each_class(labels, figure_4.NUM_IMAGES)
    queries = outputs.Subset(evaluated, outputs.one_of_each_class(labels, figure_4.NUM_QUERIES))
    names = dataset.class_names
    images = f"{len(evaluated):,} of {len(dataset.evaluation):,} images of the split {net.config.data.eval_split!r}."
    return [
        figure_4.predictions_section(evaluated.fetch(shown), np.exp(log_probabilities[shown]), names),
        _search(net, dataset, queries, max_images),
        confusion.confusion_section(labels, log_probabilities.argmax(axis=1), names, images),
    ]


def _search(net: RestoredNet, dataset: Dataset, queries: outputs.Subset, max_images: int) -> Section:
    """Return the section with the training images nearest to each query."""
    searched = outputs.drawn_evenly(dataset.train, max_images)
    layer = outputs.last_hidden_layer(net.model.net)
    program = net.feature_extractor([layer])

    def extractor(images: jax.Array) -> jax.Array:
        return program(images)[layer]

    features = np.concatenate([batch for batch, _ in outputs.compute(net, extractor, queries)])
    nearest = Nearest(features, figure_4.NUM_NEIGHBORS)
    positions = map(str, itertools.count())
    for batch, _ in outputs.compute(net, extractor, searched):
        nearest.add(batch, list(itertools.islice(positions, len(batch))))
    found = nearest.neighbors()
    return figure_4.neighbors_section(
        queries.fetch(range(len(queries))),
        [searched.fetch([int(position) for position, _ in row]) for row in found],
        np.array([[distance for _, distance in row] for row in found]),
        dataset.class_names,
        f"Compared are the {features[0].size:,} outputs of {layer}; searched were {len(searched):,} of "
        f"{len(dataset.train):,} training images.",
    )


def _describe_checkpoint(net: RestoredNet) -> str:
    name = f"step {net.step:,}, epoch {net.epoch:.2f}"
    try:
        written = (workdir.checkpoints_in(net.folder) / str(net.step)).stat().st_mtime
    except FileNotFoundError:  # the training has removed it meanwhile
        return name
    return f"{name}, written {datetime.datetime.fromtimestamp(written, datetime.UTC):%Y-%m-%d %H:%M} UTC"


def _in_short(value: object) -> str:
    """Return a setting as on the command line, fractions to four digits."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_in_short, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
