"""Evaluates a trained net, or an ensemble, from its workdir alone.

    python -m alexnet_jax.evaluate --workdir=DIR[,DIR2,...] [--views=1|10] [--split=validation]
        [--step=N|best|latest] [--json]
    python -m alexnet_jax.evaluate --workdir=DIR --images=FOLDER [--preprocessing=paper|torchvision|caffe] ...

Several workdirs are an ensemble, whose nets' probabilities are averaged (paper section 6.1): equally, or in the
proportions of --weights=0.5,0.3,0.2. Several processes can share the images: docs/cluster.md. --images has original
files, one folder per class; a prepared data set has images that are resized and cropped already, as the paper's were.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from alexnet_jax import cli
from alexnet_jax.cluster import launcher
from alexnet_jax.errors import UserError

_WORKDIR = cli.define_paths_flag("workdir", "the folder of a training; for an ensemble several, separated by commas")
_VIEWS = flags.DEFINE_enum("views", None, ["1", "10"], "views averaged (see docs/use.md); by default as in training")
_WEIGHTS = flags.DEFINE_string("weights", None, "weights of an ensemble's nets, separated by commas; by default equal")
_SPLIT = flags.DEFINE_string("split", None, "the split of the data set; by default that of the training")
_STEP = cli.define_step_flag()
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "images at a time; by default as in training", lower_bound=1)
_DATA_DIR = cli.define_path_flag("data_dir", "where the data set is, if not where training found it")
_IMAGES = cli.define_path_flag("images", "a folder of original images, one folder per class, instead of a data set")
_PREPROCESSING = cli.define_preprocessing_flag()
_JSON = flags.DEFINE_bool("json", False, "print the result as one JSON object")
_process_group = launcher.define_flags()
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(launcher)


def main(arguments: Sequence[str]) -> None:
    """Check the flags, then evaluate, in this process or together with others."""
    cli.no_arguments(arguments)
    folders = cli.required(_WORKDIR)
    weights = cli.parse_weights(_WEIGHTS.value, len(folders)) if _WEIGHTS.value is not None else None
    if _IMAGES.value and (_SPLIT.value or _DATA_DIR.value):
        raise UserError("give either --images, a folder of original images, or a data set with --split and --data_dir.")
    if _PREPROCESSING.value and not _IMAGES.value:
        raise UserError(
            "--preprocessing needs original images: those of a data set were resized and cropped when it was prepared; "
            "give --images=FOLDER, with one folder per class."
        )
    group = _process_group()
    from alexnet_jax.cluster.processes import joined

    with joined(group):
        evaluate_and_report(folders, weights)


def evaluate_and_report(folders: Sequence[Path], weights: Sequence[float] | None) -> None:
    """Restore, evaluate and print; append the result of a single net to its `metrics.jsonl`."""
    import jax

    from alexnet_jax.cluster.agreement import check_agreement
    from alexnet_jax.config import num_views
    from alexnet_jax.data.datasets import open_dataset
    from alexnet_jax.data.image_folder import ImageFolder
    from alexnet_jax.data.sources import ImageSource
    from alexnet_jax.evaluation import evaluate
    from alexnet_jax.metrics import append_record, evaluation_line, without_trivial_top5
    from alexnet_jax.parallel.mesh import devices, divisible_batch
    from alexnet_jax.run import startup
    from alexnet_jax.run.restore import (
        check_same_classes,
        check_same_data,
        check_same_pictures,
        report_missing_views,
        restore,
    )

    devices()  # or a sentence that says why there are none
    flags_compared = (_WEIGHTS, _VIEWS, _SPLIT, _STEP, _BATCH_SIZE, _PREPROCESSING)
    compared = {f"--{flag.name}": flag.value for flag in flags_compared}
    check_agreement({"--workdir": list(map(str, folders)), "--images": str(_IMAGES.value)} | compared)
    nets = [restore(folder, _STEP.value, preprocessing=_PREPROCESSING.value) for folder in folders]
    first = nets[0]
    data = first.config.data
    views = int(_VIEWS.value or first.config.eval.views)
    source: ImageSource
    if _IMAGES.value:
        for net in nets[1:]:
            check_same_classes(net, first.dataset_info, str(first.folder))
            check_same_pictures(net, first, views)
        source = ImageFolder(_IMAGES.value, first.dataset_info.label_names, first.preparation(views))
        split = str(_IMAGES.value)
        check_agreement(startup.program(first.config) | {"the number of images": len(source)})
    else:
        data.dir, data.eval_split = str(_DATA_DIR.value or data.dir), _SPLIT.value or data.eval_split
        dataset = open_dataset(data)
        check_agreement(startup.program(first.config) | startup.data_fingerprint(first.config, dataset))
        for net in nets:
            check_same_data(net, dataset.info, f"{dataset.name!r} in {dataset.train.directory}")
            startup.check_data_fits(net.config, dataset)
        source, split = dataset.evaluation, data.eval_split
    report_missing_views(nets, views)
    batch_size = divisible_batch(first.mesh, _BATCH_SIZE.value or first.config.eval.batch_size)
    predictors = [net.predictor(views) for net in nets]
    result = evaluate(predictors, source, first.mesh, batch_size, data.read_threads, weights=weights)
    assert result is not None
    known = without_trivial_top5(result, first.config.model.num_classes)
    position = {"step": first.step, "epoch": first.epoch, "split": split}
    record = {**position, **known, "views": max(num_views(net.config, views) for net in nets)}
    print(json.dumps(record) if _JSON.value else evaluation_line(record), flush=True)
    if len(nets) == 1 and jax.process_index() == 0:
        append_record(first.folder, record)


if __name__ == "__main__":
    cli.run(main)
