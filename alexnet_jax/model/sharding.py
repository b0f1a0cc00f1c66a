"""The velocity split over the parts of the batch, so that no two devices keep the same number twice.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (arXiv 1910.02054),
stage 1. Each device gets the sum of a part of the gradient (a reduce-scatter), updates that part, and the parameters
are put together again (an all-gather): as many bytes as the all-reduce that this replaces.
"""

from jax.sharding import PartitionSpec as P

from alexnet_jax.parallel.towers import DATA_AXIS


def velocity_spec(spec: P, shape: tuple[int, ...], parts: int) -> P:
    """The `PartitionSpec` of a parameter's velocity; the global shape stays, so that checkpoints fit any layout.

    It is split along the longest axis that is whole and divides into the parts. Biases are not worth a message of
    their own; they stay as they are, and so does what already is split over `data`, or what no axis divides of.

    Args:
      spec: the parameter's, with an entry for each axis.
      shape: the parameter's, global.
      parts: size of the mesh axis `data`.
    """
    if parts == 1 or len(shape) < 2 or DATA_AXIS in spec:
        return spec
    free = [axis for axis, name in enumerate(spec) if name is None and shape[axis] % parts == 0]
    split = max(free, key=lambda axis: shape[axis], default=None)
    return P(*(DATA_AXIS if axis == split else name for axis, name in enumerate(spec)))
