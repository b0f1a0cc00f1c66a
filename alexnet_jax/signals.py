"""Requests to stop: SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGUSR1 end a command in one line, or let a training save.

Python runs handlers in its main thread, between two instructions: not while XLA compiles, and an exception that is
raised there can get lost in a callback. So a thread reads the signals as they arrive (`signal.set_wakeup_fd`).
"""

import contextlib
import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, Self

from alexnet_jax import IS_COMMAND, SIGNALS
from alexnet_jax.files import remove_unfinished

# In the environment: the id of the process that started this one, and tells the user that it was stopped. When it ends,
# this one stops too.
PARENT = "ALEXNET_JAX_PARENT"
_PARENT_MILLISECONDS = 500  # between looks at the parent

_listening = False
_noted: "NotedSignals | None" = None  # who notes signals; None: they end the process


def listen() -> Callable[[], None]:
    """Take signals from now on, beginning with those that are blocked; return a function that ends this.

    A signal that is ignored stays ignored: `nohup` ignores SIGHUP, and a script SIGINT for what runs in its background.
    """
    global _listening
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def wake(number: int, frame: FrameType | None) -> None:
        _leave_lost_terminal()
        if number == signal.SIGINT and not IS_COMMAND:  # a second one is for the program around the training
            signal.signal(number, previous[number])

    previous_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in previous:
        signal.signal(number, wake)
    _listening = True
    thread = threading.Thread(target=_take_signals, args=(reader,), name="signals", daemon=True)
    thread.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def end() -> None:
        global _listening
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_writer)
        _listening = False
        os.close(writer)
        thread.join()  # it reads what has arrived: that must not count for whoever listens next

    return end


def leave() -> None:
    """Leave signals to the system, since threads do not run while the interpreter ends.

    SIGINT ends the process; so do the others, unless one was noted: schedulers send those again.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_IGN if _noted and number != signal.SIGINT else signal.SIG_DFL)


class NotedSignals:
    """True once a signal has arrived inside the context, where the first one does not end the process."""

    def __init__(self) -> None:
        self.number = 0
        self._end_listening: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self.note()
        return self

    def __exit__(self, *exception: object) -> None:
        global _noted
        if self._end_listening:
            self._end_listening()
        if not self:  # otherwise the process is about to end: more signals change nothing
            _noted = None

    def __bool__(self) -> bool:
        return self.number > 0

    @property
    def name(self) -> str:
        """Return the name of the signal, "" before one has arrived."""
        return signal.Signals(self.number).name if self else ""

    def note(self) -> None:
        """Note signals from now on."""
        global _noted
        _noted = self
        if not _listening:
            self._end_listening = listen()


def _end_alone(sentence: str, status: int) -> NoReturn:
    if sentence:
        with contextlib.suppress(OSError):  # not through sys.stderr, which the main thread may be using
            os.write(2, f"error: {sentence}\n".encode())
    os._exit(status)


_end: Callable[[str, int], NoReturn] = _end_alone


@contextlib.contextmanager
def ended_by(end: Callable[[str, int], NoReturn]) -> Iterator[None]:
    """Let `end(sentence, status)` end the process after a signal that is not noted; the sentence may be ""."""
    global _end
    _end = end
    try:
        yield
    finally:
        _end = _end_alone


def _take_signals(reader: int) -> None:
    """React to the signals that `reader` yields, and to the end of the parent."""
    parent = int(os.environ.get(PARENT, 0))
    poll = select.poll()  # unlike `select.select`, for files of any number
    poll.register(reader, select.POLLIN)
    while True:
        readable = poll.poll(_PARENT_MILLISECONDS if parent else None)
        numbers = os.read(reader, 64) if readable else b""
        for number in numbers:
            if number in SIGNALS:
                _react(number)
        if readable and not numbers:  # its other end was closed
            os.close(reader)
            return
        if parent and os.getppid() != parent:
            parent = 0
            _react(signal.SIGINT if _noted and _noted.number else signal.SIGHUP)


def _react(number: int) -> None:
    """Note a signal, or end the process."""
    name = signal.Signals(number).name
    if _noted is None:
        sentence = f"stopped by {name} with nothing to save; run the same command again."
        remove_unfinished()
        _end("" if PARENT in os.environ else sentence, 128 + number)
    elif not _noted.number:
        _noted.number = number
    elif number == signal.SIGINT and IS_COMMAND:  # but schedulers and launchers send the others more than once
        _end_alone(f"stopped at once by another {name}; the same command resumes from what is saved.", 128 + number)


def say(text: str) -> None:
    """Print text at once, while signals are noted. If the terminal has gone, SIGHUP says so: saving must come first."""
    try:
        print(text, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends


def _leave_lost_terminal() -> None:
    """Direct error messages that can't be written any more to nowhere."""
    try:
        os.write(2, b"")
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
