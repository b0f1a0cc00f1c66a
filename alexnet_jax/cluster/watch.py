"""Each process of a group notices when another one ends, and ends too, with a sentence that says which.

JAX itself notices late (100 s), or ends the process from C++ with a stack trace; a collective between GPUs waits for
ever. So every process keeps a connection to process 0, apart from JAX's: the operating system closes it the moment a
process ends, however it does, and a machine that is gone or stands still is noticed by its silence.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import psutil

from alexnet_jax.errors import EXIT_LOST_PROCESS, UserError, print_error

BEAT = 5.0  # seconds between signs of life
SILENCE = 45.0  # seconds without one, after which a process counts as lost
_LAST_TO_GO = 1.0  # seconds that process 0 leaves the others to end: JAX takes them down when it goes first
_CONNECT = 10.0  # seconds for one attempt to connect


@dataclasses.dataclass
class Member:
    """A process at the other end of a connection. `name` is for people: "process 1 (pid 4711 on node2)"."""

    name: str
    connection: socket.socket
    heard: float = dataclasses.field(default_factory=time.monotonic)
    unread: bytes = b""
    through: bool = False  # it said that it is done: its end is no accident


class Watch:
    """The connections of one process: those of process 0 lead to all others, those of the others to process 0."""

    def __init__(self, name: str, members: Sequence[Member], *, is_process_0: bool):
        """Starts to watch, in a thread. `name`: this process, as the others will call it."""
        self._name = name
        self._is_process_0 = is_process_0
        self._members = members
        self._ending = threading.Lock()  # whoever takes it ends this process, with the only sentence
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def leave(self) -> None:
        """Says that this process is done: from now on neither its end nor that of another is an accident."""
        self._ending.acquire()
        self._tell({"through": True})

    def end(self, sentence: str, status: int) -> NoReturn:
        """Ends this process with its own mistake, and all others with the same sentence and status."""
        self._ending.acquire()
        self._end(sentence, f"{self._name}: {sentence}", status)

    def _end(self, here: str, elsewhere: str, status: int) -> NoReturn:
        """Ends the process with the sentence `here`, the others with the one `elsewhere`."""
        self._tell({"sentence": elsewhere, "status": status})
        if self._is_process_0:
            time.sleep(_LAST_TO_GO)
        end_process(here, status)

    def _lost(self, member: Member, how: str) -> None:
        self._ending.acquire()
        sentence = f"{member.name} {how}; run the same command again to go on from the last checkpoint."
        self._end(sentence, sentence, EXIT_LOST_PROCESS)

    def _tell(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        for member in self._members:
            with contextlib.suppress(OSError):  # its end is noticed by whoever reads from it
                member.connection.sendall(line)

    def _run(self) -> None:
        """Reads and gives signs of life until the process ends."""
        selector = selectors.DefaultSelector()
        for member in self._members:
            selector.register(member.connection, selectors.EVENT_READ, member)
        next_beat = time.monotonic()
        while True:
            for key, _ in selector.select(max(0.0, next_beat - time.monotonic())):
                if not self._read(key.data):
                    selector.unregister(key.fileobj)
            if time.monotonic() < next_beat:
                continue
            next_beat = time.monotonic() + BEAT
            self._tell({})
            for member in self._members:
                if not member.through and time.monotonic() - member.heard > SILENCE:
                    self._lost(member, f"was not heard of for {SILENCE:g} s: its machine or the network is down")

    def _read(self, member: Member) -> bool:
        """Does what a member says; False once there is nothing more to come from it."""
        try:
            data = member.connection.recv(1 << 16)
        except OSError:
            data = b""
        if not data and not member.through:
            self._lost(member, "ended without a word: it was killed, ran out of memory or crashed")
        member.heard = time.monotonic()
        *lines, member.unread = (member.unread + data).split(b"\n")
        for message in map(json.loads, lines):
            member.through |= "through" in message
            if "sentence" in message:
                self._ending.acquire()
                self._end(message["sentence"], message["sentence"], message["status"])
        return bool(data)


def end_process(sentence: str, status: int) -> NoReturn:
    """Ends this process from any thread, at once: what waits for other processes would wait for ever."""
    print_error(sentence)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Meeting:
    """Where process 0 waits for the others; `offer` says how to find it, as JSON."""

    def __init__(self) -> None:
        """Opens a port of the system's choice."""
        if socket.has_dualstack_ipv6():
            self._server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self._server = socket.create_server(("", 0))
        self._secret = secrets.token_hex(16)
        families = (socket.AF_INET, socket.AF_INET6)
        found = [a.address for card in psutil.net_if_addrs().values() for a in card if a.family in families]
        # Loopback last: it is right only for processes on the same machine, where the others are too.
        addresses = sorted(found, key=lambda address: address.startswith(("127.", "::1", "fe80")))
        self.offer = {"addresses": addresses, "port": self._server.getsockname()[1], "secret": self._secret}

    def members(self, names: Sequence[str]) -> list[Member]:
        """The others, once all have come; `names` of all processes."""
        members: dict[int, Member] = {}
        with self._server:
            while len(members) < len(names) - 1:
                connection, _ = self._server.accept()
                connection.settimeout(_CONNECT)
                with contextlib.suppress(OSError, ValueError):  # a stranger, or one that comes again on another way
                    secret, number = connection.recv(256).decode().split()
                    if secrets.compare_digest(secret, self._secret):
                        connection.sendall(b"welcome")
                        members[int(number)] = Member(names[int(number)], connection)
        return list(members.values())


def reach(offer: dict[str, Any], names: Sequence[str], number: int) -> Member:
    """Process 0, for process `number`; UserError if it can't be reached."""
    for address in offer["addresses"]:
        with contextlib.suppress(OSError):
            connection = socket.create_connection((address, offer["port"]), timeout=_CONNECT)
            connection.sendall(f"{offer['secret']} {number}".encode())
            if connection.recv(7) == b"welcome":
                return Member(names[0], connection)
            connection.close()
    raise UserError(
        f"{names[number]} can't reach {names[0]} at any of {', '.join(offer['addresses'])}, port {offer['port']}; "
        "processes that train together must be able to connect to each other on any port."
    )
