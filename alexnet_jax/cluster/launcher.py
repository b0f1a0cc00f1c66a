"""Find out from flags and the launcher's variables, before JAX is imported, if this process is one of a group.

A process on its own must not start a group and wait for others. So the variables that `jax.distributed` reads later are
checked first: those of SLURM's `srun`, of Open MPI's `mpirun` and of Kubernetes' indexed jobs.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from absl import flags

from alexnet_jax.errors import UserError

# All that `jax.distributed` requires: a shell of `salloc` or a script of `sbatch` has only some of them.
_SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")


class ProcessGroup(NamedTuple):
    """The place of a process in its group; JAX gets what is None from the launcher."""

    coordinator_address: str | None  # HOST:PORT at which process 0 waits for the others
    num_processes: int | None
    process_id: int | None
    launcher: str  # what started them, for people
    timeout: int  # seconds within which all must join


def define_flags() -> Callable[[], ProcessGroup | None]:
    """Define the flags of a group; return a function that calls `find_process_group` with their values."""
    # Named as the arguments of `jax.distributed.initialize`.
    address = flags.DEFINE_string(
        "coordinator_address", None, "HOST:PORT of process 0; SLURM, Open MPI and Kubernetes know it"
    )
    count = flags.DEFINE_integer("num_processes", None, "how many processes train together; 1: this one alone", 1)
    number = flags.DEFINE_integer("process_id", None, "the number of this process, from 0", 0)
    timeout = flags.DEFINE_integer("initialization_timeout", 300, "seconds within which all processes must join", 1)
    return lambda: find_process_group(os.environ, address.value, count.value, number.value, timeout.value)


def find_process_group(
    environment: Mapping[str, str],
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
) -> ProcessGroup | None:
    """Return what the flags say, completed from the launcher's variables; None for a process on its own.

    UserError if a flag is missing or impossible, or the launcher leaves something open.
    """
    coordinator_address = coordinator_address or environment.get("JAX_COORDINATOR_ADDRESS")
    place = {"coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in place.items() if value is None]
    launched = _launched(environment)
    if num_processes == 1 or (launched is None and len(missing) == len(place)):
        return None
    if coordinator_address is not None and not re.fullmatch(r".+:\d+", coordinator_address):
        raise UserError(f"--coordinator_address={coordinator_address} must be HOST:PORT, for example node1:12345.")
    if launched is None and missing:
        raise UserError(
            f"--{missing[0]} is missing: without SLURM, Open MPI or Kubernetes, start each process with "
            "--coordinator_address=HOST:PORT (of process 0, any free port), --num_processes=N and --process_id=I."
        )
    launcher, num_launched, launched_id, lacking = launched or ("flags", None, None, None)
    num_processes = num_launched if num_processes is None else num_processes
    process_id = launched_id if process_id is None else process_id
    if lacking and None in (coordinator_address, num_processes):
        raise UserError(f"{launcher} started this process, but {lacking}.")
    if num_processes is not None and process_id is not None and process_id >= num_processes:
        raise UserError(
            f"--process_id={process_id} is not allowed with --num_processes={num_processes}; it must be from 0 to "
            f"{num_processes - 1}."
        )
    return ProcessGroup(coordinator_address, num_processes, process_id, launcher, timeout)


def _launched(environment: Mapping[str, str]) -> tuple[str, int | None, int | None, str | None] | None:
    """Return the launcher's name, the number of processes and of this one, and what is lacking to find process 0.

    None if no launcher of groups started this process, or its group has one process.
    """
    if all(name in environment for name in _SLURM_STEP):
        count, process_id = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_PROCID"])
        return None if count == 1 else ("SLURM", count, process_id, None)
    if "OMPI_COMM_WORLD_SIZE" in environment:
        count, process_id = int(environment["OMPI_COMM_WORLD_SIZE"]), int(environment["OMPI_COMM_WORLD_RANK"])
        # Open MPI 5 no longer tells its processes where mpirun runs.
        lacking = "it does not say where process 0 runs; add --coordinator_address=HOST:PORT (of process 0, any port)"
        knows = "OMPI_MCA_orte_hnp_uri" in environment
        return None if count == 1 else ("Open MPI", count, process_id, None if knows else lacking)
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        # Only the cluster knows how many processes there are and where: JAX asks it.
        lacking = "the package that asks the cluster for the others is missing: pip install 'jax[k8s]'"
        knows = importlib.util.find_spec("kubernetes") is not None
        return "Kubernetes", None, int(environment["JOB_COMPLETION_INDEX"]), None if knows else lacking
    return None
