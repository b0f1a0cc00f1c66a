"""Every net against one written independently in PyTorch from the published tables: the same logits and gradients.

PyTorch's own convolution (with `groups`), local_response_norm, max_pool2d and automatic differentiation are the
reference; this project's layer data is not used.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_nets import QUICK_TO_COMPILE, random_images, random_params, relative_errors

from alexnet_jax.config import ModelConfig
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.alexnet import AlexNet

IMAGE_SIZE, CLASSES, BATCH = 99, 7, 2  # 99 pixels leave 2 x 2 after the last pooling, so the order of rows matters


class Torch(NamedTuple):
    """A net in PyTorch: the operations after each convolution, in order, and the differences of the published nets."""

    first: str = "relu norm pool"
    second: str = "relu norm pool"
    last: str = "relu pool"
    groups: tuple[int, ...] = (2, 1, 2, 2)  # of conv2 to conv5
    sixth: bool = False
    fc_groups: int = 1
    pad1: tuple[int, int] = (0, 3)
    pads: tuple[int, ...] = (2, 1, 1, 1)  # of conv2 to conv5
    norm: str = "printed"
    pool: tuple[int, int] = (3, 2)
    ceil: bool = False  # pooling windows may stick out
    keep: float = 0.5  # factor of the two hidden layers' outputs at test time
    function: str = "relu"
    without: str = ""


PAPER = Torch()
ORIGINAL = Torch(first="norm pool relu", second="relu norm map pool", last="pool relu", norm="released")
CAFFE = Torch(pad1=(0, 0), norm="caffe", keep=1.0)
ONE_TOWER = (1, 1, 1, 1)
NETS = {
    "paper": PAPER,
    "original": ORIGINAL,
    "merged": PAPER._replace(groups=ONE_TOWER),
    "one_tower": ORIGINAL._replace(groups=ONE_TOWER),
    "six_conv": ORIGINAL._replace(sixth=True),
    "no_communication": ORIGINAL._replace(groups=(2, 2, 2, 2), fc_groups=2),
    "caffe": CAFFE,
    "caffenet": CAFFE._replace(first="relu pool norm", second="relu pool norm"),
    "one_weird_trick": ORIGINAL._replace(groups=ONE_TOWER, second="relu norm pool"),
    "torchvision": Torch("relu pool", "relu pool", groups=ONE_TOWER, pad1=(2, 2), keep=1.0),
}
NO_OVERLAP = {"pool": (2, 2), "ceil": True, "pads": (1, 1, 1, 0)}
ABLATIONS = [
    ("paper", {"pooling": "non_overlapping"}, PAPER._replace(**NO_OVERLAP)),
    ("original", {"pooling": "non_overlapping"}, ORIGINAL._replace(**NO_OVERLAP)),
    ("paper", {"activation": "tanh"}, PAPER._replace(function="tanh")),
    ("original", {"activation": "tanh"}, ORIGINAL._replace(function="tanh")),
    ("original", {"second_normalization": "before_relu"}, ORIGINAL._replace(second="norm map relu pool")),
    ("original", {"normalization": "none"}, ORIGINAL._replace(first="pool relu", second="relu pool")),
    ("original", {"normalization": "first"}, ORIGINAL._replace(second="relu pool")),
    ("paper", {"without": "conv3", "dropout": "none"}, PAPER._replace(without="conv3", keep=1.0)),
    ("caffe", {"without": "conv4", "dropout": "original"}, CAFFE._replace(without="conv4", keep=0.5)),
]
TOLERANCES = {"float32": 1e-5, "float64": 1e-10}
CASES = [(name, {}, net, dtype) for name, net in NETS.items() for dtype in TOLERANCES]
CASES += [(*case, "float64") for case in ABLATIONS]
IDS = ["-".join([name, *options.values(), dtype]) for name, options, _, dtype in CASES]


def convolution(x, layer, stride=1, padding=(0, 0), groups=1):
    before, after = padding
    return F.conv2d(F.pad(x, (before, after, before, after)), layer["weight"], layer["bias"], stride, groups=groups)


def normalization(x, kind: str):
    """F.local_response_norm divides alpha by the size; the printed formula does not."""
    if kind == "caffe":  # over all channels, whatever their group
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)
    towers = 2 if kind.startswith("two") else 1
    alpha = 5e-4 if kind.endswith("printed") else 1e-4
    return torch.cat([F.local_response_norm(tower, 5, alpha, 0.75, 2.0) for tower in x.chunk(towers, dim=1)], dim=1)


def map_normalization(x):
    """Apply cuda-convnet's `rnorm`: the base is 1 + 0.001/25 times the sum of squares over 5 x 5 existing pixels."""
    return x / (1 + 0.001 * F.avg_pool2d(x**2, 5, stride=1, padding=2, count_include_pad=True)) ** 0.75


