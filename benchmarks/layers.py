"""Each convolutional and fully connected layer alone, beside PyTorch's: forward, input gradient, kernel gradient.

python -m benchmarks.layers --variant=paper --batch=64

Layers in two groups do the work of both towers. conv1 has no input gradient, because training does not need it.
Products of large square matrices are measured in the same turns, as the speed of the hardware.
"""

from collections.abc import Iterator
from typing import NamedTuple

from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.layers import Convolution, Dense, LayerShape, layer_shapes
from benchmarks import operations
from benchmarks.nets import net_config
from benchmarks.work import Piece, Work

MATMUL = 2048


class Product(NamedTuple):
    """A layer with a kernel, and the number of groups whose units see different channels."""

    shape: LayerShape
    groups: int

    def pieces(self) -> tuple[str, ...]:
        """Return the names of its pieces of work."""
        name = self.shape.layer.name
        parts = ("forward", "kernel gradient") if name == "conv1" else ("forward", "input gradient", "kernel gradient")
        return tuple(f"{name} {part}" for part in parts)


def products(variant: str, width: float) -> Iterator[Product]:
    """Yield the layers of the variant that have kernels; `width` multiplies their widths."""
    model = net_config(variant, width).model
    net = build_net(model)
    for shape in layer_shapes(net, model.image_size, model.num_classes):
        if shape.kernel_shape:
            own = isinstance(shape.layer, Convolution | Dense) and shape.layer.sees == "own"
            yield Product(shape, net.towers if own else 1)


def ours(batch: int, precision: str, variant: str, width: float) -> Work:
    """Build `grouped_convolution`, and `jnp.dot` for fully connected layers; kernels are stored as float32."""
    import jax
    import jax.numpy as jnp

    from alexnet_jax.model.convolution import grouped_convolution
    from benchmarks.ours import compiled, matmul, noise, notes, repeated

    def forward_of(product: Product):
        layer = product.shape.layer
        if not isinstance(layer, Convolution):
            return lambda x, kernel: jnp.dot(x, kernel.astype(x.dtype))
        padding = (layer.padding, layer.padding)
        return lambda x, kernel: grouped_convolution(
            x, kernel, stride=layer.stride, padding=padding, groups=product.groups, dtype=x.dtype
        )

    def pieces_of(product: Product) -> dict[str, Piece]:
        shape = product.shape
        assert shape.kernel_shape
        inputs = shape.input_shape if isinstance(shape.layer, Convolution) else shape.kernel_shape[:1]
        function = forward_of(product)
        x = noise((batch, *inputs), precision, seed=0)
        kernel = noise(shape.kernel_shape, "float32", seed=1)
        cotangent = noise((batch, *shape.output_shape), precision, seed=2)

        forward = compiled(function)
        input_gradient = compiled(lambda x, kernel, g: jax.vjp(lambda x: function(x, kernel), x)[1](g)[0])
        kernel_gradient = compiled(lambda x, kernel, g: jax.vjp(lambda kernel: function(x, kernel), kernel)[1](g)[0])
        measured = {
            "forward": repeated(lambda: forward(x, kernel)),
            "input gradient": repeated(lambda: input_gradient(x, kernel, cotangent)),
            "kernel gradient": repeated(lambda: kernel_gradient(x, kernel, cotangent)),
        }
        return {name: measured[name.partition(" ")[2]] for name in product.pieces()}

    pieces = matmul(MATMUL, precision).pieces
    for product in products(variant, width):
        pieces = pieces | pieces_of(product)
    return Work(pieces, notes())


def peer(batch: int, precision: str, variant: str, width: float, device: str, layout: str, mode: str) -> Work:
    """Build `conv2d`, its two gradients from `torch.nn.grad`, and products; one precision, the image already padded."""
    import torch
    from torch.nn import functional as F
    from torch.nn.grad import conv2d_input, conv2d_weight

    from benchmarks.peer import in_mode, matmul, noise, notes, repeated

    def pieces_of(product: Product) -> dict[str, Piece]:
        shape, groups = product.shape, product.groups
        assert shape.kernel_shape
        layer = shape.layer
        if isinstance(layer, Convolution):
            side, _, channels = shape.input_shape
            symmetric = layer.padding[0] == layer.padding[1]
            padding = layer.padding[0] if symmetric else 0
            side += 0 if symmetric else sum(layer.padding)
            x = noise((batch, channels, side, side), precision, device, layout)
            *window, depth, features = shape.kernel_shape
            kernel = noise((features, depth, *window), precision, device, layout)
            cotangent = noise((batch, features, *shape.output_shape[:2]), precision, device, layout)
            settings = (layer.stride, padding, 1, groups)
            forward = in_mode(lambda: F.conv2d(x, kernel, None, *settings), mode)
            input_gradient = in_mode(lambda: conv2d_input(x.shape, kernel, cotangent, *settings), mode)
            kernel_gradient = in_mode(lambda: conv2d_weight(x, kernel.shape, cotangent, *settings), mode)
        else:
            inputs, units = shape.kernel_shape
            x = noise((batch, inputs), precision, device, layout)
            kernel = noise((units, inputs), precision, device, layout)
            cotangent = noise((batch, units), precision, device, layout)
            forward = in_mode(lambda: F.linear(x, kernel), mode)
            input_gradient = in_mode(lambda: torch.mm(cotangent, kernel), mode)
            kernel_gradient = in_mode(lambda: torch.mm(cotangent.T, x), mode)
        measured = {"forward": forward, "input gradient": input_gradient, "kernel gradient": kernel_gradient}
        return {name: repeated(measured[name.partition(" ")[2]], device) for name in product.pieces()}

    pieces = matmul(MATMUL, precision, device).pieces
    with torch.no_grad():
        for product in products(variant, width):
            pieces = pieces | pieces_of(product)
    return Work(pieces, notes(device))


def main() -> None:
    """Run the comparison and write the row with the rates."""
    parser = operations.parser(__doc__)
    parser.add_argument("--variant", default="paper", help="which net (%(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the widths of all layers (%(default)s)")
    flags = parser.parse_args()
    work = {"matmul": 2 * MATMUL**3}
    for product in products(flags.variant, flags.width):
        work |= dict.fromkeys(product.pieces(), 2 * product.shape.multiply_adds * flags.batch)
    operations.compare("layers", flags, work, variant=flags.variant, width=flags.width)


if __name__ == "__main__":
    main()
