"""Writes the latest result of every benchmark from `results.jsonl` into the README beside it.

python -m benchmarks.table
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.records import RESULTS, markdown

README = Path(__file__).with_name("README.md")
START, END = "<!-- results: python -m benchmarks.table -->", "<!-- end of results -->"


def latest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of each benchmark with the same settings on the same hardware, sorted by name."""
    chosen = {json.dumps([row["benchmark"], row["settings"], row["hardware"]], sort_keys=True): row for row in rows}
    return sorted(chosen.values(), key=lambda row: (row["benchmark"], row["time"]))


def section(row: dict[str, Any]) -> str:
    """One row as Markdown: its command, what it ran on, and its table."""
    hardware = row["hardware"]
    where = hardware.get("gpu") or f"{hardware['cpu']}, {hardware['cores']} cores"
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    return (
        f"### {row['benchmark']}\n\n`{row['command']}`\n\n"
        f"{row['time'][:10]}, commit {row['commit']}, {where}; {versions}.\n\n{markdown(row['lines'])}\n"
    )


def with_results(readme: str, rows: list[dict[str, Any]]) -> str:
    """The README's text with the results between its two marks replaced."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    sections = "\n".join(section(row) for row in latest(rows)) or "Nothing has been measured yet.\n"
    return f"{before}{START}\n\n{sections}\n{END}{after}"


if __name__ == "__main__":
    results = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    README.write_text(with_results(README.read_text(), results))
