"""One ImageNet in every form in which people keep it. The images are those of `contents`."""

import io
import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import prepare_sources as sources
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from alexnet_jax.data.builder import features_dict, file_template, serialize, write_info, write_tfds
from alexnet_jax.data.class_names import imagenet_classes
from alexnet_jax.prepare import devkit

CLASSES = devkit.without_kit()
IDS = CLASSES.wordnet_ids
NUM_VALIDATION = 30

Images = list[tuple[str, int, bytes]]  # name, label and file


def contents() -> dict[str, Images]:
    """Return a training image per class and some validation images, with the names and labels of the real ones."""
    shapes = [sources.jpeg(seed) for seed in range(40)]
    train = [(f"{wordnet_id}_{label}.JPEG", label, shapes[label % 40]) for label, wordnet_id in enumerate(IDS)]
    validation = [
        (f"ILSVRC2012_val_{number:08d}.JPEG", CLASSES.validation[number - 1], shapes[number % 40])
        for number in range(1, NUM_VALIDATION + 1)
    ]
    return {"train": train, "validation": validation}


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def class_tars(images: Images) -> dict[str, bytes]:
    return {f"{IDS[label]}.tar": sources.tar([(name, data)]) for name, label, data in images}


def plain(images: Images) -> list[tuple[str, bytes]]:
    return [(name, data) for name, _, data in images]


def official(folder: Path, images: dict[str, Images]) -> Path:
    write(folder / "ILSVRC2012_img_train.tar", sources.tar(class_tars(images["train"]).items()))
    write(folder / "ILSVRC2012_img_val.tar", sources.tar(plain(images["validation"])))
    return folder


def train_tar_itself(folder: Path, images: dict[str, Images]) -> Path:
    return official(folder, images) / "ILSVRC2012_img_train.tar"


def unpacked_once(folder: Path, images: dict[str, Images]) -> Path:
    for name, data in class_tars(images["train"]).items():
        write(folder / name, data)
    write(folder / "ILSVRC2012_img_val.tar", sources.tar(plain(images["validation"])))
    return folder


def pytorch(folder: Path, images: dict[str, Images]) -> Path:
    for split, members in (("train", images["train"]), ("val", images["validation"])):
        for name, label, data in members:
            write(folder / split / IDS[label] / name, data)
    return folder


def class_tars_and_folders(folder: Path, images: dict[str, Images]) -> Path:
    for name, data in class_tars(images["train"]).items():
        write(folder / "train" / name, data)
    for name, label, data in images["validation"]:
        write(folder / "val" / IDS[label] / name, data)
    return folder


def kaggle_files(images: dict[str, Images], with_solution: bool = True) -> dict[str, bytes]:
    root = "ILSVRC/Data/CLS-LOC"
    files = {"ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml": b"<annotation/>"}
    files |= {f"{root}/test/ILSVRC2012_test_00000001.JPEG": sources.jpeg(1)}
    files |= {f"{root}/train/{IDS[label]}/{name}": data for name, label, data in images["train"]}
    files |= {f"{root}/val/{name}": data for name, _, data in images["validation"]}
    lines = [f"{name[:-5]},{IDS[label]} 1 2 30 40 {IDS[label]} 5 5 9 9 " for name, label, _ in images["validation"]]
    solution = "\n".join(["ImageId,PredictionString", *lines[::-1], ""])
    return files | ({"LOC_val_solution.csv": solution.encode()} if with_solution else {})


def kaggle_folder(folder: Path, images: dict[str, Images]) -> Path:
    for name, data in kaggle_files(images).items():
        write(folder / name, data)
    return folder


def kaggle_part(folder: Path, images: dict[str, Images]) -> Path:
    for name, data in kaggle_files(images, with_solution=False).items():
        write(folder / name, data)
    return folder / "ILSVRC/Data/CLS-LOC"


def kaggle_zip(folder: Path, images: dict[str, Images]) -> Path:
    folder.mkdir()
    path = folder / "imagenet-object-localization-challenge.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in kaggle_files(images).items():
            archive.writestr(name, data)
    return path


def with_id(name: str, label: int) -> str:
    """Return the name that Hugging Face gives to an image."""
    return f"{name[:-5]}_{IDS[label]}.JPEG"


