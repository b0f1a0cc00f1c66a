"""What a report is made of, and how its figures look."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
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


class Table(NamedTuple):
    """Rows of text under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of the page.

    title: its heading. text: paragraphs. figure: a PNG, kept as `name`.png and shown on the page. table: shown last.
    numbers: what the text says, for programs.
    """

    title: str
    text: Sequence[str] = ()
    name: str = ""
    figure: bytes | None = None
    table: Table | None = None
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Inside, figures are made in the style of the report, whatever the user's own settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def png(figure: Figure) -> bytes:
    """The figure as a PNG: the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # otherwise matplotlib's version
    return buffer.getvalue()


def show_image(axes: Axes, image: np.ndarray) -> None:
    """An image [H, W, 3] without axes, each pixel a square."""
    axes.imshow(image, interpolation="nearest")
    axes.set_axis_off()


def in_figure(name: str, length: int) -> str:
    """A name for a figure: no longer than this, and with control characters and dollar signs taken literally."""
    name = printable(name)
    name = name if len(name) <= length else name[: length - 1].rstrip() + "…"
    return name.replace("$", r"\$")
