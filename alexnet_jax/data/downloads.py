"""Data sets of TensorFlow Datasets (TFDS) that can be downloaded automatically."""

from pathlib import Path

import tensorflow_datasets as tfds

from alexnet_jax.errors import UserError
from alexnet_jax.files import exclusive

_FAILURES = (OSError, tfds.download.DownloadError, tfds.download.download_manager.NonMatchingChecksumError)


def download(name: str, root: Path) -> bool:
    """Prepare the TFDS data set `name` (or `name/config`) in `root`, as ArrayRecord.

    Return False if there is no such set, or it must be downloaded by hand (for ImageNet there is
    `python -m alexnet_jax.prepare`).

    Raises:
      UserError: there is no network, or the set's own code needs a package that is not installed, such as TensorFlow.
    """
    try:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
    except ValueError:  # TFDS has no set, or no config, of this name
        return False
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return False
    try:
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / ".download.lock"):
            print(f"Downloading {name} to {builder.data_dir}, once.", flush=True)
            builder.download_and_prepare()  # does nothing if another process has done it
    except ImportError as error:
        raise UserError(
            f"data.name={name!r} can't be prepared: TFDS needs the package {error.name} for it; run `tfds build {name} "
            f"--file_format=array_record --data_dir={root}` in another environment that has it."
        ) from error
    except _FAILURES as error:
        reason = (str(error) or type(error).__name__).split("\n", 1)[0][:200]
        raise UserError(
            f"data.name={name!r} can't be downloaded to {root} ({reason}); connect to the network, or copy the data "
            f"set from a machine on which `tfds build {name} --file_format=array_record` ran."
        ) from error
    return True
