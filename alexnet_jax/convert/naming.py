"""The names that other programs give to AlexNet's arrays, as data, and ours for them: "conv1/weight", "conv1/bias", ...

An array's name is that of its layer and of its kind. "weight" has channels first, "kernel" last (`layout.py`).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.convert.layout import Arrays
from alexnet_jax.errors import UserError, printable
from alexnet_jax.model.ablations import NETS
from alexnet_jax.model.layers import Classifier, Convolution, Dense, LocallyConnected

_KINDS = {  # how a name ends, and what that kind of array is
    r"[/.]weight": "weight",  # Caffe, PyTorch
    r"[/.]kernel": "kernel",  # this project, Flax, Keras
    r"[/.]bias": "bias",
    r"/weights(:0)?": "kernel",  # TensorFlow
    r"/biases(:0)?": "bias",
    r"(?<=\d)W": "kernel",  # Toronto's myalexnet_forward.py
    r"(?<=\d)b": "bias",
}
TORCHVISION = {  # torchvision/models/alexnet.py
    **{"features.0": "conv1", "features.3": "conv2", "features.6": "conv3", "features.8": "conv4"},
    **{"features.10": "conv5", "classifier.1": "fc6", "classifier.4": "fc7", "classifier.6": "fc8"},
}
_CAFFENET_IN_PYTORCH = {  # github.com/fmcarlucci/JigenDG, models/caffenet.py
    **{f"features.conv{number}": f"conv{number}" for number in range(1, 6)},
    **{f"classifier.fc{number}": f"fc{number}" for number in range(6, 9)},
}
_NET_SURGERY = {f"fc{number}-conv": f"fc{number}" for number in range(6, 9)}  # Caffe's example of that name
_OURS = {
    layer.name
    for net in NETS.values()
    for layer in net.layers
    if isinstance(layer, Convolution | LocallyConnected | Dense | Classifier)
}
_LAYERS = {**TORCHVISION, **_CAFFENET_IN_PYTORCH, **_NET_SURGERY, **{name: name for name in _OURS}}
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")  # in names: DataParallel, torch.compile, FSDP
_VARIANTS = ((TORCHVISION, "torchvision"), (_CAFFENET_IN_PYTORCH, "caffenet"))  # that layers of these names belong to


class Named(NamedTuple):
    """Arrays under our names, the variant that theirs are of, if any, and one line for each choice."""

    arrays: Arrays
    variant: str | None
    notes: tuple[str, ...]


def to_ours(arrays: Arrays, renames: Mapping[str, str], path: Path) -> Named:
    """Give a file's arrays our names; single numbers, such as counts, are left out.

    `renames` maps names of arrays or layers in the file to ours, or to "" for those that are left out; it comes first.
    A prefix of all names is dropped, and a fully connected layer under another name is the classifier if that is
    missing and there is only one such layer. UserError if another array has a name that is not known.
    """
    arrays = {name: array for name, array in arrays.items() if array.ndim}
    bare = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in arrays}
    prefix = _prefix(list(bare.values()))
    parts = {name: _split(bare[name].removeprefix(prefix)) for name in arrays}  # layer and kind
    layers = {**_LAYERS, **_checked(renames, parts, path)}
    ours = {name: _our_name(name, *parts[name], layers) for name in arrays}
    dropped = [wrapper for wrapper in _WRAPPERS if any(wrapper in name.split(".") for name in arrays)]
    dropped += [prefix] if prefix else []
    notes = [f"names: without {printable(', '.join(map(repr, dropped)))}"] if dropped else []
    unknown = [name for name in arrays if ours[name] is None]
    if (classifier := _classifier(arrays, unknown, parts)) and f"{Classifier.name}/bias" not in ours.values():
        notes.append(f"names: {printable(classifier)} is the classifier, {Classifier.name}")
        ours |= {name: f"{Classifier.name}/{parts[name][1]}" for name in unknown}
        unknown = []
    named = {of: _in_shape(of, arrays[name]) for name, of in ours.items() if of}
    if unknown or not named:
        raise UserError(_unknown_names({name: arrays[name] for name in unknown}, parts, named, path))
    if len(named) < len(used := [name for name in arrays if ours[name]]):
        twice = next(name for name in used if list(ours.values()).count(ours[name]) > 1)
        raise UserError(f"{path} has {ours[twice]} twice, once as {printable(twice)}; leave it out: --rename={twice}=.")
    present = [layer for layer, _ in parts.values()]
    variant = next((of for table, of in _VARIANTS if any(layer in table for layer in present)), None)
    return Named(named, variant, tuple(notes))


def _our_name(name: str, layer: str, kind: str, layers: Mapping[str, str]) -> str | None:
    """Return our name for an array, "" if it is left out, None if it is not known."""
    target = layers.get(name, layers.get(layer))
    if not target or "/" in target:
        return target
    return f"{target}/{kind}" if kind else None


def _checked(renames: Mapping[str, str], parts: Mapping[str, tuple[str, str]], path: Path) -> Mapping[str, str]:
    """Return the renames; UserError unless each is of something in the file and to a name of ours, or to none."""
    for theirs, target in renames.items():
        if theirs not in parts and theirs not in [layer for layer, _ in parts.values()]:
            layers = ", ".join(printable(layer) for layer in dict.fromkeys(layer for layer, _ in parts.values()))
            raise UserError(f"--rename={theirs}={target}: {path} has no layer or array {theirs!r}; it has {layers}.")
        layer, _, kind = target.partition("/")
        if target and (layer not in _OURS or kind not in ("", *_KINDS.values())):
            raise UserError(
                f"--rename={theirs}={target}: {target!r} is neither a layer, such as fc8, nor an array of one, such as "
                "fc8/weight."
            )
    return renames


def _split(name: str) -> tuple[str, str]:
    """Return the name of an array's layer and its kind, "" if it has none."""
    for ending, kind in _KINDS.items():
        if match := re.search(f"{ending}$", name):
            return name[: match.start()], kind
    return name, ""


