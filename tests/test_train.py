"""What a run leaves behind, and that stopping it in any way changes nothing in the end."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_pieces import pieces

from alexnet_jax import train, validation
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.checkpoint_folder import MANIFEST, read_manifest, write_manifest
from alexnet_jax.config import Config, set_field, to_dict
from alexnet_jax.errors import EXIT_DIVERGED, EXIT_PREEMPTED, DivergedError, PreemptedError, UserError
from alexnet_jax.parallel.mesh import create_mesh
from alexnet_jax.run import startup
from alexnet_jax.run.reporter import Reporter
from alexnet_jax.run.restore import restore
from alexnet_jax.run.workdir import check_resumable, read_config
from alexnet_jax.state import TrainState, abstract_train_state
from alexnet_jax.train import check_parameters, train_and_evaluate
from configs import quickstart

ROOT = Path(__file__).resolve().parents[1]


def records(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def final_state(config: Config, workdir: Path):
    """Step and arrays of the latest checkpoint."""
    with Checkpoints(workdir / "checkpoints", keep_last=1, keep_best=0) as checkpoints:
        restored = checkpoints.restore_latest(abstract_train_state(config, *pieces(config)))
    return restored.step, jax.device_get(restored.state)


def assert_same_bits(found, expected) -> None:
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def without_times(found: list[dict]) -> list[dict]:
    timed = ("images_per_second", "input_wait_fraction")
    return [{key: value for key, value in record.items() if key not in timed} for record in found]


@pytest.fixture
def uninterrupted(tiny_config: Config, tmp_path: Path) -> tuple[Config, Path]:
    """A run from start to end, evaluated on several views."""
    workdir = tmp_path / "uninterrupted"
    tiny_config.eval.views = 10
    train_and_evaluate(tiny_config, workdir)
    return tiny_config, workdir


def test_a_run_writes_what_is_promised(uninterrupted, capsys: pytest.CaptureFixture) -> None:
    config, workdir = uninterrupted
    assert validation.from_dict(json.loads((workdir / "config.json").read_text()), "config.json") == config
    training = [record for record in records(workdir) if record["split"] == "train"]
    evaluations = [record for record in records(workdir) if record["split"] == "validation"]
    common = {"step", "epoch", "split", "loss", "top1_error", "top5_error"}
    for record in training:
        assert record.keys() == common | {"learning_rate", "images_per_second", "input_wait_fraction"}
    for record in evaluations:
        assert record.keys() == common | {"views", "num_examples"}
        assert (record["num_examples"], record["views"]) == (360, 5)  # mirrored digits are not digits
    assert [record["step"] for record in training] == list(range(1, 25))
    assert [record["step"] for record in evaluations] == [12, 24]
    assert list(workdir.glob("events.out.tfevents.*"))

    train_and_evaluate(config, workdir)  # once more: it is done
    assert "Done: 24 steps" in capsys.readouterr().out
    assert len(records(workdir)) == len(training) + len(evaluations)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_net_learns_in_a_few_epochs(seed: int, digits_dir: Path, tmp_path: Path) -> None:
    """Half of the quickstart's net, whatever the seed: 32 and 21 % of the digits are wrong then; by chance 90 % are."""
    config = quickstart.get_config()
    config.seed, config.batch_size, config.num_epochs = seed, 64, 6.0
    config.model.conv_width, config.model.fc_width = 0.125, 0.03125
    config.data.dir, config.mesh.data = str(digits_dir), 1
    config.optimizer.drops = ()
    train_and_evaluate(config, tmp_path)
    assert records(tmp_path)[-1]["top1_error"] < 60


