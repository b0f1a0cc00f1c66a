"""Write the tables of `docs/variants.md` again from the nets' data and the configs; the text around them stays.

python -m docs.generate_variants
"""

import importlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from alexnet_jax.config import Config
from alexnet_jax.model import layers
from alexnet_jax.model.descriptions import describe, describe_initialization, describe_padding
from alexnet_jax.model.variants import VARIANTS

DOCUMENT = Path(__file__).with_name("variants.md")
RECIPES = (*VARIANTS, "original_145")  # the configs under configs/ that train on ImageNet
Column = dict[str, str]  # the rows of a table: their names, and the cells of one column


def main() -> None:
    """Rewrite the document."""
    DOCUMENT.write_text(with_new_tables(DOCUMENT.read_text()))


def with_new_tables(text: str) -> str:
    """Return the document with the tables between its markers generated from the current data."""
    columns = {
        "sizes": {variant: sizes(variant) for variant in VARIANTS},
        "order": {variant: order(variant) for variant in VARIANTS},
        "normalization": {variant: normalization(variant) for variant in VARIANTS},
        "initialization": {variant: initialization(variant) for variant in VARIANTS},
        "recipes": {name: recipe(_config(name)) for name in RECIPES},
    }
    for name, per_net in columns.items():
        table = _table(per_net)
        text, count = re.subn(
            rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", rf"\g<1>{table}\g<2>", text, count=1, flags=re.DOTALL
        )
        if not count:
            raise ValueError(f"{DOCUMENT} has no place for the table {name!r}")
    return text


def sizes(variant: str) -> Column:
    """Return the widths of a net and the counts that follow from them."""
    net, shapes = VARIANTS[variant], _shapes(variant)
    convolutions = [layer for layer in net.layers if isinstance(layer, layers.Convolution)]
    hidden = [layer for layer in net.layers if isinstance(layer, layers.Dense)]
    own = [layer.name for layer in (*convolutions, *hidden) if layer.sees == "own" and net.towers > 1]
    return {
        "towers": str(net.towers),
        "parameters": f"{sum(shape.parameters for shape in shapes):,}",
        "multiply-adds per image": f"{sum(shape.multiply_adds for shape in shapes):,}",
        "input, pixels": str(shapes[0].input_shape[0]),
        "kernels, conv1 to last": ", ".join(str(layer.features) for layer in convolutions),
        "units, fc6 and fc7": ", ".join(str(layer.features) for layer in hidden),
        "see only their own tower": ", ".join(own) or "-",
        "conv1's padding": describe_padding(convolutions[0]).removeprefix("padding "),
    }


def order(variant: str) -> Column:
    """Return what follows each convolution of a net."""
    all_layers = VARIANTS[variant].layers
    convolutions = [layer.name for layer in all_layers if isinstance(layer, layers.Convolution)]
    return {f"after {name}": _following(all_layers, name) for name in convolutions if name != "conv6"}


def normalization(variant: str) -> Column:
    """Return the constants of a net's normalizations and its dropout."""
    net, shapes = VARIANTS[variant], _shapes(variant)
    return {
        "LRN": _first(layers.ResponseNorm, shapes, net.towers).removeprefix("LRN over "),
        "map norm": _first(layers.MapNorm, shapes, net.towers).removeprefix("norm over "),
        "dropout": _dropout(net.layers),
    }


def initialization(variant: str) -> Column:
    """Return how the kernels and biases of each layer start."""
    with_kernels = [shape for shape in _shapes(variant) if shape.kernel_shape and shape.layer.name != "conv6"]
    starts = {shape.layer.name: describe_initialization(shape) for shape in with_kernels}
    return {
        name: start.removeprefix("Gaussian ").removesuffix(", biases the same").replace("biases ", "")
        for name, start in starts.items()
    }


def _shapes(variant: str) -> list[layers.LayerShape]:
    return list(layers.layer_shapes(VARIANTS[variant], _config(variant).model.image_size, 1000))


def _following(all_layers: Sequence[layers.Layer], name: str) -> str:
    """Return the kinds of the layers between this one and the next of conv1 to fc6."""
    kinds = {
        layers.Activation: "ReLU",
        layers.ResponseNorm: "LRN",
        layers.MapNorm: "map norm",
        layers.MaxPool: "pool",
        layers.Convolution: "conv6",
    }
    position = [layer.name for layer in all_layers].index(name) + 1
    following = []
    for layer in all_layers[position:]:
        next_begins = isinstance(layer, layers.Convolution) and layer.name != "conv6"
        if next_begins or isinstance(layer, layers.Dense | layers.Dropout):
            break
        following.append(kinds[type(layer)])
    return ", ".join(following)


def _first(kind: type, shapes: Sequence[layers.LayerShape], towers: int) -> str:
    """Return the description of the first layer of this kind; all of a net's have the same constants."""
    return next((describe(shape, towers) for shape in shapes if isinstance(shape.layer, kind)), "-")


def _dropout(all_layers: Sequence[layers.Layer]) -> str:
    pairs = itertools.pairwise(all_layers)
    places = [(before.name, layer) for before, layer in pairs if isinstance(layer, layers.Dropout)]
    kinds = {"original": "halved at test time", "inverted": "doubled in training"}
    return f"after {', '.join(name for name, _ in places)}; {kinds[places[0][1].kind]}"


def recipe(config: Config) -> Column:
    """Return how a config trains; times are in epochs."""
    optimizer, data = config.optimizer, config.data

    def epochs(fractions: Sequence[float]) -> str:
        return ", ".join(f"{fraction * config.num_epochs:.4g}" for fraction in fractions)

    def rate(start: float, factor: float, drops: Sequence[float]) -> str:
        return f"{start:g}, x {factor:.4g} at {epochs(drops)}"

    conv1 = [f"x {optimizer.drop_factor:g} at {epochs(optimizer.conv1_drops)}"] if optimizer.conv1_drops else []
    conv1 += [f"frozen from {epochs([optimizer.conv1_frozen_from])}"] if optimizer.conv1_frozen_from < 1 else []
    until = f" until {epochs([data.color_noise_until])}" if data.color_noise_until < 1 else ""
    bias_rate = optimizer.learning_rate * optimizer.bias_rate
    return {
        "batch size": str(config.batch_size),
        "epochs": f"{config.num_epochs:.4g}",
        "learning rate of kernels": rate(optimizer.learning_rate, optimizer.drop_factor, optimizer.drops),
        "... of conv1's kernels, also": ", ".join(conv1) or "-",
        "... of biases": rate(bias_rate, optimizer.bias_drop_factor, optimizer.bias_drops),
        "momentum": f"{optimizer.momentum:g}",
        "weight decay": f"{optimizer.weight_decay:g}{', biases too' if optimizer.decay_biases else ''}",
        "color noise": f"{data.color_noise}{until}",
        "mean subtracted": data.mean,
    }


def _config(name: str) -> Config:
    return importlib.import_module(f"configs.{name}").get_config()


def _table(columns: dict[str, Column]) -> str:
    """Return a Markdown table of the rows in which the columns differ; equal columns share one."""
    groups: list[tuple[list[str], Column]] = []
    for name, column in columns.items():
        for names, shared in groups:
            if column == shared:
                names.append(f"`{name}`")
                break
        else:
            groups.append(([f"`{name}`"], column))
    lines = [f"| | {' | '.join(', '.join(names) for names, _ in groups)} |", f"|---|{'---|' * len(groups)}"]
    for row in groups[0][1]:
        cells = [column[row] for _, column in groups]
        if len(set(cells)) > 1:
            lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
