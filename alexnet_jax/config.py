"""Every setting of a run on one line: its type, default, allowed values and meaning.

A config file under `configs/` returns a `Config`; `--config.section.field=value` overrides any field. What concerns
several fields at once is checked in `validation.py`.
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from alexnet_jax.errors import UserError
from alexnet_jax.files import is_remote


class Allowed(NamedTuple):
    """Which values a field may have, and the words for them in "it must be ..."."""

    accepts: Callable[[Any], bool]
    words: str


def setting(default: Any, allowed: Allowed | None = None) -> Any:
    """Declare a field with its default and, unless its type says it all, its allowed values."""
    return dataclasses.field(default=default, metadata={"allowed": allowed})


def one_of(*choices: Any) -> Allowed:
    """Allow these values."""
    return Allowed(lambda value: value in choices, f"one of {', '.join(map(str, choices))}")


def at_least(least: float, below: int = 2**31) -> Allowed:
    """Allow numbers from `least` up; by default those for which 32-bit steps and sizes are right."""
    return Allowed(lambda value: least <= value < below, f"a number of at least {least}, and below {_in_words(below)}")


def or_minus_1(least: float, meaning: str) -> Allowed:
    """Allow numbers from `least` up, and -1 with a meaning of its own."""
    return Allowed(
        lambda value: least <= value < 2**31 or value == -1, f"a number of at least {least}, or -1 {meaning}"
    )


def _in_words(limit: int) -> str:
    return f"2^{limit.bit_length() - 1}"


POSITIVE = Allowed(lambda value: 0 < value < 2**31, "a number above 0, and below 2^31")
WIDTH = Allowed(lambda value: 0 < value <= 100, "a number above 0, and at most 100")
FRACTION = Allowed(lambda value: 0 <= value <= 1, "a fraction between 0 and 1")
FRACTIONS = Allowed(
    lambda values: all(0 <= value <= 1 for value in values) and sorted(values) == list(values),
    "fractions of the training between 0 and 1 in rising order, for example (0.3,0.6)",
)
NAME = Allowed(lambda value: value != "" and value.isprintable(), "a name, not an empty text")
STEP = Allowed(
    lambda value: re.fullmatch(r"latest|best|\d{1,10}", value) is not None, "latest, best or the number of a step"
)
SEED = Allowed(lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")
BELOW_1 = Allowed(lambda value: 0 <= value < 1, "a number from 0 to below 1")
FOLDER = Allowed(
    lambda value: NAME.accepts(value) and not is_remote(value), "a folder on this machine, or mounted, not a remote one"
)
FOLDER_OR_NONE = Allowed(lambda value: value == "" or FOLDER.accepts(value), FOLDER.words)
THREE = Allowed(
    lambda values: len(values) in (0, 3) and all(0 < value < 2**31 for value in values), "() or three numbers above 0"
)

# What other programs call a field.
_OTHER_NAMES = {"lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size", "epochs": "num_epochs"}


class Section:
    """A group of settings; setting a misspelled one is an error."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in {field.name for field in dataclasses.fields(self)}:  # type: ignore[arg-type]
            raise UserError(unknown_field(f"{type(self).__name__.removesuffix('Config').lower()}.{name}".lstrip(".")))
        super().__setattr__(name, value)


@dataclasses.dataclass
class ModelConfig(Section):
    """Which net. Options that the variant does not have are refused (see `docs/variants.md`)."""

    variant: str = setting("paper")  # one of `model.ablations.NETS`
    num_classes: int = setting(1000, at_least(2, below=2**24))
    image_size: int = setting(224, at_least(1, below=2**16))  # side of the net's input in pixels; Caffe's nets: 227
    conv_width: float = setting(1.0, WIDTH)  # multiplies the kernels of every convolution; 1.0 is the published net
    fc_width: float = setting(1.0, WIDTH)  # multiplies the units of the hidden fully connected layers
    initialization: str = setting("published", one_of("published", "he"))  # he: sqrt(2 / fan-in), for reduced widths
    normalization: str = setting("published", one_of("published", "none", "first", "second"))  # which LRN is kept
    second_normalization: str = setting("published", one_of("published", "before_relu"))  # run #166 of the author
    pooling: str = setting("published", one_of("published", "non_overlapping"))  # 2x2 windows, paddings to match
    activation: str = setting("relu", one_of("relu", "tanh"))
    dropout: str = setting("published", one_of("published", "original", "inverted", "none"))  # what is scaled when
    without: str = setting("nothing", one_of("nothing", "conv3", "conv4"))  # the net without this convolution


