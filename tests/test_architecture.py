"""The walls of the house: who may import whom, and how much someone reads who reads the training."""

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "alexnet_jax"
COMMANDS = {"prepare", "convert", "predict", "features", "report", "sweep", "summary", "evaluate", "main"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(path: Path, everywhere: bool = True) -> set[str]:
    """The modules of the package that a file imports, also inside functions if `everywhere`."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        else:
            continue
        found |= {name for name in names if name in MODULES}
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def folder_of(module: str) -> str:
    """The folder of a module; each module of the core is by itself."""
    parts = module.split(".")[1:]
    return parts[0] if len(parts) > 1 or (PACKAGE / parts[0]).is_dir() else f"{parts[0]}.py"


def test_folders_form_no_circle() -> None:
    uses = defaultdict(set)
    for module, path in MODULES.items():
        if module != "alexnet_jax":  # `alexnet_jax.load` is a door from outside
            uses[folder_of(module)] |= {folder_of(name) for name in imports_of(path) if name != "alexnet_jax"}
    for folder in uses:
        uses[folder].discard(folder)
    while leaves := [folder for folder, used in uses.items() if not used & uses.keys()]:
        for folder in leaves:
            del uses[folder]
    assert not uses, f"a circle among {dict(uses)}"


def test_the_core_imports_no_command() -> None:
    for module, path in MODULES.items():
        if module != "alexnet_jax" and folder_of(module).removesuffix(".py") not in COMMANDS:
            imported = {folder_of(name).removesuffix(".py") for name in imports_of(path)}
            assert not imported & COMMANDS, f"{module} imports {imported & COMMANDS}"


@pytest.fixture(scope="module")
def reached_by_training() -> set[str]:
    """The modules of the package that `import alexnet_jax.train` loads."""
    program = "import sys, alexnet_jax.train; print(*(n for n in sys.modules if n.startswith('alexnet_jax')))"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_training_reaches_no_preparation_conversion_report_or_sweep(reached_by_training: set[str]) -> None:
    assert not {folder_of(name).removesuffix(".py") for name in reached_by_training if name != "alexnet_jax"} & COMMANDS
    lines = sum(len(MODULES[name].read_text().splitlines()) for name in reached_by_training)
    assert len(reached_by_training) <= 60
    assert lines <= 7_000


def test_the_first_evening_is_short_and_its_sizes_are_right() -> None:
    """README's reading path: at most 24 files and 3,000 lines, and the sizes that it gives are about those."""
    text = (ROOT / "README.md").read_text()
    evening = text[text.index("**First evening") : text.index("**Second evening")]
    sizes = {}
    for item in re.findall(r"^\d+\. (.*)$", evening, re.MULTILINE):
        folder = ""
        for name, lines in re.findall(r"`([\w/]+\.py)` \((\d+)\)", item):
            folder = name.rpartition("/")[0] if "/" in name else folder
            path = ROOT / name if folder == "configs" and "/" in name else PACKAGE / folder / name.rpartition("/")[2]
            sizes[path if path.exists() else PACKAGE / name] = int(lines)
    actual = {path: len(path.read_text().splitlines()) for path in sizes}
    assert 10 <= len(sizes) <= 24
    assert sum(actual.values()) <= 3_000
    for path, lines in actual.items():
        assert sizes[path] == pytest.approx(lines, rel=0.1, abs=10), path


def test_orbax_is_in_one_file_and_collectives_are_in_one_folder() -> None:
    for module, path in MODULES.items():
        text = path.read_text()
        assert "import orbax" not in text or module == "alexnet_jax.checkpoint"
        assert "from orbax" not in text or module == "alexnet_jax.checkpoint"
        collective = re.search(r"lax\.(psum|all_gather|ppermute|psum_scatter|all_to_all)\w*\(", text)
        allowed = module.startswith(("alexnet_jax.parallel.", "alexnet_jax.cluster."))
        assert not collective or allowed, f"{module}: {collective}"
    assert not [module for module in MODULES if "utils" in module]


def test_a_choice_is_named_where_it_is_declared_and_where_it_acts() -> None:
    """A new field of three choices touches config.py, the function that applies it, and the documents."""
    for choice, places in {
        "non_overlapping": {"config", "model.ablations"},
        "before_relu": {"config", "model.ablations"},
    }.items():
        named = {module for module, path in MODULES.items() if f'"{choice}"' in path.read_text()}
        assert named == {f"alexnet_jax.{place}" for place in places}


def test_the_net_is_built_in_few_places() -> None:
    """It is built once for a training and passed on; others build one where a config is all that there is."""
    calls = sum(len(re.findall(r"\bbuild_net\(", path.read_text())) for path in MODULES.values())
    assert calls <= 10
