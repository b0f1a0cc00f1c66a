"""The environment: all requirements are installed, and TensorFlow is not."""

import importlib.metadata
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def locked() -> list[tuple[Requirement, list[str]]]:
    """The requirements that the lock file pins, each with the hashes of its files."""
    text = (ROOT / "requirements-lock.txt").read_text().replace("\\\n", "")
    entries = [line.split("--hash=") for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(pinned), [each.strip() for each in hashes]) for pinned, *hashes in entries]


def test_the_lock_pins_every_version_by_its_files_hashes_and_names_no_index():
    assert "://" not in (ROOT / "requirements-lock.txt").read_text()
    for requirement, hashes in locked():
        assert [specifier.operator for specifier in requirement.specifier] == ["=="]
        assert hashes
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in hashes)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_lock_has_one_version_of_every_requirement(python):
    """Except PyTorch, of which any build will do (requirements-dev.txt)."""
    pinned = {}
    for requirement, _ in locked():
        environment = {"python_version": python, "python_full_version": f"{python}.0"}
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert canonicalize_name(requirement.name) not in pinned
            pinned[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    for requirement in requirements("requirements.txt") + requirements("requirements-dev.txt"):
        if requirement.name != "torch":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement.name


def test_the_package_can_be_installed_and_used_from_any_folder(tmp_path):
    """With its data; the commands as `python -m alexnet_jax.predict` from there, too."""
    (tmp_path / "source").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "source")
    shutil.copytree(ROOT / "alexnet_jax", tmp_path / "source" / "alexnet_jax")
    (tmp_path / "source" / "configs").mkdir()  # not part of it
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    pip += ["--target", str(tmp_path / "installed"), str(tmp_path / "source")]
    subprocess.run(pip, check=True, cwd=tmp_path, timeout=300)
    assert sorted(path.name for path in (tmp_path / "installed").glob("[!_]*") if path.suffix != ".dist-info") == [
        "alexnet_jax"
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    program = (
        "from alexnet_jax.data import class_names; print(class_names.__file__, len(class_names.imagenet_classes()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout == f"{tmp_path}/installed/alexnet_jax/data/class_names.py 1000\n"


def test_tensorflow_is_not_installed():
    names = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    assert names & {"tensorflow-datasets"}
    assert not names & {"tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly", "keras", "tensorboard"}


def test_no_module_imports_tensorflow_or_pytorch():
    """An import hook notices every attempt, including a guarded `try: import tensorflow`."""
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
