"""Benchmarks measure what they claim: the peer is the same net, contenders take turns, rows name what was run."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from alexnet_jax.config import ModelConfig
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import LayerShape, Net, ResponseNorm, layer_shapes
from benchmarks import lrn, operations, ours, peer, records, step, table
from benchmarks.harness import Contender, FailedError, Times, clean_environment, once, race
from benchmarks.predict import load_weights

SIDE, CLASSES, BATCH = 80, 10, 2
TASKS = """
from benchmarks.work import Work

def build(name, log):
    def run(calls):
        with open(log, "a") as file:
            file.write(name * calls)
    return Work({"piece": run}, {"name": name})

def fail():
    raise OSError("no such device")

def measure(value):
    print("libraries may print")
    return {"value": value}
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which `some_tasks` can be imported."""
    (tmp_path / "some_tasks.py").write_text(TASKS)
    return {"PYTHONPATH": str(tmp_path)}


def as_the_peer(net: Net) -> Net:
    """Return the net with the peer's one deviation: windows over the channels of both towers."""
    return dataclasses.replace(
        net,
        layers=tuple(
            dataclasses.replace(layer, across="all") if isinstance(layer, ResponseNorm) else layer
            for layer in net.layers
        ),
    )


def in_pytorch_order(kernel: np.ndarray, shape: LayerShape) -> np.ndarray:
    """Return a kernel of ours as PyTorch stores it; fully connected ones see channels before rows and columns."""
    if kernel.ndim == 2 and len(shape.input_shape) == 1:
        return kernel.T
    height_width_channels = shape.input_shape if kernel.ndim == 2 else kernel.shape[:-1]
    oihw = kernel.reshape(*height_width_channels, -1).transpose(3, 2, 0, 1)
    return oihw if kernel.ndim == 4 else oihw.reshape(len(oihw), -1)


@pytest.mark.parametrize("variant", ["paper", "original", "one_weird_trick"])
def test_the_peer_is_the_same_net(variant: str) -> None:
    model = ModelConfig(variant=variant, dropout="inverted", conv_width=0.1, fc_width=0.01, initialization="he")
    net = as_the_peer(build_net(model))
    random = np.random.default_rng(0)
    images = random.normal(0, 60, (BATCH, SIDE, SIDE, 3)).astype(np.float32)
    labels = random.integers(0, CLASSES, BATCH)
    module = AlexNet(net=net, num_classes=CLASSES)
    params = module.init(jax.random.key(0), images)["params"]

    def our_loss(params):
        log_probabilities = jax.nn.log_softmax(module.apply({"params": params}, images))
        return -log_probabilities[jnp.arange(BATCH), labels].mean()

    expected, gradients = jax.jit(jax.value_and_grad(our_loss))(params)

    theirs = peer.network(net, SIDE, CLASSES).eval()
    shapes = {shape.layer.name: shape for shape in layer_shapes(net, SIDE, CLASSES)}
    arrays = {f"{layer}/{kind}": np.asarray(value) for layer, both in params.items() for kind, value in both.items()}
    load_weights(theirs, shapes.values(), arrays)
    loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(images.transpose(0, 3, 1, 2))), torch.tensor(labels))
    loss.backward()

    np.testing.assert_allclose(loss.item(), expected, rtol=1e-4)
    for name, values in gradients.items():
        expected = in_pytorch_order(np.asarray(values["kernel"]), shapes[name])
        actual = theirs.get_submodule(name).weight.grad.numpy()
        np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max(), err_msg=name)


def test_operations_are_those_of_the_layers_in_the_paper() -> None:
    conv1 = 55**2 * 11 * 11 * 3 * 96
    others = 27**2 * 25 * 48 * 256 + 13**2 * 9 * (256 * 384 + 192 * 384 + 192 * 256)
    dense = 9216 * 4096 + 4096 * 4096 + 4096 * 1000
    assert step.operations("paper", 1.0, "inference") == 2 * (conv1 + others + dense)
    assert step.operations("paper", 1.0, "training") == 4 * conv1 + 6 * (others + dense)


def test_both_sides_of_a_step_run() -> None:
    arguments = {"variant": "paper", "batch": 2, "precision": "float32", "width": 0.05}
    ours.train_step(**arguments, augmentation=True).pieces["training"](2)
    theirs = {"device": "cpu", "layout": "channels_last", "mode": "eager"}
    peer.train_step(**arguments, **theirs).pieces["training"](2)
    peer.predict_step(**arguments, **theirs).pieces["inference"](1)


def test_contenders_take_turns_and_failing_ones_are_left_out(
    tmp_path: Path, environment: dict[str, str], capfd: pytest.CaptureFixture
) -> None:
    log = tmp_path / "log"
    contenders = [
        Contender("a", "some_tasks:build", {"name": "a", "log": str(log)}, environment),
        Contender("broken", "some_tasks:fail", {}, environment),
        Contender("b", "some_tasks:build", {"name": "b", "log": str(log)}, environment),
    ]
    result = race(contenders, repeats=4, seconds=0.0)
    assert log.read_text().endswith("abbaabba")
    assert result.times["piece"].keys() == result.notes.keys() == {"a", "b"}
    assert result.notes["b"] == {"name": "b"}
    assert "no such device" in capfd.readouterr().err
    with pytest.raises(FailedError):
        race(contenders[1:2], repeats=1)


def test_a_task_that_measures_by_itself_answers_once(environment: dict[str, str]) -> None:
    assert once(Contender("c", "some_tasks:measure", {"value": 1.5}, environment)) == {"value": 1.5}


