"""The files of a workdir, and flags on the command line."""

import contextlib
import io
import json
import sys
import zlib
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from alexnet_jax import checkpoint_folder, cli, validation
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, to_dict
from alexnet_jax.data.dataset_info import DatasetInfo, load_dataset_info, save_dataset_info
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import EXIT_USER_ERROR, UserError
from alexnet_jax.metrics import FILE_NAME, append_record, read_records
from alexnet_jax.report.curves import curves_section
from alexnet_jax.run.metric_writer import MetricWriter
from alexnet_jax.run.workdir import read_config
from alexnet_jax.sweep import results
from alexnet_jax.sweep.runs import OUTCOME, Run
from fuzzing.campaign import Sample, Subject


def configs(folder: Path) -> Subject:
    """Return `config.json`."""
    path = folder / "config.json"
    return Subject([Sample(path, json.dumps(to_dict(Config())).encode())], lambda: read_config(folder), path.name)


def dataset_infos(folder: Path) -> Subject:
    """Return `dataset.json` and `statistics.npz`."""
    statistics = Statistics(np.full((8, 8, 3), 117, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    save_dataset_info(DatasetInfo("digits", 1797, ("0", "1"), ("zero", "one"), statistics), folder)
    paths = [folder / "dataset.json", folder / "statistics.npz"]
    return Subject([Sample(path, path.read_bytes()) for path in paths], lambda: load_dataset_info(folder), str(folder))


def records(folder: Path) -> Subject:
    """Return `metrics.jsonl`, as a resumed training and a sweep read it."""
    run = Run(0, "run", {"seed": 1}, Config(), folder)

    def read() -> None:
        results.lines(results.table([run]))
        with contextlib.closing(MetricWriter(folder, resumed_step=30)):
            pass
        for path in folder.glob("events*"):
            path.unlink()

    return Subject([Sample(folder / FILE_NAME, _records(folder))], read, FILE_NAME)


def curves(folder: Path) -> Subject:
    """Return `metrics.jsonl`, as `report` draws it."""
    sample = Sample(folder / FILE_NAME, _records(folder))
    return Subject([sample], lambda: curves_section(read_records(folder)), FILE_NAME)


def outcomes(folder: Path) -> Subject:
    """Return `outcome.json` of a sweep's run."""
    run = Run(0, "run", {"seed": 1}, Config(), folder)
    sample = Sample(folder / OUTCOME, json.dumps({"status": 3, "error": "The loss is nan."}).encode())
    return Subject([sample], lambda: (run.finished, results.lines(results.table([run]))), OUTCOME)


def checkpoints(folder: Path) -> Subject:
    """Return the files of a checkpoint, damaged by accident: their checksums reveal it."""
    step, read = _checkpoint(folder)
    files = [path for path in sorted(step.rglob("*")) if path.is_file()]
    return Subject([Sample(path, path.read_bytes()) for path in files], read, str(folder))


def forged_checkpoints(folder: Path) -> Subject:
    """Return the files of a checkpoint, changed on purpose: with checksums that match."""
    step, read = _checkpoint(folder)
    content = json.loads((step / checkpoint_folder.MANIFEST).read_bytes())["content"]
    files = [path for path in sorted(step.rglob("*")) if path.is_file() and path.name != checkpoint_folder.MANIFEST]

    def read_with_new_checksums() -> None:
        if all(path.read_bytes() == data for path, data in zip(files, originals, strict=True)):
            return read()
        (step / checkpoint_folder.MANIFEST).unlink()
        checkpoint_folder.write_manifest(step, {name: value for name, value in content.items() if name != "files"})
        return read()

    originals = [path.read_bytes() for path in files]
    samples = [Sample(path, data) for path, data in zip(files, originals, strict=True)]
    manifests = [Sample(step / checkpoint_folder.MANIFEST, json.dumps(content).encode(), signed)] * 2
    return Subject([*samples, *manifests], read_with_new_checksums, str(folder))


def signed(data: bytes) -> bytes:
    """Return a manifest with this content and a matching checksum."""
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(data), sort_keys=True)
        return b'{"crc32": %d, "content": %s}' % (zlib.crc32(text.encode()), data)
    return data


def overrides(folder: Path) -> Subject:
    """Return `--config.FIELD=VALUE` on the command line; the file contains the text after `--config.`."""
    path = folder / "override"
    fields = ("seed=1", "batch_size=64", "optimizer.drops=(0.3,0.6)", "data.flip=False", "model.variant=paper",
              "optimizer.learning_rate=1e-2", "model.image_size=67", "optimizer.frozen=('conv1',)", "num_epochs=3",
              "mesh.data=2", "data.std=(1.0,2.0,3.0)", "eval.views=10")  # fmt: skip

    def read() -> None:
        with contextlib.suppress(UnicodeDecodeError):  # only text can be typed
            parse_config([f"--config.{path.read_bytes().decode()}"])

    return Subject([Sample(path, field.encode()) for field in fields], read, "config")


def parse_config(arguments: list[str]) -> Config:
    """Parse and validate the config as every command does; UserError with the text of stderr."""
    values, errors = flags.FlagValues(), io.StringIO()
    config = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    command = ["main", "--config=configs/quickstart.py", *arguments]
    with (
        mock.patch.object(flags, "FLAGS", values),
        mock.patch.object(sys, "argv", command),
        contextlib.redirect_stderr(errors),
    ):
        try:
            cli._parse_flags(command)
        except SystemExit as end:
            if end.code == EXIT_USER_ERROR:
                raise UserError(errors.getvalue().removesuffix("\n").removeprefix("error: ")) from None
            raise
    validation.validate(config.value)
    return config.value


def _records(folder: Path) -> bytes:
    for step in range(0, 60, 20):
        numbers = {"step": step, "epoch": step / 20, "loss": 2.3, "top1_error": 90.0, "top5_error": 50.0}
        speed = {"learning_rate": 0.01, "images_per_second": 70.5, "input_wait_fraction": 0.1}
        append_record(folder, {**numbers, "split": "train", **speed})
        append_record(folder, {**numbers, "split": "validation", "views": 1, "num_examples": 360})
    return (folder / FILE_NAME).read_bytes()


def _checkpoint(folder: Path):
    """Write a checkpoint of two small arrays; return its folder and the function that restores it."""
    state = {"conv1": {"bias": jax.numpy.arange(8.0), "kernel": jax.numpy.ones((3, 4))}}
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    with Checkpoints(folder / "checkpoints", keep_last=1, keep_best=1) as writer:
        writer.save(5, state, {"top1_error": 10.0})

    def read() -> None:
        with Checkpoints(folder / "checkpoints", keep_last=1, keep_best=1) as reader:
            restored = reader.restore_latest(abstract)
            assert restored is not None
            assert restored.state["conv1"]["kernel"].shape == (3, 4)

    return folder / "checkpoints" / "5", read
