"""Local response normalization by itself, at the two places where the paper's net has it, beside PyTorch's.

python -m benchmarks.lrn --batch=64
"""

from benchmarks import operations
from benchmarks.work import Piece, Work

SHAPES = ((55, 96), (27, 256))  # pixels a side and channels, of norm1 and norm2
SIZE, ALPHA, BETA, K = 5, 1e-4, 0.75, 2.0  # paper section 3.3


def ours(batch: int, precision: str) -> Work:
    """`local_response_normalization` of two towers."""
    import jax

    from alexnet_jax.model.normalization import channel_window, local_response_normalization
    from benchmarks.ours import facts, forward_and_backward

    before, after = channel_window(SIZE, "pytorch")

    def normalize(x: jax.Array) -> jax.Array:
        return local_response_normalization(x, before=before, after=after, coefficient=ALPHA, beta=BETA, k=K, groups=2)

    pieces: dict[str, Piece] = {}
    for side, channels in SHAPES:
        pieces |= forward_and_backward(
            f"{side} x {side} x {channels}", normalize, (batch, side, side, channels), precision
        )
    return Work(pieces, facts())


def peer(batch: int, precision: str, device: str, layout: str, mode: str) -> Work:
    """`torch.nn.functional.local_response_norm`, whose alpha is divided by the size."""
    from torch import Tensor
    from torch.nn import functional as F

    from benchmarks.peer import facts, forward_and_backward, in_mode

    def normalize(x: Tensor) -> Tensor:
        return F.local_response_norm(x, SIZE, ALPHA * SIZE, BETA, K)

    pieces: dict[str, Piece] = {}
    for side, channels in SHAPES:
        name, shape = f"{side} x {side} x {channels}", (batch, channels, side, side)
        pieces |= forward_and_backward(name, in_mode(normalize, mode), shape, precision, device, layout)
    return Work(pieces, facts(device))


if __name__ == "__main__":
    operations.compare("lrn", operations.parser(__doc__).parse_args())
