"""The bugs that fuzzing found, each as its smallest file, which is now read, skipped or refused in one sentence."""

import json
from pathlib import Path

import numpy as np
import prepare_sources as sources
import pytest
from fuzzing import images_and_archives, runs, weights
from fuzzing.campaign import Subject
from fuzzing.weights import npy, zipped
from weights_files import bytes_field, varint

from alexnet_jax.config import Config, to_dict
from alexnet_jax.errors import UserError, print_error
from alexnet_jax.metrics import FILE_NAME, read_records
from alexnet_jax.report.curves import curves_section

NESTED = b"[" * 100_000


def configured(**changed) -> bytes:
    return json.dumps({**to_dict(Config()), **changed}).encode()


def caffemodel_of_shape(*shape: int) -> bytes:
    blob = bytes_field(7, bytes_field(1, b"".join(map(varint, shape))))
    return bytes_field(100, bytes_field(1, "conv1") + bytes_field(7, blob) * 2)


DATASET_INFO = {"name": "digits", "num_examples": 1, "label_names": ["0"], "class_names": ["0"]}
STATISTICS = {"mean_image": np.zeros((8, 8, 3), np.float32), "color_std": np.zeros(3), "color_axes": np.zeros((3, 3))}
NO_PIXELS = STATISTICS | {"mean_image": np.zeros((0, 0, 3), np.float32)}
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
TWO_LINES = b"\x80\x04\x8c\x01a\x8c\x03b\nc\x93."

