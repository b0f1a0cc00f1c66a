"""Records on disk and in TensorBoard, across kills and resumes; timing; lines on the console; checks of the loss."""

import json
import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_jax import metrics
from alexnet_jax.config import Config
from alexnet_jax.errors import DivergedError, UserError
from alexnet_jax.run import monitoring
from alexnet_jax.run.metric_writer import Event, MetricWriter, SessionLog
from alexnet_jax.run.monitoring import Throughput
from alexnet_jax.run.reporter import Reporter


def training_record(step: int, **changes) -> dict:
    return {
        "step": step,
        "epoch": step / 100,
        "split": "train",
        "loss": 2.0,
        "top1_error": 50.0,
        "top5_error": 25.0,
        "learning_rate": 0.01,
        "images_per_second": 1000.0,
        "input_wait_fraction": 0.25,
        **changes,
    }


def evaluation_record(step: int, **changes) -> dict:
    return {
        "step": step,
        "epoch": step / 100,
        "split": "validation",
        "loss": 1.5,
        "top1_error": 40.664,
        "top5_error": 18.21,
        "views": 10,
        "num_examples": 50000,
        **changes,
    }


def records(workdir) -> list[dict]:
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir) -> list[Event]:
    """All events of a workdir in the order in which TensorBoard reads them; they are framed as in TFRecord files."""
    all_events = []
    for path in sorted(workdir.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            all_events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return all_events


def write(workdir, resumed_step, *lines) -> None:
    writer = MetricWriter(workdir, resumed_step)
    for line in lines:
        writer.write(line)
    writer.close()


def test_writes_each_record_as_one_line_at_once(tmp_path):
    writer = MetricWriter(tmp_path / "new" / "run", resumed_step=0)
    for record in (training_record(10), evaluation_record(10)):
        writer.write(record)
        assert records(tmp_path / "new" / "run")[-1] == record
    writer.close()


def test_a_training_knows_its_own_evaluation(tmp_path):
    """Neither the line of that step's batch, if the split is that of training, nor an evaluation made separately."""
    config = Config()
    config.data.eval_split, config.eval.views = "train", 1
    reporter = Reporter(config, tmp_path, num_examples=1000, num_steps=20, start=10)
    ten_views, other_split = evaluation_record(10, split="train"), evaluation_record(10, views=1)
    for record in (training_record(10), ten_views, other_split, evaluation_record(9, split="train", views=1)):
        metrics.append_record(tmp_path, record)
    assert reporter.recorded_evaluation(10) is None
    metrics.append_record(tmp_path, evaluation_record(10, split="train", views=1))
    result = {"loss": 1.5, "top1_error": 40.664, "top5_error": 18.21, "num_examples": 50000}
    assert reporter.recorded_evaluation(10) == result
    reporter.close()


def test_ten_views_are_five_in_the_log_of_a_net_that_sees_no_mirror_images(tmp_path, capsys):
    config = Config()
    config.eval.views, config.data.flip = 10, False
    reporter = Reporter(config, tmp_path, num_examples=1000, num_steps=20, start=0)
    result = {"loss": 1.0, "top1_error": 2.0, "top5_error": 1.0, "num_examples": 360}
    reporter.evaluation(10, result)
    assert records(tmp_path)[-1]["views"] == 5
    assert "360 images, 5 views)" in capsys.readouterr().out
    assert reporter.recorded_evaluation(10) == result
    reporter.close()


def test_takes_scalars_of_numpy_and_jax(tmp_path):
    changes = {"loss": jnp.float32(0.1), "learning_rate": np.float32(0.01), "top1_error": jnp.bfloat16(0.5)}
    write(tmp_path, 0, training_record(np.int32(3), epoch=0.03, **changes))
    assert records(tmp_path) == [training_record(3, loss=0.1, top1_error=0.5)]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float32_survives_the_file(tmp_path_factory, value):
    workdir = tmp_path_factory.mktemp("run")
    metrics.append_record(workdir, {"loss": np.float32(value)})
    assert np.float32(records(workdir)[0]["loss"]) == np.float32(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32(np.nan), jnp.bfloat16(jnp.inf), None])
