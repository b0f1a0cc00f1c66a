"""Writes `docs/errors.md` anew: every sentence that users can be told, each as a test has seen it.

python -m pytest -n 2 --errors=runs/errors.jsonl
python -m docs.generate_errors runs/errors.jsonl

Which sentences there are is read from the source: the texts of all errors that end a command, and those of the
functions that write sentences for them. Tests of what was changed suffice: the other rows stay as they are.
"""

import ast
import json
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from alexnet_jax import errors
from benchmarks.records import markdown

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = Path(__file__).with_name("errors.md")
PACKAGES = ("alexnet_jax", "experiments")
COMMAND = "python -m docs.generate_errors"

# Where sentences stand: in these exceptions, and in what these functions return, list or say; and the exit status.
ERRORS = {
    **dict.fromkeys(("UserError", "ContradictionError"), errors.EXIT_USER_ERROR),
    "DivergedError": errors.EXIT_DIVERGED,
    "PreemptedError": errors.EXIT_PREEMPTED,
}
WRITERS = {
    **dict.fromkeys(("unknown_field", "faults", "layout_faults", "_illegal_value", "plan"), errors.EXIT_USER_ERROR),
    **dict.fromkeys(("_misfit", "_incomplete", "in_a_sentence", "_too_late"), errors.EXIT_USER_ERROR),
    "_lost": errors.EXIT_LOST_PROCESS,
}
# Functions with an error whose sentence another one wrote.
PASSING_ON = {
    *("_parse_flags", "_check_overrides", "__setattr__", "validate", "from_dict", "create_mesh", "on_process_0"),
    *("plan", "check_folders", "fit", "read_net", "main", "_pixels"),
}
_LEAST = 10  # characters that a sentence has besides the values in it

# Which modules, or folders, an area has.
AREAS = {
    "Flags and config": ("cli.py", "config.py", "validation.py", "paths.py", "summary.py", "model/"),
    "Data sets": (
        *("data/datasets.py", "data/sources.py", "data/statistics.py", "data/facts.py", "data/digits.py"),
        *("data/downloads.py", "data/raw.py", "data/feeding.py"),
    ),
    "Preparing data": ("prepare.py", "data/preparation/"),
    "Training": ("train", "limits.py", "workdir.py", "metrics.py"),
    "Checkpoints": ("checkpoint.py", "manifest.py", "inference/restored.py"),
    "Devices and processes": ("parallel/",),
    "Weights": ("convert.py", "weights/"),
    "Images, evaluation and reports": (
        *("data/image_files.py", "predict.py", "inference/", "evaluate.py", "features.py", "report.py", "reporting/"),
    ),
    "Sweeps and experiments": ("sweep", "experiments/"),
    "Files that commands write": ("errors.py",),
    "Others": ("",),
}
STATUSES = {
    0: "done",
    errors.EXIT_CRASHED: "an error of the program, with a traceback",
    errors.EXIT_USER_ERROR: "something to mend, said in one sentence; several faults of a config have a line each",
    errors.EXIT_DIVERGED: "the loss is no longer a number",
    errors.EXIT_LOST_PROCESS: "another process of the group ended; the same command goes on from the last checkpoint",
    errors.EXIT_PREEMPTED: "stopped by a signal, and saved; the same command goes on",
}


class Sentence(NamedTuple):
    """A sentence of the source. path, line: where it stands. parts: its text, None for each value in it."""

    path: str
    line: int
    parts: tuple[str | None, ...]
    status: int

    def match(self, text: str) -> re.Match[str] | None:
        """The match of a text that ends with this sentence: a group for what precedes it, and one for each value."""
        if not all(part in text for part in self.parts if part):  # much faster
            return None
        pattern = "".join("(.*?)" if part is None else re.escape(part) for part in self.parts)
        return re.fullmatch(f"(.*?){pattern}", text, re.DOTALL)

    @property
    def length(self) -> int:
        """How many characters it has besides its values."""
        return sum(len(part or "") for part in self.parts)


