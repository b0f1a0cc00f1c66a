"""Paths as users write them."""

import os
from pathlib import Path

from alexnet_jax.errors import UserError


def expanded(path: str | os.PathLike[str], name: str = "") -> Path:
    """The path, with the home folder for `~`.

    `name`: of the flag or field that gives it. UserError if the home folder is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        where = f"{name}={path}" if name else path
        raise UserError(f"{where}: nobody knows the home folder that '~' stands for; write it out.") from error
