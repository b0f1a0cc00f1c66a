"""Requests to stop: one line and a status from the first moment on, and nothing is left running.

The commands never come far enough to import JAX: their config file waits.
"""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from alexnet_jax.signals import PARENT, SIGNALS, NotedSignals

ROOT = Path(__file__).resolve().parents[1]
MAIN = (sys.executable, "-m", "alexnet_jax.main")
# A config file that waits in `main`, and says so with a file beside it.
WAITING = """
import os, sys, time
from pathlib import Path
from alexnet_jax.files import atomic
from configs import quickstart

def get_config():
    if "alexnet_jax.main" in sys.orig_argv:
        with atomic(Path(__file__).with_name(f"result-{os.getpid()}")) as unfinished:
            unfinished.touch()
            Path(__file__).with_name(f"waiting-{os.getpid()}").touch()
            time.sleep(100)
    return quickstart.get_config()
"""
# One that does as a training does: a first signal is noted.
NOTING = """
import time
from pathlib import Path
from alexnet_jax.signals import NotedSignals

def get_config():
    with NotedSignals() as stop:
        Path(__file__).with_name("waiting").touch()
        while not stop:
            time.sleep(0.01)
        Path(__file__).with_name("noted").touch()
        time.sleep(100)
"""


def start(*command: object, cwd: Path = ROOT, ignored: tuple[int, ...] = (), **environment: str) -> subprocess.Popen:
    """Start a command that ignores the signals `ignored`, and no others, in a session of its own."""
    handlers = {int(number): int(signal.SIG_IGN if number in ignored else signal.SIG_DFL) for number in SIGNALS}
    program = f"import os, signal, sys\nfor each in {handlers}.items():\n    signal.signal(*each)\n"
    return subprocess.Popen(
        [sys.executable, "-c", program + "os.execvp(sys.argv[1], sys.argv[1:])", *map(str, command)],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "config.py").write_text(WAITING)
    return tmp_path / "config.py"


def waiting(config: Path, count: int = 1) -> list[int]:
    """The ids of the processes that wait in the config file, once there are `count`."""
    until(lambda: len(list(config.parent.glob("waiting-*"))) >= count)
    return [int(path.name.removeprefix("waiting-")) for path in config.parent.glob("waiting-*")]


def test_each_signal_ends_a_command_in_one_line(config: Path) -> None:
    """And what it was writing is removed."""
    commands = [start(*MAIN, f"--config={config}") for _ in SIGNALS]
    waiting(config, len(commands))
    for number, command in zip(SIGNALS, commands, strict=True):
        command.send_signal(number)
        _, errors = command.communicate(timeout=100)
        assert errors == f"error: stopped by {number.name} with nothing to save; run the same command again.\n"
        assert command.returncode == 128 + number
    assert not list(config.parent.glob("*result-*"))


def test_what_is_ignored_stays_ignored(config: Path) -> None:
    """By nohup, or by a script for what it starts in the background."""
    command = start(*MAIN, f"--config={config}", ignored=(signal.SIGHUP, signal.SIGINT))
    waiting(config)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        command.send_signal(number)
    assert "stopped by SIGTERM" in command.communicate(timeout=100)[1]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_is_not_lost_where_the_process_starts_anew(moment: str, config: Path) -> None:
    """Just before the exec, or when Python has just started again."""
    hook = config.with_name("sitecustomize.py")
    if moment == "before":
        hook.write_text(
            "import os, signal\nexecve = os.execve\n"
            "def signaled(*arguments):\n    os.kill(os.getpid(), signal.SIGINT)\n    execve(*arguments)\n"
            "os.execve = signaled\n"
        )
    else:
        hook.write_text(
            "import os, signal\nif 'GLIBC_TUNABLES' in os.environ:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        )
    command = start(*MAIN, f"--config={config}", PYTHONPATH=str(config.parent), JAX_PLATFORMS="cpu")
    _, errors = command.communicate(timeout=100)
    assert errors == "error: stopped by SIGINT with nothing to save; run the same command again.\n"
    assert command.returncode == 128 + signal.SIGINT


def test_a_signal_ends_an_interpreter_that_is_ending(tmp_path: Path) -> None:
    """It may wait for other processes then, and no thread of Python runs."""
    hook = "import atexit, os, signal, time\natexit.register(time.sleep, 9)\n"
    (tmp_path / "sitecustomize.py").write_text(hook + "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n")
    command = start(*MAIN, "--help", PYTHONPATH=str(tmp_path), JAX_PLATFORMS="cpu")
    assert command.communicate(timeout=100)[1] == ""
    assert command.returncode == -signal.SIGTERM


def test_a_second_ctrl_c_ends_at_once(config: Path) -> None:
    """But not a second SIGTERM."""
    config.write_text(NOTING)
    command = start(*MAIN, f"--config={config}")
    until(config.with_name("waiting").exists)
    command.send_signal(signal.SIGTERM)
    until(config.with_name("noted").exists)
    command.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert command.poll() is None
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=100)
    assert errors == "error: stopped at once by another SIGINT; the same command resumes from what is saved.\n"
    assert command.returncode == 128 + signal.SIGINT