class Seen(NamedTuple):
    """What was said in a test; `path`: the module that raised it, None where it is not known."""

    text: str
    path: str | None
    test: str


def main() -> None:
    """Rewrites the document; what the files lack is taken from the old one."""
    lines = [line for name in sys.argv[1:] for line in Path(name).read_text().splitlines()]
    rows = [row for row in rows_in(DOCUMENT.read_text()) if row.test != "-"] if DOCUMENT.exists() else []
    new, old = (find_examples(sentences(), seen) for seen in (map(read_seen, lines), rows))
    examples = {sentence: new[sentence] or old[sentence] for sentence in new}
    DOCUMENT.write_text(document(examples))
    unseen = [f"{sentence.path}:{sentence.line}" for sentence, seen in examples.items() if seen is None]
    print(f"{len(examples)} sentences; no test has seen {len(unseen)}: {', '.join(unseen) or '-'}")


def read_seen(line: str) -> Seen:
    """From a line that `tests/error_catalogue.py` wrote, without what is only of one machine."""
    found = json.loads(line)
    text = found["sentence"].replace(socket.gethostname(), "node1")
    test = found["test"].split("[", 1)[0].split(" ", 1)[0].removeprefix("tests/")
    return Seen(_PATH.sub(_short_path, text), found["place"] and found["place"].rsplit(":", 1)[0], test)


_PATH = re.compile(r"(?<![\w.:/])/(?:[\w.@+=-]+/)*([\w.@+=-]*)")


def _short_path(path: re.Match[str]) -> str:
    return "…/" + ("DIR" if path[1].startswith("test_") else path[1])


def sentences() -> list[Sentence]:
    """All sentences of the source, each once, in the order of the document."""
    found: dict[tuple[str | None, ...], Sentence] = {}
    for path, function, node, status in _texts():
        if (parts := _parts(node)) and sum(len(part or "") for part in parts) >= _LEAST:
            found.setdefault(parts, Sentence(path, node.lineno, parts, status))
        elif function not in PASSING_ON and function not in WRITERS:
            raise ValueError(f"{path}:{node.lineno}: who writes its sentence? See WRITERS and PASSING_ON.")
    return sorted(found.values(), key=lambda sentence: list(AREAS).index(area_of(sentence)))


def _texts() -> Iterator[tuple[str, str, ast.expr, int]]:
    """What may be a sentence: module, function, expression, exit status."""
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                match node:
                    case ast.Call(func=ast.Name(id=error), args=[text, *_]) if error in ERRORS:
                        yield name, function.name, text, ERRORS[error]
                if function.name in WRITERS:
                    for text in filter(_ends_like_a_sentence, _written(node)):
                        yield name, function.name, text, WRITERS[function.name]


def _written(node: ast.AST) -> Sequence[ast.expr]:
    match node:
        case ast.Return(value=ast.expr() as text) | ast.ListComp(elt=text):
            return [text]
        case ast.Call(func=ast.Attribute(attr="append"), args=[text, *_]):
            return [text]
        case ast.Assign(targets=[ast.Name(id="sentence")], value=text):
            return [text]
        case ast.List(elts=texts):
            return texts
    return []


