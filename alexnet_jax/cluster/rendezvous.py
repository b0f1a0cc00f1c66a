"""How the processes of a group find each other, before JAX joins them.

JAX's own service ends a process from C++, with a stack trace, if its port is taken, if two processes have the same
number, or if they disagree about how many they are; and it never says which one it waits for. So process 0 first
listens at that port itself. Every other process connects, says who it is, and hears which ones are missing. Once all
are there, process 0 leaves the port to JAX. The connections remain, for the processes to watch each other (`watch`).
"""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from alexnet_jax.cluster.launcher import ProcessGroup, check_address
from alexnet_jax.cluster.watch import Member
from alexnet_jax.errors import LostProcessError, UserError

_PATIENCE = 10.0  # seconds for one attempt to connect, to say who one is, or to send
_PAUSE = 0.2  # seconds between attempts
_LONGEST = 1 << 20  # bytes of a message


class Met(NamedTuple):
    """The names of all processes, in their order, and this one's connections: to all others, or to process 0."""

    names: list[str]
    members: list[Member]


def meet(group: ProcessGroup) -> Met:
    """Wait until all processes of the group are there.

    Raises:
      UserError: the port is taken, or two processes contradict each other.
      LostProcessError: not all came within the group's time.
    """
    deadline = time.monotonic() + group.timeout
    return _wait_for_others(group, deadline) if group.process_id == 0 else _report_to_process_0(group, deadline)


def _wait_for_others(group: ProcessGroup, deadline: float) -> Met:
    """Let process 0 collect the others."""
    me = _name(_card(group))
    arrived: dict[int, Member] = {}
    with _listen(group.coordinator_address) as server:
        while missing := _missing(group, arrived):
            server.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                error: UserError = _late(group, f"{_did_not_join(missing)}{_doubt(group)}")
                _refuse(arrived.values(), error)
                raise error from None
            try:
                card = json.loads(_read_line(connection, time.monotonic() + _PATIENCE))
                number, newcomer = card["process_id"], Member(_name(card), connection)
                fault = _contradiction(group, card, me, arrived)
            except (OSError, ValueError, KeyError, TypeError):  # a stranger, or a process that has ended
                connection.close()
                continue
            if fault:
                error = UserError(fault)
                _refuse([*arrived.values(), newcomer], error)
                raise error
            if number in range(1, group.num_processes):  # or else a stranger
                arrived[number] = newcomer
            # Some may have ended meanwhile, and may come again.
            arrived = {number: each for number, each in arrived.items() if _is_there(each)}
            _send(arrived.values(), {"missing": _missing(group, arrived)})
    names = [me, *(arrived[number].name for number in sorted(arrived))]
    _send(arrived.values(), {"names": names})
    return Met(names, list(arrived.values()))


def _report_to_process_0(group: ProcessGroup, deadline: float) -> Met:
    """Let another process connect to process 0, as often as it takes, and wait there for the rest."""
    where = f"--coordinator_address={group.coordinator_address}"
    why = ""
    while (left := deadline - time.monotonic()) > 0:
        try:
            connection = socket.create_connection(_host_and_port(group.coordinator_address), min(left, _PATIENCE))
        except socket.gaierror as error:
            why = f"the host of {where} is unknown here ({error.strerror}); check its name"
        except ConnectionRefusedError:
            why = f"nothing listens at {where}; check the address, and that process 0 runs there"
        except OSError as error:
            why = f"{where} does not answer ({error.strerror or error}); check the address and the firewall"
        else:
            why = f"what listens at {where} is another program, or a group that is complete; check the address"
            try:
                return _hear(connection, group, deadline)
            except (OSError, ValueError, KeyError, TypeError):
                connection.close()
        time.sleep(_PAUSE)
    raise _late(group, why)


def _hear(connection: socket.socket, group: ProcessGroup, deadline: float) -> Met:
    """Say who this process is, and wait until process 0 has all; any error of reading if it is not process 0."""
    connection.sendall(json.dumps(_card(group)).encode() + b"\n")
    answer = json.loads(_read_line(connection, min(deadline, time.monotonic() + _PATIENCE)))
    while "names" not in answer:
        if "sentence" in answer:
            raise (LostProcessError if answer["may_retry"] else UserError)(answer["sentence"])
        missing = answer["missing"]
        try:
            answer = json.loads(_read_line(connection, deadline))
        except TimeoutError:
            raise _late(group, _did_not_join(missing)) from None
    return Met(answer["names"], [Member(answer["names"][0], connection)])


