"""Checks of the loss: a training that diverged is stopped, one that does not learn is warned about."""

import collections
import math

from alexnet_jax.errors import DivergedError


class PlateauWatch:
    """Warns once if the loss is still ln(num_classes), which is the loss of guessing, after `after_steps` steps."""

    def __init__(self, num_classes: int, after_steps: int):
        self._guessing = math.log(num_classes)
        self._num_classes = num_classes
        self._after_steps = after_steps
        self._losses: collections.deque[float] = collections.deque(maxlen=10)
        self._judged = False

    def warning(self, step: int, loss: float) -> str | None:
        """Return the warning or None; call it with every logged loss. The mean of the last ten counts, within 1 %."""
        self._losses.append(loss)
        if self._judged or step < self._after_steps:
            return None
        self._judged = True
        mean = sum(self._losses) / len(self._losses)
        if abs(mean - self._guessing) > 0.01 * self._guessing:
            return None
        return (
            f"The loss is still {mean:.3f} after {step:,} steps, which is ln({self._num_classes}): the net only "
            "guesses. Check that images reach it on the 0-255 scale, minus the mean and not divided by a standard "
            "deviation; that conv3, conv4 and conv5 start with a standard deviation of 0.03, as in "
            "model.variant=original (the 0.01 printed in the paper leaves a fourteenth of the signal); that "
            "optimizer.learning_rate is neither too small nor too large; and that the labels belong to the images."
        )


def check_finite(loss: float, step: int, last_checkpoint_step: int | None) -> None:
    """Raise DivergedError if the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise diverged(f"The loss is {loss} at step {step:,}", last_checkpoint_step)


def diverged(fact: str, last_checkpoint_step: int | None) -> DivergedError:
    """Return the error for a number that is not finite; `fact` says which number, at which step."""
    checkpoint = (
        "no checkpoint was saved" if last_checkpoint_step is None else f"the last one is step {last_checkpoint_step:,}"
    )
    return DivergedError(
        f"{fact}: training diverged, and was stopped before another checkpoint ({checkpoint}). Try a smaller "
        "optimizer.learning_rate or precision=float32 in a new workdir, and check that images are on the 0-255 scale, "
        "minus the mean."
    )
