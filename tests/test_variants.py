"""Every published net has the sizes that were published, counted from its data and from the module's parameters."""

import importlib
import math
import re

import jax
import jax.numpy as jnp
import pytest

from alexnet_jax.config import Config, ModelConfig
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import LayerShape, ResponseNorm, layer_shapes
from alexnet_jax.model.variants import VARIANTS
from alexnet_jax.optimizer import bias_schedule, conv1_schedule, learning_rate_schedule
from alexnet_jax.validation import faults
from docs.generate_variants import DOCUMENT, with_new_tables

CONFIGS = ("imagenet", *VARIANTS, "original_145")
IMAGE_SIZE = dict.fromkeys(VARIANTS, 224) | {"caffe": 227, "caffenet": 227}

FC = {"fc6": 37_752_832, "fc7": 16_781_312, "fc8": 4_097_000}
TWO_TOWERS = {"conv1": 34_944, "conv2": 307_456, "conv3": 885_120, "conv4": 663_936, "conv5": 442_624, **FC}
ONE_WEIRD_TRICK = {"conv1": 23_296, "conv2": 307_392, "conv3": 663_936, "conv4": 884_992, "conv5": 590_080, **FC}
PARAMETERS = {
    "paper": TWO_TOWERS,
    "original": TWO_TOWERS,
    "merged": TWO_TOWERS | {"conv2": 614_656, "conv4": 1_327_488, "conv5": 884_992},
    "one_tower": {"conv1": 17_472, "conv2": 153_728, "conv3": 221_376, "conv4": 331_968, "conv5": 442_624, **FC},
    "six_conv": TWO_TOWERS | {"conv6": 590_080},
    # layers-150.cfg: 2 x 160 kernels in conv2; conv3 and fc6 (2 x 4096 units) see their own tower only.
    "no_communication": TWO_TOWERS | {"conv2": 384_320, "conv3": 553_344, "fc6": 37_756_928},
    "caffe": TWO_TOWERS,
    "caffenet": TWO_TOWERS,
    "one_weird_trick": ONE_WEIRD_TRICK,
    "torchvision": ONE_WEIRD_TRICK,
}
TOTAL = {
    "paper": 60_965_224,
    "original": 60_965_224,
    "merged": 62_378_344,
    "one_tower": 59_798_312,
    "six_conv": 61_555_304,
    "no_communication": 60_714_408,
    "caffe": 60_965_224,
    "caffenet": 60_965_224,
    "one_weird_trick": 61_100_840,
    "torchvision": 61_100_840,
}
MULTIPLY_ADDS = dict.fromkeys(("paper", "original", "caffe", "caffenet"), 724_406_816) | {
    "merged": 1_135_256_096,
    "one_weird_trick": 714_188_480,
    "torchvision": 714_188_480,
    "six_conv": 724_406_816 + 6 * 6 * 3 * 3 * 256 * 256,
    # half of conv1 (105,415,200) and of conv4 (112,140,288), a quarter of conv2 and conv3, all of conv5; the same fc
    "one_tower": 52_707_600
    + 27 * 27 * 5 * 5 * 48 * 128
    + 13 * 13 * 3 * 3 * (128 * 192 + 192 * 192 + 192 * 256)
    + 9216 * 4096
    + 4096 * 4096
    + 4096 * 1000,
    "no_communication": 105_415_200
    + 2 * 27 * 27 * 5 * 5 * 48 * 160
    + 2 * 13 * 13 * 3 * 3 * (160 * 192 + 192 * 192 + 192 * 128)
    + 2 * 4608 * 4096
    + 2 * 4096 * 2048
    + 4096 * 1000,
}


def shapes_of(variant: str) -> dict[str, LayerShape]:
    return {shape.layer.name: shape for shape in layer_shapes(VARIANTS[variant], IMAGE_SIZE[variant], 1000)}


