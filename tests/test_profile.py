"""`config.profile`: a trace of the requested steps, which does not change the training."""

from jax.profiler import ProfileData

from alexnet_jax.run.monitoring import WARM_UP
from alexnet_jax.train import train_and_evaluate


def traced_operations(folder):
    """How often each operation of a compiled program ran in the trace, by name."""
    (file,) = folder.rglob("*.xplane.pb")
    names = [
        dict(event.stats).get("hlo_op")
        for plane in ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
    ]
    return {name: names.count(name) for name in set(names) - {None}}


def losses(folder):
    return [line.split('"loss": ')[1].split(",")[0] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_requested_steps_are_traced_and_nothing_else_changes(tiny_config, tmp_path):
    tiny_config.num_epochs = 1.1  # 13 steps
    train_and_evaluate(tiny_config, tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()

    tiny_config.profile = 2
    train_and_evaluate(tiny_config, tmp_path / "traced")
    operations = traced_operations(tmp_path / "traced" / "profile")
    assert max(operations.values()) % 2 == 0
    assert sum(count == 2 for count in operations.values()) > 100  # once per step
    assert losses(tmp_path / "traced") == losses(tmp_path / "plain")


def test_a_run_that_ends_earlier_writes_what_was_traced(tiny_config, tmp_path, capsys):
    tiny_config.num_epochs = (WARM_UP + 1) / 12
    tiny_config.profile = 5
    train_and_evaluate(tiny_config, tmp_path)
    assert traced_operations(tmp_path / "profile")
    assert f"Trace of steps {WARM_UP + 1} to {WARM_UP + 1}: " in capsys.readouterr().out
