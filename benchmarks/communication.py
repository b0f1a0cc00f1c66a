"""What each device sends in a training step on different layouts, according to the compiled program.

    python -m benchmarks.communication --variant=paper --batch=128
    python -m benchmarks.communication --variant=one_weird_trick --batch=128

Nothing is run. "Needed" is the theoretical minimum from the layer table (`benchmarks.layouts.transfers`): activations
and their gradients where devices exchange them, and parameter gradients once per step. Layouts are data x tower.
"""

from benchmarks import layouts, records


def main() -> None:
    """Compile for each layout and write the row."""
    parser = records.parser(__doc__, repeats=1)
    records.add_net_flags(parser)
    flags = parser.parse_args()
    lines = [
        {
            "layout": layout,
            "collectives in a step": plan["collectives"],
            "sent by a device, MiB": plan["sent"] / 2**20,
            "needed, MiB": plan["needed"] / 2**20,
            "sent / needed": plan["sent"] / plan["needed"] if plan["needed"] else None,
        }
        for layout, plan in layouts.plans(flags).items()
    ]
    records.write("communication", flags, lines)


if __name__ == "__main__":
    main()
