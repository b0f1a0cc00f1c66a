"""Fills bundle/ with what a machine with a GPU, JAX, Flax and PyTorch lacks if it has no network: wheels and images.

    python -m benchmarks.gpu_bundle --python=python3.12 --imagenette=FOLDER
    python -m benchmarks.gpu_bundle --cifar10=DATA_DIR      # for on_gpu_runs.sh: the prepared set, in pieces

`--python` is the version of that machine: pip takes wheels for it, at the versions of requirements-lock.txt, and builds
the one that has none. The images are Imagenette's at 128 pixels, from arrays of JPEGs in FOLDER
(`imagenette128_train.npz`, `imagenette128_val.npz`: data, offsets, labels, names, classes): all for training and every
other one for validation, so that repository, wheels and images stay below 64 MiB. CIFAR-10 is too large for that: bring
the pieces one after the other.
"""

import argparse
import io
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.harness import ROOT

BUNDLE = ROOT / "bundle"
IMAGES = "imagenette128.tgz"
LIMIT = 64 * 2**20  # bytes
PIECE = 45 * 2**20
LACKING = (
    *("array-record", "dm-tree", "docstring-parser", "google-crc32c", "googleapis-common-protos", "grain"),
    *("immutabledict", "importlib-resources", "ml-collections", "portpicker", "promise", "simple-parsing"),
    *("simplejpeg", "tensorboardx", "tensorflow-datasets", "tensorflow-metadata", "termcolor", "toml"),
)


def main() -> None:
    """Fill the folder, and check its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="a Python of the other machine's version")
    parser.add_argument("--imagenette", type=Path, help="the folder with the two files; without it, wheels only")
    parser.add_argument("--cifar10", type=Path, help="the folder with the prepared cifar10; nothing else is made then")
    flags = parser.parse_args()
    BUNDLE.mkdir(exist_ok=True)
    if flags.cifar10:
        write_pieces(flags.cifar10 / "cifar10", BUNDLE)
        return
    requirements = BUNDLE / "requirements.txt"
    requirements.write_text(locked((ROOT / "requirements-lock.txt").read_text(), LACKING))
    wheels = ["-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={BUNDLE / 'wheels'}"]
    subprocess.run([flags.python, *wheels, f"--requirement={requirements}"], check=True)
    if flags.imagenette:
        write_images(flags.imagenette, BUNDLE / IMAGES)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [*(ROOT / name for name in tracked.split("\0") if name), *BUNDLE.rglob("*")]
    size = sum(file.stat().st_size for file in files if file.is_file())
    print(f"{BUNDLE}: with the repository {size / 2**20:.1f} MiB")
    if size > LIMIT:
        sys.exit(f"error: that is more than {LIMIT / 2**20:.0f} MiB; take the images in a second transfer.")


def locked(lock: str, names: Iterable[str]) -> str:
    """Return the entries of these packages, with versions and hashes."""
    entries = {match[1]: match[0] for match in re.finditer(r"^([\w.-]+)==.*(?:\n    .*)*\n", lock, re.MULTILINE)}
    return "".join(entries[name] for name in names)


def write_images(folder: Path, archive: Path) -> None:
    """Write train/CLASS/NAME and val/CLASS/NAME as they are, not decoded."""
    with tarfile.open(archive, "w:gz") as tar:
        for split, every in (("train", 1), ("val", 2)):
            with np.load(folder / f"imagenette128_{split}.npz") as file:
                arrays = dict(file)
            data, offsets = arrays["data"].tobytes(), arrays["offsets"]
            for i in range(0, len(arrays["labels"]), every):
                jpeg = data[offsets[i] : offsets[i + 1]]
                member = tarfile.TarInfo(f"{split}/{arrays['classes'][arrays['labels'][i]]}/{arrays['names'][i]}")
                member.size = len(jpeg)
                tar.addfile(member, io.BytesIO(jpeg))


def write_pieces(dataset: Path, folder: Path) -> None:
    """Write a prepared data set as a tar, cut into pieces."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(dataset, dataset.name)
    content = buffer.getvalue()
    pieces = [content[start : start + PIECE] for start in range(0, len(content), PIECE)]
    for number, piece in enumerate(pieces, 1):
        (folder / f"{dataset.name}.{number}-of-{len(pieces)}").write_bytes(piece)
    print(f"{folder}: {len(pieces)} pieces of at most {PIECE / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
