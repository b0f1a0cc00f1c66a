"""The Flax module: runs any `Net`, on one device or with its towers spread over the mesh axis `tower`."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.model import dropout as dropout_lib
from alexnet_jax.model.convolution import add_bias, grouped_convolution
from alexnet_jax.model.initialization import bias_initializer, kernel_initializer
from alexnet_jax.model.layers import (
    Activation,
    Classifier,
    Convolution,
    Dense,
    Dropout,
    Layer,
    LocallyConnected,
    MapNorm,
    MaxPool,
    Net,
    ResponseNorm,
)
from alexnet_jax.model.local import locally_connected
from alexnet_jax.model.normalization import (
    channel_window,
    local_response_normalization,
    map_response_normalization,
)
from alexnet_jax.model.pooling import max_pool
from alexnet_jax.parallel import towers

ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh}


class AlexNet(nn.Module):
    """AlexNet as its layer list says.

    Activations hold the towers of this device side by side, [B, H, W, C / devices]. Whatever acts channel by channel
    treats them as one; a layer that `sees` its own tower works on each part by itself; a layer that `sees` all of them
    first joins the channels over the mesh axis.

    Attributes:
      net: the layers.
      num_classes: units of the classifier.
      tower_devices: over how many devices the towers are spread. With more than 1 the module must be applied where the
        mesh axis `tower` is bound, to that device's part of the parameters (`parallel.towers.parameter_specs`).
      workers: over how many devices of the mesh axis `data` the units of fully connected layers are spread. With more
        than 1 every one of these devices must be given the same images (`parallel.hybrid`).
      part: which of the layers are run: those before the first fully connected one, those from there on, or all.
      dtype: compute type of convolutions and products. Parameters are float32 (or float64 under x64), and so are the
        sums of the normalization and the class scores.
    """

    net: Net
    num_classes: int
    tower_devices: int = 1
    dtype: Any = jnp.float32
    workers: int = 1
    part: Literal["whole", "convolutional", "fully_connected"] = "whole"

    @nn.compact
    def __call__(self, images: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Class scores.

        Args:
          images: [B, S, S, 3], RGB on the scale 0 to 255 with the mean subtracted; for the fully connected part, what
            the convolutional one returned.
          dropout_keys: [B] random keys for training; None means test time.

        Returns:
          [B, num_classes] scores before the softmax, float32. With mutable="intermediates" the outputs of all layers
          are returned as well, by name: `intermediates["outputs"][0]["relu7"]`.
        """
        x = images.astype(self.dtype)
        outputs = {}
        first = self.net.num_convolutional if self.part == "fully_connected" else 0
        last = self.net.num_convolutional if self.part == "convolutional" else len(self.net.layers)
        for number, layer in list(enumerate(self.net.layers))[first:last]:
            x = outputs[layer.name] = self._apply_layer(layer, number, x, dropout_keys)
        self.sow("intermediates", "outputs", outputs)  # not a name for each: those are the submodules'
        return x

    @property
    def towers_here(self) -> int:
        """How many towers live on this device."""
        return self.net.towers // self.tower_devices

    def _apply_layer(self, layer: Layer, number: int, x: jax.Array, dropout_keys: jax.Array | None) -> jax.Array:
        """Applies one layer to the activations of the towers on this device."""
        match layer:
            case Convolution():
                return TowerConvolution(layer, *self._part_of(layer), self.dtype, name=layer.name)(self._seen(layer, x))
            case LocallyConnected():
                return LocalLayer(layer, self.dtype, name=layer.name)(x)
            case Dense():
                return TowerDense(layer, *self._part_of(layer), self.dtype, name=layer.name)(self._seen(layer, x))
            case Classifier():
                axis = towers.DATA_AXIS if self.workers > 1 else towers.TOWER_AXIS if self.tower_devices > 1 else None
                return TowerClassifier(layer, self.num_classes, axis, self.dtype, name=layer.name)(x)
            case Activation():
                return ACTIVATIONS[layer.function](x)
            case MaxPool():
                return max_pool(_pad_to_last_window(x, layer) if layer.ceil else x, layer.window, layer.stride)
            case ResponseNorm():
                return self._normalize(layer, x)
            case MapNorm():
                coefficient = layer.alpha / layer.size**2
                return map_response_normalization(
                    x, size=layer.size, coefficient=coefficient, beta=layer.beta, k=layer.k
                )
            case Dropout():
                if dropout_keys is None:
                    return dropout_lib.at_test_time(x, layer)
                keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(dropout_keys)
                first = towers.first_tower_here(self.towers_here) if self.tower_devices > 1 else 0
                part = lax.axis_index(towers.DATA_AXIS) if self.workers > 1 else 0
                return dropout_lib.dropout(x, layer, keys, first, self.towers_here, part, self.workers)

    def _seen(self, layer: Convolution | Dense, x: jax.Array) -> jax.Array:
        """The channels that a layer sees: those here, or those of all devices."""
        if self.workers > 1:
            return x if x.ndim == 4 else towers.join(x, towers.DATA_AXIS)  # what comes from convolutions is whole
        return towers.join(x) if layer.sees == "all" and self.tower_devices > 1 else x

    def _part_of(self, layer: Convolution | Dense) -> tuple[int, int]:
        """How many of the layer's units live here, and in how many groups that see different channels."""
        groups = self.towers_here if layer.sees == "own" else 1
        return layer.features // (self.tower_devices * self.workers), groups

    def _normalize(self, layer: ResponseNorm, x: jax.Array) -> jax.Array:
        """Response normalization within each tower, or over all channels with the neighbors' border channels."""
        before, after = channel_window(layer.size, "pytorch")
        left = right = None
        if layer.across == "all" and self.tower_devices > 1:
            left, right = towers.neighbor_channels(x, before, after, self.tower_devices)
        return local_response_normalization(
            x,
            before=before,
            after=after,
            coefficient=layer.coefficient,
            beta=layer.beta,
            k=layer.k,
            groups=self.towers_here if layer.across == "tower" else 1,
            left_halo=left,
            right_halo=right,
        )