def test_what_is_not_a_number_is_null(tmp_path, value):
    write(tmp_path, 0, training_record(1, images_per_second=value))
    assert records(tmp_path) == [training_record(1, images_per_second=None)]


def test_a_resumed_run_reads_like_an_uninterrupted_one(tmp_path):
    whole = [training_record(10), training_record(20), evaluation_record(20), training_record(30), training_record(40)]
    lost = training_record(30, loss=9.0)
    write(tmp_path / "uninterrupted", 0, *whole)
    write(tmp_path / "killed", 0, *whole[:3], lost)
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "epo')
    write(tmp_path / "killed", 20, *whole[3:])
    expected, resumed = (tmp_path / name / "metrics.jsonl" for name in ("uninterrupted", "killed"))
    assert resumed.read_bytes() == expected.read_bytes()
    assert not list((tmp_path / "killed").glob(".unfinished-*"))


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(width=32)), max_size=6), st.integers(0, 50))
def test_resuming_keeps_every_record_up_to_its_step(tmp_path_factory, drawn, resumed_step):
    """Whatever its numbers are: a loss of 1e38 is finite, and comes before training is stopped for an infinite one."""
    workdir = tmp_path_factory.mktemp("run")
    for step, loss in drawn:
        metrics.append_record(workdir, training_record(step, loss=np.float32(loss)))
    written = records(workdir) if drawn else []
    assert list(metrics.read_records(workdir)) == written
    write(workdir, resumed_step)
    assert list(metrics.read_records(workdir)) == [record for record in written if record["step"] <= resumed_step]


def test_a_run_that_starts_again_drops_what_was_never_saved(tmp_path):
    write(tmp_path, 0, training_record(10))
    write(tmp_path, 0)
    assert records(tmp_path) == []


