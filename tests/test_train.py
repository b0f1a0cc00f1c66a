"""What a run leaves behind, and that stopping it in any way changes nothing in the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from training_pieces import pieces

from alexnet_jax import validation
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, to_dict
from alexnet_jax.errors import EXIT_DIVERGED, EXIT_PREEMPTED, DivergedError
from alexnet_jax.state import abstract_train_state
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
    """A run from start to end."""
    workdir = tmp_path / "uninterrupted"
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
        assert record["num_examples"] == 360
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
    printed, *before = json.loads(result.stdout), *records(workdir)
    assert before[-1] == printed
    trained = next(record for record in reversed(before[:-1]) if record["split"] == "validation")
    assert printed.keys() == trained.keys()
    for key, value in trained.items():
        assert printed[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4)), key
