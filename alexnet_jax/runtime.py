"""What the process needs to be fast, set in time and in one place, and what the system must grant it.

Users set nothing. `ALEXNET_JAX_TUNING=0` in the environment turns all tuning off.
"""

import errno
import io
import itertools
import os
import platform
import resource
import sys
from pathlib import Path

from alexnet_jax.errors import UserError

TUNING = os.environ.get("ALEXNET_JAX_TUNING", "1") != "0"

# Huge pages, and one heap that takes large arrays too and never shrinks. Small pieces left over when a large array is
# aligned go back to the heap, not to a cache: else the array no longer fits its own place, and the heap grows.
MALLOC = ":".join(
    f"glibc.malloc.{setting}"
    for setting in ("hugetlb=1", "arena_max=1", "mmap_max=0", f"trim_threshold={2**62}", "tcache_count=0", "mxfast=0")
)

OPEN_FILES = 64  # needed by a training beside its data set's files: 24 are too few (tried, Orbax 0.12.8)
_DEVICES = Path("/dev")


def open_standard_streams() -> None:
    """Open /dev/null for closed standard streams: else a checkpoint would get their number, and what C++ prints."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
            setattr(sys, name, open(number, mode))  # noqa: SIM115 - stays open
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for paths that are not UTF-8, as stderr does


def use_huge_pages() -> None:
    """Restart this process once, before jax is imported, with a malloc that keeps its memory in huge pages.

    A training step on a CPU asks for over a gigabyte and frees it. By default glibc maps it again each time, 400,000
    page faults per step in pages of 4 KiB; huge ones take few faults, but the kernel still has to clear them (and a
    virtual machine to get them back from its host). Threads share one heap, since only the first can hold large
    arrays. glibc reads its tunables only when a process starts, hence the exec; the process id stays. Nothing happens
    except on Linux with glibc, nor if the user set GLIBC_TUNABLES, nor where a GPU computes, since threads that decode
    images are slowed down by sharing a heap, nor under a debugger, which would be lost.
    """
    is_glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    if TUNING and is_glibc and sys.gettrace() is None and "GLIBC_TUNABLES" not in os.environ and not _has_gpu():
        environment = {**os.environ, "GLIBC_TUNABLES": MALLOC}
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def named_gpus() -> list[str] | None:
    """Return the GPUs that the environment leaves to processes, as CUDA and JAX read it; None if it does not say."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return None
    names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))


def _has_gpu() -> bool:
    """Tell whether JAX will find an NVIDIA GPU, as far as can be known before it is imported."""
    return named_gpus() != [] and any(_DEVICES.glob("nvidia[0-9]*"))


def cores() -> list[int]:
    """Return the numbers of the cores that this process may use: on a cluster or in a sweep, not all of them."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))


def use_compilation_cache() -> None:
    """Keep compiled programs between runs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR says where."""
    import jax  # not before use_huge_pages

    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # stays "~" if there is no home folder
    if TUNING and os.path.isabs(base) and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "alexnet_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def compiler_options(platform: str) -> dict[str, str | bool]:
    """Return options for `jax.jit` on a platform, such as "cpu" or "gpu".

    On the CPU jaxlib hands convolutions to YNNPACK, which is 1.1 to 5 times slower on AlexNet's shapes than XLA's own
    path, and matrix products too, where it is up to five times faster; here it gets the products alone. And on the CPU
    XLA drops `lax.optimization_barrier` before it fuses loops, so that expensive values are computed again in every
    loop that reads them; without that pass they are stored. On a GPU XLA may keep float32 where the program says
    bfloat16, and then moves maps of twice the size.
    """
    if not TUNING:
        return {}
    if platform == "cpu":
        return {
            "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
            "xla_disable_hlo_passes": "cse_barrier_expander",
        }
    return {"xla_allow_excess_precision": False} if platform in ("gpu", "cuda") else {}


def tuning_in_words() -> str:
    """Describe what is on, for the start-up lines."""
    import jax  # not before use_huge_pages

    if not TUNING:
        return "off (ALEXNET_JAX_TUNING=0)"
    parts = ["compilation cache"] if jax.config.jax_compilation_cache_dir else []  # type: ignore[attr-defined]
    if os.environ.get("GLIBC_TUNABLES") == MALLOC:
        parts.append("huge pages kept")
    if jax.default_backend() == "cpu":
        parts.append("XLA's own CPU convolutions")
    return ", ".join(parts)


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