# The reader, the file to replace, its content, and a pattern of the error message.
BUGS = {
    "nested too deep": (runs.configs, "config.json", NESTED, "config.json is damaged"),
    "a net wider than a number": (
        runs.configs, "config.json", configured(model={"conv_width": 1e308}), r"conv_width=1e\+308 is not allowed"
    ),
    "a number longer than a float": (
        runs.configs, "config.json", configured(batch_size=10**400), r"batch_size=10+ is not allowed"
    ),
    "an unknown variant": (
        runs.configs, "config.json", configured(model={"variant": "x"}), "model.variant='x' is unknown"
    ),
    "an impossible file name": (
        runs.configs, "config.json", configured(data={"dir": "a\0b"}), r"data.dir='a\\x00b' is not allowed"
    ),
    "nan among three numbers": (
        runs.configs, "config.json", configured(data={"std": [1, float("nan"), 1]}), r"data.std=.* is not allowed"
    ),
    "infinitely many examples": (
        runs.dataset_infos,
        "dataset.json",
        json.dumps(DATASET_INFO | {"num_examples": float("inf")}).encode(),
        "dataset.json is damaged",
    ),
    "a data set's info nested too deep": (runs.dataset_infos, "dataset.json", NESTED, "dataset.json is damaged"),
    "statistics that are one array": (
        runs.dataset_infos, "statistics.npz", npy(np.zeros(3)), "statistics.npz is damaged .it is a single array"
    ),
    "statistics of text": (
        runs.dataset_infos,
        "statistics.npz",
        zipped({f"{name}.npy": npy(array.astype("U1")) for name, array in STATISTICS.items()}),
        "statistics.npz is damaged .* not finite numbers",
    ),
    "an empty mean image": (
        runs.dataset_infos,
        "statistics.npz",
        zipped({f"{name}.npy": npy(array) for name, array in NO_PIXELS.items()}),
        "statistics.npz is damaged",
    ),
    "an npz with a text file": (weights.npz_files, "net.npz", zipped({"readme": b"hello"}), "'readme' is not an array"),
    "an npz that is one array": (weights.npz_files, "net.npz", npy(np.zeros(3)), r"is not a \.npy file with a dict"),
    "a mean that is an archive": (weights.mean_images, "mean.npy", zipped({}), "mean.npy is not a .npy file"),
    "a mean of text": (weights.mean_images, "mean.npy", npy(np.full((3, 2, 2), "x")), r"Caffe's mean image is"),
    "an empty mean": (weights.mean_images, "mean.npy", npy(np.zeros((3, 0, 0))), r"holds \[3, 0, 0\]"),
    "sizes whose product is 2^64": (
        weights.caffemodels, "net.caffemodel", caffemodel_of_shape(2**32, 2**32), "holds 0 numbers for an array of"
    ),
    "blank class names": (weights.class_names, "labels.txt", b" \n", "labels.txt is empty"),
    "a pickle that memoizes the two billionth object": (
        weights.pth_files, "net.pth", b"\x80\x02}r\xff\xff\xff\x7f.", "net.pth is not a .pth file"
    ),
    "a pickle that changes its input": (
        weights.pth_files,
        "net.pth",
        zipped({"a/data.pkl": b"\x80\x05\x96\x01" + bytes(8) + b"\x98."}),
        "net.pth is not a .pth file",
    ),
    "a tensor larger than its storage": (
        weights.pth_files,
        "net.pth",
        zipped({
            "a/data.pkl": b"\x80\x02}X\x01\0\0\0a" + TENSOR + b"((X\x07\0\0\0storagectorch\nFloatStorage\n"
            b"X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQK\0(J\xff\xff\xff\x7ft(K\0tNNtRs.",
            "a/data/0": bytes(4),
        }),
        "net.pth is not a .pth file",
    ),
    "a class of CIFAR-10 that is not text": (
        images_and_archives.cifar_batches,
        "cifar-10-python.tar.gz",
        sources.tar([("batches.meta", sources.python2_pickle({b"label_names": [b"\xb7"]}))]),
        "does not contain data_batch_1",
    ),
    "a name on two lines in a pickle of CIFAR-10": (
        images_and_archives.cifar_batches,
        "cifar-10-python.tar.gz",
        sources.tar([("batches.meta", TWO_LINES)]),
        r"it asks for a.b\\nc, which no array",
    ),
    "a name on two lines in a pickle of PyTorch": (
        weights.pth_files, "net.pth", zipped({"a/data.pkl": TWO_LINES}), r"names a.b\\nc, which is not part"
    ),
    "a data set with invalid metadata": (
        images_and_archives.prepared_sets, "pictures/1.0.0/metadata.json", b"{", "can't be read as a TFDS data set"
    ),
    "a data set without file names": (
        images_and_archives.prepared_sets,
        "pictures/1.0.0/dataset_info.json",
        b'{"name":"pictures","version":"1.0.0","fileFormat":"array_record",'
        b'"splits":[{"name":"train","shardLengths":["4"],"filepathTemplate":"{X}"}]}',
        "can't be read as a TFDS data set",
    ),
    "a checkpoint that lists a device": (
        runs.forged_checkpoints,
        "checkpoints/5/manifest.json",
        runs.signed(json.dumps({"step": 5, "files": {"/dev/zero": [1, 1]}}).encode()),
        "'/dev/zero', which is outside the folder",
    ),
    "a checkpoint without a list": (
        runs.forged_checkpoints, "checkpoints/5/manifest.json", runs.signed(b'{"step": 5}'), "lists no files"
    ),
    "an override without a name": (runs.overrides, "override", b"=1", "the config has no field ''"),
    "an override on two lines": (
        runs.overrides,
        "override",
        b"b\ntch_size=1",
        r"^--config.b: the config has no field 'b\\ntch_size'; did you mean 'batch_size'\?$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_refused_in_one_sentence(bug: str, tmp_path: Path) -> None:
    make, name, data, sentence = BUGS[bug]
    subject: Subject = make(tmp_path)
    for sample in subject.samples:
        sample.path.write_bytes(sample.wrap(sample.data))
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        subject.read()


def test_lines_of_metrics_that_are_not_records_are_skipped(tmp_path: Path) -> None:
    good = '{"step": 1, "epoch": 1.0, "split": "validation", "loss": 2.0, "top1_error": 9.0, "top5_error": null}'
    bad = ('{"step": 2, "split": {}}', '{"step": 2, "loss": []}', '{"step": NaN}', '{"step": 1e999}', "[" * 100_000)
    (tmp_path / FILE_NAME).write_text("\n".join([*bad, good, '{"step": 3}']))
    assert [record["step"] for record in read_records(tmp_path)] == [1, 3]
    assert curves_section(read_records(tmp_path)).text == [
        "Up to epoch 1.00. validation: top-1 error 9.00 %, loss 2.0000 (epoch 1.00)."
    ]


def test_an_outcome_without_a_number_does_not_count(tmp_path: Path) -> None:
    subject = runs.outcomes(tmp_path)
    subject.samples[0].path.write_text('{"status": 1e999, "error": ""}')
    assert subject.read()[0] is False


def test_control_characters_do_not_reach_the_terminal(capsys) -> None:
    print_error("a\x1b[2Jb\x1dc é\nd")
    assert capsys.readouterr().err == "error: a\\x1b[2Jb\\x1dc é\nerror: d\n"
