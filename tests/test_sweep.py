"""Sweeps: their runs, what is refused before the first one, and what a second start does."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax import runtime
from alexnet_jax.config import Config, to_dict
from alexnet_jax.errors import UserError
from alexnet_jax.signals import NotedSignals
from alexnet_jax.sweep import execution, results, runs
from alexnet_jax.sweep.__main__ import Display
from alexnet_jax.sweep.execution import Slot, slots
from alexnet_jax.sweep.space import choice, crossed, grid, log_uniform, sample, uniform

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "--config=configs/quickstart.py",
    *("--config.num_epochs=0.25", "--config.model.conv_width=0.0833", "--config.model.fc_width=0.0079"),
    *("--config.log.every_steps=1", "--config.mesh.data=1"),
]


def start(workdir, digits_dir, sweep, *flags):
    command = [sys.executable, "-m", "alexnet_jax.sweep", *TINY, f"--config.data.dir={digits_dir}", *flags]
    command += [f"--sweep={sweep}", f"--workdir={workdir}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_grid_is_every_combination():
    assert grid({"seed": (0, 1), "precision": ("float32", "bfloat16")}) == [
        {"seed": 0, "precision": "float32"},
        {"seed": 0, "precision": "bfloat16"},
        {"seed": 1, "precision": "float32"},
        {"seed": 1, "precision": "bfloat16"},
    ]
    assert crossed([{}, {"seed": 5}], grid({"seed": (1, 2)})) == [{"seed": 1}, {"seed": 2}] * 2


def test_samples_are_reproducible_and_in_their_ranges():
    fields = {
        "optimizer.learning_rate": log_uniform(1e-4, 1e-1),
        "optimizer.momentum": uniform(0.5, 0.9),
        "model.activation": choice("relu", "tanh"),
    }
    drawn = sample(300, fields)
    assert drawn == sample(300, fields) != sample(300, fields, seed=1)
    rates = np.array([run["optimizer.learning_rate"] for run in drawn])
    assert rates.min() >= 1e-4
    assert rates.max() <= 1e-1
    assert abs(np.mean(rates < 10**-2.5) - 0.5) < 0.1  # the middle of the logarithms
    momenta = [run["optimizer.momentum"] for run in drawn]
    assert 0.5 <= min(momenta) < 0.52
    assert 0.88 < max(momenta) <= 0.9
    assert {run["model.activation"] for run in drawn} == {"relu", "tanh"}


def test_names_show_the_overrides_and_can_be_folders(tmp_path):
    sweep = [
        {"optimizer.learning_rate": 0.01, "seed": 1},
        {"optimizer.drops": (0.3, 0.6)},
        {"data.name": "a/b"},
        {},
        {"data.train_split": "x" * 300},
    ]
    planned = runs.plan(Config(), sweep, tmp_path)
    names = [run.name for run in planned]
    assert names[:4] == ["learning_rate=0.01+seed=1", "drops=_0.3_0.6_", "name=a_b", "base"]
    assert len(names[4]) <= 120
    assert [run.folder.parent for run in planned] == [tmp_path] * 5
    assert runs.override_flags(planned[1].overrides) == ["--config.optimizer.drops=(0.3, 0.6)"]
    assert planned[1].config.optimizer.drops == (0.3, 0.6)
    assert planned[0].config.optimizer.drops == (*Config().optimizer.drops,)


def test_fields_that_share_a_name_keep_their_sections(tmp_path):
    planned = runs.plan(Config(), [{"batch_size": 64, "eval.batch_size": 128}], tmp_path)
    assert planned[0].name == "batch_size=64+eval.batch_size=128"


def test_all_faults_are_listed_before_the_first_run(tmp_path):
    sweep = [{"seed": 1}, {"sed": 1}, {"batch_size": "many"}, {"optimizer.momentum": 2.0}, {"seed": 1}]
    with pytest.raises(UserError) as caught:
        runs.plan(Config(), sweep, tmp_path)
    patterns = [
        r"run 1 .*no field 'sed'; did you mean 'seed'\?",
        r"run 2 .*batch_size='many' must be a whole number",
        r"run 3 .*optimizer.momentum=2.0 is not allowed",
        r"runs 0 and 4 of the sweep are the same \(seed=1\)",
    ]
    assert len(str(caught.value).splitlines()) == 4
    for pattern, line in zip(patterns, str(caught.value).splitlines(), strict=True):
        assert re.search(pattern, line)


def test_folders_with_other_runs_are_refused_before_the_first_run(tmp_path):
    """Also finished ones, since their results are those of another config. Fields that alter no result may change."""
    planned = runs.plan(Config(), grid({"seed": (0, 1, 2)}), tmp_path)
    for run, status in zip(planned[:2], (0, 2), strict=True):
        run.folder.mkdir()
        (run.folder / "config.json").write_text(json.dumps(to_dict(run.config)))
        (run.folder / runs.CONSOLE).touch()
        run.record_outcome(status)
    other = Config()
    other.eval.batch_size = 32
    runs.check_folders(runs.plan(other, grid({"seed": (0, 1, 2)}), tmp_path))
    other.num_epochs = 7.0
    with pytest.raises(UserError) as caught:
        runs.check_folders(runs.plan(other, grid({"seed": (0, 1, 2)}), tmp_path))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    for run, line in zip(planned, lines, strict=False):
        assert line.startswith(
            f"--workdir={run.folder} holds a run with another config: config.num_epochs=7.0 (the run has"
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"there is no such file; there are configs/sweeps/ablations.py, .*learning_rate.py"),
        (
            "def get_sweep(:",
            r"can't be run as a Python file \(SyntaxError: .*line 1\)\); correct it, or see configs/sweeps",
        ),
        ("def get_sweep():\n    return {}[0]", r"\(KeyError: 0, in line 2\)"),
        ("runs = []", r"defines no function get_sweep"),
        ("def get_sweep():\n    return []", r"must return a list of overrides"),
        ("def get_sweep():\n    return [1]", r"must return a list of overrides"),
    ],
)
def test_a_wrong_sweep_file_is_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "sweep.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        runs.read_sweep(path)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/sweeps/*.py")), ids=lambda path: path.stem)
def test_every_sweep_file_is_valid(path, tmp_path):
    base = re.search(r"--config=configs/(\w+)\.py", path.read_text())[1]
    config = __import__(f"configs.{base}", fromlist=["get_config"]).get_config()
    assert len(runs.plan(config, runs.read_sweep(path), tmp_path)) > 1


def test_gpus_are_divided(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert slots(2) == [Slot(gpus="4,6"), Slot(gpus="5,7")]
    assert slots(1) == [Slot()]
    with pytest.raises(UserError, match=r"parallel=5 is more than the 4 GPUs"):
        slots(5)


def test_mig_instances_are_not_counted_as_gpus(tmp_path, monkeypatch):
    listed = ["GPU 0: A100 (UUID: GPU-1)", "  MIG 1g.5gb Device 0: (UUID: MIG-1)", "GPU 1: A100 (UUID: GPU-2)"]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in listed))
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slots(2) == [Slot(gpus="0"), Slot(gpus="1")]


@pytest.mark.parametrize(("platforms", "gpus"), [("", ""), ("", "-1"), ("", "-1,0,1"), ("cpu", "0,1")])
def test_without_gpus_cores_are_divided(monkeypatch, platforms, gpus):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(runtime, "cores", lambda: [0, 2, 4, 6, 8])
    assert slots(2) == [Slot(cores=frozenset({0, 4, 8})), Slot(cores=frozenset({2, 6}))]
    assert slots(1) == [Slot()]
    assert slots(6) == [Slot()] * 6  # more runs than cores share all of them


def test_a_run_keeps_to_its_cores(tmp_path, monkeypatch):
    ours = os.sched_getaffinity(0)
    script = tmp_path / "python"
    program = "from alexnet_jax import runtime; print(runtime.cores())"
    script.write_text(f"#!/bin/sh\ncd {ROOT}\nexec {sys.executable} -c '{program}'\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    (run,) = runs.plan(Config(), [{"seed": 1}], tmp_path)
    execution.execute([run], [], [Slot(cores=frozenset({max(ours)}))], NotedSignals(), lambda numbers: None)
    assert (run.folder / runs.CONSOLE).read_text() == f"[{max(ours)}]\n"
    assert os.sched_getaffinity(0) == ours


def test_an_error_leaves_no_run_behind(tmp_path, monkeypatch):
    """If the outcome of one run can't be written, the other is asked to save, and waited for."""
    script = tmp_path / "python"
    script.write_text(
        f"""#!/bin/sh
case "$*" in *seed=0*) until [ -e {tmp_path}/ready ]; do sleep 0.02; done; exit;; esac
trap 'echo saved; exit 75' TERM
touch {tmp_path}/ready
for i in $(seq 600); do sleep 0.05; done
"""
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.Run, "record_outcome", refuse)
    planned = runs.plan(Config(), grid({"seed": (0, 1)}), tmp_path)
    with pytest.raises(OSError, match="No space left"):
        execution.execute(planned, [], [Slot()] * 2, NotedSignals(), lambda numbers: None)
    assert (planned[1].folder / runs.CONSOLE).read_text() == "saved\n"


