"""Writes the table of faults in `docs/reliability.md` anew from the last result of their tests; the text around stays.

python -m pytest tests/faults -m faults --junitxml=runs/faults.xml
python -m docs.generate_reliability runs/faults.xml
"""

import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.records import markdown

DOCUMENT = Path(__file__).with_name("reliability.md")
START, END = "<!-- generated: faults -->\n", "<!-- end -->"


def main() -> None:
    """Rewrites the document."""
    DOCUMENT.write_text(with_new_table(DOCUMENT.read_text(), Path(sys.argv[1]).read_text()))


def with_new_table(text: str, results: str) -> str:
    """The document with what stands between its markers replaced by what the results (JUnit XML) say.

    Raises:
      ValueError: the document has no place for the table, or a test failed or was left out.
    """
    pattern = rf"{re.escape(START)}.*?{re.escape(END)}"
    text, found = re.subn(pattern, lambda _: START + faults(results) + END, text, count=1, flags=re.DOTALL)
    if not found:
        raise ValueError(f"{DOCUMENT} has no place for the table")
    return text


def faults(results: str) -> str:
    """What was tested, on what, and a row for each fault: how often, what came of it, how many steps were redone."""
    suite = ElementTree.fromstring(results).find("testsuite")
    assert suite is not None
    if unfit := [name for name in ("failures", "errors", "skipped") if suite.get(name) != "0"]:
        raise ValueError(f"the results have {', '.join(f'{suite.get(name)} {name}' for name in unfit)}")
    where = _properties(suite)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for case in suite.iter("testcase"):
        told = _properties(case)
        if "fault" in told:
            row = rows.setdefault((told["fault"], told["end"]), {"times": 0, "lost": []})
            row["times"] += int(told["times"])
            row["lost"] += [int(told["steps_lost"])] if told["steps_lost"] else []
    lines = [
        {
            "fault": fault,
            "times": row["times"],
            "survived": row["times"],  # a test that fails leaves no result at all
            "steps redone, at most": max(row["lost"], default="-"),
            "and then": end,
        }
        for (fault, end), row in rows.items()
    ]
    total, seconds = sum(line["times"] for line in lines), float(suite.get("time", 0))
    return (
        f"{suite.get('timestamp', '')[:10]}, commit {where['commit']}, {where['hardware']}; {where['versions']}: "
        f"{total} faults in {len(list(suite.iter('testcase')))} tests, {seconds / 60:.0f} minutes.\n\n"
        f"{markdown(lines)}\n"
    )


def _properties(element: ElementTree.Element) -> dict[str, str]:
    return {each.get("name", ""): each.get("value", "") for each in element.findall("properties/property")}


if __name__ == "__main__":
    main()
