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
from alexnet_jax.cluster.rendezvous import meet
from alexnet_jax.cluster.watch import Watch
from alexnet_jax.errors import (
    EXIT_CRASHED,
    EXIT_LOST_PROCESS,
    DivergedError,
    LostProcessError,
    PreemptedError,
    UserError,
)
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
    names, members = meet(group)
    # From here on the watch ends all processes together.
    watch = Watch(names[group.process_id], members, is_process_0=group.process_id == 0)
    with _ending_together(watch, group):
        with _time_limit(watch, group):
            _initialize(group)
            table = _table(group)
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
def _time_limit(watch: Watch, group: ProcessGroup) -> Iterator[None]:
    """End all processes with a sentence if the body takes longer than the group's time to join."""
    sentence = (
        f"the processes met, but could not compute together within {group.timeout} s; they must be able to connect to "
        "each other on any port: check the firewalls, or give them more time (--initialization_timeout)."
    )
    timer = threading.Timer(group.timeout, lambda: watch.end(sentence, EXIT_LOST_PROCESS))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _initialize(group: ProcessGroup) -> None:
    """Join JAX's process group, whose processes have met; LostProcessError if that fails."""
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from `StopSignals`
    try:
        with _no_proxies():
            jax.distributed.initialize(
                coordinator_address=group.coordinator_address,
                num_processes=group.num_processes,
                process_id=group.process_id,
                local_device_ids=group.local_device,
                cluster_detection_method="deactivate",
                initialization_timeout=group.timeout + 60,  # later than `_time_limit`: JAX would print a stack trace
                heartbeat_timeout_seconds=_JAX_HEARTBEAT,
            )
    except RuntimeError as error:
        raise LostProcessError(
            f"can't join the other processes at --coordinator_address={group.coordinator_address} "
            f"({str(error).splitlines()[0]}); run the same command again, with another port if it stays so."
        ) from error


@contextlib.contextmanager
def _no_proxies() -> Iterator[None]:
    """Hide all proxies in the environment, where gRPC would look for process 0 and wait forever.

    It reads them when it connects, so that what is downloaded later has them again.
    """
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _table(group: ProcessGroup) -> list[str]:
    """Return a table of all processes; UserError if they have different numbers of devices."""
    counts = collections.Counter(device.process_index for device in devices())
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"process {process}: {count}" for process, count in sorted(counts.items()))
        raise UserError(f"All processes must have the same number of devices, but there are {listed}.")
    cards = gather({"host": socket.gethostname(), "pid": os.getpid(), "devices": list(map(str, jax.local_devices()))})
    table = [f"{len(cards)} processes, started by {group.launcher}:"]
    for number, card in enumerate(cards):
        table.append(f"  process {number:<4} {card['host']:<20} pid {card['pid']:<8} {', '.join(card['devices'])}")
    return table


@contextlib.contextmanager
def _ending_together(watch: Watch, group: ProcessGroup) -> Iterator[None]:
    """End the whole group if this process ends early, for any reason."""
    try:
        with signals.ended_by(watch.end):
            yield
        watch.leave()
    except (PreemptedError, DivergedError) as error:  # which all processes raise
        watch.leave()
        if group.process_id > 0:
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
