"""Two processes started by a real `mpirun`, which sends SIGUSR1 on to them, but leaves them a second after SIGTERM.

On Debian: apt-get install openmpi-bin.
"""

import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from alexnet_jax.config import Config
from faults.broken_runs import Run, ended, start

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not shutil.which("mpirun"), reason="Open MPI is not installed here: there is no mpirun"),
]


def test_sigusr1_to_mpirun_saves(tiny_config: Config, tmp_path: Path, tell) -> None:
    """With the options of docs/cluster.md."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "cluster.md").read_text()
    options = re.search(r"^mpirun -n 8 (.*?) \.venv", text, re.MULTILINE)[1].split()
    tiny_config.mesh.data = -1
    tiny_config.num_epochs = 100.0
    tiny_config.eval.every_epochs = tiny_config.checkpoint.every_epochs = 100.0
    run = Run(tmp_path, tiny_config)
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    mpirun = start("mpirun", "-n", 2, "--oversubscribe", *options, *run.command, JAX_NUM_CPU_DEVICES="1", **as_root)
    while run.logged() < 3:
        assert mpirun.poll() is None, mpirun.communicate()
        time.sleep(0.1)
    mpirun.send_signal(signal.SIGUSR1)
    output = ended(mpirun).output
    assert "2 processes, started by Open MPI:" in output
    stopped = re.search(r"stopped by SIGUSR1 after step (\d+) of", output)
    assert stopped, output
    assert run.saved() == run.logged() == int(stopped[1])
    tell("SIGUSR1 to `mpirun`", 1, "saved", 0)
