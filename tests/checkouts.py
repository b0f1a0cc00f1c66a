"""Copies of the repository that tests start the scripts of launch/ in."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def make_checkout(root: Path, programs: dict[str, str]) -> Path:
    """Fill `root` with the repository and an environment of these programs, name -> script; return it."""
    for name in ("alexnet_jax", "configs"):
        (root / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "launch", root / "launch")
    requirements = (ROOT / "requirements.txt").read_text().replace("jax[cuda12]", "jax")
    (root / "requirements.txt").write_text(requirements)
    folder = root / ".venv" / "bin"
    folder.mkdir(parents=True)
    (root / ".venv" / "requirements.txt").write_text(requirements)
    for name, script in programs.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return root
