"""What only a GPU can tell: other forms of the same work, of which the compiled program did not name the faster one.

    python -m benchmarks.choices --batch=512 --precision=bfloat16 --platform=gpu

- conv1 as published, 11 x 11 x 3 with stride 4, or by space-to-depth: 3 x 3 x 48, with zeros for a twelfth row and
  column, for tensor cores that want more than three channels.
- Two towers as a grouped convolution, as two that read and write halves of one map, or as two with maps of their own.
- Response normalization that is pooled as it is computed, or stored before: a third of the bytes, twice the roots.
- A bfloat16 copy of the largest kernel made before it is used, or written by its update.

The first three are timed with the gradients that training needs. Which form the program has now is marked.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from alexnet_jax.model.layers import Convolution, LayerShape
from benchmarks import lrn, pooling, records
from benchmarks.harness import Contender, jax_environment, race
from benchmarks.nets import net_config, net_shapes
from benchmarks.work import Piece, Work

if TYPE_CHECKING:
    import jax

NOW = " (now)"  # ends the name of the form that the program has


def space_to_depth(images: "jax.Array", kernel: "jax.Array", layer: Convolution) -> "jax.Array":
    """Convolve with stride s by moving blocks of s x s pixels into the channels; the same result, rounding apart.

    [B, S, S, C] and [k, k, C, features] -> [B, rows, rows, features].
    """
    import jax.numpy as jnp
    from jax import lax

    stride, (before, after) = layer.stride, layer.padding
    blocks = -(-layer.kernel // stride)
    missing = blocks * stride - layer.kernel
    rows = (images.shape[1] + before + after - layer.kernel) // stride + blocks  # of blocks that windows see
    after += max(0, rows * stride - images.shape[1] - before - after)
    images = jnp.pad(images, ((0, 0), (before, after), (before, after), (0, 0)))[:, : rows * stride, : rows * stride]
    kernel = jnp.pad(kernel, ((0, missing), (0, missing), (0, 0), (0, 0)))

    def blocked(x: "jax.Array", rows: int, axis: int) -> "jax.Array":
        """Split the axes `axis` and the next into blocks, and move what is inside them next to the channels."""
        cut = x.reshape(*x.shape[:axis], rows, stride, rows, stride, *x.shape[axis + 2 :])
        moved = jnp.swapaxes(cut, axis + 1, axis + 2)
        return moved.reshape(*x.shape[:axis], rows, rows, stride * stride * x.shape[axis + 2], *x.shape[axis + 3 :])

    return lax.conv_general_dilated(
        blocked(images, rows, 1),
        blocked(kernel, blocks, 0),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def convolve(x: "jax.Array", kernel: "jax.Array", layer: Convolution, groups: int = 1) -> "jax.Array":
    """Convolve as the program does on a GPU."""
    from jax import lax

    return lax.conv_general_dilated(
        x,
        kernel,
        (layer.stride,) * 2,
        (layer.padding,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def halves(x: "jax.Array", kernel: "jax.Array", layer: Convolution) -> "jax.Array":
    """Convolve each half of the channels by itself."""
    import jax.numpy as jnp

    parts = zip(jnp.split(x, 2, axis=-1), jnp.split(kernel, 2, axis=-1), strict=True)
    return jnp.concatenate([convolve(part, kernels, layer) for part, kernels in parts], axis=-1)


def apart(
    left: "jax.Array", right: "jax.Array", left_kernel: "jax.Array", right_kernel: "jax.Array", layer: Convolution
) -> tuple["jax.Array", "jax.Array"]:
    """Convolve two maps."""
    return convolve(left, left_kernel, layer), convolve(right, right_kernel, layer)


def update(kernel: "jax.Array", velocity: "jax.Array", gradient: "jax.Array") -> tuple["jax.Array", "jax.Array"]:
    """Apply the paper's update."""
    velocity = 0.9 * velocity - 0.01 * (gradient + 5e-4 * kernel)
    return kernel + velocity, velocity


def ours(batch: int, precision: str, variant: str, width: float) -> Work:
    """Build all forms: pieces named "operation: form"."""
    from benchmarks.ours import notes

    pieces: dict[str, Piece] = {}
    shapes = net_shapes(net_config(variant, width))
    for shape in shapes:
        if isinstance(shape.layer, Convolution):
            pieces |= _forms_of_convolution(shape, batch, precision)
    for side, channels in lrn.SIZES:
        pieces |= _forms_of_normalization((batch, side, side, channels), precision)
    largest = max((shape.kernel_shape for shape in shapes if len(shape.kernel_shape or ()) == 2), key=math.prod)
    return Work(pieces | _forms_of_copies(largest), notes())


