"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX: train it, split it over devices, check it, use it."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_jax.checkpoint import Step
    from alexnet_jax.predict.api import TrainedNet

__version__ = "0.1.0"


def load(workdir: str | os.PathLike[str], step: "Step" = "latest") -> "TrainedNet":
    """Load the net of a workdir from one of its checkpoints: that of a step, "latest" or "best". See docs/use.md.

    UserError if there is none.
    """
    # Imported late: commands import this package before JAX may be imported (`runtime.use_huge_pages`).
    from alexnet_jax.files import expanded
    from alexnet_jax.predict.api import TrainedNet
    from alexnet_jax.run.restore import restore

    return TrainedNet(restore(expanded(workdir, "workdir"), step))
