"""Train and evaluate AlexNet; the same command with the same workdir resumes a run that was stopped.

python -m alexnet_jax.main --config=configs/imagenet.py --workdir=DIR [--config.section.field=value ...]

Several processes, started by SLURM, Open MPI, Kubernetes or with --process_id, train as one: docs/cluster.md.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_jax import cli
from alexnet_jax.cluster import launcher

_CONFIG = cli.define_config_flag()
_WORKDIR = cli.define_path_flag("workdir", "the folder for checkpoints and logs; that of a stopped run resumes it")
_process_group = launcher.define_flags()
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(launcher)


def main(arguments: Sequence[str]) -> None:
    """Check everything that can be checked without a device, then train."""
    cli.no_arguments(arguments)
    config = cli.the_config(_CONFIG)
    folder = cli.required(_WORKDIR)
    group = _process_group()
    # JAX takes a second to import: not before the flags are right.
    from alexnet_jax.cluster.processes import joined
    from alexnet_jax.train import train_and_evaluate

    with joined(group) as table:
        print("".join(f"{line}\n" for line in table), end="", flush=True)
        train_and_evaluate(config, folder)


if __name__ == "__main__":
    cli.run(main)
