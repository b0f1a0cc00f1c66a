"""The page: one HTML file that contains everything, including its figures."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from alexnet_jax.files import write_atomically, writing
from alexnet_jax.report.section import Section, Table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; border-top: 1px solid #ddd; padding-top: 1em; }
table { border-collapse: collapse; font-size: 14px; } th, td { text-align: left; padding: 2px 1em 2px 0; }
th { border-bottom: 1px solid #999; vertical-align: bottom; } td { border-bottom: 1px solid #eee; }
img { max-width: 100%; } td, th { overflow-wrap: anywhere; }
"""


def page(title: str, properties: Mapping[str, str], settings: Table, sections: Sequence[Section]) -> str:
    """Return the HTML of a report: the run's properties, its settings, then the sections. All text is escaped."""
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>\n" for name, value in properties.items())
    sections = [Section("Settings that differ from the defaults", table=settings), *sections]
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n<table>{''.join(rows)}</table>\n"
        f"{''.join(map(_section, sections))}</body></html>\n"
    )


def _section(section: Section) -> str:
    html = f"<h2>{escape(section.title)}</h2>\n" + "".join(f"<p>{escape(text)}</p>\n" for text in section.text)
    if section.figure is not None:
        data = base64.b64encode(section.figure).decode()
        html += f'<p><img alt="{escape(section.title)}" src="data:image/png;base64,{data}"></p>\n'
    if section.table is not None:
        html += f"<table>{_row(section.table.header, 'th')}{''.join(map(_row, section.table.rows))}</table>\n"
    return html


def _row(cells: Sequence[str], tag: str = "td") -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>\n"


def write(output: Path, files: Mapping[str, bytes]) -> None:
    """Write files in order, each whole or not at all; UserError if the folder can't be written."""
    with writing(f"--output={output}"):
        output.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(output / name, data)
