"""The ways a run ends early, and the exit status of each."""

import contextlib
import sys

EXIT_CRASHED = 1  # an error in the program, with a traceback
EXIT_USER_ERROR = 2  # a wrong flag, config, file or mesh: one sentence on stderr
EXIT_DIVERGED = 3  # the loss is no longer finite
EXIT_LOST_PROCESS = 4  # another process of the group died or never came; the same command resumes the run
EXIT_PREEMPTED = 75  # a signal, and a checkpoint was saved; the same command resumes the run (EX_TEMPFAIL: try again)

OLDER_VERSION = (  # the end of a sentence about a file
    "was written by an older version of this program; use that version, train again in a new workdir, or export the "
    "weights with that version and import them here (python -m alexnet_jax.convert)."
)


class UserError(Exception):
    """Something the user can fix. The message is a full sentence: what, which value, what is allowed, what to do."""

    exit_status = EXIT_USER_ERROR


class DivergedError(UserError):
    """The loss or a parameter is no longer finite; the message names the step and the last good checkpoint."""

    exit_status = EXIT_DIVERGED


class LostProcessError(UserError):
    """Another process of the group died or never came; the message names it. The same command may succeed."""

    exit_status = EXIT_LOST_PROCESS


class PreemptedError(UserError):
    """The process was asked to stop by a signal; the message names the checkpoint that was saved."""

    exit_status = EXIT_PREEMPTED


def print_error(message: str) -> None:
    """Print an error message on stderr, each line with the prefix that all commands use."""
    with contextlib.suppress(OSError):  # such as a full disk: the exit status still tells
        print("\n".join(f"error: {printable(line)}" for line in message.split("\n")), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return untrusted text with control characters as escapes, because a terminal would obey them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