def compute_logits(net: Torch, weights: dict, x):
    """Compute [B, 3, S, S] -> [B, classes] at test time."""
    activation = {"relu": torch.relu, "tanh": torch.tanh}[net.function]
    norm = f"two {net.norm}" if net.groups[0] == 2 and net.norm != "caffe" else net.norm
    steps = {
        "relu": activation,
        "norm": lambda x: normalization(x, norm),
        "map": map_normalization,
        "pool": lambda x: F.max_pool2d(x, *net.pool, ceil_mode=net.ceil),
    }

    def apply(x, names: str):
        for name in names.split():
            x = steps[name](x)
        return x

    after = {"conv2": net.second, "conv3": "relu", "conv4": "relu", "conv5": net.last}
    x = apply(convolution(x, weights["conv1"], stride=4, padding=net.pad1), net.first)
    for (name, then), groups, padding in zip(after.items(), net.groups, net.pads, strict=True):
        if name != net.without:
            x = apply(convolution(x, weights[name], padding=(padding, padding), groups=groups), then)
    if net.sixth:
        x = apply(convolution(x, weights["conv6"], padding=(1, 1)), "relu")
    for name in ("fc6", "fc7"):
        x = net.keep * activation(fully_connected(x, weights[name], net.fc_groups))
    return fully_connected(x, weights["fc8"])


def fully_connected(x, layer, groups=1):
    """Apply each group of units to its group of channels; inputs are numbered by row, column, channel."""
    towers = zip(x.chunk(groups, 1), layer["weight"].chunk(groups, 0), layer["bias"].chunk(groups, 0), strict=True)
    return torch.cat([F.linear(tower.movedim(1, -1).flatten(1), *own) for tower, *own in towers], dim=1)


def to_torch(params: dict, dtype: torch.dtype) -> dict:
    """Turn kernels [kh, kw, in, out] into weights [out, in, kh, kw], and [in, out] into [out, in], with gradients."""

    def weight(kernel):
        return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T

    return {
        name: {
            "weight": torch.tensor(weight(layer["kernel"]).copy(), dtype=dtype, requires_grad=True),
            "bias": torch.tensor(layer["bias"], dtype=dtype, requires_grad=True),
        }
        for name, layer in params.items()
    }


def to_kernel(weight: torch.Tensor) -> np.ndarray:
    return weight.permute(2, 3, 1, 0).numpy() if weight.ndim == 4 else weight.T.numpy()


@pytest.mark.parametrize(("variant", "options", "reference", "dtype"), CASES, ids=IDS)
def test_logits_and_gradients(variant, options, reference, dtype):
    net = build_net(ModelConfig(variant=variant, conv_width=1 / 12, fc_width=1 / 64, **options))
    params = random_params(net, IMAGE_SIZE, CLASSES)
    images = random_images(BATCH, IMAGE_SIZE) / (50 if reference.function == "tanh" else 1)  # avoids tanh's flat parts
    cotangent = np.random.default_rng(1).standard_normal((BATCH, CLASSES))

    weights = to_torch(params, getattr(torch, dtype))
    expected = compute_logits(
        reference, weights, torch.tensor(images.transpose(0, 3, 1, 2), dtype=getattr(torch, dtype))
    )
    (expected * torch.tensor(cotangent, dtype=expected.dtype)).sum().backward()
    expected_gradients = {
        name: {"kernel": to_kernel(layer["weight"].grad), "bias": layer["bias"].grad.numpy()}
        for name, layer in weights.items()
    }

    with jax.enable_x64(dtype == "float64"):
        model = AlexNet(net, CLASSES, dtype=jnp.dtype(dtype))
        cast = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, images, cotangent))

        def weighted(params, images, cotangent):
            logits = model.apply({"params": params}, images)
            return (logits * cotangent).sum(), logits

        compiled = jax.jit(jax.grad(weighted, has_aux=True), compiler_options=QUICK_TO_COMPILE)
        gradients, logits = jax.device_get(compiled(*cast))

    assert logits.dtype == np.dtype(dtype)
    errors = relative_errors((logits, gradients), (expected.detach().numpy(), expected_gradients))
    assert max(errors.values()) < TOLERANCES[dtype], errors


@pytest.mark.parametrize(("variant", "size"), [("paper", 224), ("caffe", 227)])
def test_logits_at_published_size(variant, size):
    net = build_net(ModelConfig(variant=variant))
    params = jax.tree.map(np.float32, random_params(net, size, 1000))
    images = random_images(1, size).astype(np.float32)
    with torch.no_grad():
        expected = compute_logits(
            NETS[variant], to_torch(params, torch.float32), torch.tensor(images.transpose(0, 3, 1, 2))
        )
    logits = jax.jit(AlexNet(net, 1000).apply)({"params": params}, images)
    assert relative_errors(np.asarray(logits), expected.numpy())[""] < 1e-5


def test_the_comparison_sees_small_differences():
    """With these weights, each constant in which two nets differ moves the logits by far more than the tolerance."""
    net = build_net(ModelConfig(variant="original", conv_width=1 / 12, fc_width=1 / 64))
    weights = to_torch(random_params(net, IMAGE_SIZE, CLASSES), torch.float64)
    images = torch.tensor(random_images(BATCH, IMAGE_SIZE).transpose(0, 3, 1, 2))

    def logits_of(net: Torch) -> np.ndarray:
        with torch.no_grad():
            return compute_logits(net, weights, images).numpy()

    published = logits_of(ORIGINAL)
    changes = {
        "norm": {"norm": "printed"},
        "k and the border between the towers": {"norm": "caffe"},
        "order": {"first": "relu norm pool"},
        "map": {"second": "relu norm pool"},
        "keep": {"keep": 1.0},
        "padding": {"pad1": (1, 2)},
    }
    for name, change in changes.items():
        assert relative_errors(logits_of(ORIGINAL._replace(**change)), published)[""] > 1e-3, name
