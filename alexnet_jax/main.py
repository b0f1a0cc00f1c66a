"""Trains and evaluates AlexNet; run again with the same workdir, it goes on where it stopped.

python -m alexnet_jax.main --config=configs/imagenet.py --workdir=DIR [--config.section.field=value ...]

Started several times, by SLURM, Open MPI, Kubernetes or with --process_id, the processes train as one: docs/cluster.md.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_jax import cli
from alexnet_jax.cluster import launcher

_CONFIG = cli.define_config_flag()
_WORKDIR = cli.define_workdir_flag("the folder for checkpoints and logs; the same folder again goes on with the run")
_PROCESSES = launcher.define_flags()
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(launcher)


def main(arguments: Sequence[str]) -> None:
    """Checks everything that can be checked without a device, then trains."""
    cli.no_arguments(arguments)
    config = cli.the_config(_CONFIG)
    folder = cli.required_path(_WORKDIR)
    group = _PROCESSES.process_group()
    from alexnet_jax.cluster.processes import joined
    from alexnet_jax.train import train_and_evaluate  # JAX takes a second to import: not before the flags are right

    with joined(group) as table:
        print("".join(f"{line}\n" for line in table), end="", flush=True)
        train_and_evaluate(config, folder)


if __name__ == "__main__":
    cli.run(main)