class TowerConvolution(nn.Module):
    """The kernels of one convolution that live on this device."""

    layer: Convolution
    features: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', features]."""
        seen = x.shape[-1] // self.groups
        shape = (self.layer.kernel, self.layer.kernel, seen, self.features)
        kernel, bias = _kernel_and_bias(self, self.layer, shape)
        y = grouped_convolution(
            x,
            kernel,
            stride=self.layer.stride,
            padding=(self.layer.padding, self.layer.padding),
            groups=self.groups,
            dtype=self.dtype,
        )
        return add_bias(y, bias.astype(self.dtype))


class LocalLayer(nn.Module):
    """A locally connected layer: never split, only nets with one tower have it."""

    layer: LocallyConnected
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', features]."""
        layer = self.layer
        side = x.shape[1] + 2 * layer.padding - layer.kernel + 1
        seen = layer.kernel**2 * x.shape[-1]
        kernel = self.param("kernel", kernel_initializer(layer.kernel_init, seen), (side, side, seen, layer.features))
        bias = self.param("bias", bias_initializer(layer.bias_init, seen), (side, side, layer.features))
        y = locally_connected(x, kernel, window=layer.kernel, padding=layer.padding, dtype=self.dtype)
        return y + bias.astype(self.dtype)


class TowerDense(nn.Module):
    """The units of one hidden fully connected layer that live on this device."""

    layer: Dense
    features: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, ..., C] -> [B, features]; each group of units sees its own group of channels."""
        inputs = [part.reshape(part.shape[0], -1) for part in jnp.split(x, self.groups, axis=-1)]
        kernel, bias = _kernel_and_bias(self, self.layer, (inputs[0].shape[-1], self.features))
        *inputs, kernel = _together([*inputs, kernel])
        kernels = jnp.split(kernel.astype(self.dtype), self.groups, axis=-1)
        outputs = [jnp.dot(part, weights) for part, weights in zip(inputs, kernels, strict=True)]
        return jnp.concatenate(outputs, axis=-1) + bias.astype(self.dtype)


class TowerClassifier(nn.Module):
    """The part of the last layer that multiplies the units on this device, summed over the devices of an axis."""

    layer: Classifier
    num_classes: int
    axis: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, ..., C] -> [B, num_classes], the same on every device of the axis, at least float32."""
        x = x.reshape(x.shape[0], -1)
        kernel, bias = _kernel_and_bias(self, self.layer, (x.shape[-1], self.num_classes))
        x, kernel = _together([x, kernel])
        scores = jnp.dot(x, kernel.astype(self.dtype), preferred_element_type=kernel.dtype)
        if self.axis is not None:
            scores = towers.add_up(scores, self.axis)
        return scores + bias


def _together(arrays: list[jax.Array]) -> list[jax.Array]:
    """The same arrays; going backward, the gradient of none is used before those of all are there.

    Put around a layer's input and kernel, the kernel is not needed any more when it is updated, and the update can
    take place where it lies. Otherwise the compiler copies it first.
    """
    return lax.optimization_barrier(arrays)


def _pad_to_last_window(x: jax.Array, layer: MaxPool) -> jax.Array:
    """Pads [B, H, W, C] below and on the right, so that the window over the last pixel is whole."""
    missing = -(x.shape[1] - layer.window) % layer.stride
    return jnp.pad(x, ((0, 0), (0, missing), (0, missing), (0, 0)), constant_values=-jnp.inf)


def _kernel_and_bias(
    module: nn.Module, layer: Convolution | Dense | Classifier, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Declares the two parameters of a layer with the initialization that the layer names."""
    fan_in = 1
    for size in shape[:-1]:
        fan_in *= size
    kernel = module.param("kernel", kernel_initializer(layer.kernel_init, fan_in), shape)
    bias = module.param("bias", bias_initializer(layer.bias_init, fan_in), shape[-1:])
    return kernel, bias
