"""Several processes that train as one: how they join and end together.

A process joins its group before it uses a device (`joined`). From then on only process 0 prints and writes logs, and
decisions that must be the same in all processes go through `agreement.py`.
"""

import collections
import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import signals
from alexnet_jax.cluster.agreement import ALL, all_devices, gather
from alexnet_jax.cluster.launcher import ProcessGroup
from alexnet_jax.cluster.watch import Meeting, Watch, end_process, reach
from alexnet_jax.errors import EXIT_CRASHED, EXIT_USER_ERROR, DivergedError, PreemptedError, UserError
from alexnet_jax.parallel.mesh import devices

_JAX_HEARTBEAT = 60  # seconds after which JAX gives up a process, in case the watch does not work
_WATCH_FIRST = 10.0  # seconds to hold an exception back: if another process died, the watch has the better message


@contextlib.contextmanager
def joined(group: ProcessGroup | None) -> Iterator[list[str]]:
    """Make this process a member of the group while inside; a process on its own (None) needs nothing.

    Yields the lines of a table of all processes (none for a process on its own) once every device has answered an
    all-reduce. If a process ends early, through a mistake or an accident, all processes end at once, with a sentence
    that says which one and why. Only PreemptedError and DivergedError, which all processes raise, pass through.
    """
    if group is None:
        yield []
        return
    _leave_stdout_to_process_0(group)

    # Join: the group exists, and all members watch each other.
    with _time_limit(group):
        try:
            _initialize(group)
            watch, table = _connect(group)
        except UserError as error:
            end_process(str(error), error.exit_status)

    # From here on the watch ends all processes together.
    with _ending_together(watch):
        with _time_limit(group):
            check_all_reduce()
        yield table


def check_all_reduce() -> None:
    """Raise UserError unless every device of this process gets the right sum over all devices."""
    mesh = all_devices()
    numbers = np.arange(1, mesh.size + 1, dtype=np.int32)
    sharded = jax.make_array_from_callback(numbers.shape, NamedSharding(mesh, P(ALL)), numbers.__getitem__)
    all_reduce = jax.shard_map(lambda number: lax.psum(number, ALL), mesh=mesh, in_specs=P(ALL), out_specs=P())
    for shard in jax.jit(all_reduce)(sharded).addressable_shards:
        if (answer := int(shard.data[0])) != numbers.sum():
            raise UserError(
                f"{shard.device} got {answer} for the sum of 1 to {mesh.size} over all devices, which is "
                f"{numbers.sum()}; exclude its machine and have the connection between the devices checked."
            )


def _leave_stdout_to_process_0(group: ProcessGroup) -> None:
    """Let only what process 0 prints from Python reach stdout; libraries in C++ print to stderr instead."""
    sys.stdout.flush()
    stdout = os.fdopen(os.dup(1), "w", buffering=1) if group.process_id == 0 else open(os.devnull, "w")  # noqa: SIM115
    os.dup2(2, 1)
    sys.stdout = stdout


@contextlib.contextmanager
def _time_limit(group: ProcessGroup) -> Iterator[None]:
    """End the process with a sentence if the body takes longer than the group's time to join."""
    timer = threading.Timer(group.timeout, lambda: end_process(_too_late(group), EXIT_USER_ERROR))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _too_late(group: ProcessGroup) -> str:
    """Return why the group did not form, as far as this process can tell."""
    count = f" of {group.num_processes}" if group.num_processes else ""
    waited = f"process {group.process_id}{count} (on {socket.gethostname()}) waited for {group.timeout} s"
    if group.coordinator_address and group.process_id:
        host, port = group.coordinator_address.rsplit(":", 1)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            return (
                f"{waited}, but --coordinator_address={group.coordinator_address} does not answer "
                f"({error.strerror or error}); check the address, that process 0 runs there, and that the port is open."
            )
    return (
        f"{waited}, but not all processes joined; see their output, start all of them with the same "
        "--coordinator_address and --num_processes, or give them more time (--initialization_timeout)."
    )


def _initialize(group: ProcessGroup) -> None:
    """Join JAX's process group; UserError if the launcher or the address doesn't lead to one."""
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from `StopSignals`
    try:
        jax.distributed.initialize(
            coordinator_address=group.coordinator_address,
            num_processes=group.num_processes,
            process_id=group.process_id,
            cluster_detection_method="deactivate" if group.launcher == "flags" else None,
            initialization_timeout=group.timeout + 60,  # later than `_time_limit`: JAX would end with a stack trace
            heartbeat_timeout_seconds=_JAX_HEARTBEAT,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"Process {group.process_id}, started by {group.launcher}, can't join the others "
            f"({str(error).splitlines()[0]}); see docs/cluster.md, or set --coordinator_address, --num_processes and "
            "--process_id."
        ) from error


def _connect(group: ProcessGroup) -> tuple[Watch, list[str]]:
    """Connect the processes to watch each other; return the watch and a table of all processes."""
    counts = collections.Counter(device.process_index for device in devices())
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"process {process}: {count}" for process, count in sorted(counts.items()))
        raise UserError(f"All processes must have the same number of devices, but there are {listed}.")
    me = jax.process_index()
    meeting = Meeting() if me == 0 else None

    # Who is here, and where process 0 waits.
    card = {"host": socket.gethostname(), "pid": os.getpid(), "devices": list(map(str, jax.local_devices()))}
    cards = gather(card | {"offer": meeting.offer if meeting else None})
    names = [f"process {number} (pid {card['pid']} on {card['host']})" for number, card in enumerate(cards)]

    members = meeting.members(names) if meeting else [reach(cards[0]["offer"], names, me)]
    table = [f"{len(cards)} processes, started by {group.launcher}:"]
    for number, card in enumerate(cards):
        table.append(f"  process {number:<4} {card['host']:<20} pid {card['pid']:<8} {', '.join(card['devices'])}")
    return Watch(names[me], members, is_process_0=me == 0), table


@contextlib.contextmanager
def _ending_together(watch: Watch) -> Iterator[None]:
    """End the whole group if this process ends early, for any reason."""
    try:
        with signals.ended_by(watch.end):
            yield
        watch.leave()
    except (PreemptedError, DivergedError) as error:  # which all processes raise
        watch.leave()
        if jax.process_index() > 0:
            sys.exit(error.exit_status)  # process 0 prints the message
        raise
    except UserError as error:
        watch.end(str(error), error.exit_status)
    except KeyboardInterrupt:
        watch.end("interrupted before there was anything to save.", EXIT_CRASHED)
    except BaseException:
        time.sleep(_WATCH_FIRST)
        with contextlib.suppress(OSError):  # nobody reads it any more
            traceback.print_exc()
        watch.end("an error in the program; its traceback is in the output of that process.", EXIT_CRASHED)
