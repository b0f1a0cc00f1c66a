"""Local response normalization alone, at the two places of the paper's net that have it, beside PyTorch's.

python -m benchmarks.lrn --batch=64
"""

from functools import partial

from benchmarks import operations
from benchmarks.work import Work

SIZES = ((55, 96), (27, 256))  # side in pixels and channels, of norm1 and norm2
SIZE, ALPHA, BETA, K = 5, 1e-4, 0.75, 2.0  # paper section 3.3


def operation() -> partial:
    """Return `local_response_normalization` of two towers."""
    from alexnet_jax.model.normalization import channel_window, local_response_normalization

    before, after = channel_window(SIZE, "pytorch")
    return partial(
        local_response_normalization, before=before, after=after, coefficient=ALPHA, beta=BETA, k=K, groups=2
    )


def ours(batch: int, precision: str) -> Work:
    """Build our operation."""
    from benchmarks.ours import forward_and_backward

    return forward_and_backward(operation(), SIZES, batch, precision)


def peer(batch: int, precision: str, device: str, layout: str, mode: str) -> Work:
    """Build `torch.nn.functional.local_response_norm`, which divides alpha by the size."""
    from torch import Tensor
    from torch.nn import functional as F

    from benchmarks.peer import forward_and_backward

    def normalize(x: Tensor) -> Tensor:
        return F.local_response_norm(x, SIZE, ALPHA * SIZE, BETA, K)

    return forward_and_backward(normalize, SIZES, batch, precision, device, layout, mode)


if __name__ == "__main__":
    operations.compare("lrn", operations.parser(__doc__).parse_args())
