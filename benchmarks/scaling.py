"""How long a training step should take on many devices: compute, update and transfers, from the layer table.

    python -m benchmarks.scaling --variant=one_weird_trick --batch=128 --flops=1.35e12 --memory=2e11 --link=6e9

A step is taken to last as long as (1) its multiply-adds on one device, at the rate that was measured there, (2) moving
parameters, gradients and velocity through its memory once for the update, and (3) all transfers of the layout at the
rate of its link, with a latency each. Nothing overlaps, so a program that hides transfers behind compute is faster.
"""

import importlib
from typing import NamedTuple

from alexnet_jax.config import Config
from alexnet_jax.model.ablations import build_net
from alexnet_jax.model.layers import LayerShape, layer_shapes
from benchmarks import records
from benchmarks.layouts import Layout, transfers

UPDATE_PASSES = 5  # read parameter, gradient and velocity, write parameter and velocity
FLOAT32 = 4  # bytes


class Device(NamedTuple):
    """Rates: FLOP/s of a training step on one device, bytes/s of its memory and of its link, seconds a transfer."""

    flops: float
    memory: float
    link: float
    latency: float


class StepTime(NamedTuple):
    """Seconds of one step, by what they are spent on."""

    compute: float
    update: float
    communication: float

    @property
    def total(self) -> float:
        """All of it, one after the other."""
        return self.compute + self.update + self.communication


def step_time(config: Config, layout: Layout, device: Device) -> StepTime:
    """What the model says of the config's net and global batch on this layout."""
    net = build_net(config.model)
    shapes = list(layer_shapes(net, config.model.image_size, config.model.num_classes))
    sent = transfers(config, layout)
    held = sum(
        shape.parameters / layout.tower / (1 if number < net.num_convolutional else layout.workers)
        for number, shape in enumerate(shapes)
    )
    updated = held / layout.data if layout.shard_velocity and layout.workers == 1 else held
    return StepTime(
        # Parts of the batch, towers and units all divide the work evenly.
        compute=config.batch_size * training_flops(shapes) / layout.devices / device.flops,
        update=UPDATE_PASSES * FLOAT32 * updated / device.memory,
        communication=sum(each.sent / device.link + each.times * device.latency for each in sent),
    )


def training_flops(shapes: list[LayerShape]) -> int:
    """Operations for one image: forward, and the gradients of input and kernel; the image itself needs none."""
    return sum((4 if number == 0 else 6) * shape.multiply_adds for number, shape in enumerate(shapes))


def main() -> None:
    """Prints the model's table for growing numbers of devices and writes the row."""
    parser = records.parser(__doc__, repeats=1)
    parser.add_argument("--variant", default="one_weird_trick", help="which net (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images on each device (%(default)s)")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--flops", type=float, required=True, help="FLOP/s of the step on one device, measured there")
    parser.add_argument("--memory", type=float, required=True, help="bytes/s of a device's memory")
    parser.add_argument("--link", type=float, required=True, help="bytes/s that a device sends to the others")
    parser.add_argument("--latency", type=float, default=1e-5, help="seconds of each transfer (%(default)s)")
    flags = parser.parse_args()
    device = Device(flags.flops, flags.memory, flags.link, flags.latency)
    lines = []
    for devices in flags.devices:
        config: Config = importlib.import_module(f"configs.{flags.variant}").get_config()
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
    """The layouts worth comparing on so many devices."""
    found = [Layout(data=devices)]
    if devices > 1 and towers == 2:
        found.append(Layout(data=devices // 2, tower=2))
    if devices > 1 and towers == 1:
        found.append(Layout(data=devices, fully_connected="gathered"))
    return found


if __name__ == "__main__":
    main()
