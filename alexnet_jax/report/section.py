"""The sections of a report, and the style of its figures."""

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet_jax.errors import printable

BLUE, PINK, GRAY = "#4878a8", "#e7298a", "#8c8c8c"  # pink is the correct answer, as in the paper's figure 4

_STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_Arguments = ParamSpec("_Arguments")


class Table(NamedTuple):
    """Rows of text under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading with paragraphs, a figure (PNG, also written to `name`.png), a table, and the numbers for programs."""

    title: str
    text: Sequence[str] = ()
    name: str = ""
    figure: bytes | None = None
    table: Table | None = None
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def as_png(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, bytes]:
    """Decorate a function to return its figure as a PNG, the same bytes whatever the user's settings are."""

    @functools.wraps(draw)
    def drawn(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> bytes:
        buffer = io.BytesIO()
        with matplotlib.style.context(["default", _STYLE]):
            draw(*args, **kwargs).savefig(buffer, format="png", metadata={"Software": None})  # not matplotlib's version
        return buffer.getvalue()

    return drawn


def show_image(axes: Axes, image: np.ndarray) -> None:
    """Draw an image [H, W, 3] without axes, each pixel a square."""
    axes.imshow(image, interpolation="nearest")
    axes.set_axis_off()


def in_figure(name: str, length: int) -> str:
    """Return a name for a figure, cut to `length`, with control characters escaped and dollar signs literal."""
    name = printable(name)
    name = name if len(name) <= length else name[: length - 1].rstrip() + "…"
    return name.replace("$", r"\$")
