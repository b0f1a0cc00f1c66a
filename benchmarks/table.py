"""Writes the latest result of every benchmark from `results.jsonl` into README.md.

python -m benchmarks.table
"""

import collections
import itertools
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.records import RESULTS, markdown

README = Path(__file__).with_name("README.md")
START, END = "<!-- results: python -m benchmarks.table -->", "<!-- end of results -->"

Line = dict[str, Any]
# Only results.jsonl has these: columns that repeat others in another unit, lines of the peak, and short operations.
COLUMNS_LEFT_OUT = re.compile(r".*GFLOP/s|TFLOP/s|sent / needed|(parameters|momentum|temporaries), %")
LINES_LEFT_OUT = re.compile(r"matmul \d+, .*")
FIRST_LINES = {"kernels": 8}
NEW_NAMES = {"told like predict": "same class as predict"}  # of columns in older rows


def latest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last row of each benchmark with the same settings on the same hardware, sorted by name."""
    chosen = {json.dumps([row["benchmark"], row["settings"], row["hardware"]], sort_keys=True): row for row in rows}
    return sorted(chosen.values(), key=lambda row: (row["benchmark"], row["time"]))


def environment(row: dict[str, Any]) -> str:
    """Return the hardware and the versions of a row as text."""
    hardware = row["hardware"]
    device = hardware.get("gpu") or f"{hardware['cpu']}, {hardware['cores']} cores"
    return ", ".join([device, *(f"{name} {version}" for name, version in row["versions"].items())])


def compact(benchmark: str, lines: list[Line]) -> list[Line]:
    """Return the lines as the document shows them, without columns that are empty."""
    if benchmark in FIRST_LINES:
        lines = [*lines[:-1][: FIRST_LINES[benchmark]], lines[-1]]  # the last line is the sum
    lines = [_compact(line) for line in lines if not LINES_LEFT_OUT.fullmatch(str(line.get("contender")))]
    lines = _beside(lines) if "column" in lines[0] else lines
    empty = {name for name in lines[0] if all(line[name] in ("", None) for line in lines)}
    return [{name: value for name, value in line.items() if name not in empty} for line in lines]


def _compact(line: Line) -> Line:
    """Return a line with quartiles beside the median, PyTorch's layout beside the ratio, and its fastest mode only."""
    line = {name: value for name, value in line.items() if not COLUMNS_LEFT_OUT.fullmatch(name)}
    if match := re.fullmatch("(PyTorch .*), (NCHW|channels_last)", str(line.get("contender"))):
        line |= {"contender": match[1], "ours is faster": f"{line['ours is faster']} ({match[2]})"}
    shown: Line = {}
    for name, value in line.items():
        if name == "quartiles":
            median, cell = shown.popitem()
            shown[f"{median} (quartiles)"] = f"{cell} ({value.replace(' to ', '–')})"
        elif re.fullmatch("PyTorch .*, ms", name):
            shown["PyTorch, ms"] = min((ms for ms in (shown.get("PyTorch, ms"), value) if ms is not None), default=None)
        else:
            shown[NEW_NAMES.get(name, name)] = value
    return shown


def _beside(lines: list[Line]) -> list[Line]:
    """Return one line per contender or operation; columns of all comparisons but the first start with their names."""
    _, key, *quantities = lines[0]
    prefixes = {line["column"]: "" if line["column"] == lines[0]["column"] else f"{line['column']}: " for line in lines}
    empty = {f"{prefix}{name}": None for prefix in prefixes.values() for name in quantities}
    merged = {line[key]: {key: line[key], **empty} for line in lines}
    for line in lines:
        merged[line[key]] |= {f"{prefixes[line['column']]}{name}": line[name] for name in quantities}
    return list(merged.values())


def section(row: dict[str, Any], usual: str) -> str:
    """Return one row as Markdown: command, date, commit, environment (unless it is `usual`), and table."""
    origin = [f"`{row['command']}`", row["time"][:10], f"commit {row['commit']}"]
    origin += [environment(row)] if environment(row) != usual else []
    return f"{', '.join(origin)}:\n\n{markdown(compact(row['benchmark'], row['lines']))}\n"


def results(rows: list[dict[str, Any]]) -> str:
    """Return the latest results as Markdown, with the environment of most of them at the top."""
    if not rows:
        return "Nothing has been measured yet.\n"
    shown = latest(rows)
    ((usual, _),) = collections.Counter(map(environment, shown)).most_common(1)
    text = [f"Unless a result names others, hardware and versions are: {usual}.\n"]
    for benchmark, group in itertools.groupby(shown, lambda row: row["benchmark"]):
        text += [f"### {benchmark}\n", *(section(row, usual) for row in group)]
    return "\n".join(text)


def with_results(readme: str, rows: list[dict[str, Any]]) -> str:
    """Return the README's text with new results between the two marks."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{results(rows)}\n{END}{after}"


if __name__ == "__main__":
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    README.write_text(with_results(README.read_text(), rows))
