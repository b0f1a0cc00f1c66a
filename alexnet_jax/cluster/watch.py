"""How each process of a group notices that another one has ended, and ends too, with a sentence that says which.

JAX itself notices late (100 s), or ends the process from C++ with a stack trace, and a collective between GPUs waits
forever. So every process keeps a connection of its own to process 0. The operating system closes it as soon as a
process ends, for any reason; a machine that is gone or frozen is noticed by its silence.
"""

import contextlib
import dataclasses
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from alexnet_jax.errors import EXIT_LOST_PROCESS, print_error

BEAT = 5.0  # seconds between heartbeats
SILENCE = 45.0  # seconds without one, after which a process counts as lost
_LAST_TO_GO = 1.0  # seconds that process 0 gives the others to end: JAX takes them down if it ends first


@dataclasses.dataclass
class Member:
    """A process at the other end of a connection. `name` is for people: "process 1 (pid 4711 on node2)"."""

    name: str
    connection: socket.socket
    heard: float = dataclasses.field(default_factory=time.monotonic)
    unread: bytes = b""
    done: bool = False  # it said so: its end is not an accident


class Watch:
    """The connections of one process: from process 0 to all others, or from another process to process 0."""

    def __init__(self, name: str, members: Sequence[Member], *, is_process_0: bool):
        """Start to watch, in a thread. `name` is this process's name in the messages of the others."""
        self._name = name
        self._is_process_0 = is_process_0
        self._members = members
        self._ending = threading.Lock()  # the thread that takes it ends this process, with the only message
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def leave(self) -> None:
        """Say that this process is done: from now on no process's end is an accident."""
        self._ending.acquire()
        self._send({"done": True})

    def end(self, sentence: str, status: int, *, others: str | None = None) -> NoReturn:
        """End this process with a sentence, and all others with `others`: by default the same and whose it is.

        Both may be "", if whoever started the processes has the words.
        """
        self._ending.acquire()
        if others is None:
            others = f"{self._name}: {sentence}" if sentence else ""
        self._send({"sentence": others, "status": status})
        if self._is_process_0:
            time.sleep(_LAST_TO_GO)
        end_process(sentence, status)

    def _lost(self, member: Member, event: str) -> NoReturn:
        sentence = f"{member.name} {event}; run the same command again to resume from the last checkpoint."
        self.end(sentence, EXIT_LOST_PROCESS, others=sentence)

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        for member in self._members:
            with contextlib.suppress(OSError):  # `_read` notices that it has ended
                member.connection.sendall(line)

    def _run(self) -> None:
        """Read from the others and send heartbeats until the process ends."""
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
            self._send({})
            for member in self._members:
                if not member.done and time.monotonic() - member.heard > SILENCE:
                    self._lost(member, f"was silent for {SILENCE:g} s: its machine or the network is down")

    def _read(self, member: Member) -> bool:
        """Handle a member's messages; return False once its connection is closed."""
        try:
            data = member.connection.recv(1 << 16)
        except OSError:
            data = b""
        if not data and not member.done:
            self._lost(member, "ended unexpectedly: it was killed, ran out of memory or crashed")
        member.heard = time.monotonic()
        *lines, member.unread = (member.unread + data).split(b"\n")
        for message in map(json.loads, lines):
            member.done |= "done" in message
            if "sentence" in message:
                self.end(message["sentence"], message["status"], others=message["sentence"])
        return bool(data)


def end_process(sentence: str, status: int) -> NoReturn:
    """End this process at once, from any thread: code that waits for other processes would wait forever."""
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        if sentence:
            print_error(sentence)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
