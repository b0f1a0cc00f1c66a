"""What a trained net must remember of its data: with it, images can be classified without the data set.

It lies in the workdir: `dataset.json` and, in the form that data sets have it, `statistics.npz`.
"""

import dataclasses
import json
import os
import zlib
from pathlib import Path
from typing import Any

from alexnet_jax.data.statistics import Statistics, load_statistics, save_statistics
from alexnet_jax.errors import UserError

FILE_NAME = "dataset.json"


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Of the training split.

    name: what `data.name` calls the set. num_examples: how many images a pass over it has. label_names: what the set
    calls its classes, in the order of their numbers (WordNet ids for ImageNet). class_names: the same for people.
    """

    name: str
    num_examples: int
    label_names: tuple[str, ...]
    class_names: tuple[str, ...]
    statistics: Statistics

    @property
    def in_short(self) -> dict[str, Any]:
        """What tells two data sets apart, by name and without their images."""
        return {
            "the number of training images": self.num_examples,
            "the number of classes": len(self.label_names),
            **{f"class {number}": name for number, name in enumerate(self.label_names)},
            "the mean image (CRC-32)": f"{zlib.crc32(self.statistics.mean_image.tobytes()):08x}",
        }


def save_dataset_info(info: DatasetInfo, workdir: Path) -> None:
    """Writes both files, each whole or not at all; OSError if the folder can't be written."""
    named = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    statistics = named.pop("statistics")
    save_statistics(statistics, workdir)
    new = workdir / f"{FILE_NAME}.tmp"
    new.write_text(json.dumps(named, indent=1) + "\n")
    os.replace(new, workdir / FILE_NAME)


def has_dataset_info(workdir: Path) -> bool:
    """Whether a training has begun in this folder, and written its info down."""
    return (workdir / FILE_NAME).exists()


def load_dataset_info(workdir: Path) -> DatasetInfo:
    """Reads them; UserError if one of the files is missing or damaged."""
    path = workdir / FILE_NAME
    try:
        data = json.loads(path.read_text())
        info = DatasetInfo(
            name=str(data["name"]),
            num_examples=int(data["num_examples"]),
            label_names=tuple(map(str, data["label_names"])),
            class_names=tuple(map(str, data["class_names"])),
            statistics=load_statistics(workdir),
        )
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the names of the classes; train into --workdir={workdir} again.") from None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); go on with the training, which writes it again.") from error
    if not info.label_names or len(info.label_names) != len(info.class_names) or info.num_examples < 1:
        raise UserError(f"{path} is damaged (classes or examples are missing); go on with the training to mend it.")
    return info
