"""What must hold between the fields of a config, checked before any data is read and any device is touched.

`faults` lists what is wrong, one sentence per fault: the field, its value, what is allowed, what to do. What a single
field may be is declared with the field, in `config.py`.
"""

import math
import typing
from collections.abc import Mapping
from typing import Any

from alexnet_jax.config import Config, declarations, field_types, fields, flatten, set_field, unknown_field
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import ContradictionError, build_net
from alexnet_jax.model.layers import Dense, ImpossibleShapeError, Net, layer_shapes


def from_dict(data: Mapping[str, Any], where: str) -> Config:
    """Rebuild the config that `config.to_dict` gave, for example from a workdir's `config.json`.

    Args:
      data: what was read.
      where: the file, for the message.

    Raises:
      UserError: a field is unknown or has the wrong type.
    """
    config = Config()
    types = field_types()
    for name, value in flatten(data):
        if name not in types:
            raise UserError(f"{where}: {unknown_field(name)}")
        value = tuple(value) if isinstance(value, list) else value
        if not _has_type(value, types[name]):
            raise UserError(f"{where}: {name}={value!r} must be {type_in_words(types[name])}.")
        set_field(config, name, value)
    return config


def validate(config: Config) -> None:
    """Raise a UserError with every fault of the config, one per line."""
    if found := faults(config):
        raise UserError("\n".join(found))


def faults(config: Config) -> list[str]:
    """List everything wrong with a config that can be known without data or devices, one sentence per fault."""
    if found := _field_faults(config):
        return found
    try:
        net = build_net(config.model)
        shapes = list(layer_shapes(net, config.model.image_size, config.model.num_classes))
    except ContradictionError as error:
        return [f"config.{error}"]
    except ImpossibleShapeError as error:
        return [f"config.model.image_size={config.model.image_size} is too small: {error}; take larger images."]
    found = _frozen_faults(config, [shape.layer.name for shape in shapes if shape.kernel_shape])
    if config.init_step != "latest" and not config.init_from:
        found.append(f"config.init_step={config.init_step!r} needs config.init_from; set that to a workdir.")
    found += _mesh_faults(config, net)
    return found or (layout_faults(config, net, config.mesh.data) if config.mesh.data > 0 else [])


def _field_faults(config: Config) -> list[str]:
    """Check each field by itself, as it is declared."""
    found = []
    values = dict(fields(config))
    for name, field in declarations():
        value, allowed = values[name], field.metadata["allowed"]
        if not _has_type(value, field.type):
            found.append(f"config.{name}={value!r} must be {type_in_words(field.type)}.")
        elif allowed and not allowed.accepts(value):
            found.append(f"config.{name}={value!r} is not allowed; it must be {allowed.words}.")
    return found


def _frozen_faults(config: Config, trainable: list[str]) -> list[str]:
    frozen = config.optimizer.frozen
    if unknown := [name for name in frozen if name not in trainable]:
        return [
            f"config.optimizer.frozen={frozen!r} names {unknown[0]!r}, which is not a layer with parameters; those of "
            f"model.variant={config.model.variant!r} are {', '.join(trainable)}. Write several as "
            '--config.optimizer.frozen=\'("conv1","conv2")\'.'
        ]
    if set(frozen) == set(trainable):
        return [f"config.optimizer.frozen={frozen!r} names every layer, so nothing would be trained; leave one out."]
    return []


def _mesh_faults(config: Config, net: Net) -> list[str]:
    """Check that the net can be split as the mesh says."""
    found = []
    variant = f"model.variant={config.model.variant!r}"
    if net.towers % config.mesh.tower:
        found.append(
            f"config.mesh.tower={config.mesh.tower} needs a net with two towers, but {variant} has one; set "
            "mesh.tower=1 or take a two-tower variant."
        )
    if config.mesh.shard_fully_connected and net.towers > 1:
        found.append(
            f"config.mesh.shard_fully_connected=True needs a net with one tower, but {variant} has {net.towers}; take "
            "one such as 'one_weird_trick', or set it to False."
        )
    elif config.mesh.shard_fully_connected and not any(isinstance(layer, Dense) for layer in net.layers):
        found.append(
            "config.mesh.shard_fully_connected=True needs fully connected layers below the classifier, but "
            f"{variant} has none; set it to False."
        )
    return found


def layout_faults(config: Config, net: Net, data: int) -> list[str]:
    """List what does not divide into the `data` shards of a batch; a `mesh.data` of -1 is resolved by then."""
    shards = f"the {data} shards of config.mesh.data={config.mesh.data}"
    found = [
        f"config.{name}={value} is not divisible into {shards}; take a multiple, for example "
        f"{math.ceil(value / data) * data}."
        for name, value in (("batch_size", config.batch_size), ("eval.batch_size", config.eval.batch_size))
        if value % data
    ]
    if found:
        return found
    on_device = config.batch_size // data
    if on_device % config.gradient_accumulation:
        return [
            f"config.gradient_accumulation={config.gradient_accumulation} does not divide the {on_device} images that "
            f"each of {shards} has of config.batch_size={config.batch_size}; take a divisor of {on_device}."
        ]
    indivisible = [layer for layer in net.layers if isinstance(layer, Dense) and layer.features % data]
    if config.mesh.shard_fully_connected and indivisible:
        return [
            f"config.mesh.shard_fully_connected=True splits the {indivisible[0].features} units of "
            f"{indivisible[0].name} into {shards}, which do not divide them; take fewer or more."
        ]
    return []


def _has_type(value: Any, declared: Any) -> bool:
    """Tell whether a value is of the declared type; whole numbers count as float, truth values never as numbers."""
    if typing.get_origin(declared) is tuple:
        return isinstance(value, tuple) and all(_has_type(item, typing.get_args(declared)[0]) for item in value)
    if declared is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, declared)


def type_in_words(declared: Any) -> str:
    """Name the values of a type in a message."""
    if typing.get_origin(declared) is tuple:
        if typing.get_args(declared)[0] is str:
            return 'a tuple of names, for example \'("conv1","conv2")\''
        return "a tuple of numbers, for example (0.3,0.6)"
    return {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}[declared]