def test_the_ten_nets_are_there():
    assert list(VARIANTS) == list(TOTAL)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_multiply_adds_to_the_unit(variant):
    shapes = shapes_of(variant)
    assert {name: shape.parameters for name, shape in shapes.items() if shape.parameters} == PARAMETERS[variant]
    assert sum(shape.parameters for shape in shapes.values()) == TOTAL[variant]
    assert sum(shape.multiply_adds for shape in shapes.values()) == MULTIPLY_ADDS[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_module_has_these_parameters(variant):
    size = IMAGE_SIZE[variant]
    params = jax.eval_shape(
        AlexNet(VARIANTS[variant], 1000).init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    )["params"]
    counted = {name: sum(math.prod(leaf.shape) for leaf in layer.values()) for name, layer in params.items()}
    assert counted == PARAMETERS[variant]
    assert params["conv2"]["kernel"].shape == shapes_of(variant)["conv2"].kernel_shape


def test_neurons_of_the_paper():
    """Section 3.5 and figure 2, with 55 x 55 x 96 where the figure misprints 253,440."""
    neurons = [math.prod(shape.output_shape) for shape in shapes_of("paper").values() if shape.kernel_shape]
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert sum(neurons) == 659_272  # "650,000 neurons"


def test_kernels_of_the_paper():
    """Section 3.5: 96 of 11x11x3, 256 of 5x5x48, 384 of 3x3x256, 384 of 3x3x192, 256 of 3x3x192."""
    kernels = [shape.kernel_shape for name, shape in shapes_of("paper").items() if name.startswith("conv")]
    assert kernels == [(11, 11, 3, 96), (5, 5, 48, 256), (3, 3, 256, 384), (3, 3, 192, 384), (3, 3, 192, 256)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_net_gets_from_55_to_6_pixels(variant):
    sides = [shape.output_shape[0] for shape in shapes_of(variant).values() if len(shape.output_shape) == 3]
    assert list(dict.fromkeys(sides)) == [55, 27, 13, 6]


def test_constants_of_the_normalization():
    """Section 3.3; layer.py:1183 of the released code divides alpha by n; so does lrn_layer.cpp, with k = 1."""
    norms = {
        variant: [layer for layer in net.layers if isinstance(layer, ResponseNorm)] for variant, net in VARIANTS.items()
    }
    assert norms.pop("torchvision") == []
    for variant, layers in norms.items():
        coefficient = 1e-4 if variant in ("paper", "merged") else 2e-5
        caffe = variant in ("caffe", "caffenet")
        for layer in layers:
            assert (layer.size, layer.beta, layer.k) == (5, 0.75, 1.0 if caffe else 2.0)
            assert layer.coefficient == pytest.approx(coefficient)
            assert layer.across == ("all" if caffe else "tower")
        assert len(layers) == 2


def get_config(name: str) -> Config:
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_valid_and_documented(name):
    config = get_config(name)
    assert faults(config) == []
    module = importlib.import_module(f"configs.{name}")
    assert f"--config=configs/{name}.py" in module.__doc__
    assert "Expected" in module.__doc__


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_a_config_of_its_name(variant):
    config = get_config(variant)
    assert config.model == ModelConfig(variant=variant, image_size=IMAGE_SIZE[variant])


FACTOR = 250 ** (1 / 3)  # dexp[tgtFactor=250, numSteps=4]
# From the sources, by config: epochs, batch, and {first epoch: rate} of kernels, biases and conv1's kernels.
RECIPES = {
    "imagenet": (90, 128, *(3 * ({0: 1e-2, 25: 1e-3, 51: 1e-4, 79: 1e-5},))),
    "original_145": (
        91,
        128,
        {0: 1e-2, 25: 1e-3, 51: 1e-4, 79: 1e-5},
        {0: 2e-2, 25: 2e-3},
        {0: 1e-2, 25: 1e-3, 51: 1e-4, 67: 1e-5, 72: 0.0},
    ),
    "original": (
        95,
        128,
        {0: 1e-2, 23.75: 1e-2 / FACTOR, 47.5: 1e-2 / FACTOR**2, 71.25: 4e-5},
        {0: 2e-2, 47.5: 2e-3},
        {0: 1e-2, 23.75: 1e-2 / FACTOR, 47.5: 1e-2 / FACTOR**2, 71.25: 4e-5, 74: 0.0},
    ),
    "one_weird_trick": (
        90,
        128,
        {0: 1e-2, 22.5: 1e-2 / FACTOR, 45: 1e-2 / FACTOR**2, 67.5: 4e-5},
        {0: 2e-2, 45: 2e-3},
        {0: 1e-2, 22.5: 1e-2 / FACTOR, 45: 1e-2 / FACTOR**2, 67.5: 4e-5},
    ),
    "torchvision": (90, 256, *(3 * ({0: 1e-2, 30: 1e-3, 60: 1e-4},))),
}


@pytest.mark.parametrize("name", RECIPES)
def test_rates_epoch_by_epoch(name):
    config = get_config(name)
    epochs, batch_size, *published = RECIPES[name]
    assert (config.num_epochs, config.batch_size) == (epochs, batch_size)
    schedules = (learning_rate_schedule, bias_schedule, conv1_schedule)
    for schedule, rates in zip(schedules, published, strict=True):
        rate_at = schedule(config, epochs * 100)
        for first, rate in rates.items():
            for epoch in (first, first + 0.5):
                assert rate_at(round(epoch * 100)) == pytest.approx(rate), (schedule.__name__, epoch)


def test_caffe_trains_450_000_iterations_and_drops_every_100_000():
    config = get_config("caffe")
    steps = round(config.num_epochs * 1_281_167 / config.batch_size)  # images of ILSVRC-2012
    assert (steps, config.batch_size) == (450_000, 256)
    for schedule, base in ((learning_rate_schedule, 0.01), (bias_schedule, 0.02), (conv1_schedule, 0.01)):
        rate_at = schedule(config, steps)
        for drop in range(5):
            assert rate_at(100_000 * drop) == pytest.approx(base / 10**drop)
            assert rate_at(min(100_000 * (drop + 1), steps) - 1) == pytest.approx(base / 10**drop)


@pytest.mark.parametrize("name", CONFIGS)
def test_decay_and_noise_are_the_sources(name):
    config = get_config(name)
    torchvision, caffe = name == "torchvision", name in ("caffe", "caffenet")
    assert config.optimizer.momentum == 0.9
    assert config.optimizer.weight_decay == (1e-4 if torchvision else 5e-4)
    assert config.optimizer.decay_biases == torchvision
    prose = name in ("imagenet", "paper", "merged")
    assert config.data.color_noise == ("none" if torchvision or caffe else "paper" if prose else "original")
    manual, deterministic = name in ("original_145", "no_communication"), name in ("original", "one_tower", "six_conv")
    assert config.data.color_noise_until == (67 / 91 if manual else 68 / 95 if deterministic else 1.0)


def test_the_document_says_what_the_data_say():
    """Otherwise run `python -m docs.generate_variants`."""
    text = DOCUMENT.read_text()
    assert with_new_tables(text) == text
    assert re.search(r"^\| parameters \|.* 60,965,224 \|.* 62,378,344 \|", text, re.MULTILINE)
    for name in (*VARIANTS, "original_145"):
        assert f"| `{name}` |" in text