def test_drops_lines_that_are_not_records(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\0\0\0\n[1]\n{"step": null}\n{"loss": 1}\n{"step": 2}\n')
    write(tmp_path, 2)
    assert records(tmp_path) == [{"step": 1}, {"step": 2}]


def test_append_replaces_a_line_left_half_written(tmp_path):
    for left in ("", '{"step": 1}\n'):
        (tmp_path / "metrics.jsonl").write_text(left + '{"step": 2, "los')
        metrics.append_record(tmp_path, {"step": 3})
        assert (tmp_path / "metrics.jsonl").read_text() == left + '{"step": 3}\n'


def test_only_the_enabled_writer_touches_the_workdir(tmp_path):
    writer = MetricWriter(tmp_path / "run", 0, enabled=False)
    writer.write(training_record(1))
    writer.close()
    assert not (tmp_path / "run").exists()


def test_tensorboard_scalars_and_the_restart(tmp_path):
    write(tmp_path, 0, training_record(10), evaluation_record(10, top1_error=np.float32(40.5)))
    write(tmp_path, 10, training_record(20, images_per_second=None))
    scalars = {(e.step, v.tag): v.simple_value for e in events(tmp_path) for v in e.summary.value}
    assert scalars[10, "train/loss"] == 2.0
    assert scalars[10, "train/learning_rate"] == np.float32(0.01)
    assert scalars[10, "validation/top1_error"] == 40.5
    assert {tag for step, tag in scalars if step == 20} == {
        f"train/{key}" for key in ("loss", "top1_error", "top5_error", "learning_rate", "input_wait_fraction")
    }
    assert {tag for _, tag in scalars if tag.startswith("validation")} == {
        f"validation/{key}" for key in ("loss", "top1_error", "top5_error")
    }
    # On START, TensorBoard drops the earlier events of this step and later ones.
    assert [e.step for e in events(tmp_path) if e.session_log.status == SessionLog.START] == [1, 11]


def test_tensorboard_is_up_to_date_after_every_record(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(training_record(1))
    assert events(tmp_path)[-1].step == 1
    writer.close()


def test_an_unwritable_workdir_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"/file/run can't be written \(Not a directory\); choose a writable folder"):
        MetricWriter(tmp_path / "file" / "run", 0)
    with pytest.raises(UserError, match=r"metrics\.jsonl can't be written \(No such file or directory\)"):
        metrics.append_record(tmp_path / "missing", {"step": 1})


FULL_DISK = """
import resource, signal, sys
from alexnet_jax.errors import UserError
from alexnet_jax.run.metric_writer import MetricWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails like one to a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
writer = MetricWriter(sys.argv[1], 0)
try:
    for step in range(100):
        writer.write({"step": step, "epoch": 0, "split": "train", "loss": 1.0})
except UserError as error:
    print(error)
"""


def test_a_full_disk_is_reported_in_a_sentence_and_leaves_whole_lines(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.startswith(str(tmp_path))
    assert "can't be written (File too large)" in run.stdout
    assert "Exception in thread" not in run.stderr
    metrics.append_record(tmp_path, {"step": 1})
    assert len(records(tmp_path)) > 10


def speed(images_per_second: float | None, input_wait_fraction: float | None) -> dict[str, float | None]:
    return {"images_per_second": images_per_second, "input_wait_fraction": input_wait_fraction}


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_throughput_counts_neither_the_first_step_nor_pauses():
    clock = Clock()
    throughput = Throughput(batch_size=32, clock=clock)

    def train(steps: int, wait: float, compute: float) -> None:
        for _ in range(steps):
            with throughput.waiting():
                clock.now += wait
            clock.now += compute
            throughput.step_done()

    assert throughput.seconds_left(5) is None
    train(1, wait=3.0, compute=60.0)
    assert throughput.lap() == speed(None, None)
    train(4, wait=0.5, compute=1.5)
    with throughput.paused():
        clock.now += 1000.0
    assert throughput.lap() == speed(pytest.approx(16.0), pytest.approx(0.25))
    assert throughput.seconds_left(5) == pytest.approx(10.0)
    train(4, wait=0.0, compute=1.0)
    assert throughput.lap() == speed(pytest.approx(32.0), 0.0)
    assert throughput.seconds_left(10) == pytest.approx(15.0)
    for _ in range(10):
        train(1, wait=0.0, compute=4.0)
        throughput.lap()
    assert throughput.seconds_left(2) == pytest.approx(8.0)


def test_throughput_of_a_lap_with_the_first_step():
    clock = Clock()
    throughput = Throughput(batch_size=8, clock=clock)
    for seconds in (60.0, 1.0, 1.0):
        with throughput.waiting():
            clock.now += seconds
        clock.now += seconds
        throughput.step_done()
    assert throughput.lap() == speed(pytest.approx(4.0), pytest.approx(0.5))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (3900, "1 h 5 min"),
        (86399, "23 h 59 min"),
        (500_000, "5 d 18 h"),
    ],
)
def test_durations(seconds, text):
    assert metrics.duration(seconds) == text


def test_console_lines():
    record = training_record(1200, epoch=0.1199, loss=4.56789, top1_error=83.21, images_per_second=1234.5)
    assert metrics.training_line(record, num_steps=900_810, num_epochs=90.0, seconds_left=12_345) == (
        "step   1,200/900,810  epoch 0.12/90  loss 4.5679  top-1 error  83.2 %  learning rate 0.01  "
        "1,234 images/s  25 % waiting for input  3 h 25 min left"
    )
    first = training_record(1, images_per_second=None, input_wait_fraction=None)
    assert metrics.training_line(first, num_steps=10, num_epochs=0.1, seconds_left=None) == (
        "step  1/10  epoch 0.01/0.1  loss 2.0000  top-1 error  50.0 %  learning rate 0.01"
    )
    assert metrics.evaluation_line(evaluation_record(900_810)) == (
        "step 900,810  validation: top-1 error 40.66 %, top-5 error 18.21 %, loss 1.5000 (50,000 images, 10 views)"
    )
    assert metrics.evaluation_line(evaluation_record(10, top5_error=None, views=1)) == (
        "step 10  validation: top-1 error 40.66 %, loss 1.5000 (50,000 images, 1 view)"
    )


