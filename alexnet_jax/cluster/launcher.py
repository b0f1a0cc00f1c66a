"""Find out from flags and the launcher's variables, before JAX is imported, if this process is one of a group.

A process on its own must not start a group and wait for others. So the launcher's variables are checked first: those of
SLURM's `srun`, of Open MPI's `mpirun` and of Kubernetes' indexed jobs.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from absl import flags

from alexnet_jax.errors import UserError

# A shell of `salloc` or a script of `sbatch` has only some of them.
_SLURM_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")
_ADDRESS = re.compile(r"(\[[^\s\[\]]+\]|[^\s:/\[\]]+):(\d+)")  # HOST:PORT; IPv6 in brackets


class ProcessGroup(NamedTuple):
    """The place of a process in its group."""

    coordinator_address: str  # HOST:PORT at which process 0 waits for the others
    num_processes: int
    process_id: int
    launcher: str  # what started them, for people
    timeout: int  # seconds within which all must join
    local_device: int | None = None  # the GPU of this process, if the launcher starts one process for each


class _Launched(NamedTuple):
    """What a launcher says; None where it says nothing."""

    name: str
    coordinator_address: str | None
    num_processes: int | None
    process_id: int
    local_device: int | None = None


def define_flags() -> Callable[[], ProcessGroup | None]:
    """Define the flags of a group; return a function that calls `find_process_group` with their values."""
    # Named as the arguments of `jax.distributed.initialize`.
    address = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0; SLURM and Open MPI 4 know it")
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

    Raises:
      UserError: a flag is missing or impossible, or the launcher leaves something open.
    """
    coordinator_address = coordinator_address or environment.get("JAX_COORDINATOR_ADDRESS")
    launched = _launched(environment)
    if num_processes == 1 or (launched is None and (coordinator_address, num_processes, process_id) == (None,) * 3):
        return None
    launcher, local_device = "flags", None
    if launched:
        launcher, local_device = launched.name, launched.local_device
        if "JAX_LOCAL_DEVICE_IDS" in environment:  # which JAX reads
            local_device = None
        coordinator_address = coordinator_address or launched.coordinator_address
        num_processes = launched.num_processes if num_processes is None else num_processes
        process_id = launched.process_id if process_id is None else process_id
    if coordinator_address is None or num_processes is None or process_id is None:
        place = {"coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
        missing = [f"--{name}" for name, value in place.items() if value is None]
        if launched:
            raise UserError(
                f"{launcher} started this process, but does not say all; add {' and '.join(missing)} to the command of "
                "every process (the address is HOST:PORT of process 0, any free port), or --num_processes=1 if each "
                "trains on its own."
            )
        raise UserError(
            f"{missing[0]} is missing: without SLURM, Open MPI or Kubernetes, start each process with "
            "--coordinator_address=HOST:PORT (of process 0, any free port), --num_processes=N and --process_id=I."
        )
    check_address(f"--coordinator_address={coordinator_address}", coordinator_address)
    if process_id >= num_processes:
        raise UserError(
            f"--process_id={process_id} is not allowed with --num_processes={num_processes}; it must be from 0 to "
            f"{num_processes - 1}."
        )
    return ProcessGroup(coordinator_address, num_processes, process_id, launcher, timeout, local_device)


def check_address(name: str, address: str) -> None:
    """Raise UserError, which begins with `name`, unless the address is HOST:PORT."""
    match = _ADDRESS.fullmatch(address)
    if not match or not 1 <= int(match[2]) <= 65535:
        raise UserError(
            f"{name} must be HOST:PORT with a port from 1 to 65535, for example node1:12345 or [fd00::1]:12345."
        )


def _launched(environment: Mapping[str, str]) -> _Launched | None:
    """Return what the launcher says; None if none started this process, or its group has one process."""
    # First the inner one: `mpirun` in a job of SLURM has variables of both.
    if "OMPI_COMM_WORLD_SIZE" in environment:
        count, process_id = int(environment["OMPI_COMM_WORLD_SIZE"]), int(environment["OMPI_COMM_WORLD_RANK"])
        local_device = int(environment["OMPI_COMM_WORLD_LOCAL_RANK"])
        address = _address_of_mpirun(environment.get("OMPI_MCA_orte_hnp_uri", ""))
        return None if count == 1 else _Launched("Open MPI", address, count, process_id, local_device)
    if all(name in environment for name in _SLURM_STEP):
        count, process_id = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_PROCID"])
        address = f"{_first_node(environment['SLURM_STEP_NODELIST'])}:{_port(int(environment['SLURM_JOB_ID']))}"
        return None if count == 1 else _Launched("SLURM", address, count, process_id, int(environment["SLURM_LOCALID"]))
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return _Launched("Kubernetes", None, None, int(environment["JOB_COMPLETION_INDEX"]))
    return None


def _first_node(nodes: str) -> str:
    """Return the first of SLURM's nodes: "a1" of "a[1-2,7],b1"."""
    match = re.match(r"(?:[^\[,]|\[[^\]]*\])+", nodes)  # commas in brackets separate numbers, the others nodes
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", match[0] if match else nodes)


def _address_of_mpirun(uri: str) -> str | None:
    """Return HOST:PORT of process 0 from "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"; None if it is empty.

    Open MPI 5 no longer tells its processes where mpirun runs. As jax.distributed does, this takes process 0 to be on
    the same machine.
    """
    match = re.match(r"(\d+)\..*?tcp6?://(?:\[([^],]+)|([^],:]+))", uri)
    if not match:
        return None
    host = f"[{match[2]}]" if match[2] else match[3]
    return f"{host}:{_port(int(match[1]) >> 12)}"  # jobs of mpirun are multiples of 2^12


def _port(job: int) -> int:
    """Return the port of a job: one of the last 4096, so that two jobs on a machine rarely have the same."""
    return 65536 - 4096 + job % 4096