@dataclasses.dataclass
class MeshConfig(Section):
    """How the run is laid out over devices: a grid of `data` x `tower`."""

    data: int = setting(-1, or_minus_1(1, "for as many as there are"))  # how many shards a batch is split into
    tower: int = setting(1, one_of(1, 2))  # 1: both towers on each device; 2: one tower per device
    shard_fully_connected: bool = setting(False)  # shard their units over `data` (one-tower nets; docs/scaling.md)
    shard_momentum: bool = setting(False)  # shard the momentum buffer over `data` too


@dataclasses.dataclass
class DataConfig(Section):
    """Where images come from and what is done to them on the device."""

    name: str = setting("imagenet2012", NAME)  # "digits" is built in; any other is a prepared or TFDS data set
    dir: str = setting(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", FOLDER)  # by default as for TFDS
    train_split: str = setting("train", NAME)
    eval_split: str = setting("validation", NAME)
    feed: str = setting("jpeg", one_of("jpeg", "raw", "device"))  # raw: decoded once to disk; device: in its memory
    crop: str = setting("random", one_of("random", "center"))  # center: images are always seen alike, as in figure 1
    flip: bool = setting(True)
    color_noise: str = setting("original", one_of("original", "paper", "none"))  # as the author's code, or the prose
    color_noise_until: float = setting(1.0, FRACTION)  # of the training; from then on the color noise is off
    mean: str = setting("image", one_of("image", "channel"))  # what is subtracted
    std: tuple[float, ...] = setting((), THREE)  # what red, green and blue are divided by after that; (): nothing
    read_threads: int = setting(-1, or_minus_1(0, "for one a core"))  # -1: at most 16
    prefetch_batches: int = setting(2, at_least(1))


@dataclasses.dataclass
class OptimizerConfig(Section):
    """The paper's update (section 5) and the author's. Times are fractions of the whole training."""

    rule: str = setting("momentum", one_of("momentum", "lars"))  # lars: steps relative to each layer's norm
    learning_rate: float = setting(0.01, POSITIVE)
    reference_batch: int = setting(0, at_least(0))  # learning_rate is for this batch and scales with it; 0: it is fixed
    momentum: float = setting(0.9, BELOW_1)
    weight_decay: float = setting(5e-4, at_least(0))
    warmup: float = setting(0.0, FRACTION)  # until then learning rates rise linearly
    schedule: str = setting("drops", one_of("drops", "polynomial"))  # polynomial: (1 - fraction of the training)^2
    drops: tuple[float, ...] = setting((25 / 90, 51 / 90, 79 / 90), FRACTIONS)  # of the weights' learning rate
    drop_factor: float = setting(0.1, POSITIVE)
    bias_rate: float = setting(1.0, at_least(0))  # the biases' learning rate over the weights' at the start; author: 2
    bias_drops: tuple[float, ...] = setting((25 / 90, 51 / 90, 79 / 90), FRACTIONS)
    bias_drop_factor: float = setting(0.1, POSITIVE)
    decay_biases: bool = setting(False)
    conv1_drops: tuple[float, ...] = setting((), FRACTIONS)  # more drops, for conv1's kernels
    conv1_frozen_from: float = setting(1.0, FRACTION)  # from here on conv1's kernels no longer change
    last_layer_rate: float = setting(1.0, at_least(0))  # multiplies the classifier's learning rates, for fine-tuning
    frozen: tuple[str, ...] = setting(())  # layers that keep their parameters, for fine-tuning


@dataclasses.dataclass
class EvalConfig(Section):
    """Evaluation on the whole of `data.eval_split`."""

    views: int = setting(1, one_of(1, 10))  # 1: the center; 10: corners, center, mirror images (see `num_views`)
    batch_size: int = setting(256, at_least(1))  # global
    every_epochs: float = setting(1.0, POSITIVE)


@dataclasses.dataclass
class CheckpointConfig(Section):
    """Which checkpoints are written and kept. One of the best so far is also written when it has been evaluated."""

    every_epochs: float = setting(1.0, POSITIVE)
    keep_last: int = setting(2, at_least(1))
    keep_best: int = setting(1, at_least(0))  # by top-1 error of the evaluation at that step


@dataclasses.dataclass
class LogConfig(Section):
    """What a run reports, and how often."""

    every_steps: int = setting(20, at_least(1))
    plateau_steps: int = setting(2000, at_least(1))  # warn if the loss is still ln(num_classes) after so many steps


@dataclasses.dataclass
class Config(Section):
    """One run. See `configs/imagenet.py` for the recipe with every choice spelled out."""

    seed: int = setting(0, SEED)
    batch_size: int = setting(128, at_least(1))  # global
    gradient_accumulation: int = setting(1, at_least(1))  # micro-batches that a device works through one by one
    num_epochs: float = setting(90.0, POSITIVE)
    precision: str = setting("float32", one_of("float32", "bfloat16"))  # of the compute; parameters, LRN, loss: float32
    init_from: str = setting("", FOLDER_OR_NONE)  # fine-tuning: the workdir to start from; see `docs/transfer.md`
    init_step: str = setting("latest", STEP)  # fine-tuning: which checkpoint of that net
    require_accelerator: bool = setting(False)  # refuse to train on the CPU
    profile: int = setting(0, at_least(0))  # steps to trace, after the first ten, into WORKDIR/profile
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)