def _parts(node: ast.expr) -> tuple[str | None, ...]:
    """The parts of a text, None for each value; () if it is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return (text,)
        case ast.JoinedStr(values=parts):
            return tuple(part.value if isinstance(part, ast.Constant) else None for part in parts)
    return ()


def _ends_like_a_sentence(node: ast.expr) -> bool:
    parts = _parts(node)
    return bool(parts) and (parts[-1] or ".")[-1] in ".?"


def find_examples(wanted: Sequence[Sentence], seen: Iterable[Seen]) -> dict[Sentence, Seen | None]:
    """For each sentence the shortest that was seen of it, if it can be in a test of likely files; None if none was."""
    examples: dict[Sentence, Seen | None] = dict.fromkeys(wanted)
    others: dict[Sentence, Seen] = {}  # those that are a sentence's, but more another one's
    for one in sorted(set(_lines_of(seen)), key=lambda one: (_is_odd(one.test), len(one.text), one)):
        found = [(sentence, match) for sentence in wanted if (match := sentence.match(one.text))]
        found.sort(key=lambda pair: (pair[0].path == one.path, not pair[1][1], pair[0].length), reverse=True)
        for place, (sentence, _) in enumerate(found):
            if place:
                others.setdefault(sentence, one)
            elif examples[sentence] is None:
                examples[sentence] = one
    return {sentence: one or others.get(sentence) for sentence, one in examples.items()}


def _is_odd(test: str) -> bool:
    """Whether its sentences are about files that nobody has."""
    return test.startswith(("test_fuzzing", "test_errors"))


def _lines_of(seen: Iterable[Seen]) -> Iterator[Seen]:
    """Several faults are said in a line each."""
    for one in seen:
        for line in one.text.split("\n"):
            yield one._replace(text=line, path=one.path or "")


def document(examples: Mapping[Sentence, Seen | None]) -> str:
    """The whole of it."""
    areas: dict[str, list[dict[str, str]]] = {area: [] for area in AREAS}
    for sentence, seen in examples.items():
        areas[area_of(sentence)].append(_row(sentence, seen))
    tables = [f"## {area}\n\n{markdown(rows)}" for area, rows in areas.items() if rows]
    statuses = markdown([{"exit status": status, "": meaning} for status, meaning in STATUSES.items()])
    return "\n\n".join([_HEAD, statuses, *tables]) + "\n"


_HEAD = f"""# Errors: what a command may say, and what to do

A mistake ends in one sentence on stderr that begins with `error: `, and an exit status. Search here for the words that
do not depend on your files: names and numbers are those of a test, `…/x` stands for any path.

Made by `{COMMAND}` from the source and from what its tests saw; `tests/test_errors.py` holds that it is complete."""


def area_of(sentence: Sentence) -> str:
    """Where the sentence belongs."""
    path = sentence.path.removeprefix("alexnet_jax/")
    return next(area for area, paths in AREAS.items() if path.startswith(paths))


def _row(sentence: Sentence, seen: Seen | None) -> dict[str, str]:
    text = _in_short(sentence, seen.text) if seen else "".join("…" if part is None else part for part in sentence.parts)
    message, remedy = split(text)
    test = seen.test if seen else "-"
    cells = {"message": message, "what to do": remedy, "exit status": str(sentence.status), "test": test}
    return {name: _ESCAPED.sub(r"\\\g<0>", cell) for name, cell in cells.items()}


_ESCAPED = re.compile(r"[|*<]")


def _in_short(sentence: Sentence, text: str) -> str:
    """The text with long values cut."""
    match = sentence.match(text)
    assert match is not None
    values = iter(match.groups())
    return "".join(_cut(next(values)) if part is None else part for part in (None, *sentence.parts))


def _cut(value: str) -> str:
    return value if len(value) <= 100 else f"{value[:60].rstrip()} … {value[-20:].lstrip()}"


def split(text: str) -> tuple[str, str]:
    """What is wrong, and what to do about it, where a sentence says that behind a semicolon, or in another one."""
    for gap in ("(?<=;) ", "(?<=:) (?=give |say |name )", "(?<=[.?]) "):
        *_, found = [None, *re.finditer(gap, text)]
        if found and text.count("(", found.end()) == text.count(")", found.end()):
            return text[: found.start()], text[found.end() :]
    return text, ""


def rows_in(text: str) -> list[Seen]:
    """The rows of a document; `test` is "-" where no test has seen the sentence."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    cells = [[re.sub(r"\\([|*<])", r"\1", cell) for cell in row] for row in rows if len(row) == 4]
    return [Seen(f"{said} {remedy}".strip(), None, test) for said, remedy, status, test in cells if status.isdecimal()]


if __name__ == "__main__":
    main()
