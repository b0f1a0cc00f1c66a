"""The two ways a run ends early, and the exit status of each."""

EXIT_USER_ERROR = 2  # a wrong flag, config, file or mesh: one sentence on stderr
EXIT_DIVERGED = 3  # the loss stopped being a number
EXIT_PREEMPTED = 75  # SIGTERM: a checkpoint was saved; the same command goes on (EX_TEMPFAIL: try again)


class UserError(Exception):
    """Something the user can mend. The message is a whole sentence: what, where, what is allowed, what to do."""

    exit_status = EXIT_USER_ERROR


class DivergedError(UserError):
    """The loss is no longer finite; the message names the step and the last good checkpoint."""

    exit_status = EXIT_DIVERGED


class PreemptedError(UserError):
    """The process was asked to stop (SIGTERM); the message names the checkpoint that was saved."""

    exit_status = EXIT_PREEMPTED
