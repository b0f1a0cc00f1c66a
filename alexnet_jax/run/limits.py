"""System limits that are checked before it is too late: open files, and memory."""

import errno
import resource

from alexnet_jax.errors import UserError

OPEN_FILES = 64  # needed by a training beside its data set's files: 24 are too few (tried, Orbax 0.12.8)


def allow_open_files(num_data_files: int = 0) -> None:
    """Raise the limit of open files as far as allowed (a data set's all stay open); UserError if that is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OPEN_FILES + num_data_files
    new = max(soft, needed) if hard == resource.RLIM_INFINITY else hard
    if new < needed:
        files = f", {num_data_files:,} of them for the data set" if num_data_files else ""
        raise UserError(
            f"This process may open {hard:,} files and needs up to {needed:,}{files}; allow more with `ulimit -n "
            f"{needed}`, or ask the administrator who set the limit."
        )
    if soft != resource.RLIM_INFINITY and soft < new:
        resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error means that a device or this machine has run out of memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
