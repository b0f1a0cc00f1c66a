"""The author's CIFAR-10 nets: sizes from his files, and a forward pass in PyTorch with the same parameters."""

from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet_jax.config import ModelConfig
from alexnet_jax.convert.onnx_graph import build_model
from alexnet_jax.data.dataset_info import DatasetInfo
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import ContradictionError, build_net
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import layer_shapes
from alexnet_jax.optimizer import create_optimizer
from alexnet_jax.validation import faults
from configs import cifar_11pct, cifar_13pct

# Kernels, and biases: one a kernel in convolutions, one a unit where they are not shared (sharedBiases=0).
PARAMETERS = {
    "cifar_13pct": {
        "conv1": 5 * 5 * 3 * 64 + 64,
        "conv2": 5 * 5 * 64 * 64 + 64,
        "local3": 6 * 6 * (3 * 3 * 64 * 32 + 32),
        "local4": 6 * 6 * (3 * 3 * 32 * 32 + 32),
        "fc8": 6 * 6 * 32 * 10 + 10,
    },
    "cifar_11pct": {
        "conv1": 5 * 5 * 3 * 64 + 64,
        "conv2": 5 * 5 * 64 * 64 + 64,
        "local3": 6 * 6 * (3 * 3 * 64 * 64 + 64),
        "local4": 6 * 6 * (3 * 3 * 64 * 32 + 32),
        "fc8": 6 * 6 * 32 * 10 + 10,
    },
}


def net_of(variant):
    return build_net(ModelConfig(variant=variant, num_classes=10, image_size=24))


@pytest.mark.parametrize("variant", PARAMETERS)
def test_sizes_are_those_of_the_files(variant):
    shapes = {shape.layer.name: shape for shape in layer_shapes(net_of(variant), 24, 10)}
    assert {name: shape.parameters for name, shape in shapes.items() if shape.parameters} == PARAMETERS[variant]
    assert [shapes[name].output_shape[0] for name in ("conv1", "pool1", "conv2", "pool2", "local4")] == [
        24,
        12,
        12,
        6,
        6,
    ]
    assert shapes["local3"].multiply_adds == PARAMETERS[variant]["local3"] - 6 * 6 * shapes["local3"].output_shape[-1]
    abstract = jax.eval_shape(
        AlexNet(net_of(variant), 10).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 24, 24, 3), jnp.float32)
    )["params"]
    found = {layer: sum(leaf.size for leaf in jax.tree.leaves(leaves)) for layer, leaves in abstract.items()}
    assert found == PARAMETERS[variant]


@pytest.mark.parametrize("variant", PARAMETERS)
def test_scores_are_those_of_pytorch(variant):
    random = np.random.default_rng(0)
    model = AlexNet(net_of(variant), 10)
    images = random.normal(scale=50, size=(3, 24, 24, 3)).astype(np.float32)
    params = jax.tree.map(
        lambda leaf: random.normal(scale=0.05, size=leaf.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0), images)["params"],
    )
    expected = in_pytorch(params, images, normalized=variant == "cifar_11pct")
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, images), expected, rtol=2e-4, atol=1e-3)


def in_pytorch(params, images, *, normalized):
    params = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), params)

    def convolution(x, layer):
        return F.relu(F.conv2d(x, layer["kernel"].permute(3, 2, 0, 1), layer["bias"], padding=2))

    def pool(x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def norm(x):  # divides alpha by the size, as cuda-convnet does
        return F.local_response_norm(x, 9, alpha=0.001, beta=0.75, k=1.0) if normalized else x

    def local(x, layer):
        channels = x.shape[1]
        windows = F.unfold(x, 3, padding=1).reshape(len(x), channels, 9, 6, 6)  # channels first
        kernel = layer["kernel"].reshape(6, 6, 9, channels, -1)
        y = torch.einsum("bcphw,hwpco->bohw", windows, kernel)
        return F.relu(y + layer["bias"].permute(2, 0, 1))

    x = torch.tensor(images).permute(0, 3, 1, 2)
    x = norm(pool(convolution(x, params["conv1"])))
    x = pool(norm(convolution(x, params["conv2"])))
    x = local(local(x, params["local3"]), params["local4"])
    x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
    return (x @ params["fc8"]["kernel"] + params["fc8"]["bias"]).numpy()


@pytest.mark.parametrize(("recipe", "of_classifier"), [(cifar_13pct, 0.004), (cifar_11pct, 0.01)])
def test_decay_is_that_of_the_files(recipe, of_classifier):
    """From a gradient of zero, an update is the decay alone: -rate * decay * w."""
    config = recipe.get_config()
    assert not faults(config)
    optimizer = create_optimizer(config, build_net(config.model), 100)
    params = {
        name: {"kernel": jnp.ones(2), "bias": jnp.ones(2)} for name in ("conv1", "conv2", "local3", "local4", "fc8")
    }
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    decay = {name: float(update["kernel"][0]) / -0.001 for name, update in updates.items()}
    expected = {"conv1": 0, "conv2": 0, "local3": 0.004, "local4": 0.004, "fc8": of_classifier}
    assert decay == pytest.approx(expected)
    assert all(float(update["bias"][0]) == 0 for update in updates.values())


@pytest.mark.parametrize("options", [{"normalization": "none"}, {"pooling": "non_overlapping"}, {"without": "conv3"}])
def test_options_of_the_large_nets_are_refused_where_they_have_no_place(options):
    with pytest.raises(ContradictionError, match=r"model.variant='cifar_13pct' contradicts model"):
        build_net(ModelConfig(variant="cifar_13pct", num_classes=10, image_size=24, **options))


def test_onnx_has_no_such_layer() -> None:
    config, names = cifar_11pct.get_config(), tuple("0123456789")
    statistics = Statistics(np.zeros((32, 32, 3), np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    weights = defaultdict(lambda: np.zeros(1, np.float32))
    with pytest.raises(UserError, match=r"ONNX has no operator for local3, a locally connected layer"):
        build_model(config, build_net(config.model), DatasetInfo("cifar10", 1, names, names, statistics), weights)
