"""The scripts in launch/ pass paths on as their user means them, from whatever folder they are started."""

import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import make_checkout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository whose commands print where they run, the package that they find, and their arguments."""
    python = f"""#!/bin/sh
case $2 in
    alexnet_jax.*) shift; exec "{sys.executable}" -c '
import os, sys, alexnet_jax
print(os.getcwd(), os.path.dirname(alexnet_jax.__path__[0]), *sys.argv[1:])' "$@" ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""
    return make_checkout(tmp_path_factory.mktemp("checkout"), {"python": python, "pip": ""})


def start(checkout: Path, folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", checkout / "launch" / script, *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "ALEXNET_JAX_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's folder, with a file that must not be taken for the package."""
    (tmp_path / "alexnet_jax.py").write_text("raise SystemExit('not this one')\n")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [("--workdir=my/run",), ("--workdir", "my/run"), ("--workdir=old", "--config.seed=1", "-workdir", "my/run")],
)
def test_quickstart_evaluates_the_folder_that_it_trains_in(checkout: Path, folder: Path, arguments: tuple) -> None:
    result = start(checkout, folder, "quickstart.sh", *arguments)
    assert result.returncode == 0, result.stderr
    training, evaluation, *hints = result.stdout.splitlines()
    where = f"{folder} {checkout}"
    config = f"--config={checkout}/configs/quickstart.py"
    assert training == f"{where} alexnet_jax.main {config} {' '.join(arguments)} --workdir=my/run"
    assert evaluation == f"{where} alexnet_jax.evaluate --workdir=my/run"
    assert (
        f"What you can do next, in {checkout} (the records of this run are in {folder}/my/run/metrics.jsonl):" in hints
    )


def test_quickstart_without_arguments_trains_where_the_documentation_says(checkout: Path) -> None:
    result = start(checkout, checkout, "quickstart.sh")
    assert result.stdout.splitlines()[1] == f"{checkout} {checkout} alexnet_jax.evaluate --workdir=runs/quickstart"
    assert "    .venv/bin/python -m alexnet_jax.evaluate --workdir=runs/quickstart --views=10\n" in result.stdout


def test_quickstart_refuses_a_workdir_without_its_folder(checkout: Path, folder: Path) -> None:
    result = start(checkout, folder, "quickstart.sh", "--workdir")
    assert (result.returncode, result.stderr) == (2, "error: --workdir is the last argument; give a folder after it.\n")


def test_local_processes_run_in_the_folder_of_their_user(checkout: Path, folder: Path) -> None:
    result = start(checkout, folder, "local.sh", "2", "--config=mine.py", "--workdir=my/run")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"{folder} {checkout} alexnet_jax.main --coordinator_address=127.0.0.1:")
        assert line.endswith(" --config=mine.py --workdir=my/run")