def _prefix(names: Sequence[str]) -> str:
    """Return the shortest beginning of all names, up to a "." or "/", without which a name is known; "" if none is."""
    first = next(iter(names), "")
    for end in (0, *(match.end() for match in re.finditer("[./]", first))):
        prefix = first[:end]
        if not all(name.startswith(prefix) for name in names):
            break
        if any(_split(name.removeprefix(prefix))[0] in _LAYERS for name in names):
            return prefix
    return ""


def _classifier(arrays: Arrays, unknown: Sequence[str], parts: Mapping[str, tuple[str, str]]) -> str | None:
    """Return the layer of the arrays that are not known, if they are the matrix and the bias of one."""
    layers = {parts[name][0] for name in unknown}
    kinds = {parts[name][1]: arrays[name].ndim for name in unknown}  # and their dimensions
    is_matrix = kinds.get("weight", kinds.get("kernel")) == 2 and "bias" in kinds
    return layers.pop() if len(layers) == 1 and len(unknown) == 2 and is_matrix else None


def _in_shape(name: str, array: np.ndarray) -> np.ndarray:
    """Bring biases to one dimension, and fully connected layers that are kept as convolutions to two."""
    layer, kind = name.split("/")
    if kind == "bias":
        return array.reshape(-1)
    if layer.startswith("fc") and array.ndim > 2:
        return array.reshape(len(array), -1) if kind == "weight" else array.reshape(-1, array.shape[-1])
    return array


def _unknown_names(unknown: Arrays, parts: Mapping[str, tuple[str, str]], named: Arrays, path: Path) -> str:
    """Return the error sentence for arrays under names that are not known."""
    if not unknown:
        return f"{path} holds no arrays of a net; give the file of a trained one."
    shown = [f"{printable(name)} {list(array.shape)}" for name, array in list(unknown.items())[:4]]
    listed = ", ".join(shown + ["..."] * (len(unknown) > 4))
    present = {name.split("/")[0] for name in named}
    free = next((layer for layer in TORCHVISION.values() if layer not in present), Classifier.name)
    first = next(iter(unknown))
    layer = printable(parts[first][0] if parts[first][1] else first)
    example = free if parts[first][1] else f"{free}/weight"
    return (
        f"{path} holds arrays under names that are not known: {listed}; known are conv1/weight and conv1/bias to "
        "fc8/weight and fc8/bias, features.0.weight, features.conv1.weight, conv1W, conv1/kernel and the like. Say "
        f"which is which with --rename=THEIRS=OURS, for example --rename={layer}={example}, or leave one out with "
        f"--rename={layer}=."
    )
