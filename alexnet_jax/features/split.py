"""Features of a split of a data set."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.pipeline import consecutive_batches
from alexnet_jax.data.sources import JpegSource
from alexnet_jax.predict.batching import BatchedProgram, Outputs
from alexnet_jax.run.restore import RestoredNet, check_same_data


def open_split(net: RestoredNet, split: str, dataset: str | None, data_dir: Path | None) -> JpegSource:
    """Open a split of the net's data set or of another one; UserError if its images have another stored size."""
    data = dataclasses.replace(net.config.data, train_split=split, eval_split=split)
    data.name, data.dir = dataset or data.name, str(data_dir or data.dir)
    opened = open_dataset(data)
    check_same_data(net, opened.info, f"{opened.name!r} in {opened.train.directory}", same_classes=False)
    return opened.evaluation


def run_on_split(program: BatchedProgram, source: JpegSource) -> Iterator[Outputs]:
    """Yield the outputs for a split's images in order, with labels; names are "SPLIT/NUMBER"."""
    numbers = itertools.count()
    for batch in consecutive_batches(source, 0, len(source), batch_size=program.batch_size, read_threads=-1):
        names = [f"{source.split}/{number}" for number in itertools.islice(numbers, len(batch["label"]))]
        yield Outputs(program.run(batch["image"]), names, batch["label"])
