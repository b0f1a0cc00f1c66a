"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX: train it, split it over devices, check it, use it."""

import os
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # requests to stop: signals.py
# `python -m alexnet_jax.main` imports this file before anything else. If a notebook, a debugger or a profiler runs the
# command, its own name has replaced the "-m" by then.
IS_COMMAND = sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].startswith("alexnet_jax.")
if IS_COMMAND:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until `listen`, also where the process starts anew

from typing import TYPE_CHECKING  # noqa: E402

from alexnet_jax import runtime, signals  # noqa: E402

if IS_COMMAND:
    runtime.open_standard_streams()
    runtime.use_huge_pages()
    signals.listen()

if TYPE_CHECKING:
    from alexnet_jax.checkpoint import Step
    from alexnet_jax.predict.api import TrainedNet

__version__ = "0.1.0"


def load(
    workdir: str | os.PathLike[str],
    step: "Step" = "latest",
    precision: str | None = None,
    preprocessing: str | None = None,
) -> "TrainedNet":
    """Load a trained net. See docs/use.md.

    Args:
      workdir: the folder of a training or conversion.
      step: which checkpoint: the number of a step, "latest" or "best".
      precision: of the computation, "float32" or "bfloat16"; None is that of the training.
      preprocessing: whose way of preparing pictures, "paper", "torchvision" or "caffe"; None is that of the net.

    Raises:
      UserError: the folder holds no net or no such checkpoint, or an argument has none of these values.
    """
    # Imported late: a command must not import JAX, which takes a second, before its flags are right.
    from alexnet_jax.files import expanded
    from alexnet_jax.predict.api import TrainedNet
    from alexnet_jax.run.restore import restore

    return TrainedNet(restore(expanded(workdir, "workdir"), step, precision=precision, preprocessing=preprocessing))