def test_a_program_around_a_training_keeps_its_handlers() -> None:
    """For example a notebook: the first SIGINT is noted, the second is its own."""
    outside = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:  # as in a terminal: under nohup, or in the background of a script, some are ignored
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    before = [signal.getsignal(number) for number in SIGNALS]
    for number in SIGNALS:
        with NotedSignals() as stop:
            assert not stop
            os.kill(os.getpid(), number)
            until(lambda: stop)
            assert stop.name == number.name
            if number == signal.SIGINT:
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(number)
        assert [signal.getsignal(number) for number in SIGNALS] == before
    for number, handler in outside.items():
        signal.signal(number, handler)


def test_a_process_ends_with_its_parent(config: Path) -> None:
    script = f'{PARENT}=$$ "$@" & wait'
    parent = start("sh", "-c", script, "sh", *MAIN, f"--config={config}")
    (child,) = waiting(config)
    parent.kill()
    until(lambda: is_gone(child))
    assert parent.communicate(timeout=100)[1] == ""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_the_runs_of_a_sweep_end_with_it(number: signal.Signals, config: Path, tmp_path: Path) -> None:
    """And they do not count as failed: the next start begins with them."""
    (tmp_path / "sweep.py").write_text("def get_sweep():\n    return [{'seed': 1}, {'seed': 2}]\n")
    flags = (f"--config={config}", f"--sweep={tmp_path / 'sweep.py'}", f"--workdir={tmp_path / 'w'}", "--parallel=2")
    sweep = start(sys.executable, "-m", "alexnet_jax.sweep", *flags)
    runs = waiting(config, 2)
    sweep.send_signal(number)
    _, errors = sweep.communicate(timeout=100)
    if number == signal.SIGHUP:
        assert (errors, sweep.returncode) == (
            "error: stopped by SIGHUP; run the same command again to continue.\n",
            75,
        )
        assert all(map(is_gone, runs))
    until(lambda: all(map(is_gone, runs)))
    assert not list((tmp_path / "w").glob("*/outcome.json"))
    assert [path.read_text() for path in (tmp_path / "w").glob("*/console.log")] == ["", ""]


@pytest.mark.parametrize(("script", "count"), [("quickstart.sh", 1), ("local.sh 2", 2)])
def test_ctrl_c_ends_a_script_and_its_processes(script: str, count: int, checkout: Path, config: Path) -> None:
    """A terminal sends SIGINT to all of its processes."""
    name, *first = script.split()
    flags = (f"--config={config}", f"--workdir={config.parent / 'w'}")
    command = start("bash", f"launch/{name}", *first, *flags, cwd=checkout, ALEXNET_JAX_ACCELERATOR="cpu")
    processes = waiting(config, count)
    os.killpg(command.pid, signal.SIGINT)
    _, errors = command.communicate(timeout=100)
    assert errors == "error: stopped by SIGINT with nothing to save; run the same command again.\n"
    assert command.returncode == 128 + signal.SIGINT
    assert all(map(is_gone, processes))


def test_a_second_ctrl_c_ends_a_script_at_once(checkout: Path, config: Path) -> None:
    config.write_text(NOTING)
    flags = (f"--config={config}", f"--workdir={config.parent / 'w'}")
    command = start("bash", "launch/quickstart.sh", *flags, cwd=checkout, ALEXNET_JAX_ACCELERATOR="cpu")
    until(config.with_name("waiting").exists)
    (process,) = psutil.Process(command.pid).children()
    os.killpg(command.pid, signal.SIGINT)
    until(config.with_name("noted").exists)
    os.killpg(command.pid, signal.SIGINT)
    _, errors = command.communicate(timeout=100)
    assert errors == "error: stopped at once by another SIGINT; the same command resumes from what is saved.\n"
    assert command.returncode == 128 + signal.SIGINT
    until(lambda: is_gone(process.pid))


COUNTING = "import os\nwith open(os.environ['COUNT'], 'a') as file:\n    file.write(f'{os.getpid()} ')\n"
AS_IPYTHON = "import runpy, sys; sys.argv = ['tables']; runpy.run_module('alexnet_jax.tables', run_name='__main__')"


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        (("-m", "alexnet_jax.tables"), 2),
        (("-u", "-X", "utf8", "-m", "alexnet_jax.tables", "-m", "pdb"), 2),
        (("-m", "pdb", "-c", "continue", "-c", "quit", "-m", "alexnet_jax.tables"), 1),
        (("-m", "cProfile", "-m", "alexnet_jax.tables"), 1),
        (("-m", "trace", "--listfuncs", "--module", "alexnet_jax.tables"), 1),
        (("-c", AS_IPYTHON), 1),
    ],
    ids=["command", "options", "debugger", "profiler", "tracer", "%run -m in IPython"],
)
def test_only_a_command_starts_anew(arguments: tuple[str, ...], starts: int, tmp_path: Path) -> None:
    """In another program, its session would be lost. `tables` is a module that does nothing by itself."""
    (tmp_path / "sitecustomize.py").write_text(COUNTING)
    count = tmp_path / "count"
    environment = {"PYTHONPATH": str(tmp_path), "COUNT": str(count), "JAX_PLATFORMS": "cpu"}
    process = start(sys.executable, *arguments, **environment)
    assert process.wait(timeout=100) == 0
    has_tunables = platform.libc_ver()[0] == "glibc"
    by_start = 1  # its program has the same id
    assert count.read_text().split() == [str(process.pid)] * (by_start + (starts if has_tunables else 1))
