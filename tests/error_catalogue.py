"""Notes what users are told while tests run, for docs/errors.md: `python -m pytest --errors=FILE`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def note_errors(file: Path) -> None:
    """From now on adds a line of JSON to the file for each sentence: {"sentence", "place", "test"}.

    In this process, those of every UserError, and the line of the source that made it; of programs that tests start,
    those on stderr, whose place is not known (None). Several processes may write to one file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    communicate = subprocess.Popen.communicate

    def note(sentence: str, place: str | None) -> None:
        found = {"sentence": sentence, "place": place, "test": os.environ.get("PYTEST_CURRENT_TEST", "")}
        with file.open("a") as lines:
            lines.write(json.dumps(found) + "\n")

    def note_and_create(error: UserError, *arguments: Any) -> None:
        Exception.__init__(error, *arguments)
        caller = sys._getframe(1)
        path = Path(caller.f_code.co_filename)
        if path.is_relative_to(ROOT) and "tests" not in path.parts:
            note(str(error), f"{path.relative_to(ROOT)}:{caller.f_lineno}")

    def note_and_communicate(process: subprocess.Popen, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        output, errors = communicate(process, *arguments, **options)
        for text in (output, errors):
            lines = (text.decode(errors="replace") if isinstance(text, bytes) else text or "").splitlines()
            for line in lines:
                if line.startswith("error: "):
                    note(line.removeprefix("error: "), None)
        return output, errors

    UserError.__init__ = note_and_create  # type: ignore[method-assign]
    subprocess.Popen.communicate = note_and_communicate  # type: ignore[method-assign]
