"""The environment: what the requirements ask for is there, and TensorFlow is not."""

import importlib.metadata
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import alexnet_jax

ROOT = Path(__file__).resolve().parents[1]


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_met(name):
    for requirement in requirements(name):
        version = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {version} is installed"


def test_requirements_begin_with_the_line_that_the_scripts_rewrite():
    assert (ROOT / "requirements.txt").read_text().startswith("jax[cuda12]>=")


def test_tensorflow_is_not_installed():
    names = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    assert names & {"tensorflow-datasets"}
    assert not names & {"tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly", "keras", "tensorboard"}


def test_no_module_imports_tensorflow_or_pytorch():
    """A stand-in that would be found first notices every attempt, a guarded `try: import tensorflow` too."""
    modules = [module.name for module in pkgutil.walk_packages(alexnet_jax.__path__, "alexnet_jax.")]
    assert "alexnet_jax.main" in modules
    script = f"""
import importlib, sys
from absl import flags

class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name.split(".")[0] not in ("tensorflow", "torch"), f"{{name}} is imported"

sys.meta_path.insert(0, Refuse())
for module in {modules}:
    known = set(flags.FLAGS)
    importlib.import_module(module)
    for name in set(flags.FLAGS) - known:  # each command defines its own --workdir
        delattr(flags.FLAGS, name)
assert not {{"tensorflow", "torch"}} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
