"""Writes the tables of `docs/variants.md` anew from the nets' data and the configs; the text around them stays.

python -m docs.generate_variants
"""

import importlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.config import Config
from alexnet_jax.model.descriptions import describe, describe_initialization, describe_padding
from alexnet_jax.model.layers import (
    Activation,
    Convolution,
    Dense,
    Dropout,
    Layer,
    LayerShape,
    MapNorm,
    MaxPool,
    ResponseNorm,
    layer_shapes,
)
from alexnet_jax.model.variants import VARIANTS

DOCUMENT = Path(__file__).with_name("variants.md")
RECIPES = (*VARIANTS, "original_145")  # the configs under configs/ that train on ImageNet
Facts = dict[str, str]  # the rows of a table and what one column says in each


def main() -> None:
    """Rewrites the document."""
    DOCUMENT.write_text(with_new_tables(DOCUMENT.read_text()))


def with_new_tables(text: str) -> str:
    """The document with the tables between its markers replaced by what the data say now."""
    for name, table in (("differences", differences()), ("recipes", recipes())):
        text, found = re.subn(
            rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", rf"\g<1>{table}\g<2>", text, count=1, flags=re.DOTALL
        )
        if not found:
            raise ValueError(f"{DOCUMENT} has no place for the table {name!r}")
    return text


def differences() -> str:
    """A column for each net and a row for each fact in which not all of them agree."""
    return _table({f"`{variant}`": net_facts(variant) for variant in VARIANTS})


def recipes() -> str:
    """A column for each recipe, over all configs that share it."""
    columns: list[tuple[list[str], Facts]] = []
    for name in RECIPES:
        facts = recipe_facts(_config(name))
        for names, theirs in columns:
            if theirs == facts:
                names.append(f"`{name}`")
                break
        else:
            columns.append(([f"`{name}`"], facts))
    return _table({", ".join(names): facts for names, facts in columns})


def net_facts(variant: str) -> Facts:
    """What there is to know of a net, fact by fact."""
    net = VARIANTS[variant]
    image_size = _config(variant).model.image_size
    shapes = {shape.layer.name: shape for shape in layer_shapes(net, image_size, 1000)}
    layers = net.layers
    convolutions = [layer for layer in layers if isinstance(layer, Convolution)]
    hidden = [layer for layer in layers if isinstance(layer, Dense)]
    with_units: list[Convolution | Dense] = [*convolutions, *hidden]
    own = [layer.name for layer in with_units if layer.sees == "own" and net.towers > 1]
    return {
        "towers": str(net.towers),
        "parameters": f"{sum(shape.parameters for shape in shapes.values()):,}",
        "multiply-adds an image": f"{sum(shape.multiply_adds for shape in shapes.values()):,}",
        "pixels a side": str(image_size),
        "kernels, conv1 on": ", ".join(str(layer.features) for layer in convolutions),
        "units of fc6, fc7": ", ".join(str(layer.features) for layer in hidden),
        "see only their own tower": ", ".join(own) or "-",
        "padding of conv1": describe_padding(convolutions[0]).removeprefix("padding "),
        **{f"after {layer.name}": _what_follows(layers, layer.name) for layer in convolutions if layer.name != "conv6"},
        "across channels": _first(ResponseNorm, list(shapes.values()), net.towers),
        "within a map": _first(MapNorm, list(shapes.values()), net.towers),
        "dropout": _dropout(layers),
        **{
            f"{name} starts from": describe_initialization(shape)
            for name, shape in shapes.items()
            if shape.kernel_shape and name != "conv6"
        },
    }


def _what_follows(layers: Sequence[Layer], name: str) -> str:
    """The kinds of the layers between this one and the next of conv1 to fc6."""
    kinds = {Activation: "ReLU", ResponseNorm: "LRN", MapNorm: "map norm", MaxPool: "pool", Convolution: "conv6"}
    position = [layer.name for layer in layers].index(name) + 1
    following = []
    for layer in layers[position:]:
        if isinstance(layer, Dense | Dropout) or (isinstance(layer, Convolution) and layer.name != "conv6"):
            break
        following.append(kinds[type(layer)])
    return ", ".join(following)


def _first(kind: type, shapes: Sequence[LayerShape], towers: int) -> str:
    """The description of the first layer of this kind; a net's normalizations have all the same constants."""
    return next((describe(shape, towers) for shape in shapes if isinstance(shape.layer, kind)), "-")


def _dropout(layers: Sequence[Layer]) -> str:
    places = [(before.name, layer) for before, layer in itertools.pairwise(layers) if isinstance(layer, Dropout)]
    kinds = {"original": "halved at test time", "inverted": "doubled in training"}
    return f"after {' and '.join(name for name, _ in places)}, {kinds[places[0][1].kind]}"


def recipe_facts(config: Config) -> Facts:
    """How a config trains, fact by fact; times in epochs."""
    optimizer, data = config.optimizer, config.data

    def epochs(fractions: Sequence[float]) -> str:
        return ", ".join(f"{fraction * config.num_epochs:.4g}" for fraction in fractions)

    def rate(start: float, factor: float, drops: Sequence[float]) -> str:
        return f"{start:g}, times {factor:.4g} at epoch {epochs(drops)}"

    conv1 = [f"times {optimizer.drop_factor:g} at {epochs(optimizer.conv1_drops)}"] if optimizer.conv1_drops else []
    conv1 += [f"frozen from {epochs([optimizer.conv1_frozen_from])}"] if optimizer.conv1_frozen_from < 1 else []
    until = f" until epoch {epochs([data.color_noise_until])}" if data.color_noise_until < 1 else ""
    return {
        "images a batch": str(config.batch_size),
        "epochs": f"{config.num_epochs:.4g}",
        "rate of the kernels": rate(optimizer.learning_rate, optimizer.drop_factor, optimizer.drops),
        "conv1's kernels besides": ", ".join(conv1) or "-",
        "rate of the biases": rate(
            optimizer.learning_rate * optimizer.bias_rate, optimizer.bias_drop_factor, optimizer.bias_drops
        ),
        "momentum": f"{optimizer.momentum:g}",
        "weight decay": f"{optimizer.weight_decay:g}{' of biases too' if optimizer.decay_biases else ''}",
        "color noise": f"{data.color_noise}{until}",
        "mean that is subtracted": data.mean,
    }


def _config(name: str) -> Config:
    return importlib.import_module(f"configs.{name}").get_config()


def _table(columns: dict[str, Facts]) -> str:
    """A Markdown table of the facts in which the columns differ."""
    rows = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for fact in next(iter(columns.values())):
        cells = [facts[fact] for facts in columns.values()]
        if len(set(cells)) > 1:
            rows.append(f"| {fact} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
