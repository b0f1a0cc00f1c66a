"""A cost model of a training step on many devices: compute, update and transfers, by the layer table.

    python -m benchmarks.scaling --variant=one_weird_trick --batch=128 --flops=1.35e12 --memory=2e11 --link=6e9

The time of a step is the sum of (1) its operations, at the rate measured on one device, (2) moving parameters,
gradients and momentum through memory once for the update, and (3) all transfers of the layout at the rate of the link,
with a latency each. Nothing overlaps, so a program that hides transfers behind compute is faster.
"""

from typing import NamedTuple

from alexnet_jax.config import Config
from alexnet_jax.model.ablations import build_net
from benchmarks import records
from benchmarks.layouts import Layout, transfers
from benchmarks.nets import net_config, net_shapes, training_operations

UPDATE_PASSES = 5  # read parameter, gradient and momentum, write parameter and momentum
FLOAT32 = 4  # bytes


class Device(NamedTuple):
    """FLOP/s of a training step on one device, bytes/s of its memory and its link, and seconds of latency."""

    flops: float
    memory: float
    link: float
    latency: float


class StepTime(NamedTuple):
    """Seconds of one step, by kind."""

    compute: float
    update: float
    communication: float

    @property
    def total(self) -> float:
        """Return the sum, since nothing overlaps."""
        return self.compute + self.update + self.communication


def step_time(config: Config, layout: Layout, device: Device) -> StepTime:
    """Return the model's times for the config's net and global batch on this layout."""
    num_convolutional = build_net(config.model).num_convolutional
    shapes = net_shapes(config)
    held = sum(
        shape.parameters / layout.tower / (1 if number < num_convolutional else layout.fully_connected_shards)
        for number, shape in enumerate(shapes)
    )
    updated = held / layout.data if layout.shard_momentum and not layout.is_hybrid else held
    return StepTime(
        # Shards of the batch, towers and shards of units all divide the work evenly.
        compute=config.batch_size * training_operations(shapes) / layout.devices / device.flops,
        update=UPDATE_PASSES * FLOAT32 * updated / device.memory,
        communication=sum(each.sent / device.link + each.times * device.latency for each in transfers(config, layout)),
    )


def main() -> None:
    """Write the row with the model's table for each number of devices."""
    parser = records.parser(__doc__, repeats=1)
    parser.add_argument("--variant", default="one_weird_trick", help="which net (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images on each device (%(default)s)")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--flops", type=float, required=True, help="FLOP/s of the step on one device, measured there")
    parser.add_argument("--memory", type=float, required=True, help="bytes/s of a device's memory")
    parser.add_argument("--link", type=float, required=True, help="bytes/s that a device sends to the others")
    parser.add_argument("--latency", type=float, default=1e-5, help="seconds of latency per transfer (%(default)s)")
    flags = parser.parse_args()
    device = Device(flags.flops, flags.memory, flags.link, flags.latency)
    lines = []
    for devices in flags.devices:
        config = net_config(flags.variant)
        config.batch_size = flags.batch * devices
        one = step_time(config, Layout(), device).total  # the same batch on one device
        for layout in layouts_on(devices, build_net(config.model).towers):
            time = step_time(config, layout, device)
            lines.append(
                {"devices": devices, "layout": str(layout), "batch": config.batch_size}
                | {f"{name}, ms": 1e3 * seconds for name, seconds in time._asdict().items()}
                | {"images/s": config.batch_size / time.total, "speed-up": one / time.total}
            )
    records.write("scaling", flags, lines)


def layouts_on(devices: int, towers: int) -> list[Layout]:
    """Return the layouts to compare: the batch in shards alone, and with the towers or as a hybrid."""
    data_parallel = Layout(data=devices)
    if devices == 1:
        return [data_parallel]
    if towers == 2:
        return [data_parallel, Layout(data=devices // 2, tower=2)]
    return [data_parallel, Layout(data=devices, shard_fully_connected=True)]


if __name__ == "__main__":
    main()
