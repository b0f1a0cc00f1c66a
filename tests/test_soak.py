"""The soak counts what a process holds, and distinguishes constant from growing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from alexnet_jax.metrics import append_record
from benchmarks import soak

HOLDS_MEMORY_ON_REQUEST = """
import sys, threading
held = []
for line in sys.stdin:
    held.append(bytearray(b"x" * int(line) * 2**20))
    held += [open("/dev/null") for _ in range(5)]
    for _ in range(3):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    print("done", flush=True)
"""


def test_memory_files_and_threads_of_a_process_are_counted(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_MEMORY_ON_REQUEST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:

        def sample_with(mib: int) -> soak.Sample:
            child.stdin.write(f"{mib}\n")
            child.stdin.flush()
            assert child.stdout.readline() == "done\n"
            return soak.sample(watched, tmp_path)

        watched = psutil.Process(child.pid)
        before = sample_with(0)
        assert before["images_per_second"] is None
        append_record(tmp_path, {"step": 1, "split": "train", "images_per_second": 7.5})
        append_record(tmp_path, {"step": 1, "split": "validation", "loss": 2.0})
        after = sample_with(64)
        child.stdin.close()
        child.wait()
        assert list(soak.watch(watched, tmp_path, every=0, seconds=60)) == []
    assert after["resident_mib"] - before["resident_mib"] == pytest.approx(64, abs=4)
    assert (after["files"] - before["files"], after["threads"] - before["threads"]) == (5, 3)
    assert after["images_per_second"] == 7.5


def test_a_slope_is_distinguished_from_noise_and_the_start_does_not_count(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1, 720)
    samples = [
        {
            "seconds": 5.0 * number,
            "resident_mib": 1000 + 10 * 5 * number / 3600 + noise[number] if number >= 24 else 5000.0,
            "files": 40,
            "threads": 20,
            "images_per_second": None if number < 30 else 100 + noise[number],
        }
        for number in range(720)
    ]
    lines = {line[""]: line for line in soak.summary(samples, settled=120)}
    assert lines["resident memory, MiB"]["slope, per hour"] == pytest.approx(10, abs=0.5)
    assert lines["resident memory, MiB"]["most"] < 1100
    assert lines["open files"]["slope, per hour"] == pytest.approx(0, abs=1e-6)
    assert lines["images/s"]["slope, %/hour"] == pytest.approx(0, abs=0.5)
    soak.draw(samples, 120, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_a_process_that_does_not_exist(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    monkeypatch.setattr(sys, "argv", ["soak", f"--pid={child.pid}"])
    with pytest.raises(SystemExit, match="2"):
        soak.main()
    assert "there is no such process" in capsys.readouterr().err