def hugging_face_tars(folder: Path, images: dict[str, Images]) -> Path:
    train = [(with_id(name, label), data) for name, label, data in images["train"]]
    for number in range(5):
        write(folder / "data" / f"train_images_{number}.tar.gz", sources.tar(train[number::5], "w:gz"))
    validation = [(with_id(name, label), data) for name, label, data in images["validation"]]
    write(folder / "data" / "val_images.tar.gz", sources.tar(validation, "w:gz"))
    write(folder / "data" / "test_images.tar.gz", sources.tar([("ILSVRC2012_test_00000001.JPEG", b"")], "w:gz"))
    return folder


def parquet(folder: Path, images: dict[str, Images], names: Sequence[str] = tuple(imagenet_classes().values())) -> Path:
    """Write shards as those of ILSVRC/imagenet-1k, with the unlabeled test images."""
    test = [("ILSVRC2012_test_00000001.JPEG", -1, sources.jpeg(1))]
    labels = {"names": [f"{name}, another name" for name in names], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": labels}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for split, members, count in (
        ("train", images["train"], 3),
        ("validation", images["validation"], 1),
        ("test", test, 1),
    ):
        for shard in range(count):
            part = members[shard::count]
            rows = [{"bytes": data, "path": name if label < 0 else with_id(name, label)} for name, label, data in part]
            table = pa.table({"image": rows, "label": pa.array([label for _, label, _ in part], pa.int64())})
            path = folder / "data" / f"{split}-{shard:05d}-of-{count:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=100)
    return folder


def webdataset(folder: Path, images: dict[str, Images]) -> Path:
    """Write shards with `.cls` for training images and `.json` for the others."""
    for split, members, count in (("train", images["train"], 4), ("validation", images["validation"], 1)):
        for shard in range(count):
            files = []
            for name, label, data in members[shard::count]:
                files.append((f"{name[:-5]}.jpg", data))
                text = json.dumps({"label": label, "filename": name}) if split != "train" else str(label)
                files.append((f"{name[:-5]}.{'cls' if split == 'train' else 'json'}", text.encode()))
            write(folder / f"imagenet1k-{split}-{shard:04d}.tar", sources.tar(files))
    return folder


def tfds_array_record(folder: Path, images: dict[str, Images]) -> Path:
    splits = {
        split: lambda members=members: [
            (name, {"image": data, "label": label, "file_name": name}) for name, label, data in members
        ]
        for split, members in images.items()
    }
    about = {"description": "", "metadata": {}}
    options = {"label_names": IDS, "image_size": None, "file_names": True}
    return write_tfds(folder, name="imagenet2012", version="5.1.0", splits=splits, **options, **about).parent


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def tfrecord(records: list[bytes]) -> bytes:
    file = io.BytesIO()
    for record in records:
        length = struct.pack("<Q", len(record))
        file.write(length + masked_crc(length) + record + masked_crc(record))
    return file.getvalue()


def tfds_tfrecord(
    folder: Path, images: dict[str, Images], name: str = "imagenet2012", label_names: Sequence[str] = IDS
) -> Path:
    directory = folder / name / "5.1.0"
    infos = []
    for split, members in images.items():
        template = file_template(directory, name, split)
        records = [serialize({"image": data, "label": label, "file_name": name}) for name, label, data in members]
        halves = [records[: len(records) // 2], records[len(records) // 2 :]]
        for shard, half in enumerate(halves):
            write(directory / f"{name}-{split}.tfrecord-{shard:05d}-of-00002", tfrecord(half))
        infos.append(tfds.core.SplitInfo(split, list(map(len, halves)), sum(map(len, records)), template))
    features = features_dict(label_names, None, "jpeg", ["file_name"])
    write_info(directory, name=name, version="5.1.0", features=features, splits=infos, description="", metadata={})
    info = directory / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    return directory.parent


FORMS = {
    function.__name__: function
    for function in (
        *(official, train_tar_itself, unpacked_once, pytorch, class_tars_and_folders),
        *(kaggle_folder, kaggle_part, kaggle_zip, hugging_face_tars, parquet),
        *(webdataset, tfds_array_record, tfds_tfrecord),
    )
}