def test_the_best_is_kept_whatever_the_period(tiny_config: Config, tmp_path: Path, monkeypatch, capsys) -> None:
    """Evaluated four times, saved only at the end, and where the error is the lowest so far; also if stopped."""
    tiny_config.eval.every_epochs, tiny_config.checkpoint.every_epochs = 0.5, 5.0
    errors = {6: 50.0, 12: 40.0, 18: 40.0, 24: 45.0}
    steps: list[int] = []

    class Stopping(Reporter):
        def training(self, step: int, *more) -> None:
            steps.append(step)
            super().training(step, *more)
            if step == 13:
                os.kill(os.getpid(), signal.SIGTERM)

    def evaluation(*_):
        return {"loss": 1.0, "top1_error": errors[steps[-1]], "top5_error": 1.0, "num_examples": 360}

    monkeypatch.setattr(train, "evaluate", evaluation)
    monkeypatch.setattr(train, "Reporter", Stopping)
    with pytest.raises(PreemptedError, match=r"after step 1[4-7] of 24") as stopped:
        train_and_evaluate(tiny_config, tmp_path)
    at = re.search(r"after step (\d+)", str(stopped.value))[1]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"12", at}
    train_and_evaluate(tiny_config, tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"12", at, "24"}
    assert (restore(tmp_path, "best").step, restore(tmp_path).step) == (12, 24)
    assert steps == list(range(1, 25))

    # A kill between that evaluation's record and its checkpoint: the result is not computed twice, and not lost.
    manifest = tmp_path / "checkpoints" / "24" / MANIFEST
    content = read_manifest(manifest.parent)
    manifest.unlink()
    write_manifest(manifest.parent, {**content, "metrics": {}})
    monkeypatch.setattr(train, "evaluate", lambda *_: pytest.fail("evaluated again"))
    train_and_evaluate(tiny_config, tmp_path)
    assert read_manifest(manifest.parent)["metrics"]["top1_error"] == 45.0


def test_a_finished_run_gets_longer(trained_folder: Path, tmp_path: Path) -> None:
    """Two epochs, then a third: the bits of a training of three, with the learning rates' drops where they were."""
    longer = Path(shutil.copytree(trained_folder, tmp_path / "longer"))
    config = read_config(longer)
    config.num_epochs = 3.0
    with pytest.raises(UserError, match=r"holds a run of 2 epochs, 24 steps of which are done; .* or start") as refused:
        train_and_evaluate(config, longer)
    for name, value in re.findall(r"--config\.([\w.]+)='(.*?)'", str(refused.value)):
        set_field(config, name, ast.literal_eval(value))
    train_and_evaluate(config, longer)
    train_and_evaluate(config, tmp_path / "at once")
    assert final_state(config, longer)[0] == 36
    assert_same_bits(final_state(config, longer), final_state(config, tmp_path / "at once"))
    assert read_config(longer).num_epochs == 3.0


def test_a_schedule_over_the_whole_length_can_not_get_longer(trained_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained_folder, tmp_path / "run"))
    config = read_config(run)
    config.optimizer.schedule = "polynomial"
    (run / "config.json").write_text(json.dumps(to_dict(config)))
    config.num_epochs = 3.0
    sentence = rf"fractions of the training: start from its net in a new workdir with --config.init_from={run}\.$"
    with pytest.raises(UserError, match=sentence):
        check_resumable(run, config)
    config.num_epochs, config.seed = 2.0, 5
    with pytest.raises(UserError, match=r"another config: config.seed=5 \(the run has 0\); set these back"):
        check_resumable(run, config)
    shutil.rmtree(run / "checkpoints")  # nothing is done yet
    config.num_epochs, config.seed = 3.0, 0
    check_resumable(run, config)


def test_a_damaged_last_checkpoint_costs_only_its_steps(uninterrupted, tmp_path: Path) -> None:
    config, workdir = uninterrupted
    expected, expected_records = final_state(config, workdir), records(workdir)
    newest = workdir / "checkpoints" / str(expected[0])
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    train_and_evaluate(config, workdir)
    assert_same_bits(final_state(config, workdir), expected)
    assert without_times(records(workdir)) == without_times(expected_records)


def test_a_run_goes_on_on_another_mesh(tiny_config: Config, uninterrupted, tmp_path: Path) -> None:
    """Stopped after one epoch on one device, finished on 2 x 2."""
    config, workdir = uninterrupted
    expected = final_state(config, workdir)
    newest = workdir / "checkpoints" / str(expected[0])
    for path in newest.rglob("*"):
        if path.is_file():
            path.unlink()
    config.mesh.data, config.mesh.tower = 2, 2
    train_and_evaluate(config, workdir)
    step, state = final_state(config, workdir)
    assert step == expected[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), state, expected[1])


def test_a_training_of_few_steps_is_remarked_on(capsys: pytest.CaptureFixture) -> None:
    dataset = types.SimpleNamespace(name="few", train=range(100), evaluation=range(10))
    state = TrainState(jnp.zeros((), jnp.int32), {"fc8": {"bias": jnp.zeros(10)}}, ())
    for num_steps, remark in ((19, True), (20, False)):
        startup.print_summary(Config(), dataset, create_mesh(Config().mesh), state, 0, num_steps)
        printed = capsys.readouterr().out
        sentence = (
            f"remark:   {num_steps} steps are too few to learn much: 100 images fill 0.78 batches an epoch; raise"
        )
        assert (sentence in printed) == remark


