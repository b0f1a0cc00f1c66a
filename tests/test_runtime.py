"""What the process sets for itself, and where it does not."""

import os
import sys

import pytest

from alexnet_jax import runtime


@pytest.fixture
def started_anew(tmp_path, monkeypatch) -> list[dict[str, str]]:
    """The environments with which `use_huge_pages` starts the process anew; it sees the devices in `tmp_path`."""
    started: list[dict[str, str]] = []
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setattr(os, "execve", lambda program, arguments, environment: started.append(environment))
    monkeypatch.setattr(runtime, "_DEVICES", tmp_path)
    monkeypatch.setattr(runtime, "TUNING", True)
    for name in ("GLIBC_TUNABLES", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return started


def test_huge_pages_are_for_cpus(started_anew, tmp_path, monkeypatch):
    runtime.use_huge_pages()
    assert started_anew.pop()["GLIBC_TUNABLES"] == runtime.MALLOC
    (tmp_path / "nvidia0").touch()
    runtime.use_huge_pages()
    assert not started_anew
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    runtime.use_huge_pages()
    assert started_anew.pop()
    monkeypatch.delenv("JAX_PLATFORMS")
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        runtime.use_huge_pages()
        assert started_anew.pop()


def test_what_the_user_set_stays(started_anew, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    runtime.use_huge_pages()
    assert not started_anew


def test_a_debugger_stays(started_anew, monkeypatch):
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    runtime.use_huge_pages()
    assert not started_anew
