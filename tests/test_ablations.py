"""The options of the model: what they change, and what they refuse."""

import pytest

from alexnet_jax.config import Config, ModelConfig
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import ContradictionError, build_net
from alexnet_jax.model.layers import Activation, Dropout, Gaussian, He, Net, layer_shapes
from alexnet_jax.model.variants import VARIANTS
from alexnet_jax.validation import faults, validate


def names(net: Net, *, until: str = "conv3") -> list[str]:
    return list(net.names[: net.names.index(until)])


def sides(net: Net, image_size: int = 224) -> dict[str, int]:
    shapes = layer_shapes(net, image_size, 1000)
    return {shape.layer.name: shape.output_shape[0] for shape in shapes if len(shape.output_shape) == 3}


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_options_the_net_is_the_published_one(variant):
    assert build_net(ModelConfig(variant=variant)) == VARIANTS[variant]


@pytest.mark.parametrize("variant", ["paper", "original", "merged", "one_tower", "no_communication"])
def test_non_overlapping_pooling_has_the_authors_sizes(variant):
    """layers-147.cfg: 55-28-26-13-11-6, because conv2 is padded by 1 and conv5 not at all."""
    net = build_net(ModelConfig(variant=variant, pooling="non_overlapping"))
    found = sides(net)
    sizes = [found[name] for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")]
    assert sizes == [55, 28, 26, 13, 13, 13, 11, 6]
    parameters = [sum(shape.parameters for shape in layer_shapes(n, 224, 1000)) for n in (net, VARIANTS[variant])]
    assert parameters[0] == parameters[1]


@pytest.mark.parametrize(
    ("variant", "kept", "expected"),
    [
        ("original", "none", ["conv1", "pool1", "relu1", "conv2", "relu2", "pool2"]),  # layers-148.cfg
        ("original", "first", ["conv1", "norm1", "pool1", "relu1", "conv2", "relu2", "pool2"]),  # layers-167.cfg
        ("original", "second", ["conv1", "pool1", "relu1", "conv2", "relu2", "norm2", "mapnorm2", "pool2"]),
        ("caffenet", "none", ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2"]),
    ],
)
def test_normalization_is_kept_where_asked(variant, kept, expected):
    assert names(build_net(ModelConfig(variant=variant, normalization=kept))) == expected


def test_second_normalization_before_relu():
    """layers-166.cfg: both norms of the second layer come before its nonlinearity."""
    net = build_net(ModelConfig(variant="original", second_normalization="before_relu"))
    assert names(net)[4:] == ["conv2", "norm2", "mapnorm2", "relu2", "pool2"]
    net = build_net(ModelConfig(variant="paper", second_normalization="before_relu"))
    assert names(net)[4:] == ["conv2", "norm2", "relu2", "pool2"]


@pytest.mark.parametrize(
    ("removed", "variant", "seen"),
    [("conv3", "paper", 128), ("conv4", "paper", 192), ("conv3", "merged", 256), ("conv3", "six_conv", 128)],
)
def test_a_middle_convolution_can_be_left_out(removed, variant, seen):
    """Section 7. What follows takes its input as before: from its own tower in the two-tower nets."""
    net = build_net(ModelConfig(variant=variant, without=removed))
    shapes = {shape.layer.name: shape for shape in layer_shapes(net, 224, 1000)}
    assert not {removed, removed.replace("conv", "relu")} & set(shapes)
    following = {"conv3": "conv4", "conv4": "conv5"}[removed]
    assert shapes[following].kernel_shape[2] == seen
    assert sides(net)["pool5"] == 6


@pytest.mark.parametrize("variant", VARIANTS)
def test_tanh_and_dropout_change_in_every_net(variant):
    net = build_net(ModelConfig(variant=variant, activation="tanh", dropout="inverted"))
    assert {layer.function for layer in net.layers if isinstance(layer, Activation)} == {"tanh"}
    assert [layer.kind for layer in net.layers if isinstance(layer, Dropout)] == ["inverted"] * 2
    assert net.names == VARIANTS[variant].names
    without = build_net(ModelConfig(variant=variant, dropout="none"))
    assert without.names == tuple(name for name in net.names if not name.startswith("drop"))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("width", [0.01, 0.1, 0.3, 2.0])
def test_any_width_splits_into_the_towers(variant, width):
    net = build_net(ModelConfig(variant=variant, conv_width=width, fc_width=width))
    for shape, published in zip(layer_shapes(net, 224, 10), layer_shapes(VARIANTS[variant], 224, 10), strict=True):
        features, full = shape.output_shape[-1], published.output_shape[-1]
        assert features == full or abs(features - full * width) <= net.towers
        if shape.layer.name != "fc8":
            assert features > 0
            assert features % net.towers == 0


def test_he_initialization_is_for_hidden_kernels():
    net = build_net(ModelConfig(variant="original", initialization="he"))
    published = {layer.name: layer for layer in VARIANTS["original"].layers}
    for layer in net.layers:
        if hasattr(layer, "kernel_init"):
            assert layer.kernel_init == (Gaussian(0.01) if layer.name in ("conv1", "fc8") else He())
            assert layer.bias_init == published[layer.name].bias_init


def test_options_combine():
    net = build_net(
        ModelConfig(
            variant="original",
            pooling="non_overlapping",
            normalization="first",
            without="conv4",
            activation="tanh",
            dropout="none",
        )
    )
    assert names(net, until="fc6") == [
        *("conv1", "norm1", "pool1", "relu1", "conv2", "relu2", "pool2"),
        *("conv3", "relu3", "conv5", "pool5", "relu5"),
    ]


CONTRADICTIONS = {
    "no normalization to keep": (
        {"variant": "torchvision", "normalization": "first"},
        "model.variant='torchvision' contradicts model.normalization='first': this variant has no response",
    ),
    "no normalization to remove": (
        {"variant": "torchvision", "normalization": "none"},
        "model.variant='torchvision' contradicts model.normalization='none'",
    ),
    "no second normalization": (
        {"variant": "torchvision", "second_normalization": "before_relu"},
        "model.variant='torchvision' contradicts model.second_normalization='before_relu'",
    ),
    "second normalization removed": (
        {"variant": "original", "normalization": "first", "second_normalization": "before_relu"},
        "model.variant='original' contradicts model.second_normalization='before_relu'",
    ),
    "no such layer": (
        {"variant": "cifar_13pct", "without": "conv3"},
        "model.variant='cifar_13pct' contradicts model.without='conv3': this variant has no such layer",
    ),
    "pooling of another net": (
        {"variant": "cifar_13pct", "pooling": "non_overlapping"},
        "contradicts model.pooling='non_overlapping': published for nets with five convolutions only",
    ),
    "pooling in between": (
        {"variant": "caffenet", "second_normalization": "before_relu"},
        "model.variant='caffenet' contradicts model.second_normalization='before_relu'",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_named(case):
    options, message = CONTRADICTIONS[case]
    with pytest.raises(ContradictionError) as error:
        build_net(ModelConfig(**options))
    assert message in str(error.value)
    with pytest.raises(UserError) as refused:
        validate(Config(model=ModelConfig(**options)))
    assert str(refused.value) == f"config.{error.value}"


def test_an_unknown_variant_lists_the_names():
    with pytest.raises(ContradictionError) as error:
        build_net(ModelConfig(variant="orignal"))
    assert ", ".join(VARIANTS) in str(error.value)
    assert "Did you mean 'original'?" in str(error.value)
    with pytest.raises(ContradictionError, match=r"allowed: paper, .*cifar_11pct\.$"):
        build_net(ModelConfig(variant="resnet"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 10, "variant": "caffe"}, "conv1 needs a window of 11 pixels but its input has only 10 a side"),
        ({"image_size": 15}, "pool1 needs a window of 3 pixels but its input has only 2 a side"),
        ({"image_size": 62}, "pool5 needs a window of 3 pixels but its input has only 2 a side"),
    ],
)
def test_sizes_that_leave_no_pixels_name_the_layer_and_its_input(options, words):
    (fault,) = faults(Config(model=ModelConfig(**options)))
    assert words in fault
    assert f"config.model.image_size={options['image_size']} " in fault
