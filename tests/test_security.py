"""Untrusted files run nothing, write nothing outside of their place, and take bounded memory."""

import ast
import gzip
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import prepare_sources as sources
import pytest
from fuzzing import images_and_archives
from fuzzing.weights import npy, zipped
from test_weights_faults import RunsCode

from alexnet_jax import arrays, pickles
from alexnet_jax.arrays import DamagedArraysError, load_arrays
from alexnet_jax.config import Config
from alexnet_jax.convert import torch_file
from alexnet_jax.convert.torch_file import read_pth
from alexnet_jax.data.image_codec import MAX_SCANS, BrokenImageError, decode
from alexnet_jax.errors import UserError
from alexnet_jax.predict.batching import as_text
from alexnet_jax.prepare import __main__ as prepare
from alexnet_jax.prepare import tars
from alexnet_jax.prepare.cifar import cifar10, load_pickle
from alexnet_jax.report.curves import curves_section
from alexnet_jax.validation import faults

ROOT = Path(__file__).resolve().parents[1]


# Nothing is run


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_runs_nothing(protocol: int, tmp_path: Path) -> None:
    """The same bytes do run their command when they are loaded with `pickle.loads`."""
    hostile = pickle.dumps({1: RunsCode(tmp_path / "proof")}, protocol)
    (tmp_path / "legacy.pth").write_bytes(hostile)
    (tmp_path / "new.pth").write_bytes(zipped({"archive/data.pkl": hostile}))
    np.savez(tmp_path / "objects.npz", **{"conv1/bias": np.array([RunsCode(tmp_path / "proof")], object)})
    for name in ("legacy.pth", "new.pth"):
        with pytest.raises(UserError, match=r"nothing in it was run"):
            read_pth(tmp_path / name)
    with pytest.raises(UserError, match=r"it asks for posix.system"):
        load_pickle(hostile, "a batch")
    with pytest.raises(DamagedArraysError, match=r"allow_pickle=False"):
        load_arrays(tmp_path / "objects.npz")
    assert not (tmp_path / "proof").exists()
    pickle.loads(hostile)
    assert (tmp_path / "proof").exists()


