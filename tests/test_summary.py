"""The printed table and its JSON agree with the paper and the mesh, and need no JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import to_dict
from alexnet_jax.model.sharding import parameter_specs
from alexnet_jax.model.variants import VARIANTS
from configs import quickstart

ROOT = Path(__file__).resolve().parents[1]


def summary(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alexnet_jax.summary", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def as_json(*arguments: str) -> dict:
    result = summary("--json", *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def cells(line: str) -> list[str]:
    """Split a line of the table into its cells, which are two or more spaces apart."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_table_of_the_paper():
    result = summary("--config=configs/paper.py")
    assert result.returncode == 0, result.stderr
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert cells(lines["layer"]) == [
        *("layer", "description", "output", "neurons", "parameters", "multiply-adds", "KiB"),
        *("output sharding", "kernel sharding", "initialization"),
    ]
    assert cells(lines["conv1"]) == [
        *("conv1", "96 kernels 11x11x3, stride 4, padding 0 before, 3 after", "55x55x96"),
        *("290,400", "34,944", "105,415,200", "1,134.4", "data", "Gaussian 0.01, biases 0"),
    ]
    assert cells(lines["conv2"])[1:3] == ["256 kernels 5x5x48, padding 2, sees its own tower", "27x27x256"]
    assert cells(lines["norm1"])[1] == "LRN over 5 channels, k=2, alpha=0.0001, beta=0.75, within a tower"
    assert cells(lines["total"])[1:4] == ["659,272", "60,965,224", "724,406,816"]
    assert "figure 2 misprints 253,440" in result.stdout
    assert '659,272 neurons are the "650,000 neurons"' in result.stdout


def test_json_of_two_towers_on_two_devices():
    found = as_json("--config=configs/original.py", "--config.mesh.tower=2", "--config.precision=bfloat16")
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert list(layers) == list(VARIANTS["original"].names)
    assert layers["conv4"] == {
        "name": "conv4",
        "description": "384 kernels 3x3x192, padding 1, sees its own tower",
        "output_shape": [13, 13, 384],
        "neurons": 64_896,
        "parameters": 663_936,
        "multiply_adds": 112_140_288,
        "activation_bytes": 13 * 13 * 192 * 2,
        "initialization": "Gaussian 0.03, biases 1",
        "output_spec": ["data", None, None, "tower"],
        "kernel_spec": [None, None, None, "tower"],
    }
    assert layers["relu4"]["kernel_spec"] is None
    assert layers["relu4"]["neurons"] == layers["relu4"]["parameters"] == 0
    assert layers["fc8"]["output_spec"] == ["data", None]  # every device has all logits, in float32
    assert layers["fc8"]["activation_bytes"] == 4000
    assert found["total"]["parameters"] == 60_965_224
    assert found["total"]["parameters_on_device"] == (60_965_224 - 1000) // 2 + 1000
    assert found["total"]["parameter_and_momentum_bytes"] == 8 * found["total"]["parameters_on_device"]
    assert found["total"]["activation_bytes"] == sum(layer["activation_bytes"] for layer in found["layers"])
    assert (found["mesh"]["data"], found["mesh"]["tower"]) == (-1, 2)
    assert len(found["notes"]) == 2


@pytest.mark.parametrize(("variant", "tower"), [("six_conv", 2), ("no_communication", 2), ("merged", 1)])
def test_kernels_are_sharded_as_training_shards_them(variant, tower):
    found = as_json(f"--config=configs/{variant}.py", f"--config.mesh.tower={tower}")
    specs = {layer["name"]: layer["kernel_spec"] for layer in found["layers"] if layer["kernel_spec"] is not None}
    expected = parameter_specs(VARIANTS[variant], tower_devices=tower)
    assert {name: P(*spec) for name, spec in specs.items()} == {name: spec["kernel"] for name, spec in expected.items()}


def test_a_hybrid_shards_its_fully_connected_layers_over_data():
    found = as_json(
        *("--config=configs/one_weird_trick.py", "--config.mesh.data=8", "--config.mesh.shard_fully_connected=True")
    )
    layers = {layer["name"]: layer for layer in found["layers"]}
    specs = {name: P(*layer["kernel_spec"]) for name, layer in layers.items() if layer["kernel_spec"] is not None}
    expected = parameter_specs(VARIANTS["one_weird_trick"], tower_devices=1, fc_devices=8)
    assert specs == {name: spec["kernel"] for name, spec in expected.items()}
    assert layers["pool5"]["output_spec"] == ["data", None, None, None]
    assert layers["relu6"]["output_spec"] == [None, "data"]
    assert layers["relu6"]["activation_bytes"] == 4096 // 8 * 4
    assert layers["fc8"]["output_spec"] == ["data", None]
    convolutions = sum(layer["parameters"] for name, layer in layers.items() if name.startswith("conv"))
    fully_connected = sum(layer["parameters"] for name, layer in layers.items() if name.startswith("fc"))
    assert found["total"]["parameters_on_device"] == convolutions + (fully_connected - 1000) // 8 + 1000


def test_a_workdir_has_the_config_of_its_net(tmp_path):
    config = quickstart.get_config()
    config.model.num_classes = 7
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    expected = as_json("--config=configs/quickstart.py", "--config.model.num_classes=7")
    assert as_json(f"--workdir={tmp_path}") == expected
    for arguments, words in {
        (f"--workdir={tmp_path}", "--config=configs/paper.py"): "give either --config or --workdir",
        (f"--workdir={tmp_path / 'x'}",): f"{tmp_path / 'x'} holds no run",
    }.items():
        result = summary(*arguments)
        assert result.returncode == 2
        assert words in result.stderr


def test_options_are_named_and_notes_appear_only_where_they_apply():
    found = as_json("--config=configs/torchvision.py", "--config.model.dropout=none", "--config.model.num_classes=10")
    assert found["options"] == {"model.dropout": "none"}
    assert found["num_classes"] == 10
    assert found["notes"] == []
    assert found["layers"][0]["initialization"] == f"uniform +-{(11 * 11 * 3) ** -0.5:.4f}, biases the same"


def test_jax_is_not_needed(tmp_path):
    """A module named jax that can't be imported comes first on the path; the summary does not notice."""
    (tmp_path / "jax.py").write_text("raise ImportError('the summary needs no JAX')")
    result = subprocess.run(
        [sys.executable, "-m", "alexnet_jax.summary", "--config=configs/quickstart.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.model.variant=mergd"], "allowed: paper, original, merged,"),
        (["--config.model.variant=mergd"], "Did you mean 'merged'?"),
        (
            ["--config.model.variant=torchvision", "--config.model.normalization=second"],
            "config.model.variant='torchvision' contradicts model.normalization='second'",
        ),
        (["--config.model.image_size=20"], "config.model.image_size=20 is too small: pool2 needs a window of 3 pixels"),
        (["--config.model.variant=merged", "--config.mesh.tower=2"], "config.mesh.tower=2 needs a net with two towers"),
        (["paper"], "unexpected argument 'paper'"),
        (
            ["--config.model.variant=merged", "--config.mesh.shard_fully_connected=True"],
            "config.mesh.data=-1 leaves open over how many devices",
        ),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, words):
    result = summary("--config=configs/paper.py", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_a_reader_that_stops_reading_is_not_an_error() -> None:
    command = f"{sys.executable} -m alexnet_jax.summary --config=configs/paper.py | head -n 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert result.stderr == ""
