"""What is allowed in a config, checked before any data is read and any device is touched.

`faults` lists what is wrong, each fault a sentence that names the field, its value and what is allowed.
"""

import math
import typing
from collections.abc import Callable, Mapping
from typing import Any

from alexnet_jax.config import Config, field_types, fields, flatten, set_field, unknown_field
from alexnet_jax.errors import UserError
from alexnet_jax.model.ablations import ContradictionError, build_net
from alexnet_jax.model.layers import Dense, ImpossibleShapeError, layer_shapes

Check = tuple[Callable[[Any], bool], str]  # what a value must satisfy, and the words for it


def _one_of(*allowed: Any) -> Check:
    return lambda value: value in allowed, f"one of {', '.join(map(str, allowed))}"


def _at_least(least: float) -> Check:
    return lambda value: least <= value < _LIMIT, f"a number of at least {least}, and below 2^31"


def _fractions() -> Check:
    return (
        lambda values: (
            all(isinstance(v, int | float) and 0 <= v <= 1 for v in values) and sorted(values) == list(values)
        ),
        "fractions of the training between 0 and 1 in rising order, for example (0.3,0.6)",
    )


_LIMIT = 2**31  # beyond it, 32-bit steps and sizes are wrong
_POSITIVE: Check = (lambda value: 0 < value < _LIMIT, "a number above 0, and below 2^31")
_WIDTH: Check = (lambda value: 0 < value <= 100, "a number above 0, and at most 100")
_FRACTION: Check = (lambda value: 0 <= value <= 1, "a fraction between 0 and 1")
_NAME: Check = (lambda value: value != "" and value.isprintable(), "a name, not an empty text")

