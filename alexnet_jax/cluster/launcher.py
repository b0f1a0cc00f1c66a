"""Is this process one of several that train together? Flags and the launcher's variables say so, before JAX is there.

A process on its own must not start a group and wait for others, so what `jax.distributed` would find out by itself is
looked at first: SLURM's `srun`, Open MPI's `mpirun` and Kubernetes' indexed jobs leave these variables.
"""

import importlib.util
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from absl import flags

from alexnet_jax.errors import UserError

# All of them, as `jax.distributed` asks for: a shell of `salloc` or a script of `sbatch` has only some.
_SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")
_ADDRESS = re.compile(r".+:\d+")


class ProcessGroup(NamedTuple):
    """Where a process stands in its group; what is None, JAX asks the launcher for.

    coordinator_address: HOST:PORT at which process 0 gathers the others. num_processes: how many there are.
    process_id: which of them this one is. launcher: who started them, for people. timeout: seconds within which all
    must have come.
    """

    coordinator_address: str | None
    num_processes: int | None
    process_id: int | None
    launcher: str
    timeout: int


class ProcessFlags(NamedTuple):
    """The flags that place a process in a group, named as the arguments of `jax.distributed.initialize`."""

    coordinator_address: flags.FlagHolder[str | None]
    num_processes: flags.FlagHolder[int | None]
    process_id: flags.FlagHolder[int | None]
    initialization_timeout: flags.FlagHolder[int]

    def process_group(self) -> ProcessGroup | None:
        """Where this process stands; None on its own. UserError if the flags contradict each other."""
        return find_process_group(
            os.environ,
            self.coordinator_address.value,
            self.num_processes.value,
            self.process_id.value,
            self.initialization_timeout.value,
        )


def define_flags() -> ProcessFlags:
    """Defines --coordinator_address, --num_processes, --process_id and --initialization_timeout."""
    return ProcessFlags(
        flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0; SLURM, Open MPI, Kubernetes know it"),
        flags.DEFINE_integer("num_processes", None, "how many processes train together; 1: this one alone", 1),
        flags.DEFINE_integer("process_id", None, "which of them this is, from 0", 0),
        flags.DEFINE_integer("initialization_timeout", 300, "seconds within which all processes must have come", 1),
    )


def find_process_group(
    environment: Mapping[str, str],
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
) -> ProcessGroup | None:
    """What the flags say, completed from the launcher's variables; None for a process on its own.

    Raises:
      UserError: a flag is missing or impossible, or the launcher leaves something open.
    """
    coordinator_address = coordinator_address or environment.get("JAX_COORDINATOR_ADDRESS")
    given = (coordinator_address, num_processes, process_id)
    launched = _launched(environment)
    if num_processes == 1 or (launched is None and given == (None, None, None)):
        return None
    if coordinator_address is not None and not _ADDRESS.fullmatch(coordinator_address):
        raise UserError(f"--coordinator_address={coordinator_address} must be HOST:PORT, for example node1:12345.")
    if launched is None and None in given:
        missing = [name for name, value in zip(ProcessGroup._fields, given, strict=False) if value is None]
        raise UserError(
            f"--{missing[0]} is missing: without SLURM, Open MPI or Kubernetes each process is started with "
            "--coordinator_address=HOST:PORT (of process 0, any free port), --num_processes=N and --process_id=I."
        )
    launcher, num_launched, launched_id, lacks = launched or _Launched("flags", None, None, None)
    num_processes = num_launched if num_processes is None else num_processes
    process_id = launched_id if process_id is None else process_id
    if lacks and None in (coordinator_address, num_processes):
        raise UserError(f"{launcher} started this process, but {lacks}.")
    if num_processes is not None and process_id is not None and process_id >= num_processes:
        raise UserError(
            f"--process_id={process_id} is not allowed with --num_processes={num_processes}; it must be from 0 to "
            f"{num_processes - 1}."
        )
    return ProcessGroup(coordinator_address, num_processes, process_id, launcher, timeout)


class _Launched(NamedTuple):
    """What a launcher told: its name, how many processes, which this is, and what is lacking to find process 0."""

    launcher: str
    num_processes: int | None
    process_id: int | None
    lacks: str | None


def _launched(environment: Mapping[str, str]) -> _Launched | None:
    """What the launcher's variables say; None without a launcher that starts groups, or with a group of one."""
    found = None
    if all(name in environment for name in _SLURM_STEP):
        count, process_id = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_PROCID"])
        found = _Launched("SLURM", count, process_id, None)
    elif "OMPI_COMM_WORLD_SIZE" in environment:
        count, process_id = int(environment["OMPI_COMM_WORLD_SIZE"]), int(environment["OMPI_COMM_WORLD_RANK"])
        # Open MPI 5 no longer tells its processes where mpirun runs.
        lacks = "it does not say where process 0 runs: add --coordinator_address=HOST:PORT of process 0, any free port"
        found = _Launched("Open MPI", count, process_id, None if "OMPI_MCA_orte_hnp_uri" in environment else lacks)
    elif "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        # Only the cluster knows how many there are and where: JAX asks it.
        lacks = "the package that asks it for the others is not here: pip install 'jax[k8s]'"
        has_client = importlib.util.find_spec("kubernetes") is not None
        found = _Launched("Kubernetes", None, int(environment["JOB_COMPLETION_INDEX"]), None if has_client else lacks)
    return None if found is None or found.num_processes == 1 else found
