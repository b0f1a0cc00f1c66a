"""Every setting of a run, typed. What is allowed stands in `validation.py`.

A config file under `configs/` returns a `Config`; `--config.section.field=value` overrides any field.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from alexnet_jax.errors import UserError


class Section:
    """A group of settings; a misspelled one is refused when it is set, not ignored."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in {field.name for field in dataclasses.fields(self)}:  # type: ignore[arg-type]
            raise UserError(unknown_field(f"{type(self).__name__.removesuffix('Config').lower()}.{name}".lstrip(".")))
        super().__setattr__(name, value)


@dataclasses.dataclass
class ModelConfig(Section):
    """Which net. Options that the variant does not have are refused (see `docs/variants.md`)."""

    variant: str = "paper"
    num_classes: int = 1000
    image_size: int = 224  # pixels a side that the net sees; Caffe's nets see 227
    conv_width: float = 1.0  # multiplies the kernels of every convolution; 1.0 is the published net
    fc_width: float = 1.0  # multiplies the units of the hidden fully connected layers
    initialization: str = "published"  # or "he": sqrt(2 / fan-in) between conv1 and classifier, for reduced widths
    normalization: str = "published"  # or "none", "first", "second": where response normalization is kept
    second_normalization: str = "published"  # or "before_relu" (run #166 of the released code)
    pooling: str = "published"  # or "non_overlapping": 2x2 windows, with the author's change of padding
    activation: str = "relu"  # or "tanh"
    dropout: str = "published"  # or "original" (scaled at test time), "inverted", "none"
    without: str = "nothing"  # or "conv3", "conv4": the net without this middle convolution


@dataclasses.dataclass
class MeshConfig(Section):
    """How the run is laid out over devices: a grid of `data` x `tower`."""

    data: int = -1  # how many parts a batch is split into; -1 uses all devices that the towers leave
    tower: int = 1  # 1: both towers on each device; 2: one tower a device
    fully_connected: str = "replicated"  # or split over `data`: "gathered", "broadcast", "exchanged"; one tower only
    shard_velocity: bool = False  # split the velocity over `data` too


@dataclasses.dataclass
class DataConfig(Section):
    """Where images come from and what is done to them on the device."""

    name: str = "imagenet2012"  # "digits" is built in; any other name is a prepared or TFDS data set
    dir: str = "~/tensorflow_datasets"
    train_split: str = "train"
    eval_split: str = "validation"
    feed: str = "jpeg"  # or "raw" (decoded once, to disk), "device" (all in device memory); see `docs/data.md`
    crop: str = "random"  # or "center": every image is seen the same way, as in Figure 1
    flip: bool = True
    color_noise: str = "original"  # or "paper" (as the prose says), "none"
    color_noise_until: float = 1.0  # fraction of the training after which colour noise is off
    mean: str = "image"  # or "channel": what is subtracted
    std: tuple[float, ...] = ()  # what red, green and blue are divided by after that; (): nothing
    read_threads: int = -1  # -1: one a core, at most 16
    prefetch_batches: int = 2


@dataclasses.dataclass
class OptimizerConfig(Section):
    """The paper's update (section 5) and the author's. Times are fractions of the whole training."""

    rule: str = "momentum"  # or "lars": steps in proportion to each layer's norm, for very large batches
    learning_rate: float = 0.01
    reference_batch: int = 0  # the batch that learning_rate is for: others get it in proportion; 0: as it stands
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.0  # until then the rates rise linearly to what they would be
    schedule: str = "drops"  # or "polynomial": rate x (1 - fraction of the training)^2, without the drops below
    drops: tuple[float, ...] = (25 / 90, 51 / 90, 79 / 90)  # when the rate of the weights is multiplied
    drop_factor: float = 0.1
    bias_rate: float = 1.0  # rate of the biases over that of the weights, at the start; the author's: 2
    bias_drops: tuple[float, ...] = (25 / 90, 51 / 90, 79 / 90)
    bias_drop_factor: float = 0.1
    decay_biases: bool = False
    conv1_drops: tuple[float, ...] = ()  # additional drops of conv1's kernels
    conv1_frozen_from: float = 1.0  # from here on conv1's kernels no longer change
    last_layer_rate: float = 1.0  # multiplies the rates of the classifier, for fine-tuning
    frozen: tuple[str, ...] = ()  # layers that keep their parameters, for fine-tuning


@dataclasses.dataclass
class EvalConfig(Section):
    """Evaluation on the whole of `data.eval_split`."""

    views: int = 1  # 1: the center; 10: four corners, center and their mirror images, probabilities averaged
    batch_size: int = 256  # global
    every_epochs: float = 1.0


@dataclasses.dataclass
class CheckpointConfig(Section):
    """Which checkpoints are written and kept."""

    every_epochs: float = 1.0
    keep_last: int = 2
    keep_best: int = 1  # by top-1 error of the evaluation at that step


@dataclasses.dataclass
class LogConfig(Section):
    """What a run says of itself, and how often."""

    every_steps: int = 20
    plateau_steps: int = 2000  # warn when the loss still sits at ln(num_classes) after so many steps


@dataclasses.dataclass
class Config(Section):
    """One run. See `configs/imagenet.py` for the recipe with every choice spelled out."""

    seed: int = 0
    batch_size: int = 128  # global
    gradient_accumulation: int = 1  # in how many parts, one after the other, a device works through its images
    num_epochs: float = 90.0
    precision: str = "float32"  # or "bfloat16": compute type; parameters, LRN sums and the loss stay float32
    init_from: str = ""  # fine-tuning: the workdir of the net to start from; see `docs/transfer.md`
    require_accelerator: bool = False  # refuse to train on the CPU
    profile: int = 0  # how many steps to trace, after the first ten, into WORKDIR/profile; see `docs/performance.md`
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of the config and its value, by dotted name: ("model.variant", "paper"), ..."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def field_types(section: type = Config, prefix: str = "") -> dict[str, Any]:
    """The declared type of every field, by dotted name."""
    types: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            types |= field_types(field.type, f"{prefix}{field.name}.")
        else:
            types[prefix + field.name] = field.type
    return types


def to_dict(config: Config) -> dict[str, Any]:
    """The config as JSON-able data."""
    return dataclasses.asdict(config)


def set_field(config: Config, name: str, value: Any) -> None:
    """Sets a field by its dotted name."""
    *sections, last = name.split(".")
    section: Any = config
    for part in sections:
        section = getattr(section, part)
    setattr(section, last, value)


def differences(config: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs differ: name -> (value in `config`, value in `other`)."""
    theirs = dict(fields(other))
    return {name: (value, theirs[name]) for name, value in fields(config) if value != theirs[name]}


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested sections as pairs of dotted name and value."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def unknown_field(name: str) -> str:
    """The sentence for a field that does not exist, with the nearest name that does."""
    known = [known for known, _ in fields(Config())]
    last_parts = {field.rsplit(".", 1)[-1]: field for field in known}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    near += [last_parts[part] for part in difflib.get_close_matches(name.rsplit(".", 1)[-1], last_parts, n=1)]
    hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(known)}."
    return f"the config has no field {name!r}; {hint}"
