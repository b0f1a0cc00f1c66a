"""Max pooling alone, 3 x 3 with stride 2, at the three places of the paper's net that have it, beside PyTorch's.

python -m benchmarks.pooling --batch=64
"""

from collections.abc import Callable
from functools import partial

from benchmarks import operations
from benchmarks.work import Work

SIZES = ((55, 96), (27, 256), (13, 256))  # side in pixels and channels, of pool1, pool2 and pool5
WINDOW, STRIDE = 3, 2  # paper section 3.4


def operation() -> Callable:
    """Return `alexnet_jax.model.pooling.max_pool`."""
    from alexnet_jax.model.pooling import max_pool

    return partial(max_pool, window=WINDOW, stride=STRIDE)


def ours(batch: int, precision: str) -> Work:
    """Build our operation."""
    from benchmarks.ours import forward_and_backward

    return forward_and_backward(operation(), SIZES, batch, precision)


def peer(batch: int, precision: str, device: str, layout: str, mode: str) -> Work:
    """Build `torch.nn.functional.max_pool2d`."""
    from torch import Tensor
    from torch.nn import functional as F

    from benchmarks.peer import forward_and_backward

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, WINDOW, STRIDE)

    return forward_and_backward(pool, SIZES, batch, precision, device, layout, mode)


if __name__ == "__main__":
    operations.compare("pooling", operations.parser(__doc__).parse_args())
