"""What a trained net must remember of its data set, so that it can classify images without it.

It is kept in the workdir: `dataset.json` and, in the same form as beside a data set, `statistics.npz`.
"""

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

from alexnet_jax.data.statistics import Statistics, load_statistics, save_statistics
from alexnet_jax.errors import UserError
from alexnet_jax.files import reading, write_atomically

FILE_NAME = "dataset.json"
PREPROCESSING = ("paper", "torchvision", "caffe")


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Facts about the training split.

    name: as in `data.name`. num_examples: images in an epoch. label_names: the data set's own names of its classes, in
    the order of their numbers (WordNet ids for ImageNet). class_names: readable names of the same classes.
    preprocessing: whose way of resizing and cropping pictures the net knows, one of PREPROCESSING.
    """

    name: str
    num_examples: int
    label_names: tuple[str, ...]
    class_names: tuple[str, ...]
    statistics: Statistics
    preprocessing: str = "paper"

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Facts by name that tell two data sets apart without reading their images."""
        return {
            "the number of training images": self.num_examples,
            "the number of classes": len(self.label_names),
            **{f"class {number}": name for number, name in enumerate(self.label_names)},
            "the mean image (CRC-32)": f"{zlib.crc32(self.statistics.mean_image.tobytes()):08x}",
        }


def save_dataset_info(info: DatasetInfo, workdir: Path) -> None:
    """Write both files, each whole or not at all; OSError if the folder can't be written."""
    fields = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    save_statistics(fields.pop("statistics"), workdir)
    write_atomically(workdir / FILE_NAME, json.dumps(fields, indent=1) + "\n")


def load_dataset_info(workdir: Path) -> DatasetInfo:
    """Read both files; UserError if one is missing or damaged."""
    path = workdir / FILE_NAME
    with reading(str(path)):
        if not path.exists():
            raise UserError(f"{path} is missing, which names the classes; train into --workdir={workdir} again.")
        content = path.read_bytes()
    try:
        data = json.loads(content)
        info = DatasetInfo(
            name=str(data["name"]),
            num_examples=int(data["num_examples"]),
            label_names=tuple(map(str, data["label_names"])),
            class_names=tuple(map(str, data["class_names"])),
            statistics=load_statistics(workdir),
            preprocessing=str(data.get("preprocessing", "paper")),  # older workdirs don't say
        )
        if not info.label_names or len(info.label_names) != len(info.class_names) or info.num_examples < 1:
            raise ValueError("classes or examples are missing")
        if info.preprocessing not in PREPROCESSING:
            raise ValueError(f"preprocessing is {info.preprocessing!r}, not one of {', '.join(PREPROCESSING)}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); resume the training, which writes it again.") from error
    return info
