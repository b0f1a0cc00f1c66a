"""What the process needs to be fast, set in one place before it matters. Users set nothing.

`ALEXNET_JAX_TUNING=0` in the environment switches all of it off.
"""

import os
import platform
import sys
from pathlib import Path

TUNING = os.environ.get("ALEXNET_JAX_TUNING", "1") != "0"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


def use_huge_pages() -> None:
    """Starts this process anew, once, with huge pages for what malloc hands out; to be called before jax is imported.

    A training step on a CPU maps and frees over a gigabyte, in pages of 4 KiB 400,000 faults a step. glibc reads its
    tunables only when a process starts, hence the exec; the process id stays. Elsewhere than on Linux with glibc, or
    with GLIBC_TUNABLES set by the user, nothing happens.
    """
    is_glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    if TUNING and is_glibc and "GLIBC_TUNABLES" not in os.environ:
        environment = {**os.environ, "GLIBC_TUNABLES": _HUGE_PAGES}
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR says where."""
    import jax  # not before use_huge_pages

    if TUNING and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "alexnet_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def compiler_options() -> dict[str, str]:
    """Options for `jax.jit` on the platform that computes.

    On the CPU jaxlib hands convolutions to YNNPACK, which is 1.1 to 5 times slower on AlexNet's shapes than XLA's own
    path; the empty value brings that back.
    """
    import jax

    if TUNING and jax.default_backend() == "cpu":
        return {"xla_cpu_experimental_ynn_fusion_type": ""}
    return {}


def tuning_in_words() -> str:
    """What is on, for the start-up lines."""
    if not TUNING:
        return "off (ALEXNET_JAX_TUNING=0)"
    parts = ["compilation cache"]
    if _HUGE_PAGES in os.environ.get("GLIBC_TUNABLES", ""):
        parts.append("huge pages")
    if compiler_options():
        parts.append("XLA's own CPU convolutions")
    return ", ".join(parts)
