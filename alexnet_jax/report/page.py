"""The page: one HTML file that holds everything, its figures too."""

import base64
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from alexnet_jax.files import writing
from alexnet_jax.report.section import Section, Table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; border-top: 1px solid #ddd; padding-top: 1em; }
table { border-collapse: collapse; font-size: 14px; } th, td { text-align: left; padding: 2px 1em 2px 0; }
th { border-bottom: 1px solid #999; vertical-align: bottom; } td { border-bottom: 1px solid #eee; }
img { max-width: 100%; } td, th { overflow-wrap: anywhere; }
"""


def page(title: str, facts: Mapping[str, str], settings: Table, sections: Sequence[Section]) -> str:
    """The HTML of a report: facts of the run, its settings, then its sections. All text is escaped."""
    head = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>\n" for name, value in facts.items())
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n<table>{head}</table>\n"
        f"{_section(Section('Settings that differ from the defaults', table=settings))}"
        f"{''.join(map(_section, sections))}</body></html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>\n", *(f"<p>{escape(text)}</p>\n" for text in section.text)]
    if section.figure is not None:
        data = base64.b64encode(section.figure).decode()
        parts.append(f'<p><img alt="{escape(section.title)}" src="data:image/png;base64,{data}"></p>\n')
    if section.table is not None:
        parts.append(_table(section.table))
    return "".join(parts)


def _table(table: Table) -> str:
    header = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in table.rows)
    return f"<table><tr>{header}</tr>\n{rows}</table>\n"


def write(output: Path, files: Mapping[str, bytes]) -> None:
    """Writes files in order, each whole or not at all; UserError if the folder can't be written."""
    with writing(f"--output={output}"):
        output.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            new = output / f"{name}.tmp"
            new.write_bytes(data)
            os.replace(new, output / name)
