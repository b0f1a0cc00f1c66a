"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX: train it, split it over devices, check it, use it."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_jax.predict.api import TrainedNet

__version__ = "0.1.0"


def load(workdir: str | os.PathLike[str], step: int | None = None) -> "TrainedNet":
    """The trained net of a workdir, ready to predict: see `alexnet_jax.predict.api.TrainedNet` and docs/use.md."""
    # Not above: commands import this package before JAX may be imported (`runtime.use_huge_pages`).
    from alexnet_jax.predict import api

    return api.load(workdir, step)
