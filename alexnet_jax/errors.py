"""The ways a run ends early, and the exit status of each."""

import sys

EXIT_CRASHED = 1  # an error of the program, with a traceback
EXIT_USER_ERROR = 2  # a wrong flag, config, file or mesh: one sentence on stderr
EXIT_DIVERGED = 3  # the loss stopped being a number
EXIT_LOST_PROCESS = 4  # another process of the group ended by accident; the same command goes on
EXIT_PREEMPTED = 75  # SIGTERM: a checkpoint was saved; the same command goes on (EX_TEMPFAIL: try again)


class UserError(Exception):
    """Something the user can mend. The message is a whole sentence: what, where, what is allowed, what to do."""

    exit_status = EXIT_USER_ERROR


class DivergedError(UserError):
    """The loss or a parameter is no longer finite; the message names the step and the last good checkpoint."""

    exit_status = EXIT_DIVERGED


class PreemptedError(UserError):
    """The process was asked to stop (SIGTERM); the message names the checkpoint that was saved."""

    exit_status = EXIT_PREEMPTED


def print_error(sentence: str) -> None:
    """Says on stderr what went wrong, as every command does."""
    print("\n".join(f"error: {printable(line)}" for line in sentence.split("\n")), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """A text from a file for a terminal, which would obey control characters: they are shown as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
