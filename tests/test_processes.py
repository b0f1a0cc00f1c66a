"""Several real processes train as one, agree before the first step, end together, and resume without a loss."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import kubernetes_validate
import numpy as np
import pytest
import yaml

from alexnet_jax.cluster import processes
from alexnet_jax.cluster.launcher import find_process_group
from alexnet_jax.config import Config, to_dict
from alexnet_jax.errors import EXIT_LOST_PROCESS, EXIT_PREEMPTED, EXIT_USER_ERROR, LostProcessError, UserError

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 600  # seconds for anything that a test starts
PROXY = {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(*command: object, devices: int = 1, checkout: Path = ROOT, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=checkout,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(checkout), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


# The numbers.


def steps(num_processes: int, towers: int, output: Path) -> dict[str, np.ndarray]:
    """The parameters that `steps_of_processes.py` writes."""
    program, port = ROOT / "tests" / "steps_of_processes.py", free_port()
    numbers = range(num_processes)
    group = [start(sys.executable, program, num_processes, number, port, towers, output) for number in numbers]
    for status, _, errors in finish(*group):
        assert status == 0, errors
    return dict(np.load(output))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The parameters after the steps of one process."""
    return steps(1, 1, tmp_path_factory.mktemp("alone") / "alone.npz")


@pytest.mark.parametrize("num_processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_twenty_steps_agree(num_processes: int, alone: dict[str, np.ndarray], tmp_path: Path) -> None:
    """`paper`, `original`, `caffe` (a tower per process) and `one_weird_trick` (a shard of the batch), with dropout."""
    together = steps(num_processes, 2, tmp_path / "together.npz")
    assert together.keys() == alone.keys()
    for name, expected in alone.items():
        assert np.max(np.abs(together[name] - expected)) < 1e-5 * np.max(np.abs(expected)), name


# Whole runs, as `launch/local.sh` starts them.


@pytest.fixture
def config_file(tiny_config: Config, tmp_path: Path) -> Path:
    """The tiny net on all devices, trained such that rounding errors stay small.

    The learning rate is low, and tanh takes ReLU's place: rounding that moves one unit of one image across ReLU's kink
    adds or removes that unit's gradient, and conv1's biases then differ by 1 % after 12 more steps. No warm-up, after
    which biases would be sums of few gradients, most of which cancel.
    """
    tiny_config.mesh.data = -1
    tiny_config.optimizer.learning_rate = 0.001
    tiny_config.optimizer.warmup = 0.0
    tiny_config.model.activation = "tanh"
    file = tmp_path / "config_of_test.py"
    file.write_text(
        "from alexnet_jax import validation\n"
        f"def get_config():\n    return validation.from_dict({to_dict(tiny_config)!r}, 'test')\n"
    )
    return file


class Group:
    """`bash launch/local.sh N --config=... --workdir=...`, where the environment has a proxy that does not answer."""

    def __init__(self, checkout: Path, count: int, config: Path, workdir: Path, *flags: str, devices: int = 1):
        self.workdir = workdir
        command = (
            "bash",
            checkout / "launch" / "local.sh",
            count,
            f"--config={config}",
            f"--workdir={workdir}",
            *flags,
        )
        self.script = start(*command, devices=devices, ALEXNET_JAX_ACCELERATOR="cpu", **PROXY)
        self.output = ""

    def send_at_step(self, step: int, number: signal.Signals, process: int) -> None:
        """Sends a signal to one of the processes once the metrics have this step."""
        metrics = self.workdir / "metrics.jsonl"
        pid = None
        while pid is None:
            line = self.script.stdout.readline()
            assert line, self.script.stderr.read()
            self.output += line
            if match := re.match(rf"  process {process} .*pid (\d+)", line):
                pid = int(match[1])
        while not (metrics.exists() and f'"step": {step},' in metrics.read_text()):
            assert self.script.poll() is None, self.script.stderr.read()
            time.sleep(0.02)
        os.kill(pid, number)

    def finish(self) -> tuple[int, str, str]:
        """Exit status, stdout, and stderr without the lines of the library that connects the processes."""
        ((status, output, errors),) = finish(self.script)
        lines = [line for line in errors.splitlines() if "[Gloo]" not in line and "peer ranks" not in line]
        return status, self.output + output, "\n".join(lines)


def records(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def last_state(workdir: Path, which: str = "latest") -> tuple[int, dict]:
    """Step and parameters of the latest checkpoint, or the best."""
    from alexnet_jax.run.restore import restore

    net = restore(workdir, which)
    return net.step, jax.device_get(net.params)


def test_a_signal_to_one_process_stops_all_at_the_same_step(checkout: Path, config_file: Path, tmp_path: Path) -> None:
    """Two processes, evaluated on images that don't divide into batches, stopped and resumed: the same bits."""
    flags = ("--config.eval.batch_size=50", "--config.checkpoint.every_epochs=0.9")  # saved at 11, 22 and 24
    status, output, errors = Group(checkout, 2, config_file, tmp_path / "whole", *flags).finish()
    assert (status, errors) == (0, "")
    assert len(re.findall("^net:", output, re.MULTILINE)) == len(re.findall("^Done:", output, re.MULTILINE)) == 1

    stopped = Group(checkout, 2, config_file, tmp_path / "stopped", *flags)
    stopped.send_at_step(7, signal.SIGTERM, process=1)
    status, _, errors = stopped.finish()
    assert status == EXIT_PREEMPTED, errors
    match = re.fullmatch(r"error: stopped by SIGTERM after step (\d+) of 24; everything is saved in .*", errors)
    assert match, errors
    assert last_state(tmp_path / "stopped")[0] == int(match[1]) < 24
    status, output, errors = Group(checkout, 2, config_file, tmp_path / "stopped", *flags).finish()
    assert (status, errors) == (0, "")
    assert f"resuming from step {match[1]}" in output

    (step, params), (last, expected) = last_state(tmp_path / "stopped"), last_state(tmp_path / "whole")
    assert step == last == 24
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    for workdir in (tmp_path / "whole", tmp_path / "stopped"):
        steps_and_splits = [(record["step"], record["split"]) for record in records(workdir)]
        assert len(set(steps_and_splits)) == len(steps_and_splits)
        evaluations = [record for record in records(workdir) if record["split"] == "validation"]
        assert [(record["step"], record["num_examples"]) for record in evaluations] == [(12, 360), (24, 360)]
        best = min(evaluations, key=lambda record: (record["top1_error"], record["step"]))
        assert last_state(workdir, "best")[0] == best["step"]

    port = free_port()
    command = (
        sys.executable,
        "-m",
        "alexnet_jax.evaluate",
        f"--workdir={tmp_path / 'whole'}",
        "--json",
        "--batch_size=50",
    )
    together = (f"--coordinator_address=localhost:{port}", "--num_processes=2")
    group = [start(*command, *together, f"--process_id={number}") for number in (0, 1)]
    first, second = finish(*group)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert second[1] == ""
    result, of_training = json.loads(first[1]), records(tmp_path / "whole")[-2]
    assert result["num_examples"] == of_training["num_examples"] == 360
    assert result["top1_error"] == of_training["top1_error"]
    assert result["loss"] == pytest.approx(of_training["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_killed_process_costs_nothing_but_time(checkout: Path, config_file: Path, tmp_path: Path) -> None:
    """Four processes of two devices, one of them killed; finished by two processes of one device."""
    (status, _, errors) = Group(checkout, 1, config_file, tmp_path / "whole").finish()
    assert status == 0, errors

    killed = Group(checkout, 4, config_file, tmp_path / "killed", devices=2)
    killed.send_at_step(15, signal.SIGKILL, process=2)
    status, _, errors = killed.finish()
    assert status == EXIT_LOST_PROCESS, errors
    assert len(re.findall(r"error: process 2 \(pid \d+ on \S+\) ended unexpectedly", errors)) == 3, errors
    assert re.search(r"error: process 2 of 4 \(pid \d+\) was ended by signal 9", errors)

    status, output, errors = Group(checkout, 2, config_file, tmp_path / "killed").finish()
    assert status == 0, errors
    assert re.search(r"resuming from step (6|12|18)", output)
    (step, params), (last, expected) = last_state(tmp_path / "killed"), last_state(tmp_path / "whole")
    assert step == last == 24
    for layer in expected:
        for name, value in expected[layer].items():
            assert np.max(np.abs(params[layer][name] - value)) < 1e-5 * np.max(np.abs(value)), (layer, name)


def test_a_killed_coordinator_is_named(checkout: Path, config_file: Path, tmp_path: Path) -> None:
    """JAX alone would end the other process from C++, with a stack trace."""
    group = Group(checkout, 2, config_file, tmp_path / "w", "--config.num_epochs=500")
    group.send_at_step(2, signal.SIGKILL, process=0)
    status, _, errors = group.finish()
    assert status == EXIT_LOST_PROCESS, errors
    assert re.search(r"error: process 0 \(pid \d+ on \S+\) ended unexpectedly: it was killed", errors)
    assert "Traceback" not in errors


MEMBER = """
import os, signal, sys, threading
from alexnet_jax.cluster import rendezvous, watch
from alexnet_jax.cluster.launcher import ProcessGroup

watch.BEAT, watch.SILENCE = 0.1, 1.0
port, number = sys.argv[1:]
met = rendezvous.meet(ProcessGroup(f"localhost:{port}", 2, int(number), "flags", 60))
watch.Watch(met.names[int(number)], met.members, is_process_0=number == "0")
if number == "0":
    threading.Event().wait()
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_process_that_falls_silent_is_named() -> None:
    """As when its machine loses power: no connection is closed."""
    port = free_port()
    first, silent = (start(sys.executable, "-c", MEMBER, port, number) for number in (0, 1))
    try:
        ((status, _, errors),) = finish(first)
    finally:
        silent.kill()
        silent.communicate()
    assert status == EXIT_LOST_PROCESS
    assert re.fullmatch(
        r"error: process 1 \(pid \d+ on \S+\) was silent for 1 s: its machine or the network is down; .*\n", errors
    )


# What is refused.


def test_a_device_that_adds_wrongly_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.check_all_reduce()
    psum = jax.lax.psum
    monkeypatch.setattr(jax.lax, "psum", lambda numbers, axis: 2 * psum(numbers, axis))
    with pytest.raises(UserError, match=r"got 72 for the sum of 1 to 8 over all devices, which is 36"):
        processes.check_all_reduce()


def test_processes_that_can_not_join_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By JAX's own service, from which proxies are hidden, and with different devices."""
    group = find_process_group({}, "node1:1", 2, 1)
    for name, value in PROXY.items():
        monkeypatch.setenv(name, value)

    def fail(**_) -> None:
        assert not PROXY.keys() & os.environ.keys()
        raise RuntimeError("no such service\nand more")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(LostProcessError, match=r"can't join .* --coordinator_address=node1:1 \(no such service\); run"):
        processes._initialize(group)
    assert os.environ.items() >= PROXY.items()
    monkeypatch.setattr(processes, "devices", lambda: [SimpleNamespace(process_index=index) for index in (0, 0, 1)])
    with pytest.raises(UserError, match=r"the same number of devices, but there are process 0: 2, process 1: 1\."):
        processes._table(group)


def test_processes_that_met_but_can_not_compute_together_say_so() -> None:
    """As where only the coordinator's port is open."""
    said, ended = [], threading.Event()
    watch = SimpleNamespace(end=lambda *words: (said.extend(words), ended.set()))
    group = find_process_group({}, "node1:1", 2, 1, timeout=1)
    with processes._time_limit(watch, group):
        assert ended.wait(TIMEOUT)
    assert said[0].startswith("the processes met, but could not compute together within 1 s; they must be able to")
    assert said[1] == EXIT_LOST_PROCESS


def by_hand(config: Path, workdir: Path, port: int, *flags: list[str], count: int = 2) -> list[subprocess.Popen]:
    """One process for each list of flags."""
    command = (sys.executable, "-m", "alexnet_jax.main", f"--config={config}", f"--workdir={workdir}")
    place = (f"--coordinator_address=localhost:{port}", f"--num_processes={count}")
    return [start(*command, *place, f"--process_id={number}", *more) for number, more in enumerate(flags)]


def test_processes_that_disagree_are_refused(config_file: Path, tmp_path: Path) -> None:
    group = by_hand(config_file, tmp_path / "w", free_port(), ["--config.seed=1"], ["--config.seed=2"])
    for status, _, errors in finish(*group):
        assert status == EXIT_USER_ERROR, errors
        assert "The processes disagree: config.seed is 1 in process 0" in errors
        assert "and 2 in process 1" in errors


def test_processes_of_different_code_are_refused(config_file: Path, tmp_path: Path) -> None:
    """One of them has another line in the model: its numbers could differ in any way."""
    for name in ("alexnet_jax", "configs"):
        shutil.copytree(ROOT / name, tmp_path / "other" / name)
    model = tmp_path / "other" / "alexnet_jax" / "model" / "dropout.py"
    model.write_text(model.read_text() + "# a change\n")
    command = (sys.executable, "-m", "alexnet_jax.main", f"--config={config_file}", f"--workdir={tmp_path / 'w'}")
    together = (f"--coordinator_address=localhost:{free_port()}", "--num_processes=2")
    group = [
        start(*command, *together, f"--process_id={number}", checkout=checkout)
        for number, checkout in enumerate((ROOT, tmp_path / "other"))
    ]
    for status, _, errors in finish(*group):
        assert status == EXIT_USER_ERROR, errors
        assert "The processes disagree: the code of alexnet_jax is " in errors
        assert errors.count("error: ") == 1
    assert not (tmp_path / "w").exists()


def test_a_workdir_that_is_not_shared_is_refused(config_file: Path, tmp_path: Path) -> None:
    """For example, a folder of the same name on another machine."""
    group = by_hand(config_file, tmp_path / "w", free_port(), [], [f"--workdir={tmp_path / 'other'}"])
    for status, _, errors in finish(*group):
        assert status == EXIT_USER_ERROR, errors
        message = r"of process 1 is not the folder of process 0, where \d+ on \S+ holds the lock; choose a folder on a"
        assert re.search(message, errors)


def test_the_error_of_one_process_ends_all(config_file: Path, tmp_path: Path) -> None:
    """`data.dir` may be another one on each machine, but it must exist."""
    (tmp_path / "file").write_text("")
    flags = [[], [f"--config.data.dir={tmp_path / 'file'}"]]
    (status, _, errors), (status_1, _, errors_1) = finish(*by_hand(config_file, tmp_path / "w", free_port(), *flags))
    assert status == status_1 == EXIT_USER_ERROR
    assert re.search(r"^error: data.dir=\S+ can't be written", errors_1, re.MULTILINE)
    assert re.search(r"^error: process 1 \(pid \d+ on \S+\): data.dir=\S+ can't be written", errors, re.MULTILINE)


def test_a_mesh_that_leaves_a_process_out_is_refused(config_file: Path, tmp_path: Path) -> None:
    """As when a run on one device is resumed by two processes with the same mesh."""
    group = by_hand(config_file, tmp_path / "w", free_port(), *[["--config.mesh.data=1"]] * 2)
    for status, _, errors in finish(*group):
        assert status == EXIT_USER_ERROR, errors
        assert "config.mesh.data=1 x config.mesh.tower=1 leaves process 1 of 2 without a device" in errors


def test_a_process_that_waits_too_long_says_for_what(config_file: Path, tmp_path: Path) -> None:
    """With the status that `launch/kubernetes.yaml` takes as a reason to try again."""
    first, second = by_hand(config_file, tmp_path / "w", free_port(), *[["--initialization_timeout=1"]] * 2, count=3)
    second.kill()
    (status, _, errors), _ = finish(first, second)
    assert status == EXIT_LOST_PROCESS, errors
    assert re.fullmatch(
        r"error: process 0 of 3 \(on \S+\) waited for 1 s, but process(es 1,)? 2 did not join.*\n", errors
    )


def test_a_port_that_is_taken_is_named(config_file: Path, tmp_path: Path) -> None:
    """JAX alone would die of a segmentation fault."""
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        ((status, _, errors),) = finish(*by_hand(config_file, tmp_path / "w", port, []))
    assert status == EXIT_USER_ERROR, errors
    assert re.fullmatch(rf"error: Process 0 can't listen at port {port} on \S+: another program, .*\n", errors)


# Launchers.

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
OPEN_MPI_4 = OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
INDEXED_JOB = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {name: value for name, value in SLURM.items() if "STEP" not in name},
        OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    ],
    ids=["shell", "srun -n 1", "a script of sbatch", "mpirun -n 1", "pod"],
)
def test_a_process_on_its_own_starts_no_group(environment: dict[str, str]) -> None:
    assert find_process_group(environment) is None


def test_launchers_are_recognized() -> None:
    """Ports are those of `jax.distributed`; each process of SLURM and Open MPI takes the GPU of its number."""
    assert find_process_group(SLURM) == ("node1:61447", 4, 3, "SLURM", 300, 1)
    assert find_process_group(OPEN_MPI_4) == ("10.96.0.1:62624", 2, 1, "Open MPI", 300, 0)
    assert find_process_group(SLURM | OPEN_MPI, "node1:1234") == ("node1:1234", 2, 1, "Open MPI", 300, 0)
    assert find_process_group(INDEXED_JOB, "node1:1234", 4) == ("node1:1234", 4, 2, "Kubernetes", 300, None)
    assert find_process_group({}, "[::1]:1234", 4, 0) == ("[::1]:1234", 4, 0, "flags", 300, None)
    assert find_process_group(SLURM | {"JAX_LOCAL_DEVICE_IDS": "0,1"}).local_device is None
    assert find_process_group(SLURM, num_processes=1) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,m2", "n1"), ("n[08-15],m2", "n08"), ("n[1,7-9]", "n1"), ("r[0-1]n[3-4]-ib,m2", "r0n3-ib")],
)
def test_process_0_is_on_the_first_node_of_slurm(nodes: str, first: str) -> None:
    assert find_process_group(SLURM | {"SLURM_STEP_NODELIST": nodes}).coordinator_address == f"{first}:61447"


def test_the_first_interface_of_open_mpi_may_have_an_address_of_ipv6() -> None:
    uri = "1314521088.0;tcp6://[fe80::b9b:ac5d,2620:10d::2]:43370"
    assert find_process_group(OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": uri}).coordinator_address == "[fe80::b9b:ac5d]:62880"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (({}, "node1:1"), "--num_processes is missing"),
        (({}, "node1", 2, 0), "--coordinator_address=node1 must be HOST:PORT"),
        (({}, "node1:0", 2, 0), "--coordinator_address=node1:0 must be HOST:PORT with a port from 1 to 65535"),
        (({}, "node1:65536", 2, 0), "--coordinator_address=node1:65536 must be HOST:PORT"),
        (({}, "http://node1:1", 2, 0), "--coordinator_address=http://node1:1 must be HOST:PORT"),
        (({}, "fd00::1:1", 2, 0), r"--coordinator_address=fd00::1:1 must be .* for example node1:12345 or \[fd00::1\]"),
        (({}, "node1:1", 2), "--process_id is missing"),
        (({}, None, 2, 0), "--coordinator_address is missing"),
        (({}, "node1:1", 2, 2), "--process_id=2 is not allowed with --num_processes=2; it must be from 0 to 1"),
        ((OPEN_MPI,), "Open MPI started this process, but does not say all; add --coordinator_address to"),
        ((INDEXED_JOB,), "Kubernetes started .* add --coordinator_address and --num_processes to .*=1 if each trains"),
    ],
)
def test_flags_that_do_not_place_a_process_are_refused(arguments: tuple, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        find_process_group(*arguments)


# The files in launch/.


def commands(file: str) -> list[str]:
    """The `sbatch` commands in a file's text, each on one line."""
    text = re.sub(r"\\\n[# ]*", "", (ROOT / file).read_text())
    return re.findall(r"sbatch -.*", text)


def test_the_slurm_script_leaves_the_number_of_tasks_to_the_command() -> None:
    """A number of tasks in the script would win over --ntasks-per-node in the command; cores are asked for."""
    script = (ROOT / "launch" / "slurm.sbatch").read_text()
    assert not re.search(r"^#SBATCH.*--(ntasks|nodes|cpus)", script, re.MULTILINE)
    assert commands("launch/slurm.sbatch") == commands("docs/cluster.md")
    (command,) = commands("docs/cluster.md")
    for option in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=8"):
        assert option in command.split("launch/slurm.sbatch")[0]


@pytest.mark.parametrize(
    ("number", "status", "state", "requeued"),
    [
        (signal.SIGTERM, 75, "RUNNING", True),
        (signal.SIGTERM, 75, "COMPLETING", False),  # `scancel`, or SLURM requeues the job itself
        (signal.SIGUSR1, 75, "RUNNING", True),
        (signal.SIGUSR1, 1, "RUNNING", True),  # there was nothing to save yet
        (signal.SIGUSR1, 0, "RUNNING", False),  # it was done just then
        (None, 75, "RUNNING", True),  # the tasks alone got a signal
        (None, 2, "RUNNING", False),
        (None, 0, "RUNNING", False),
    ],
)
def test_the_slurm_script_asks_the_tasks_to_stop_and_requeues(
    checkout: Path, tmp_path: Path, number: signal.Signals | None, status: int, state: str, requeued: bool
) -> None:
    """With commands that stand in for SLURM's; tests/faults/test_slurm.py has the real ones."""
    end, calls = tmp_path / "end", tmp_path / "calls"
    wait = f"while ! [ -s {end} ]; do sleep 0.1; done; exit $(cat {end})"
    actions = {"srun": wait, "scancel": f"echo {status} > {end}", "squeue": f"echo {state}", "scontrol": ""}
    for name, action in actions.items():
        text = f'#!/bin/sh\necho "{name} $SRUN_CPUS_PER_TASK $@" >> {calls}\n{action}\n'
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(checkout),
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "3",
        "ALEXNET_JAX_ACCELERATOR": "cpu",
    }
    script = start("bash", ROOT / "launch" / "slurm.sbatch", "--workdir=a b", **environment)
    while not calls.exists():
        assert script.poll() is None, script.stderr.read()
        time.sleep(0.02)
    if number is None:
        end.write_text(f"{status}")
    else:
        script.send_signal(number)
    ((ended, _, errors),) = finish(script)
    assert (ended, errors) == (status, "")
    step, *others = calls.read_text().splitlines()
    assert re.fullmatch(r"srun 3 .*-m alexnet_jax.main --workdir=a b", step)
    assert ("scancel 3 --signal=TERM --state=RUNNING 7" in others) == (number is not None)
    assert ("scontrol 3 requeue 7" in others) == requeued


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_kubernetes_manifest_is_valid(version: str) -> None:
    documents = list(yaml.safe_load_all((ROOT / "launch" / "kubernetes.yaml").read_text()))
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)
    by_kind = {document["kind"]: document for document in documents}
    job, pod = by_kind["Job"], by_kind["Job"]["spec"]["template"]["spec"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    assert pod["subdomain"] == by_kind["Service"]["metadata"]["name"]
    assert by_kind["Service"]["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    flags = dict(flag.split("=", 1) for flag in pod["containers"][0]["args"])
    assert int(flags["--num_processes"]) == job["spec"]["completions"]
    host, _ = flags["--coordinator_address"].split(":")
    assert host == f"{job['metadata']['name']}-0.{by_kind['Service']['metadata']['name']}"
    status = {
        rule["action"]: rule.get("onExitCodes", {}).get("values")
        for rule in job["spec"]["podFailurePolicy"]["rules"][:2]
    }
    assert status == {"FailJob": [2, 3], "Ignore": [EXIT_LOST_PROCESS, EXIT_PREEMPTED]}
