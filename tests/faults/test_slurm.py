"""`launch/slurm.sbatch` under a real SLURM, with two nodes on this machine: as many processes as asked, and signals.

On Debian: apt-get install slurmctld slurmd slurm-client munge. The nodes are named like addresses of this machine,
because processes look for the first one by its name.
"""

import contextlib
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alexnet_jax.config import Config, to_dict

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin"
LACKING = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
STEPS = 720
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(bool(LACKING), reason=f"SLURM is not installed here: there is no {', '.join(LACKING)}"),
]
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName=127.0.0.1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16
NodeName=127.0.0.2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16
PartitionName=all Nodes=ALL Default=YES State=UP
"""


class Slurm:
    """A cluster whose commands run in a folder."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder, self.environment = folder, environment

    def __call__(self, *command: object) -> str:
        """Run one of SLURM's commands; return what it prints."""
        words = [str(word) for word in command]
        options = {"cwd": self.folder, "env": self.environment, "capture_output": True, "text": True, "timeout": 60}
        result = subprocess.run(words, check=False, **options)
        assert result.returncode == 0, (words, result.stderr)
        return result.stdout.strip()

    def submit(self, *arguments: object) -> str:
        """Submit the script; return the number of the job."""
        return self("sbatch", "--parsable", *arguments)

    def output(self, job: str) -> str:
        """Return what the job has printed so far."""
        path = self.folder / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    def state(self, job: str) -> str:
        """Return PENDING, RUNNING, COMPLETING, COMPLETED, FAILED or CANCELLED."""
        return re.search(r"JobState=(\w+)", self("scontrol", "show", "job", job))[1]


def wait_for(condition: Callable[[], object], slurm: Slurm, job: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 1200
    while not condition():
        assert time.monotonic() < deadline, (slurm.state(job), slurm.output(job))
        time.sleep(0.1)


@pytest.fixture(scope="module")
def slurm(checkout: Path) -> Iterator[Slurm]:
    """Two nodes of 16 cores, which this machine need not have."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))  # short, for sockets' names
        probes = [stack.enter_context(socket.create_server(("", 0))) for _ in range(3)]
        ports = [probe.getsockname()[1] for probe in probes]
        (folder / "slurm.conf").write_text(
            CONF.format(host=socket.gethostname(), ports=ports, user=getpass.getuser(), folder=folder)
        )
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        (folder / "state").mkdir()
        for node in ("127.0.0.1", "127.0.0.2"):
            (folder / f"spool-{node}").mkdir()
        for probe in probes:
            probe.close()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        environment = inherited | {
            "PATH": PATH,
            "SLURM_CONF": f"{folder}/slurm.conf",
            "ALEXNET_JAX_ACCELERATOR": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
        }

        def serve(*command: str) -> None:
            log = stack.enter_context((folder / f"{Path(command[0]).name}.log").open("a"))
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(server.wait)
            stack.callback(server.terminate)

        files = [f"--{name}={folder}/munge.{end}" for name, end in (("key-file", "key"), ("socket", "socket"))]
        files += [f"--{name}={folder}/munge.{end}" for name, end in (("pid-file", "pid"), ("seed-file", "seed"))]
        serve(shutil.which("munged", path=PATH), "--foreground", "--force", *files)
        while not (folder / "munge.socket").exists():
            time.sleep(0.1)
        serve(shutil.which("slurmctld", path=PATH), "-D", "-c")
        for node in ("127.0.0.1", "127.0.0.2"):
            serve(shutil.which("slurmd", path=PATH), "-D", "-N", node)
        cluster = Slurm(checkout, environment)
        deadline, nodes = time.monotonic() + 120, ("sinfo", "--noheader", "--format=%D %t")
        while subprocess.run(nodes, env=environment, capture_output=True).stdout != b"2 idle\n":
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(0.2)
        yield cluster
        cluster("scancel", "--user", getpass.getuser())
        while cluster("squeue", "--noheader"):
            time.sleep(0.2)


@pytest.mark.parametrize(
    ("options", "tasks"),
    [((), 1), (("--ntasks=3",), 3), (("--nodes=2", "--ntasks-per-node=8", "--cpus-per-task=2"), 16)],
)
def test_as_many_processes_start_as_the_command_says(slurm: Slurm, options: tuple[str, ...], tasks: int, tell) -> None:
    """Each says that --config is missing, and the job is not requeued."""
    job = slurm.submit(*options, "launch/slurm.sbatch")
    wait_for(lambda: slurm.state(job) == "FAILED", slurm, job)
    assert len(re.findall(r"^error: --config is missing", slurm.output(job), re.MULTILINE)) == tasks
    assert "ExitCode=2:0" in slurm("scontrol", "show", "job", job)
    tell("SLURM: a mistake in the command", 1, f"refused by each of {tasks} processes, not requeued")


def test_a_job_on_two_nodes_saves_is_requeued_and_resumes(
    slurm: Slurm, tiny_config: Config, tmp_path: Path, tell
) -> None:
    """Four processes: signals to the script and to the tasks requeue the job, `scancel` ends it; nothing is lost."""
    tiny_config.mesh.data = -1
    tiny_config.num_epochs = STEPS / 12
    tiny_config.eval.every_epochs = tiny_config.checkpoint.every_epochs = 30.0
    config, metrics = tmp_path / "config_of_test.py", tmp_path / "workdir" / "metrics.jsonl"
    config.write_text(
        "from alexnet_jax import validation\n"
        f"def get_config():\n    return validation.from_dict({to_dict(tiny_config)!r}, 'test')\n"
    )

    def steps() -> list[int]:
        """The training steps in the log's whole lines."""
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record["step"] for record in records if record["split"] == "train"]

    def stopped_at() -> list[int]:
        """The steps after which the job was stopped."""
        return [int(step) for step in re.findall(r"stopped by SIGTERM after step (\d+) of", slurm.output(job))]

    options = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=3")
    job = slurm.submit(*options, "launch/slurm.sbatch", f"--config={config}", f"--workdir={metrics.parent}")
    signals = [("--batch", "--signal=USR1"), ("--signal=TERM",)]  # as of --signal=B:USR1@120, and by hand
    for count, how in enumerate([*signals, ()], start=1):
        wait_for(lambda: len(steps()) > 3 + (stopped_at() or [0])[-1], slurm, job)
        assert "CPUs=12 Tasks=4" in slurm("scontrol", "show", "step", f"{job}.0")
        slurm("scancel", *how, job)
        wait_for(lambda state="PENDING" if how else "CANCELLED": slurm.state(job) == state, slurm, job)
        assert len(stopped_at()) == count
        assert steps() == list(range(1, stopped_at()[-1] + 1))
        assert (metrics.parent / "checkpoints" / str(stopped_at()[-1]) / "manifest.json").exists()
        if how:
            # SLURM waits for two minutes; within a second it would find that it has revoked the job's credential.
            slurm("scontrol", "update", f"JobId={job}", "StartTime=now+5")
    output = slurm.output(job)
    assert output.count("4 processes, started by SLURM:") == 3
    assert [int(step) for step in re.findall(r"resuming from step (\d+)", output)] == stopped_at()[:2]
    assert "Traceback" not in output
    tell("SLURM, 2 nodes x 2: USR1 to the script; TERM to the tasks", 2, "status 75, requeued, resumed", 0)
    tell("SLURM, 2 nodes x 2: `scancel`", 1, "saved, not requeued", 0)
