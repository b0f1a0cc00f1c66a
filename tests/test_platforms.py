"""What is chosen for accelerators computes what is chosen for CPUs; and what XLA makes of it for a GPU stays small."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from random_nets import QUICK_TO_COMPILE, random_images, random_params, relative_errors

from alexnet_jax.config import ModelConfig
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.normalization import local_response_normalization, within_pooling
from alexnet_jax.model.pooling import max_pool
from alexnet_jax.rng import Purpose, example_keys
from benchmarks.gpu_program import Kernel, kernels

ROOT = Path(__file__).resolve().parents[1]
CUDA_PYTHON = Path(os.environ.get("ALEXNET_JAX_CUDA_PYTHON", ROOT / ".venv-cuda" / "bin" / "python"))
CLASSES, BATCH, IMAGE_SIZE = 7, 4, 67
LABELS = np.arange(BATCH) % CLASSES
KEYS = example_keys(0, Purpose.DROPOUT, jnp.arange(BATCH))
IMAGES = random_images(BATCH, IMAGE_SIZE).astype(np.float32)


def logits_and_gradients(variant: str, dtype: str) -> dict:
    """Return the logits of a training step of a narrow net, and the gradients of its parameters."""
    net = build_net(ModelConfig(variant=variant, conv_width=1 / 12, fc_width=1 / 64))
    of_params = np.float64 if dtype == "float64" else np.float32
    params = jax.tree.map(of_params, random_params(net, IMAGE_SIZE, CLASSES))
    model = AlexNet(net, CLASSES, jnp.dtype(dtype))

    def loss(params: dict) -> tuple[jax.Array, jax.Array]:
        logits = model.apply({"params": params}, IMAGES, KEYS)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK_TO_COMPILE)(params)
    return {"logits": logits} | gradients


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower what accelerators get, whatever the platform."""
    monkeypatch.setattr(lax, "platform_dependent", lambda *operands, cpu, default: default(*operands))


@pytest.mark.parametrize("variant", ["paper", "caffenet"])
def test_the_mathematics_are_the_same(variant: str, request: pytest.FixtureRequest) -> None:
    with jax.enable_x64(True):
        on_cpu = logits_and_gradients(variant, "float64")
        request.getfixturevalue("accelerator")
        assert max(relative_errors(logits_and_gradients(variant, "float64"), on_cpu).values()) < 1e-11


@pytest.mark.parametrize(("dtype", "unit"), [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_rounding_is_no_worse(dtype: str, unit: float, request: pytest.FixtureRequest) -> None:
    with jax.enable_x64(True):
        exact = logits_and_gradients("paper", "float64")
    on_cpu = relative_errors(logits_and_gradients("paper", dtype), exact)
    request.getfixturevalue("accelerator")
    for name, error in relative_errors(logits_and_gradients("paper", dtype), exact).items():
        assert error < 1.5 * on_cpu[name] + unit, name


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("values", [3, 1000])  # with three values, most windows hold their maximum several times
def test_pooling_what_is_normalized_at_once_is_pooling_it_afterwards(precision: str, values: int) -> None:
    """The same values; the same places, of maxima below zero too; and so the same gradient, but for rounding."""
    rule = {"before": 2, "after": 2, "coefficient": 1e-2, "beta": 0.75, "k": 2.0, "groups": 2}
    random = np.random.default_rng(0)
    x = jnp.asarray(random.integers(-values, values, (2, 9, 8, 12)) / values * 4, precision)
    cotangent = jnp.asarray(random.integers(1, 9, (2, 4, 3, 12)), precision)

    def value_and_gradient(function: Callable) -> list[np.ndarray]:
        y, backward = jax.vjp(function, x)
        return [np.asarray(array, np.float32) for array in (y, *backward(cotangent))]

    at_once = value_and_gradient(jax.jit(lambda x: max_pool(x, 3, 2, within_pooling(**rule))))
    afterwards = value_and_gradient(jax.jit(lambda x: max_pool(local_response_normalization(x, **rule), 3, 2)))
    np.testing.assert_array_equal(at_once[0], afterwards[0])
    largest = np.abs(afterwards[1]).max()
    np.testing.assert_allclose(at_once[1], afterwards[1], atol=largest * (1e-6 if precision == "float32" else 2**-7))


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("nan", [np.nan, -np.nan])
def test_not_a_number_is_not_hidden_by_pooling_at_once(nan: float) -> None:
    x = jnp.ones((1, 5, 5, 8), jnp.bfloat16).at[0, 1, 1, 0].set(nan)
    of = within_pooling(before=1, after=1, coefficient=1.0, beta=0.75, k=2.0)
    y, _ = jax.vjp(lambda x: max_pool(x, 3, 2, of), x)
    assert np.isnan(np.asarray(y, np.float32)).sum() == 2  # in its window, that channel and its neighbor


PROGRAM = """
%fused (p: f32[8,4]) -> bf16[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %c = bf16[8,4]{1,0} convert(%p)
}

%graph (a: bf16[8,4]) -> bf16[8,4] {
  %a = bf16[8,4]{1,0} parameter(0)
  ROOT %copy = bf16[8,4]{1,0} copy(%a)
}

ENTRY %main (x: f32[8,4], w: f32[4,2]) -> (bf16[8,4], f32[8,2]) {
  %x = f32[8,4]{1,0} parameter(0)
  %w = f32[4,2]{1,0} parameter(1)
  %f = bf16[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/convert"}
  %m = (f32[8,2]{1,0}, u8[1024]{0}) custom-call(%x, %w), custom_call_target="__cublas$gemm"
  %g = f32[8,2]{1,0} get-tuple-element(%m), index=0
  %again = bf16[8,4]{1,0} call(%f), to_apply=%graph
  ROOT %t = (bf16[8,4]{1,0}, f32[8,2]{1,0}) tuple(%again, %g)
}
"""


def test_kernels_and_their_bytes_are_read_from_the_program() -> None:
    assert kernels(PROGRAM) == [
        Kernel("f", "loop", 8 * 4 * (4 + 2), "jit(f)/convert"),
        Kernel("m", "cublas$gemm", 8 * 4 * 4 + 4 * 2 * 4 + 8 * 2 * 4, ""),  # without the scratch memory
        Kernel("copy", "copy", 2 * 8 * 4 * 2, ""),
    ]


@pytest.mark.slow
@pytest.mark.skipif(not CUDA_PYTHON.exists(), reason="needs .venv-cuda: bash benchmarks/gpu_environment.sh")
@pytest.mark.parametrize(
    ("flags", "gigabytes", "launches"),
    [
        (["--variant=paper"], 9.4, 117),
        (["--variant=paper", "--tower=2"], 6.6, 124),
        (["--variant=one_weird_trick"], 7.85, 112),
        (["--variant=paper", "--what=inference"], 2.6, 31),
    ],
)
def test_the_gpu_program_moves_no_more_bytes(flags: list[str], gigabytes: float, launches: int, tmp_path: Path) -> None:
    """In bfloat16 with 512 images, as in docs/performance.md; XLA's next version may need other numbers."""
    results = tmp_path / "results.jsonl"
    command = [CUDA_PYTHON, "-m", "benchmarks.gpu_program", *flags, f"--results={results}"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=True)
    line = json.loads(results.read_text())["lines"][0]
    assert line["GB moved"] < gigabytes
    assert line["kernels"] < launches