def _listen(address: str) -> socket.socket:
    """Open the port where JAX's service will listen later; UserError if that can't be."""
    bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")  # which JAX reads too
    if bound:
        check_address(f"JAX_COORDINATOR_BIND_ADDRESS={bound}", bound)
    host, port = _host_and_port(bound or address)
    try:
        if bound:
            return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        taken = "another program, or another process 0, uses it" if error.errno == errno.EADDRINUSE else error.strerror
        raise UserError(
            f"Process 0 can't listen at port {port} on {socket.gethostname()}: {taken}; give all processes another one "
            "(--coordinator_address=HOST:PORT)."
        ) from error


def _contradiction(group: ProcessGroup, card: Mapping[str, Any], me: str, arrived: Mapping[int, Member]) -> str | None:
    """Return a sentence if the process with this card can't belong to the group together with the others."""
    number, name = card["process_id"], _name(card)
    if card["num_processes"] != group.num_processes:
        return (
            f"The processes disagree: --num_processes is {group.num_processes} in {me} and {card['num_processes']} in "
            f"{name}; use the same everywhere."
        )
    # A launcher numbers them correctly: then the older one has ended with its machine, without a word.
    if number in arrived and group.launcher == "flags" and _is_there(arrived[number]):
        return (
            f"--process_id={number} was given twice: to {arrived[number].name} and {name}; give each process its own "
            f"number, from 0 to {group.num_processes - 1}."
        )
    return None


def _missing(group: ProcessGroup, arrived: Mapping[int, Member]) -> list[int]:
    return sorted(set(range(1, group.num_processes)) - arrived.keys())


def _late(group: ProcessGroup, why: str) -> LostProcessError:
    """Return the error of a process whose time is up."""
    return LostProcessError(
        f"process {group.process_id} of {group.num_processes} (on {socket.gethostname()}) waited for {group.timeout} "
        f"s, but {why}, or give the group more time (--initialization_timeout)."
    )


def _did_not_join(missing: Sequence[int]) -> str:
    return f"process{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing))} did not join; see their output"


def _doubt(group: ProcessGroup) -> str:
    """Return what process 0 finds wrong with its own address, as a part of a sentence."""
    host, _ = _host_and_port(group.coordinator_address)
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(place)
    except socket.gaierror as error:
        return f", check --coordinator_address={group.coordinator_address} (its host is unknown here: {error.strerror})"
    except OSError:
        return f", check --coordinator_address={group.coordinator_address} (its host seems to be another machine)"
    return ""


def _card(group: ProcessGroup) -> dict[str, Any]:
    """Return what a process says of itself."""
    place = {"process_id": group.process_id, "num_processes": group.num_processes}
    return place | {"host": socket.gethostname(), "pid": os.getpid()}


def _name(card: Mapping[str, Any]) -> str:
    return f"process {card['process_id']} (pid {card['pid']} on {card['host']})"


def _refuse(members: Iterable[Member], error: UserError) -> None:
    _send(members, {"sentence": str(error), "may_retry": isinstance(error, LostProcessError)})


def _send(members: Iterable[Member], message: Mapping[str, Any]) -> None:
    for member in members:
        member.connection.settimeout(_PATIENCE)
        with contextlib.suppress(OSError):  # it has ended
            member.connection.sendall(json.dumps(message).encode() + b"\n")


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    """Read one line and not a byte more, since `Watch` reads on; OSError if none comes in time."""
    line = b""
    while not line.endswith(b"\n"):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        byte = connection.recv(1)
        if not byte or len(line) == _LONGEST:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
        line += byte
    connection.settimeout(_PATIENCE)
    return line


def _is_there(member: Member) -> bool:
    """Return whether a process, which says nothing now, has not closed its connection."""
    member.connection.settimeout(0)
    try:
        return member.connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _host_and_port(address: str) -> tuple[str, int]:
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)