def _forms_of_convolution(shape: LayerShape, batch: int, precision: str) -> dict[str, Piece]:
    """Return the forms of conv1, or of a convolution in two towers; none of others."""
    import jax.numpy as jnp

    from benchmarks.ours import noise

    layer: Any = shape.layer
    assert shape.kernel_shape
    x = noise((batch, *shape.input_shape), precision, seed=0)
    kernel = noise(shape.kernel_shape, precision, seed=1)
    cotangent = noise((batch, *shape.output_shape), precision, seed=2)
    if layer.name == "conv1":
        forms = {f"as published{NOW}": convolve, "space-to-depth": space_to_depth}
        return {
            f"conv1: {name}": _with_gradients(partial(form, x, layer=layer), [kernel], cotangent)
            for name, form in forms.items()
        }
    if layer.sees != "own":
        return {}
    parts = [half for whole in (x, kernel) for half in jnp.split(whole, 2, axis=-1)]
    forms = {
        f"grouped{NOW}": _with_gradients(partial(convolve, layer=layer, groups=2), [x, kernel], cotangent),
        "halves of one map": _with_gradients(partial(halves, layer=layer), [x, kernel], cotangent),
        "maps of their own": _with_gradients(
            partial(apart, layer=layer), parts, tuple(jnp.split(cotangent, 2, axis=-1))
        ),
    }
    return {f"{layer.name}: {name}": piece for name, piece in forms.items()}


def _forms_of_normalization(shape: tuple[int, ...], precision: str) -> dict[str, Piece]:
    """Return the forms of normalization and pooling."""
    from alexnet_jax.model.normalization import within_pooling
    from benchmarks.ours import noise

    pool = pooling.operation()
    normalize = lrn.operation()
    of = within_pooling(**normalize.keywords)
    forms = {f"at once{NOW}": partial(pool, of=of), "stored between": lambda x: pool(normalize(x))}
    x = noise(shape, precision, seed=0)
    rows = (shape[1] - pooling.WINDOW) // pooling.STRIDE + 1
    cotangent = noise((shape[0], rows, rows, shape[3]), precision, seed=1)
    name = f"normalization and pooling, {shape[1]} x {shape[2]} x {shape[3]}"
    return {f"{name}: {form}": _with_gradients(function, [x], cotangent) for form, function in forms.items()}


def _with_gradients(function: Callable, arrays: list["jax.Array"], cotangent: Any) -> Piece:
    """Return the piece that computes a function and its gradients with respect to all of the arrays."""
    import jax

    from benchmarks.ours import compiled, repeated

    def both(cotangent: Any, *arrays: "jax.Array") -> tuple[Any, Any]:
        y, backward = jax.vjp(function, *arrays)
        return y, backward(cotangent)

    computed = compiled(both)
    return repeated(lambda: computed(cotangent, *arrays))


def _forms_of_copies(shape: tuple[int, ...]) -> dict[str, Piece]:
    """Return the forms of the update of a kernel of this shape and of its copy in bfloat16."""
    import jax.numpy as jnp

    from benchmarks.ours import compiled, noise, repeated

    arrays = [noise(shape, "float32", seed) for seed in range(3)]

    def with_copy(*arrays: "jax.Array") -> tuple["jax.Array", ...]:
        kernel, velocity = update(*arrays)
        return kernel, velocity, kernel.astype(jnp.bfloat16)

    alone, together, copy = compiled(update), compiled(with_copy), compiled(lambda x: x.astype(jnp.bfloat16))

    def one_after_the_other() -> "jax.Array":
        kernel, _ = alone(*arrays)
        return copy(kernel)

    return {
        f"update and copy: one after the other{NOW}": repeated(one_after_the_other),
        "update and copy: in one pass": repeated(lambda: together(*arrays)),
    }


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = records.parser(__doc__, repeats=5)
    records.add_net_flags(parser)
    records.add_platform_flag(parser)
    parser.add_argument("--seconds", type=float, default=0.1, help="how long a repeat lasts, at least (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Time all forms and write the row."""
    flags = parse()
    environment = jax_environment(flags.platform)
    contender = Contender("ours", "benchmarks.choices:ours", records.net_arguments(flags), environment, tuned=True)
    result = race([contender], flags.repeats, flags.seconds)
    medians = {piece: times["ours"].median for piece, times in result.times.items()}
    lines = []
    for piece, times in result.times.items():
        operation, _, form = piece.partition(": ")
        now = next(medians[other] for other in medians if other.startswith(operation) and other.endswith(NOW))
        speed = f"{now / medians[piece]:.2f}x"
        lines.append({"operation": operation, "form": form, **records.milliseconds(times["ours"]), "faster": speed})
    records.write("choices", flags, lines, notes=result.notes)


if __name__ == "__main__":
    main()
