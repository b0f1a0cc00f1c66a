"""The Flax module: runs any `Net`, on one device or with its towers spread over the mesh axis `tower`."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.model import dropout as dropout_lib
from alexnet_jax.model import layers
from alexnet_jax.model.convolution import add_bias, grouped_convolution, locally_connected, product
from alexnet_jax.model.initialization import bias_initializer, kernel_initializer
from alexnet_jax.model.normalization import (
    channel_window,
    local_response_normalization,
    map_response_normalization,
    within_pooling,
)
from alexnet_jax.model.pooling import max_pool
from alexnet_jax.parallel import towers


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """Return max(x, 0); for its gradient the output is kept, which the next layer keeps anyway, not the input."""
    return jnp.maximum(x, 0)


# Not `y > 0`: XLA would simplify that to x > 0, and keep x.
relu.defvjp(lambda x: (relu(x),) * 2, lambda y, cotangent: (jnp.where(y != 0, cotangent, 0),))

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": relu, "tanh": jnp.tanh}


class AlexNet(nn.Module):
    """AlexNet as its layer list says.

    Activations hold the towers of this device side by side, [B, H, W, C / devices]. Whatever acts channel by channel
    treats them as one; a layer that `sees` its own tower works on each tower by itself; a layer that `sees` all of them
    first joins the channels over the mesh axis.

    Attributes:
      net: the layers.
      num_classes: units of the classifier.
      dtype: compute type of convolutions and products. Parameters are float32 (or float64 under x64), and so are the
        sums of the normalization and the logits.
      tower_devices: over how many devices the towers are spread. With more than 1 the module must be applied where the
        mesh axis `tower` is bound, to that device's shards of the parameters (`model.sharding.parameter_specs`).
      fc_devices: over how many devices of the mesh axis `data` the units of fully connected layers are sharded.
      batch_size: global; only needed with `fc_devices`.
    """

    net: layers.Net
    num_classes: int
    dtype: Any = jnp.float32
    tower_devices: int = 1
    fc_devices: int = 1
    batch_size: int = 0

    @nn.compact
    def __call__(self, images: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """Compute logits.

        Args:
          images: [B, S, S, 3], RGB on the scale 0 to 255 minus the mean.
          dropout_keys: [B] random keys for training, those of the images at `positions_seen`; None means test time.

        Returns:
          [B, num_classes] logits, float32. With mutable="intermediates" the outputs of all layers are returned as
          well, by name: `intermediates["outputs"][0]["relu7"]`.
        """
        x = images.astype(self.dtype)  # [B, S, S, 3]; then [B, H, W, C / devices]; from fc6 on [B, units / devices]
        outputs = {}
        before: tuple[layers.Layer | None, jax.Array] = (None, x)  # the layer before, and what it saw
        for number, layer in enumerate(self.net.layers):
            if self.fc_devices > 1 and number == self.net.num_convolutional:
                x = towers.gather_batch(x)  # [B / K, H, W, C] -> [B, H, W, C]
            y = self._pooled_at_once(*before, layer)
            if y is None:
                y = self._apply_layer(layer, number, x, dropout_keys)
            outputs[layer.name], before, x = y, (layer, x), y
        self.sow("intermediates", "outputs", outputs)  # not a name for each: those are the submodules'
        return x

    @property
    def towers_here(self) -> int:
        """How many towers live on this device."""
        return self.net.towers // self.tower_devices

    def positions_seen(self, positions: jax.Array) -> jax.Array:
        """Return the places in the training stream of the images that dropout sees, given this device's, int32 [B / K].

        Those of other devices follow from this device's, so that nothing is sent: in each batch, device d of K has the
        rows from d * batch_size / K on. [B], in the order of `towers.gather_batch`.
        """
        if self.fc_devices == 1:
            return positions
        images_per_device = self.batch_size // self.fc_devices
        row = positions % self.batch_size
        first = jnp.arange(self.fc_devices)[:, None] * images_per_device  # [K, 1]
        return (positions - row + first + row % images_per_device).reshape(-1)  # [K, B / K] -> [B]

    def _apply_layer(self, layer: layers.Layer, number: int, x: jax.Array, dropout_keys: jax.Array | None) -> jax.Array:
        """Apply one layer to the activations of the towers on this device."""
        match layer:
            case layers.Convolution():
                return TowerConvolution(layer, *self._units(layer), self.dtype, name=layer.name)(self._seen(layer, x))
            case layers.LocallyConnected():
                return LocalLayer(layer, self.dtype, name=layer.name)(x)
            case layers.Dense():
                return TowerDense(layer, *self._units(layer), self.dtype, name=layer.name)(self._seen(layer, x))
            case layers.Classifier():
                axis = (
                    towers.DATA_AXIS if self.fc_devices > 1 else towers.TOWER_AXIS if self.tower_devices > 1 else None
                )
                return TowerClassifier(layer, self.num_classes, axis, self.dtype, name=layer.name)(x)
            case layers.Activation():
                return ACTIVATIONS[layer.function](x)
            case layers.MaxPool():
                return max_pool(_pad_to_last_window(x, layer) if layer.ceil else x, layer.window, layer.stride)
            case layers.ResponseNorm():
                return self._normalize(layer, x)
            case layers.MapNorm():
                coefficient = layer.alpha / layer.size**2
                return map_response_normalization(
                    x, size=layer.size, coefficient=coefficient, beta=layer.beta, k=layer.k
                )
            case layers.Dropout():
                return self._dropout(layer, number, x, dropout_keys)

    def _units(self, layer: layers.Convolution | layers.Dense) -> tuple[int, int]:
        """Return how many of the layer's units live here, and in how many groups that see different channels."""
        fc_devices = self.fc_devices if isinstance(layer, layers.Dense) else 1
        groups = self.towers_here if layer.sees == "own" else 1
        return layer.features // (self.tower_devices * fc_devices), groups

    def _seen(self, layer: layers.Convolution | layers.Dense, x: jax.Array) -> jax.Array:
        """Return the channels that a layer sees: those here, or those of all devices."""
        if self.fc_devices > 1 and x.ndim == 2:
            return towers.join(x, towers.DATA_AXIS)  # [B, units / K] -> [B, units]
        return towers.join(x) if layer.sees == "all" and self.tower_devices > 1 else x

    def _normalize(self, layer: layers.ResponseNorm, x: jax.Array) -> jax.Array:
        """Normalize within each tower, or over all channels with the neighbors' border channels."""
        rule = self._normalization(layer)
        left = right = None
        if self._sees_neighbors(layer):
            left, right = towers.neighbor_channels(x, rule["before"], rule["after"], self.tower_devices)
        return local_response_normalization(x, **rule, left_halo=left, right_halo=right)

    def _pooled_at_once(self, before: layers.Layer | None, x: jax.Array, layer: layers.Layer) -> jax.Array | None:
        """Normalize x and pool it in one, if that is what the layers do, without other devices and padding."""
        match before, layer:
            case layers.ResponseNorm(), layers.MaxPool(ceil=False) if not self._sees_neighbors(before):
                return max_pool(x, layer.window, layer.stride, within_pooling(**self._normalization(before)))
        return None

    def _sees_neighbors(self, layer: layers.ResponseNorm) -> bool:
        return layer.across == "all" and self.tower_devices > 1

    def _normalization(self, layer: layers.ResponseNorm) -> dict[str, Any]:
        """Return the window and the constants of a normalization, and in how many groups it sees the channels here."""
        before, after = channel_window(layer.size, "pytorch")
        groups = self.towers_here if layer.across == "tower" else 1
        constants = {"coefficient": layer.coefficient, "beta": layer.beta, "k": layer.k}
        return constants | {"before": before, "after": after, "groups": groups}

    def _dropout(self, layer: layers.Dropout, number: int, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Drop units with a mask of this layer's own; the mask of a unit does not depend on where it lives."""
        if keys is None:
            return dropout_lib.at_test_time(x, layer)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
        first_tower = lax.axis_index(towers.TOWER_AXIS) * self.towers_here if self.tower_devices > 1 else 0
        if self.fc_devices == 1:
            return dropout_lib.dropout(x, layer, keys, first_tower, self.towers_here)
        device = lax.axis_index(towers.DATA_AXIS)
        if number < self.net.num_convolutional:  # the batch is not gathered yet
            return dropout_lib.dropout(x, layer, lax.dynamic_slice_in_dim(keys, device * len(x), len(x)), 0, 1)
        return dropout_lib.dropout(x, layer, keys, 0, 1, shard=device, num_shards=self.fc_devices)


class TowerConvolution(nn.Module):
    """The kernels of one convolution that live on this device."""

    layer: layers.Convolution
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

    layer: layers.LocallyConnected
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

    layer: layers.Dense
    features: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, ..., C] -> [B, features]; each group of units sees its own group of channels."""
        inputs = [part.reshape(part.shape[0], -1) for part in jnp.split(x, self.groups, axis=-1)]
        kernel, bias = _kernel_and_bias(self, self.layer, (inputs[0].shape[-1], self.features))
        *inputs, kernel = _together([*inputs, kernel])
        kernels = jnp.split(kernel, self.groups, axis=-1)
        outputs = [product(part, weights, self.dtype) for part, weights in zip(inputs, kernels, strict=True)]
        return jnp.concatenate(outputs, axis=-1) + bias.astype(self.dtype)


class TowerClassifier(nn.Module):
    """The part of the last layer that multiplies the units on this device, summed over the devices of an axis."""

    layer: layers.Classifier
    num_classes: int
    axis: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, ..., C] -> [B, num_classes] of this device's images, at least float32."""
        x = x.reshape(x.shape[0], -1)
        kernel, bias = _kernel_and_bias(self, self.layer, (x.shape[-1], self.num_classes))
        x, kernel = _together([x, kernel])
        logits = product(x, kernel, kernel.dtype)
        if self.axis == towers.TOWER_AXIS:
            logits = towers.add_up(logits)
        elif self.axis == towers.DATA_AXIS:
            logits = towers.add_up_own_images(logits)  # [B, classes] -> [B / K, classes]
        return logits + bias


def _together(arrays: list[jax.Array]) -> list[jax.Array]:
    """Return the same arrays; going backward, no gradient of theirs is used before all of them are there.

    Put around a layer's input and kernel: then the kernel is no longer needed when it is updated, and the update takes
    place in its own memory. Otherwise the compiler copies it first.
    """
    return lax.optimization_barrier(arrays)


def _pad_to_last_window(x: jax.Array, layer: layers.MaxPool) -> jax.Array:
    """Pad [B, H, W, C] below and on the right, so that the window over the last pixel is whole."""
    missing = -(x.shape[1] - layer.window) % layer.stride
    return jnp.pad(x, ((0, 0), (0, missing), (0, missing), (0, 0)), constant_values=-jnp.inf)


def _kernel_and_bias(
    module: nn.Module, layer: layers.Convolution | layers.Dense | layers.Classifier, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Declare the two parameters of a layer with the initialization that the layer names."""
    fan_in = math.prod(shape[:-1])
    kernel = module.param("kernel", kernel_initializer(layer.kernel_init, fan_in), shape)
    bias = module.param("bias", bias_initializer(layer.bias_init, fan_in), shape[-1:])
    return kernel, bias
