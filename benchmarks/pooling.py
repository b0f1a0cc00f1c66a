"""Max pooling by itself, 3 x 3 every 2 pixels, at the three places where the paper's net has it, beside PyTorch's.

python -m benchmarks.pooling --batch=64
"""

from benchmarks import operations
from benchmarks.work import Piece, Work

SHAPES = ((55, 96), (27, 256), (13, 256))  # pixels a side and channels, of pool1, pool2 and pool5
WINDOW, STRIDE = 3, 2  # paper section 3.4


def ours(batch: int, precision: str) -> Work:
    """`alexnet_jax.model.pooling.max_pool`."""
    import jax

    from alexnet_jax.model.pooling import max_pool
    from benchmarks.ours import facts, forward_and_backward

    def pool(x: jax.Array) -> jax.Array:
        return max_pool(x, WINDOW, STRIDE)

    pieces: dict[str, Piece] = {}
    for side, channels in SHAPES:
        pieces |= forward_and_backward(f"{side} x {side} x {channels}", pool, (batch, side, side, channels), precision)
    return Work(pieces, facts())


def peer(batch: int, precision: str, device: str, layout: str, mode: str) -> Work:
    """`torch.nn.functional.max_pool2d`."""
    from torch import Tensor
    from torch.nn import functional as F

    from benchmarks.peer import facts, forward_and_backward, in_mode

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, WINDOW, STRIDE)

    pieces: dict[str, Piece] = {}
    for side, channels in SHAPES:
        name, shape = f"{side} x {side} x {channels}", (batch, channels, side, side)
        pieces |= forward_and_backward(name, in_mode(pool, mode), shape, precision, device, layout)
    return Work(pieces, facts(device))


if __name__ == "__main__":
    operations.compare("pooling", operations.parser(__doc__).parse_args())