def test_the_time_left_is_that_of_the_remaining_runs(tmp_path, capsys):
    """Of four runs the first is done and the last not selected. Of the others one fails, and one has zero error."""
    planned = runs.plan(Config(), grid({"seed": (0, 1, 2, 3)}), tmp_path)
    for run in planned:
        run.folder.mkdir()
        (run.folder / runs.CONSOLE).touch()
    planned[0].record_outcome(0)
    show = Display(planned, planned[:3])
    show({1})
    planned[1].record_outcome(2)
    show({2})
    (planned[2].folder / "metrics.jsonl").write_text(json.dumps(evaluation(2, "validation", 1, top1_error=0.0)))
    planned[2].record_outcome(0)
    show(set())
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"run 1 of 4, seed=1: failed, \d+ s left", lines[1])
    assert lines[3] == "run 2 of 4, seed=2: done, top-1 error 0.00 %, 0 s left"


def evaluation(step, split, views, top1_error):
    errors = {"top1_error": top1_error, "top5_error": 5.0}
    return {"step": step, "epoch": step / 2, "split": split, "loss": 1.0, **errors, "views": views}


def test_results_without_mirror_images_are_those_on_five_views(tmp_path):
    config = Config()
    config.eval.views, config.data.flip = 10, False
    run = runs.plan(config, [{"seed": 1}], tmp_path)[0]
    run.folder.mkdir()
    lines = (json.dumps(evaluation(2, "validation", views, error)) for views, error in ((5, 3.0), (1, 4.0)))
    (run.folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert run.results()["top1_error"] == 3.0


def test_results_are_those_of_the_metrics(tmp_path):
    planned = runs.plan(Config(), grid({"seed": (0, 1)}), tmp_path)
    folder = planned[0].folder
    folder.mkdir()
    (folder / runs.CONSOLE).write_text("step 1\nerror: the loss is nan\n\n")
    records = [
        {"step": 1, "epoch": 0.5, "split": "train", "loss": 2.0},
        evaluation(2, "validation", 1, top1_error=30.0),
        {"step": 3, "epoch": 1.5, "split": "train", "loss": 1.5},
        evaluation(4, "validation", 1, top1_error=40.0),
        # Made by hand: with ten views, of another split, of an earlier checkpoint.
        evaluation(4, "validation", 10, top1_error=20.0),
        evaluation(4, "train", 1, top1_error=10.0),
        evaluation(2, "validation", 1, top1_error=30.0),
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    planned[0].record_outcome(3)
    results.write(planned, tmp_path)
    with (tmp_path / "results.csv").open() as file:
        first, second = csv.DictReader(file)
    expected = {
        "run": "0",
        "status": "diverged",
        "seed": "0",
        "epoch": "1.5",
        "train_loss": "1.5",
        "top1_error": "40.0",
    }
    assert expected.items() <= first.items()
    assert first["best_top1_error"] == "30.0"
    assert first["error"] == "the loss is nan"
    assert second["status"] == "waiting"
    assert second["top1_error"] == ""
    assert len((tmp_path / "results.md").read_text().splitlines()) == 4
    assert list((tmp_path / "hparams").glob("seed=0/events*"))
    assert planned[0].finished

    # A failed run is tried again, so its numbers are not final.
    planned[1].folder.mkdir()
    (planned[1].folder / runs.CONSOLE).touch()
    for status, written in ((2, []), (0, [tmp_path / "hparams" / "seed=1"])):
        planned[1].record_outcome(status)
        results.write(planned, tmp_path)
        assert list((tmp_path / "hparams").glob("seed=1")) == written


def test_a_sweep_from_end_to_end(tmp_path, digits_dir):
    """One run of three fails and the others continue; a second start repeats only the failed one."""
    sweep = tmp_path / "sweep.py"
    sweep.write_text(
        "def get_sweep():\n    return [{'seed': 1}, {'data.eval_split': 'missing'}, {'optimizer.learning_rate': 1e9}]"
    )
    process = start(tmp_path / "w", digits_dir, sweep, "--parallel=2")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    assert re.fullmatch(r"error: 1 of 3 runs failed; see .*eval_split=missing/console.log, then run .*\n", errors)
    with (tmp_path / "w" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done", "failed", "diverged"]
    assert float(rows[0]["top1_error"]) > 0
    assert "has no split 'missing'" in rows[1]["error"]
    assert re.search(r"run 0 of 3, seed=1: done, top-1 error [\d.]+ %, .* left", output)

    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "w").glob("*/metrics.jsonl"))]
    sweep.write_text(sweep.read_text().replace("'missing'", "'validation'"))
    process = start(tmp_path / "w", digits_dir, sweep)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "run 1 of 3, eval_split=validation: done" in output
    assert "seed=1: running" not in output
    assert times == [path.stat().st_mtime_ns for path in sorted((tmp_path / "w").glob("[ls]*/metrics.jsonl"))]


