"""What the system must grant a process: open files, and memory."""

import errno
import resource

from alexnet_jax.errors import UserError

OPEN_FILES = 64  # of a training, beside the files of its data set: 24 are too few (tried, Orbax 0.12.8)


def allow_open_files(num_data_files: int = 0) -> None:
    """Raises the number of files that this process may open to what the system allows: those of a data set stay open.

    UserError if that does not suffice.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OPEN_FILES + num_data_files
    wanted = max(now, needed) if most == resource.RLIM_INFINITY else most
    if wanted < needed:
        files = f", {num_data_files:,} of them for the data set" if num_data_files else ""
        raise UserError(
            f"This process may open {most:,} files and needs up to {needed:,}{files}; allow more with `ulimit -n "
            f"{needed}`, or ask whoever set the limit."
        )
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def is_out_of_memory(error: Exception) -> bool:
    """Whether this error says that a device or this machine has no more memory."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