def num_views(config: Config, views: int) -> int:
    """Return how many views of an image are averaged where `views`, 1 or 10, are asked for.

    Of ten, five are mirror images, which a net trained without `data.flip` has never seen: it has the other five.
    """
    return views if views == 1 or config.data.flip else views // 2


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field of the config with its value, by dotted name: ("model.variant", "paper"), ..."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def declarations(section: type = Config, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Yield every field's declaration, by dotted name."""
    for field in dataclasses.fields(section):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from declarations(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field


def field_types() -> dict[str, Any]:
    """Return the declared type of every field, by dotted name."""
    return {name: field.type for name, field in declarations()}


def to_dict(config: Config) -> dict[str, Any]:
    """Return the config as JSON-able data."""
    return dataclasses.asdict(config)


def set_field(config: Config, name: str, value: Any) -> None:
    """Set a field by its dotted name."""
    *sections, last = name.split(".")
    section: Any = config
    for part in sections:
        section = getattr(section, part)
    setattr(section, last, value)


def differences(config: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two configs differ: name -> (value in `config`, value in `other`)."""
    theirs = dict(fields(other))
    return {name: (value, theirs[name]) for name, value in fields(config) if value != theirs[name]}


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested sections as pairs of dotted name and value."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def unknown_field(name: str) -> str:
    """Write the sentence for a field that does not exist, with the nearest names that do."""
    known = [field for field, _ in declarations()]
    in_section = [field for field in known if field.startswith(f"{name.rpartition('.')[0]}.")]
    near = " or ".join(map(repr, _nearest_fields(name)))
    hint = f"did you mean {near}?" if near else f"the fields are {', '.join(in_section or known)}."
    return f"the config has no field {name!r}; {hint}"


def _nearest_fields(name: str) -> list[str]:
    """Return the fields that a wrong name may mean, by its last part: those in its section, or else in any section."""
    section, _, last = name.rpartition(".")
    last = _OTHER_NAMES.get(last, last)
    known = [(field.rpartition(".")[0], field.rpartition(".")[2]) for field, _ in declarations()]
    sections = difflib.get_close_matches(section, {section for section, _ in known}, n=1)
    for among in ([pair for pair in known if pair[0] in sections], known):
        if nearest := difflib.get_close_matches(last, [part for _, part in among], n=1, cutoff=0.75):
            found = [section for section, part in among if part == nearest[0]]
            return [f"{section}.{nearest[0]}".lstrip(".") for section in ([""] if "" in found else found)]
    return []
