"""Writes the table of faults in `docs/reliability.md` anew from the last result of their tests; the text around stays.

python -m pytest tests/faults -m faults --junitxml=runs/faults.xml
python -m docs.generate_reliability runs/faults.xml

Results may come in several files, each of a part of the tests.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.records import markdown

DOCUMENT = Path(__file__).with_name("reliability.md")
START, END = "<!-- generated: faults -->\n", "<!-- end -->"


def main() -> None:
    """Rewrites the document."""
    results = [Path(name).read_text() for name in sys.argv[1:]]
    DOCUMENT.write_text(with_new_table(DOCUMENT.read_text(), results))


def with_new_table(text: str, results: Sequence[str]) -> str:
    """The document with what stands between its markers replaced by what the results (JUnit XML) say.

    Raises:
      ValueError: the document has no place for the table, or a test failed or was left out.
    """
    pattern = rf"{re.escape(START)}.*?{re.escape(END)}"
    text, found = re.subn(pattern, lambda _: START + faults(results) + END, text, count=1, flags=re.DOTALL)
    if not found:
        raise ValueError(f"{DOCUMENT} has no place for the table")
    return text


def faults(results: Sequence[str]) -> str:
    """What was tested, on what, and a row for each fault: how often, what came of it, how many steps were redone."""
    suites = [suite for result in results for suite in ElementTree.fromstring(result).iter("testsuite")]
    for kind in ("failures", "errors", "skipped"):
        if number := sum(int(suite.get(kind, 0)) for suite in suites):
            raise ValueError(f"the results have {number} {kind}")
    cases = [told for suite in suites for case in suite.iter("testcase") if "fault" in (told := _properties(case))]
    where = [_properties(suite) for suite in suites]
    commit, hardware, versions = (
        " and ".join(dict.fromkeys(each[name] for each in where)) for name in ("commit", "hardware", "versions")
    )
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for told in cases:
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
    total, seconds = sum(line["times"] for line in lines), sum(float(suite.get("time", 0)) for suite in suites)
    return (
        f"{suites[-1].get('timestamp', '')[:10]}, commit {commit}, {hardware}; {versions}: "
        f"{total} faults in {len(cases)} tests, {seconds / 60:.0f} minutes.\n\n{markdown(lines)}\n"
    )


def _properties(element: ElementTree.Element) -> dict[str, str]:
    return {each.get("name", ""): each.get("value", "") for each in element.findall("properties/property")}


if __name__ == "__main__":
    main()
