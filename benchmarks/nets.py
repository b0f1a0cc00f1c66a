"""The nets that benchmarks measure, by the name of their file in `configs/`."""

import importlib

from alexnet_jax.config import Config
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.layers import LayerShape, layer_shapes


def net_config(variant: str, width: float = 1.0) -> Config:
    """Return the variant's own recipe; `width` multiplies the widths of all layers, 1.0 is the published net."""
    config: Config = importlib.import_module(f"configs.{variant}").get_config()
    config.model.conv_width = config.model.fc_width = width
    return config


def net_shapes(config: Config) -> list[LayerShape]:
    """Return the layers of the config's net with the shapes of one image."""
    return list(layer_shapes(build_net(config.model), config.model.image_size, config.model.num_classes))


def inference_operations(shapes: list[LayerShape]) -> int:
    """Return the operations of a forward pass for one image: two for each multiply-add."""
    return 2 * sum(shape.multiply_adds for shape in shapes)


def training_operations(shapes: list[LayerShape]) -> int:
    """Return the operations of a training step for one image.

    The gradients of input and kernel take as many as the forward pass; the gradient of the image is not needed.
    """
    first = next(shape for shape in shapes if shape.kernel_shape)
    return 3 * inference_operations(shapes) - 2 * first.multiply_adds
