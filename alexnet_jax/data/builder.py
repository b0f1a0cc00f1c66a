"""Writes images and labels as a TFDS data set that anyone can read, without TensorFlow.

The images are handed over as encoded JPEG bytes and the records are stored as ArrayRecord: random access, and
readable with plain `tfds.builder_from_directory(...).as_data_source(...)`.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

Example = tuple[str, dict[str, Any]]  # a key, unique within its split, and the record: features by name


def write_tfds(
    directory: Path,
    *,
    name: str,
    version: str,
    description: str,
    label_names: Sequence[str],
    splits: Mapping[str, Callable[[], Iterable[Example]]],
    image_size: int | None,
    metadata: Mapping[str, Any],
    file_names: bool = False,
    homepage: str = "",
    citation: str = "",
) -> Path:
    """Writes the data set `name` to `directory`/`name`/`version` and returns that folder.

    Each split is a function that yields its examples: {"image": JPEG bytes, "label": index into `label_names`}, and
    "file_name" too if `file_names`. TFDS stores them in an order drawn from their keys, the same each time.
    `image_size`: the side of the images in pixels, or None where they differ. `metadata`: what else should be known
    of the set (JSON values), kept in its `metadata.json`. TFDS writes to a folder of another name first and renames
    it, so a killed preparation leaves nothing that looks finished.
    """

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version(version)
        pkg_dir_path = None  # the builder lies outside of a TFDS package of data sets
        url_infos: ClassVar[dict] = {}  # it downloads nothing; TFDS would look for a list of checksums

        def _info(self) -> tfds.core.DatasetInfo:
            features: dict[str, Any] = {
                "image": tfds.features.Image(shape=(image_size, image_size, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=list(label_names)),
            }
            if file_names:
                features["file_name"] = tfds.features.Text()
            return tfds.core.DatasetInfo(
                builder=self,
                description=description,
                homepage=homepage,
                citation=citation,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                metadata=tfds.core.MetadataDict(metadata),
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterable[Example]]:
            del dl_manager
            return {split: examples() for split, examples in splits.items()}

        def _generate_examples(self) -> Iterator[Example]:
            raise AssertionError("every split brings its own generator")

    Builder.name = name
    builder = Builder(data_dir=directory, file_format="array_record")
    tfds.disable_progress_bar()  # what is said of the progress is the caller's to say
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    return Path(builder.data_dir)