def test_fine_tuning_on_few_images_says_how_many_steps_that_is(capsys: pytest.CaptureFixture) -> None:
    dataset = types.SimpleNamespace(name="few", train=range(60), evaluation=range(10))
    state = TrainState(jnp.zeros((), jnp.int32), {"fc8": {"bias": jnp.zeros(10)}}, ())
    config = Config(init_from="runs/source", batch_size=50)
    for num_steps, remark in ((75, True), (500, False)):
        startup.print_summary(config, dataset, create_mesh(config.mesh), state, 0, num_steps)
        sentence = "75 steps are few for fine-tuning: 60 images fill 1.2 batches an epoch; raise num_epochs or lower"
        assert (sentence in capsys.readouterr().out) == remark


def test_a_loss_that_is_no_number_stops_the_run(tiny_config: Config, tmp_path: Path) -> None:
    tiny_config.optimizer.learning_rate = 1e30
    with pytest.raises(DivergedError, match=r"at step \d+: training diverged"):
        train_and_evaluate(tiny_config, tmp_path / "w")
    assert DivergedError.exit_status == EXIT_DIVERGED


def test_parameters_that_are_no_numbers_stop_the_run() -> None:
    check_parameters({"conv1": {"bias": np.zeros(3, np.float32)}}, 5, None)
    with pytest.raises(DivergedError, match=r"^A parameter is not finite after step 5: .*is step 4\)"):
        check_parameters({"conv1": {"bias": np.array([0, np.inf], np.float32)}}, 5, 4)


class Process:
    """`python -m alexnet_jax.main` in a process of its own."""

    def __init__(self, config: Config, folder: Path, workdir: Path):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "config_of_test.py"
        file.write_text(
            "from alexnet_jax import validation\n"
            f"def get_config():\n    return validation.from_dict({to_dict(config)!r}, 'test')\n"
        )
        self.workdir = workdir
        self.arguments = [sys.executable, "-m", "alexnet_jax.main", f"--config={file}", f"--workdir={workdir}"]

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
        )

    def run(self) -> tuple[int, str]:
        process = self.start()
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def stop_at_step(self, step: int, number: signal.Signals) -> tuple[int, str]:
        """Sends the signal once the metrics tell of this step."""
        process = self.start()
        metrics = self.workdir / "metrics.jsonl"
        while process.poll() is None:
            if metrics.exists() and f'"step": {step},' in metrics.read_text():
                process.send_signal(number)
                break
            time.sleep(0.02)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output


def test_a_killed_process_ends_with_the_same_bits(tiny_config: Config, tmp_path: Path) -> None:
    """Kill -9 in the middle of an epoch, then SIGTERM, then to the end: parameters, velocity and log are the same."""
    tiny_config.log.every_steps = 1
    whole = Process(tiny_config, tmp_path / "a", tmp_path / "whole")
    assert whole.run()[0] == 0
    broken = Process(tiny_config, tmp_path / "b", tmp_path / "broken")
    status, _ = broken.stop_at_step(9, signal.SIGKILL)
    assert status == -signal.SIGKILL
    status, output = broken.stop_at_step(16, signal.SIGTERM)
    assert status == EXIT_PREEMPTED, output
    assert "stopped by SIGTERM after step" in output
    assert "Traceback" not in output
    status, output = broken.run()
    assert status == 0, output
    assert "resuming from step" in output
    assert_same_bits(final_state(tiny_config, broken.workdir), final_state(tiny_config, whole.workdir))
    assert without_times(records(broken.workdir)) == without_times(records(whole.workdir))


def test_evaluate_reports_the_training_s_last_numbers_from_the_workdir_alone(uninterrupted) -> None:
    _, workdir = uninterrupted
    command = [sys.executable, "-m", "alexnet_jax.evaluate", f"--workdir={workdir}", "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "trained without mirror images (data.flip=False): 5 views of each image, not 10." in result.stderr
    printed, *before = json.loads(result.stdout), *records(workdir)
    assert before[-1] == printed
    trained = next(record for record in reversed(before[:-1]) if record["split"] == "validation")
    assert printed.keys() == trained.keys()
    for key, value in trained.items():
        assert printed[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4)), key
