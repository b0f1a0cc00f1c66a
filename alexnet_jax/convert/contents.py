"""What a file of weights holds, whatever wrote it: arrays under its own names, and what else it says of the net."""

from typing import NamedTuple

import numpy as np

from alexnet_jax.convert.layout import Arrays


class Contents(NamedTuple):
    """What was read from a file; what it does not say is None.

    arrays: by the file's names, in its order.
    variant: the net, where the file says so or files of this form hold no other; `certain` if none else fits.
    bgr: whether the net's images had blue first.
    mean: what is subtracted from its images, float32 [S, S, 3] or [3], red first.
    label_names: the names of the classes, in order.
    record: the text that our own exports carry (`record.py`).
    notes: one line for each choice that reading it made.
    """

    arrays: Arrays
    variant: str | None = None
    certain: bool = False
    bgr: bool = False
    mean: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    record: str | None = None
    notes: tuple[str, ...] = ()
