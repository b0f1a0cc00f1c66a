"""What all processes of a group must decide alike: each function is called by all of them at the same point.

A process on its own gets its own value back.
"""

import json
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.errors import UserError
from alexnet_jax.signals import NotedSignals

_PADDING = 1024  # bytes: messages of similar length are exchanged by the same compiled program
ALL = "all"  # the only axis of a mesh of all devices


def gather(value: Any) -> list[Any]:
    """Return the JSON values of all processes, in their order."""
    text = json.dumps(value).encode()
    if jax.process_count() == 1:
        return [json.loads(text)]
    longest = int(max(multihost_utils.process_allgather(np.int32(len(text)))))
    padded = text.ljust(-(-longest // _PADDING) * _PADDING)  # with spaces, which JSON ignores
    return [json.loads(bytes(row)) for row in multihost_utils.process_allgather(np.frombuffer(padded, np.uint8))]


def on_process_0(function: Callable[[], Any]) -> Any:
    """Run the function on process 0 only; every process gets its result, a JSON value, or its UserError."""
    answer: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            answer = {"result": function()}
        except UserError as error:
            answer = {"error": str(error)}
    answer = gather(answer)[0]
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["result"]


def check_agreement(values: Mapping[str, Any]) -> None:
    """Raise UserError, in all processes, that names the first of these JSON values in which two processes differ."""
    first, *others = gather({"host": socket.gethostname(), "values": dict(values)})
    for process, other in enumerate(others, start=1):
        for name, value in first["values"].items():
            other_value = other["values"].get(name)  # None if its code is another and has no such field
            if value != other_value:
                raise UserError(
                    f"The processes disagree: {name} is {value!r} in process 0 (on {first['host']}) and "
                    f"{other_value!r} in process {process} (on {other['host']}); use the same everywhere."
                )


def check_mesh_reaches_all(mesh: Mesh) -> None:
    """Raise UserError if a process has no device in the mesh: it would have nothing to do."""
    busy = {device.process_index for device in mesh.devices.flat}
    if idle := sorted(set(range(jax.process_count())) - busy):
        raise UserError(
            f"config.mesh.data={mesh.shape['data']} x config.mesh.tower={mesh.shape['tower']} leaves process "
            f"{', '.join(map(str, idle))} of {jax.process_count()} without a device; start fewer processes, or spread "
            f"the mesh over all {jax.device_count()} devices (mesh.data=-1)."
        )


class LargestOfAll:
    """The largest number that any process gave, available one call later, so that no process waits for its devices."""

    def __init__(self) -> None:
        self._previous: jax.Array | None = None
        mesh = all_devices()
        self._sharding = NamedSharding(mesh, P(ALL))
        self._largest = jax.jit(lambda numbers: numbers.max(), out_shardings=NamedSharding(mesh, P()))

    def __call__(self, number: int) -> int:
        """Give this process's number (0 or more), and return the largest one of the previous call, at first 0."""
        numbers = np.full(jax.local_device_count(), number, np.int32)
        previous = self._previous
        self._previous = self._largest(jax.make_array_from_process_local_data(self._sharding, numbers))
        return 0 if previous is None else int(previous)


class StopSignals(NotedSignals):
    """True once a signal has reached any of the processes, as of the last `poll`: the same in all of them.

    A process on its own notes signals from the first `poll` on. Before, it has nothing to save, and they end it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._agreed = 0
        self._largest = LargestOfAll() if jax.process_count() > 1 else None

    def __enter__(self) -> Self:
        return super().__enter__() if self._largest else self

    def poll(self) -> bool:
        """Return whether to stop now. All processes must call this equally often, between the same steps."""
        self.note()
        self._agreed = self._largest(self.number) if self._largest else self.number
        return bool(self)

    def __bool__(self) -> bool:
        return self._agreed > 0

    @property
    def name(self) -> str:
        """Return the name of the signal, "" before one has arrived."""
        return signal.Signals(self._agreed).name if self else ""


def all_devices() -> Mesh:
    """Return the mesh of all devices in a row."""
    return jax.make_mesh((jax.device_count(),), (ALL,), axis_types=(AxisType.Auto,))