def test_no_module_unpickles_as_usual() -> None:
    """Nor imports a package that would, nor lets NumPy. PyTorch is imported to write a file, in one module."""
    writes_pth = ROOT / "alexnet_jax" / "convert" / "formats.py"
    for path in sorted((ROOT / "alexnet_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    imported = {name.name.split(".")[0] for name in names}
                case ast.ImportFrom(module=str(module)):
                    imported = {module.split(".")[0]}
                case ast.Call(func=ast.Attribute(value=ast.Name(id="pickle" | "torch"), attr="load" | "loads")):
                    pytest.fail(f"{path}:{node.lineno} unpickles")
                case ast.keyword(arg="allow_pickle", value=ast.Constant(value=True)):
                    pytest.fail(f"{path}:{node.value.lineno} allows pickles")
                case _:
                    continue
            unpicklers = {"torch", "yaml", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
            assert imported & unpicklers <= ({"torch"} if path == writes_pth else set()), path


def test_a_data_set_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TFDS imports any module that the features name, from the current folder too, however the key is spelled."""
    subject = images_and_archives.prepared_sets(tmp_path / "data")
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "data" / "pictures" / "1.0.0" / "features.json"
    sound = path.read_text()
    for key in ("pythonClassName", "python_class_name", r"python\u0043lassName"):
        hostile = f'"{key}": "hostile_module.Feature"'
        path.write_text(re.sub(r'"pythonClassName": "[^"]*"', lambda _, new=hostile: new, sound, count=1))
        with pytest.raises(UserError, match=r"names hostile_module.Feature, which is not TFDS's"):
            subject.read()
        with pytest.raises(UserError, match=r"names hostile_module.Feature, which is not TFDS's"):
            prepare.inspect("pictures", tmp_path / "data")
    assert not (tmp_path / "proof").exists()


# Nothing is written elsewhere


def test_members_of_a_tar_stay_where_they_are(tmp_path: Path) -> None:
    """Names that lead out of the folder, absolute names, links, devices: nothing in an archive is ever written."""
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "imagenette2.tgz"
    links = [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../x"), (tarfile.CHRTYPE, ""), (tarfile.FIFOTYPE, "")]
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../train/n01440764/a.JPEG", str(tmp_path / "train/n01440764/b.JPEG"), "train/n01440764/c.JPEG"):
            archive.addfile(member(name, size=3), io.BytesIO(b"abc"))
        for kind, target in links:
            archive.addfile(member("train/n01440764/link.JPEG", kind, linkname=target))
    assert contents(path) == [("a.JPEG", b"abc"), ("b.JPEG", b"abc"), ("c.JPEG", b"abc")]
    assert sorted(tmp_path.rglob("*")) == [path.parent, path]


def contents(path: Path) -> list[tuple[str, bytes]]:
    return [(inside.path.name, tars.read(inside, path)) for inside in tars.walk(path)]


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


# Memory and time are bounded


def header(name: str = "a.JPEG", kind: bytes = tarfile.REGTYPE, size: int = 0, more: bool = False) -> bytes:
    """Return the header of a member; `more`: of a sparse file whose map continues in the next block."""
    block = bytearray(member(name, kind, size=size).tobuf(tarfile.GNU_FORMAT))
    if more:
        block[482:495] = b"\x01%011o\0" % 9
        block[148:156] = b"%06o\0 " % (8 * 32 + sum(block[:148]) + sum(block[156:]))
    return bytes(block)


def attributes(**values: str) -> bytes:
    """Return a header of the newer form, followed by the header that it belongs to."""
    info = member("a.JPEG", pax_headers={name.replace("_", "."): value for name, value in values.items()})
    return info.tobuf(tarfile.PAX_FORMAT)


EXTENDED = bytes(504) + b"\x01" + bytes(7)  # a block of a sparse file's map that announces another
TARS = {
    "a name of a gigabyte": (header(kind=tarfile.GNUTYPE_LONGNAME, size=1 << 30), "bytes of headers"),
    "attributes of a gigabyte": (header(kind=tarfile.XHDTYPE, size=1 << 30), "bytes of headers"),
    "a name of 2^62 bytes": (header(kind=tarfile.GNUTYPE_LONGNAME, size=1 << 62), "bytes of headers"),
    "a name of negative length": (header(kind=tarfile.GNUTYPE_LONGNAME, size=-1 << 20), "bytes of headers"),
    "names of names": (header(kind=tarfile.GNUTYPE_LONGNAME) * 2000, "bytes of headers"),
    "a map without an end": (
        header(kind=tarfile.GNUTYPE_SPARSE, more=True) + EXTENDED * 200, "bytes of headers"
    ),
    "a map without an end, newer form": (
        attributes(GNU_sparse_major="1", GNU_sparse_minor="0") + b"100000\n" + b"0\n" * 50_000,
        "bytes of headers",
    ),
    "a map that is not numbers": (attributes(GNU_sparse_map="x,y") + bytes(1024), "can't be read as a tar archive"),
    "a file of a terabyte": (header(size=1 << 40), "a.JPEG has 1,099,511,627,776 bytes, and 536,870,912 are allowed"),
    "a terabyte of holes": (
        attributes(GNU_sparse_map="0,0", GNU_sparse_size=str(1 << 40)) + bytes(1024), "1,099,511,627,776 bytes, and"
    ),
    "a file that ends before it begins": (header() + header("b.JPEG", size=-512), "byte 512 ends before it begins"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", TARS)
def test_headers_of_tars_are_not_believed(bomb: str, tmp_path: Path) -> None:
    data, sentence = TARS[bomb]
    for archive in (data, gzip.compress(data)):
        (tmp_path / "a.tar").write_bytes(archive)
        with pytest.raises(UserError, match=sentence):
            contents(tmp_path / "a.tar")


def png(side: int) -> bytes:
    """Return the beginning of a black PNG of `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100 * (1 + 3 * side))))


def webp(side: int) -> bytes:
    """Return the header of a WebP of `side` x `side` pixels, at most 16,384."""
    data = b"\x2f" + ((side - 1) | (side - 1) << 14).to_bytes(4, "little") + bytes(11)
    return b"RIFF" + struct.pack("<I", 12 + len(data)) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def array_header(kind: str, size: int) -> bytes:
    """Return the beginning of a `.npy` that claims to hold `size` numbers."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": (size,)})
    return buffer.getvalue()


LARGE_TENSOR = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}'


def test_bombs_take_bounded_memory(tmp_path: Path) -> None:
    """Small files that claim to hold gigabytes, or do, are refused without allocating them."""
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    large = b"".join(packer.compress(bytes(1 << 24)) for _ in range(12)) + packer.flush()
    bombs = {
        "large.png": png(60_000),
        "large.jpg": sources.broken_files()["a JPEG bomb"],
        "large.webp": webp(16_384),
        "gzipped.jpg": large,
        "a.record": png(60_000),
        "b.record": sources.broken_files()["a JPEG bomb"],
        "a.npz": zipped({"conv1/bias.npy": array_header("<f8", 1 << 60)}),
        "a.npy": array_header("<f8", 1 << 60),
        "a.safetensors": struct.pack("<Q", 1 << 34) + b'{"a":',
        "b.safetensors": struct.pack("<Q", (1 << 64) - 1) + b'{"a":',
        "c.safetensors": struct.pack("<Q", len(LARGE_TENSOR)) + LARGE_TENSOR,
        "a.pth": zipped({"a/data.pkl": b"\x80\x02}r\xff\xff\xff\x7f."}),  # CPython allocates a memo of 2^31 entries
        "b.pth": b"\x80\x02}r\xff\xff\xff\x7f.",
    }
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    program = """
import resource, sys
from pathlib import Path
import numpy as np, psutil
from alexnet_jax.data.image_files import load_image
from alexnet_jax.data.preprocessing import Preparation
from alexnet_jax.data.image_codec import BrokenImageError
from alexnet_jax.data.sources import decode_image
from alexnet_jax.errors import UserError
from alexnet_jax.convert.caffe import read_mean
from alexnet_jax.convert.formats import read_npz, read_safetensors
from alexnet_jax.convert.torch_file import read_pth

readers = {".npz": read_npz, ".npy": read_mean, ".pth": read_pth, ".safetensors": read_safetensors}
readers[".record"] = lambda path: decode_image(path.read_bytes(), np.empty((32, 32, 3), np.uint8))
most = psutil.Process().memory_info().vms + (4 << 30)
resource.setrlimit(resource.RLIMIT_AS, (most, most))  # protects this machine


def peak():
    "Return kibibytes; `resource` would include those of the parent process."
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        readers.get(path.suffix, lambda path: load_image(path, Preparation("paper", 32, 32)))(path)
    except (UserError, BrokenImageError) if path.suffix != ".record" else ValueError:
        print(path.name)
print(peak() - before)
"""
    command = [sys.executable, "-c", program, tmp_path]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    *refused, kibibytes = ended.stdout.split()
    assert refused == sorted(bombs)
    assert int(kibibytes) < 400_000


def test_archives_that_unpack_to_more_than_a_net_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty megabytes of zeros in forty kilobytes; the limit is lowered to keep the test short."""
    monkeypatch.setattr(arrays, "MAX_BYTES", 30 << 20)
    monkeypatch.setattr(torch_file, "MAX_BYTES", 30 << 20)
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conv1.npy", npy(np.zeros(40 << 20, np.uint8)))
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    assert path.stat().st_size < 50_000
    with pytest.raises(DamagedArraysError, match=r"it unpacks to 41,943,\d+ bytes, and 31,457,280 are allowed"):
        load_arrays(path)
    with pytest.raises(UserError, match=r"is not a .pth file"):
        read_pth(path)


def test_a_pickle_has_a_limited_number_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte can be an object of a hundred bytes; a pair of twice a pair of twice a pair ... can't be hashed."""
    pairs = b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s."
    with pytest.raises(UserError, match=r"it has more than 1,000,000 objects"):
        load_pickle(pairs, "a batch")
    monkeypatch.setattr(pickles, "MAX_OBJECTS", 1000)
    assert load_pickle(b"\x80\x02" + b"]0" * 400 + b"].", "a batch") == []
    with pytest.raises(UserError, match=r"it has more than 1,000 objects"):
        load_pickle(b"\x80\x02" + b"]" * 1000 + b".", "a batch")


def test_labels_that_are_endless_to_print(tmp_path: Path) -> None:
    """A list of ten times a list of ten times a list ... would take forever to print. A number can be long too."""
    endless: list = []
    for _ in range(100):
        endless = [endless] * 10
    pictures = np.zeros((12, 32, 32, 3), np.uint8)
    for label, shown in ((endless, "<list>"), (10**5000, "<int>")):
        content = {b"labels": [label], b"data": np.zeros((1, 3072), np.uint8)}
        batch = sources.python2_pickle(content)
        archive = sources.cifar10(tmp_path, pictures, [0] * 12, data_batch_1=batch)
        with pytest.raises(UserError, match=rf"data_batch_1 has the label {shown}; labels are 0 to 9\."):
            list(cifar10(archive).images())


def test_scans_of_a_jpeg_are_counted() -> None:
    """Each scan is work for all pixels, even if it has ten bytes. What only looks like scans is not counted."""
    sound = sources.jpeg(1, progressive=True)
    expected = decode(sound).pixels
    last = sound.rindex(b"\xff\xda")
    with pytest.raises(BrokenImageError, match=rf"it has more than {MAX_SCANS} scans"):
        decode(sound[:-2] + sound[last:-2] * MAX_SCANS + sound[-2:])
    baseline = sources.jpeg(1)
    with pytest.raises(BrokenImageError, match=r"scans"):
        decode(baseline[:-2] + baseline[baseline.rindex(b"\xff\xda") : -2] * MAX_SCANS + baseline[-2:])
    thumbnail = b"\xff\xe5" + struct.pack(">H", 2 + 400) + b"\xff\xda" * 200
    np.testing.assert_array_equal(decode(sound[:2] + thumbnail + sound[2:]).pixels, expected)
    np.testing.assert_array_equal(decode(sound + b"\xff\xda" * 200).pixels, expected)


# Names are shown as plain text (HTML: tests/test_report.py)


def test_names_reach_a_terminal_as_text() -> None:
    guess = {"class": "cat\x1b[2J", "label": "n1\r\ud800", "probability": 0.5}
    lines = as_text({"image": "a\nb.jpg", "predictions": [guess]})
    assert lines == "a\\nb.jpg\n   50.00%  cat\\x1b[2J  (n1\\r\\ud800)"


def test_names_are_not_formulas_in_a_figure() -> None:
    """Matplotlib takes text between two dollar signs as a formula, and fails if it is not one."""
    numbers = {"epoch": 1.0, "loss": 1.0, "top1_error": 5.0, "top5_error": 1.0}
    names = (r"$\frac{$", "\x00\x1b[2J", "\ud800", "_hidden")
    records = [{"split": name, "step": step, **numbers} for name in names for step in (1, 2)]
    assert curves_section(records).figure


@pytest.mark.parametrize("field", ["name", "train_split", "eval_split"])
def test_names_that_become_tags_have_no_control_characters(field: str) -> None:
    """TensorBoard's tags are `SPLIT/loss`, its hyperparameters the fields of a sweep."""
    config = Config()
    setattr(config.data, field, "train\x1b[2J")
    assert f"config.data.{field}='train\\x1b[2J' is not allowed" in faults(config)[0]


# Secrets are not written


def test_secrets_of_the_environment_are_not_written(tmp_path: Path, digits_dir: Path) -> None:
    """Train for one step, with a checkpoint and logs."""
    workdir = tmp_path / "w"
    command = [
        *(sys.executable, "-m", "alexnet_jax.main", "--config=configs/quickstart.py", f"--workdir={workdir}"),
        *(f"--config.data.dir={digits_dir}", "--config.num_epochs=0.09", "--config.log.every_steps=1"),
        *("--config.model.conv_width=0.0833", "--config.model.fc_width=0.0079"),
    ]
    environment = {**os.environ, "SECRET_TOKEN": "hunter2-9f1c", "JAX_NUM_CPU_DEVICES": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    written = {path.name: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    assert {"config.json", "metrics.jsonl", "manifest.json"} < written.keys()
    for output in (ended.stdout, ended.stderr, *written.values()):
        assert b"hunter2" not in output
        assert b"SECRET_TOKEN" not in output
