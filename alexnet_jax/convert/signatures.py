"""Tell what a file is by how it begins, because names mislead: a failed download is a web page named `.caffemodel`."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.errors import UserError

# The kinds of file that each --format stands for; the first is what a file is taken for if nothing tells.
FORMATS = {
    "caffe": ("caffemodel",),
    "torchvision": ("pth", "safetensors"),
    "npz": ("npz", "npy"),
    "onnx": ("onnx",),
    "matconvnet": ("mat",),
}
KINDS = tuple(kind for kinds in FORMATS.values() for kind in kinds)
_SUFFIXES = {f".{kind}": kind for kind in KINDS} | dict.fromkeys((".pt", ".tar", ".ckpt"), "pth")
_BEGINNINGS = {
    "npy": rb"\x93NUMPY",
    "mat": rb"MATLAB 5\.0",
    "safetensors": rb".{4}\0{4}\{",  # the length of a header in JSON, and the header
    "pth": rb"\x80[\x02-\x05]",  # a pickle: the form before PyTorch 1.6
}
_MEMBERS = {"pth": r".*/data\.pkl", "npz": r".*\.npy"}  # of zip archives


class _Other(NamedTuple):
    """Another file: how it begins, or the name of a member if it is a zip archive; what it is, and what to do."""

    pattern: str
    what: str
    remedy: str


_BY_NAME = "save its arrays by name: numpy.savez('net.npz', **{'conv1/kernel': ..., 'conv1/bias': ..., ...})"
_OTHERS = (
    _Other(r"\s*<(!doctype|html|\?xml)", "a web page", "the download failed: open its address in a browser"),
    _Other(r"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull` where it is from"),
    _Other(r"\x89HDF", "an HDF5 file, as Keras saves (.h5)", f"load it there and {_BY_NAME}"),
    _Other(r"MATLAB 7\.3", "a .mat file of version 7.3, which is HDF5", "save it in MATLAB again with the option -v7"),
    _Other(r"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "compressed", "unpack it and give the file inside"),
    _Other(r".{257}ustar", "a tar archive", "unpack it and give the file inside"),
    _Other(
        r"\s*(#[^\n]*\s+)*(name|layers?|input|input_dim|net|force_backward)\s*[:{]",
        "a .prototxt, which describes a net and has no weights",
        "give the .caffemodel that belongs to it",
    ),
)
_OTHER_ZIPS = (
    _Other(
        r".*/constants\.pkl",
        "a TorchScript program, not plain weights",
        "in PyTorch: torch.save(torch.jit.load(FILE).state_dict(), 'net.pth')",
    ),
    _Other(
        r"(.*/)?models/.*\.json",
        "an exported PyTorch program, not plain weights",
        "in PyTorch: torch.save(torch.export.load(FILE).state_dict, 'net.pth')",
    ),
    _Other(r"model\.weights\.h5", "a Keras file", f"load it there and {_BY_NAME}"),
)


def kind_of(path: Path, form: str | None) -> str:
    """Return which of KINDS a file is; `form` is the one of FORMATS that the user says it has.

    UserError if the file is known to be something else, is of another form, or nothing tells what it is.
    """
    with open(path, "rb") as file:
        head = file.read(1024)
    _refuse_others(path, _OTHERS, [head.decode("latin-1")], re.match)
    likely = _SUFFIXES.get(path.suffix.lower())
    kind = next((kind for kind, pattern in _BEGINNINGS.items() if re.match(pattern, head, re.DOTALL)), None)
    if head.startswith(b"PK"):
        members = _members(path)
        _refuse_others(path, _OTHER_ZIPS, members, re.fullmatch)
        kind = next((kind for kind, name in _MEMBERS.items() if any(re.fullmatch(name, m) for m in members)), None)
    if form is None and not (kind or likely):
        raise UserError(
            f"{path} is none of the files that are read, which are .{', .'.join(KINDS)}; if it is one, say which with "
            f"--format={'|'.join(FORMATS)}."
        )
    if form is None:
        return kind or str(likely)
    if kind and kind not in FORMATS[form]:
        raise UserError(f"{path} is a .{kind} by its content, not --format={form}; leave out the format.")
    return kind or (str(likely) if likely in FORMATS[form] else FORMATS[form][0])


def _refuse_others(path: Path, others: tuple[_Other, ...], texts: list[str], match: Callable) -> None:
    for other in others:
        if any(match(other.pattern, text, re.DOTALL | re.IGNORECASE) for text in texts):
            raise UserError(f"{path} is {other.what}; {other.remedy.replace('FILE', repr(path.name))}.")


def _members(path: Path) -> list[str]:
    """Return the names in a zip archive; none if it is damaged, which its reader says."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, RuntimeError):
        return []