CHECKS: dict[str, Check] = {
    "seed": (lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295"),
    "batch_size": _at_least(1),
    "gradient_accumulation": _at_least(1),
    "num_epochs": _POSITIVE,
    "precision": _one_of("float32", "bfloat16"),
    "init_from": (str.isprintable, "a folder"),
    "profile": _at_least(0),
    "model.num_classes": (lambda value: 2 <= value < 2**24, "a number of at least 2, and below 2^24"),
    "model.image_size": (lambda value: 1 <= value < 2**16, "a number of at least 1, and below 2^16"),
    "model.conv_width": _WIDTH,
    "model.fc_width": _WIDTH,
    "model.initialization": _one_of("published", "he"),
    "model.normalization": _one_of("published", "none", "first", "second"),
    "model.second_normalization": _one_of("published", "before_relu"),
    "model.pooling": _one_of("published", "non_overlapping"),
    "model.activation": _one_of("relu", "tanh"),
    "model.dropout": _one_of("published", "original", "inverted", "none"),
    "model.without": _one_of("nothing", "conv3", "conv4"),
    "mesh.data": (
        lambda value: 1 <= value < _LIMIT or value == -1,
        "a number of at least 1, or -1 for as many as there are",
    ),
    "mesh.tower": _one_of(1, 2),
    "mesh.fully_connected": _one_of("replicated", "gathered", "broadcast", "exchanged"),
    "data.name": _NAME,
    "data.dir": _NAME,
    "data.train_split": _NAME,
    "data.eval_split": _NAME,
    "data.feed": _one_of("jpeg", "raw", "device"),
    "data.crop": _one_of("random", "center"),
    "data.color_noise": _one_of("original", "paper", "none"),
    "data.color_noise_until": _FRACTION,
    "data.mean": _one_of("image", "channel"),
    "data.std": (
        lambda values: len(values) in (0, 3) and all(0 < value < _LIMIT for value in values),
        "() or three numbers above 0",
    ),
    "data.read_threads": (lambda value: -1 <= value < _LIMIT, "a number of at least 0, or -1 for one a core"),
    "data.prefetch_batches": _at_least(1),
    "optimizer.rule": _one_of("momentum", "lars"),
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.reference_batch": _at_least(0),
    "optimizer.momentum": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "optimizer.weight_decay": _at_least(0),
    "optimizer.warmup": _FRACTION,
    "optimizer.schedule": _one_of("drops", "polynomial"),
    "optimizer.drops": _fractions(),
    "optimizer.drop_factor": _POSITIVE,
    "optimizer.bias_rate": _at_least(0),
    "optimizer.bias_drops": _fractions(),
    "optimizer.bias_drop_factor": _POSITIVE,
    "optimizer.conv1_drops": _fractions(),
    "optimizer.conv1_frozen_from": _FRACTION,
    "optimizer.last_layer_rate": _at_least(0),
    "eval.views": _one_of(1, 10),
    "eval.batch_size": _at_least(1),
    "eval.every_epochs": _POSITIVE,
    "checkpoint.every_epochs": _POSITIVE,
    "checkpoint.keep_last": _at_least(1),
    "checkpoint.keep_best": _at_least(0),
    "log.every_steps": _at_least(1),
    "log.plateau_steps": _at_least(1),
}


def from_dict(data: Mapping[str, Any], where: str) -> Config:
    """The config that `config.to_dict` gave, for example from a workdir's `config.json`.

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


def faults(config: Config) -> list[str]:
    """Everything that is wrong with a config as far as that can be known without data or devices, a sentence each."""
    found = []
    types = field_types()
    for name, value in fields(config):
        if not _has_type(value, types[name]):
            found.append(f"config.{name}={value!r} must be {type_in_words(types[name])}.")
        elif name in CHECKS and not CHECKS[name][0](value):
            found.append(f"config.{name}={value!r} is not allowed; it must be {CHECKS[name][1]}.")
    if found:
        return found
    try:
        net = build_net(config.model)
        shapes = list(layer_shapes(net, config.model.image_size, config.model.num_classes))
    except ContradictionError as error:
        return [f"config.{error}"]
    except ImpossibleShapeError as error:
        return [f"config.model.image_size={config.model.image_size} is too small: {error}; take larger images."]
    trainable = [shape.layer.name for shape in shapes if shape.kernel_shape]
    if unknown := [name for name in config.optimizer.frozen if name not in trainable]:
        found.append(
            f"config.optimizer.frozen={config.optimizer.frozen!r} names {unknown[0]!r}, which is no layer with "
            f"parameters; those of model.variant={config.model.variant!r} are {', '.join(trainable)}. Write several as "
            '--config.optimizer.frozen=\'("conv1","conv2")\'.'
        )
    elif set(config.optimizer.frozen) == set(trainable):
        found.append(
            f"config.optimizer.frozen={config.optimizer.frozen!r} names every layer, so that nothing would be trained; "
            "leave out at least one."
        )
    if net.towers % config.mesh.tower:
        found.append(
            f"config.mesh.tower={config.mesh.tower} needs a net with two towers, but model.variant="
            f"{config.model.variant!r} has one; set mesh.tower=1 or take a two-tower variant."
        )
    if config.mesh.fully_connected != "replicated" and net.towers > 1:
        found.append(
            f"config.mesh.fully_connected={config.mesh.fully_connected!r} needs a net with one tower, but "
            f"model.variant={config.model.variant!r} has {net.towers}; take one such as 'one_weird_trick', "
            "or set it to 'replicated'."
        )
    elif config.mesh.fully_connected != "replicated" and not any(isinstance(layer, Dense) for layer in net.layers):
        found.append(
            f"config.mesh.fully_connected={config.mesh.fully_connected!r} needs fully connected layers below the "
            f"classifier, but model.variant={config.model.variant!r} has none; set it to 'replicated'."
        )
    return found or (layout_faults(config, config.mesh.data) if config.mesh.data > 0 else [])


def layout_faults(config: Config, data: int) -> list[str]:
    """What of a config does not divide into `data` parts, a sentence each; `mesh.data` of -1 is known by then."""
    parts = f"the {data} parts of config.mesh.data={config.mesh.data}"
    found = [
        f"config.{name}={value} is not divisible into {parts}; take a multiple, for example "
        f"{math.ceil(value / data) * data}."
        for name, value in (("batch_size", config.batch_size), ("eval.batch_size", config.eval.batch_size))
        if value % data
    ]
    if found:
        return found
    here = config.batch_size // data
    if here % config.gradient_accumulation:
        return [
            f"config.gradient_accumulation={config.gradient_accumulation} does not divide the {here} images that each "
            f"of {parts} has of config.batch_size={config.batch_size}; take a divisor of {here}."
        ]
    if config.mesh.fully_connected == "replicated":
        return []
    here //= config.gradient_accumulation
    if config.mesh.fully_connected == "exchanged" and here % data:
        found.append(
            f"config.mesh.fully_connected='exchanged' sends the images of each device in {data} equal parts, but "
            f"each has {here}; take a batch_size that is a multiple of {data * data * config.gradient_accumulation}."
        )
    found += [
        f"config.mesh.fully_connected={config.mesh.fully_connected!r} splits the {layer.features} units of "
        f"{layer.name} into {parts}, which do not divide them; take fewer or more."
        for layer in build_net(config.model).layers
        if isinstance(layer, Dense) and layer.features % data
    ][:1]
    return found


def validate(config: Config) -> None:
    """Raises a UserError with every fault of the config, one a line."""
    if found := faults(config):
        raise UserError("\n".join(found))


def _has_type(value: Any, declared: Any) -> bool:
    """Whether a value is of the declared type; whole numbers count as float, truth values never as numbers."""
    if typing.get_origin(declared) is tuple:
        return isinstance(value, tuple) and all(_has_type(item, typing.get_args(declared)[0]) for item in value)
    if declared is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, declared)


def type_in_words(declared: Any) -> str:
    """What a value of this type is called in a message."""
    if typing.get_origin(declared) is tuple:
        if typing.get_args(declared)[0] is str:
            return 'a tuple of names, for example \'("conv1","conv2")\''
        return "a tuple of numbers, for example (0.3,0.6)"
    return {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}[declared]