def test_a_stopped_sweep_saves_its_runs(tmp_path, digits_dir):
    sweep = tmp_path / "sweep.py"
    sweep.write_text("def get_sweep():\n    return [{'num_epochs': 20.0}, {'num_epochs': 21.0}]")
    workdir = tmp_path / "w"
    process = start(workdir, digits_dir, sweep)
    metrics = workdir / "num_epochs=20.0" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") > 1) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 75, output + errors
    assert "stopped by SIGTERM; run the same command again" in errors
    assert re.search(r"\n0 +stopped", output)
    assert re.search(r"\n1 +waiting", output)
    assert list((workdir / "num_epochs=20.0" / "checkpoints").glob("*"))


def test_an_index_selects_one_run(tmp_path):
    planned = runs.plan(Config(), grid({"seed": (0, 1)}), tmp_path)
    assert runs.select(planned, None) == planned
    assert runs.select(planned, 1) == planned[1:]
    with pytest.raises(UserError, match=r"index=2 is out of range; the sweep has 2 runs, 0 to 1\."):
        runs.select(planned, 2)


def test_the_task_of_a_slurm_array_is_an_index(tmp_path, digits_dir, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "70")
    process = start(tmp_path / "w", digits_dir, "configs/sweeps/learning_rate.py")
    assert process.communicate(timeout=100)[1] == "error: index=70 is out of range; the sweep has 9 runs, 0 to 8.\n"
