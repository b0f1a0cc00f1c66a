"""System limits: open files are asked for at the start, and a lack of memory is recognized."""

import errno
import resource

import jax
import pytest

from alexnet_jax import runtime
from alexnet_jax.errors import UserError


@pytest.fixture
def granted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The limits of open files of a simulated system."""
    both = {"soft": 256, "hard": 1024}

    def set_limit(_: int, new: tuple[int, int]) -> None:
        both["soft"], both["hard"] = new

    monkeypatch.setattr(runtime.resource, "getrlimit", lambda _: (both["soft"], both["hard"]))
    monkeypatch.setattr(runtime.resource, "setrlimit", set_limit)
    return both


@pytest.mark.parametrize(
    ("soft", "hard", "files", "new"),
    [
        (256, 1024, 0, 1024),
        (1024, 1024, 900, 1024),
        (256, resource.RLIM_INFINITY, 0, 256),
        (256, resource.RLIM_INFINITY, 1024, 1024 + runtime.OPEN_FILES),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1024, resource.RLIM_INFINITY),
    ],
)
def test_as_many_files_may_be_open_as_the_system_allows(granted, soft: int, hard: int, files: int, new: int) -> None:
    granted |= {"soft": soft, "hard": hard}
    runtime.allow_open_files(files)
    assert granted == {"soft": new, "hard": hard}


def test_a_data_set_of_too_many_files_is_refused(granted) -> None:
    with pytest.raises(UserError, match=r"may open 1,024 files and needs up to 1,064, 1,000 of them for the data set"):
        runtime.allow_open_files(1000)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes."), True),
        (jax.errors.JaxRuntimeError("INTERNAL: something else"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert runtime.is_out_of_memory(error) == expected