def test_contenders_do_not_inherit_settings_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    monkeypatch.setenv("HOME_OF_THE_TEST", "here")
    environment = clean_environment()
    assert environment["HOME_OF_THE_TEST"] == "here"
    assert not {"OMP_NUM_THREADS", "GLIBC_TUNABLES"} & environment.keys()


def test_median_and_quartiles() -> None:
    assert Times.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Times(median=3.0, low=2.0, high=4.0)
    assert Times.of([2.0]) == Times(2.0, 2.0, 2.0)


def test_a_benchmark_leaves_a_row_and_the_readme_shows_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    results = tmp_path / "results.jsonl"
    options = [
        "--batch=1",
        "--repeats=2",
        "--seconds=0",
        "--modes",
        "eager",
        "--layouts",
        "NCHW",
        f"--results={results}",
    ]
    monkeypatch.setattr(sys, "argv", ["lrn.py", *options])
    row = operations.compare("lrn", operations.parser(lrn.__doc__).parse_args())
    assert json.loads(results.read_text()) == row
    assert row["benchmark"] == "lrn"
    assert row["settings"]["batch"] == 1
    assert row["command"].startswith("python -m benchmarks.lrn --batch=1")
    assert row["versions"]["jax"] == jax.__version__
    assert row["versions"]["torch"] == torch.__version__
    assert row["hardware"]["cpu"]
    assert [(line["column"], line["operation"]) for line in row["lines"]] == [
        (column, f"{shape}, {part}")
        for column in ("as installed", "at best")
        for shape in ("55 x 55 x 96", "27 x 27 x 256")
        for part in ("forward", "forward and backward")
    ]
    assert all(line["ours, ms"] > 0 and line["PyTorch eager, ms"] > 0 for line in row["lines"])
    assert records.markdown(row["lines"]) in capsys.readouterr().out

    older = {**row, "lines": [{**line, "ours, ms": 98765} for line in row["lines"]]}
    readme = f"before\n{table.START}\nold\n{table.END}\nafter\n"
    written = table.with_results(readme, [older, row])
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert row["command"] in written
    assert table.environment(row) in written
    assert records.markdown(table.compact("lrn", row["lines"])) in written
    assert all(f"{line['ours, ms']} ({line['quartiles'].replace(' to ', '–')})" in written for line in row["lines"])
    assert all(str(line["PyTorch eager, ms"]) in written for line in row["lines"])
    assert "old" not in written
    assert "98765" not in written
    assert table.with_results(written, [older, row]) == written


def test_the_readme_has_both_comparisons_side_by_side_and_the_faster_mode() -> None:
    line = {"column": "as installed", "operation": "a", "ours, ms": 2.0, "quartiles": "1.0 to 3.0"}
    line |= {"PyTorch eager, ms": 8.0, "PyTorch compiled, ms": 4.0, "ours is faster": "2.00x", "ours, GFLOP/s": 5.0}
    at_best = {**line, "column": "at best", "ours, ms": 2.5, "PyTorch eager, ms": None, "ours is faster": "1.60x"}
    assert table.compact("layers", [line, at_best]) == [
        {
            "operation": "a",
            "ours, ms (quartiles)": "2.0 (1.0–3.0)",
            "PyTorch, ms": 4.0,
            "ours is faster": "2.00x",
            "at best: ours, ms (quartiles)": "2.5 (1.0–3.0)",
            "at best: PyTorch, ms": 4.0,
            "at best: ours is faster": "1.60x",
        }
    ]


def test_steps_of_both_layouts_are_one_line_of_the_readme() -> None:
    lines = [
        {"column": "as installed", "contender": "PyTorch eager, NCHW", "ms": 2.0, "ours is faster": "2.00x"},
        {"column": "as installed", "contender": "matmul 3072, JAX", "ms": 1.0, "ours is faster": None},
        {"column": "at best", "contender": "PyTorch eager, channels_last", "ms": 1.5, "ours is faster": "1.50x"},
        {"column": "at best", "contender": "PyTorch compiled, NCHW", "ms": 1.4, "ours is faster": "1.40x"},
    ]
    eager, compiled = table.compact("step", lines)
    assert list(eager.values()) == ["PyTorch eager", 2.0, "2.00x (NCHW)", 1.5, "1.50x (channels_last)"]
    assert list(compiled.values()) == ["PyTorch compiled", None, None, 1.4, "1.40x (NCHW)"]


def test_a_result_from_another_machine_names_it() -> None:
    row = {"benchmark": "prepare", "time": "2026-01-02T03:04", "commit": "abc", "versions": {"jax": "1"}}
    row |= {"lines": [{"images/s": 1}], "hardware": {"cpu": "A", "cores": 2, "gpu": None}}
    rows = [{**row, "command": f"python -m {name}", "settings": name} for name in "xyz"]
    rows[1] = {**rows[1], "hardware": {"cpu": "A", "cores": 2, "gpu": "B"}}
    text = table.results(rows)
    assert text.startswith("Unless a result names others, hardware and versions are: A, 2 cores, jax 1.")
    assert "`python -m y`, 2026-01-02, commit abc, B, jax 1:" in text
    assert "`python -m z`, 2026-01-02, commit abc:" in text


def test_numbers_are_kept_to_four_digits() -> None:
    assert [records.rounded(value) for value in (0.0123456, 12345.6, 1.0, "text", 7)] == [
        0.01235,
        12350,
        1.0,
        "text",
        7,
    ]


@pytest.mark.parametrize(
    ("argument", "kept"),
    [("--batch=64", "--batch=64"), ("--photos=/home/me/photos", "--photos=PATH"), ("a/b", "PATH"), ("--x", "--x")],
)
def test_a_row_does_not_name_folders_of_this_machine(argument, kept):
    assert records.without_path(argument) == kept