def test_five_classes_have_no_top_5_error(tmp_path, capsys):
    """Null in both kinds of records, absent in TensorBoard and in the line; six classes have one."""
    for classes, error in ((5, None), (6, 1.5)):
        config, folder = Config(), tmp_path / str(classes)
        config.model.num_classes = classes
        reporter = Reporter(config, folder, num_examples=1000, num_steps=20, start=0)
        values = {"loss": jnp.float32(1.0), "top1_error": jnp.float32(2.0), "top5_error": jnp.float32(1.5)}
        reporter.training(20, values, None)
        reporter.evaluation(20, {**values, "num_examples": 360})
        reporter.close()
        assert [record["top5_error"] for record in records(folder)] == [error] * 2
        assert ("top-5" in capsys.readouterr().out) == (error is not None)
        tags = {value.tag for event in events(folder) for value in event.summary.value}
        assert ("validation/top5_error" in tags) == ("train/top5_error" in tags) == (error is not None)


def test_a_plateau_is_warned_about_once_with_what_to_check():
    watch = monitoring.PlateauWatch(num_classes=1000, after_steps=2000)
    assert all(watch.warning(step, 6.908) is None for step in range(0, 2000, 20))
    warning = watch.warning(2000, 6.9)
    assert "ln(1000)" in warning
    for hint in ("0-255", "0.03", "conv3", "initialization=he", "learning_rate", "labels"):
        assert hint in warning
    assert warning.count(". ") == 1
    assert watch.warning(2020, 6.908) is None


@pytest.mark.parametrize("losses", [[6.908] * 50 + [6.5] * 10, [6.908] * 50 + [6.84, 6.82] * 5, [7.5] * 60])
def test_no_plateau_once_the_loss_has_left_it(losses):
    watch = monitoring.PlateauWatch(num_classes=1000, after_steps=59)
    assert [watch.warning(step, loss) for step, loss in enumerate(losses)] == [None] * 60


def test_plateau_is_judged_on_a_mean():
    """Ten classes: by chance the loss of a small batch is more than 1 % away from ln(10) = 2.303."""
    watch = monitoring.PlateauWatch(num_classes=10, after_steps=10)
    warnings = [watch.warning(step, loss) for step, loss in enumerate([2.27, 2.34] * 6)]
    assert [w is not None for w in warnings] == [False] * 10 + [True, False]


def test_plateau_is_not_judged_on_the_first_loss_after_a_resumption():
    """Nor on the only one, with `log.every_steps` = `log.plateau_steps`."""
    watch = monitoring.PlateauWatch(num_classes=10, after_steps=2000)
    warnings = [watch.warning(step, loss) for step, loss in zip(range(5000, 5020), [2.303] + [2.0] * 19, strict=True)]
    assert warnings == [None] * 20


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, np.float32(np.nan)])
def test_a_loss_that_is_not_finite_stops_the_run(loss):
    with pytest.raises(DivergedError, match=r"at step 1,234: .*step 1,000.*learning_rate") as caught:
        monitoring.check_finite(loss, step=1234, last_checkpoint_step=1000)
    assert caught.value.exit_status == 3
    with pytest.raises(DivergedError, match="no checkpoint"):
        monitoring.check_finite(loss, step=3, last_checkpoint_step=None)


def test_a_finite_loss_does_not_stop_it():
    monitoring.check_finite(np.float32(3e38), step=1, last_checkpoint_step=None)
