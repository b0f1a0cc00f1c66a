"""Evaluates a trained net, or an ensemble, from its workdir alone.

    python -m alexnet_jax.evaluate --workdir=DIR[,DIR2,...] [--views=1|10] [--split=validation]
        [--step=N|best|latest] [--json]

Several workdirs are an ensemble, whose nets' probabilities are averaged (paper section 6.1): equally, or in the
proportions of --weights=0.5,0.3,0.2. Several processes can share the images: docs/cluster.md.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from alexnet_jax import cli
from alexnet_jax.cluster import launcher

_WORKDIR = cli.define_paths_flag("workdir", "the folder of a training; for an ensemble several, separated by commas")
_VIEWS = flags.DEFINE_enum("views", None, ["1", "10"], "views averaged (see docs/use.md); by default as in training")
_WEIGHTS = flags.DEFINE_string("weights", None, "weights of an ensemble's nets, separated by commas; by default equal")
_SPLIT = flags.DEFINE_string("split", None, "the split of the data set; by default that of the training")
_STEP = cli.define_step_flag()
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "images at a time; by default as in training", lower_bound=1)
_DATA_DIR = cli.define_path_flag("data_dir", "where the data set is, if not where training found it")
_JSON = flags.DEFINE_bool("json", False, "print the result as one JSON object")
_process_group = launcher.define_flags()
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(launcher)


def main(arguments: Sequence[str]) -> None:
    """Check the flags, then evaluate, in this process or together with others."""
    cli.no_arguments(arguments)
    folders = cli.required(_WORKDIR)
    weights = cli.parse_weights(_WEIGHTS.value, len(folders)) if _WEIGHTS.value is not None else None
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
    from alexnet_jax.evaluation import evaluate
    from alexnet_jax.metrics import append_record, evaluation_line, without_trivial_top5
    from alexnet_jax.parallel.mesh import devices, divisible_batch
    from alexnet_jax.run import startup
    from alexnet_jax.run.restore import check_same_data, report_missing_views, restore

    devices()  # or a sentence that says why there are none
    compared = {f"--{flag.name}": flag.value for flag in (_WEIGHTS, _VIEWS, _SPLIT, _STEP, _BATCH_SIZE)}
    check_agreement({"--workdir": list(map(str, folders))} | compared)
    nets = [restore(folder, _STEP.value) for folder in folders]
    first = nets[0]
    data = first.config.data
    data.dir, data.eval_split = str(_DATA_DIR.value or data.dir), _SPLIT.value or data.eval_split
    dataset = open_dataset(data)
    check_agreement(startup.program(first.config) | startup.data_fingerprint(first.config, dataset))
    for net in nets:
        check_same_data(net, dataset.info, f"{dataset.name!r} in {dataset.train.directory}")
        startup.check_data_fits(net.config, dataset)
    views = int(_VIEWS.value or first.config.eval.views)
    report_missing_views(nets, views)
    batch_size = divisible_batch(first.mesh, _BATCH_SIZE.value or first.config.eval.batch_size)
    predictors = [net.predictor(views) for net in nets]
    result = evaluate(predictors, dataset.evaluation, first.mesh, batch_size, data.read_threads, weights=weights)
    assert result is not None
    known = without_trivial_top5(result, first.config.model.num_classes)
    position = {"step": first.step, "epoch": first.epoch, "split": data.eval_split}
    record = {**position, **known, "views": max(num_views(net.config, views) for net in nets)}
    print(json.dumps(record) if _JSON.value else evaluation_line(record), flush=True)
    if len(nets) == 1 and jax.process_index() == 0:
        append_record(first.folder, record)


if __name__ == "__main__":
    cli.run(main)
