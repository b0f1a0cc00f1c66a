"""Writes the table of faults in `docs/reliability.md` from the last results of their tests; the other text stays.

python -m pytest tests/faults -m faults -n 2 --junitxml=runs/faults.xml
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
# The outcomes of tests in the words of the table; the document explains these above it.
SHORT = (("refused: one sentence, status 2", "refused"), ("one sentence, status 2", "refused"))
SHORT += (("as uninterrupted, bit for bit", "exact"),)


def main() -> None:
    """Rewrite the document."""
    results = [Path(name).read_text() for name in sys.argv[1:]]
    DOCUMENT.write_text(with_new_table(DOCUMENT.read_text(), results))


def with_new_table(text: str, results: Sequence[str]) -> str:
    """Replace the text between the document's markers by the table of the results (JUnit XML).

    Raises:
      ValueError: the document has no place for the table, or a test failed or was skipped.
    """
    pattern = rf"{re.escape(START)}.*?{re.escape(END)}"
    text, replaced = re.subn(pattern, lambda _: START + faults(results) + END, text, count=1, flags=re.DOTALL)
    if not replaced:
        raise ValueError(f"{DOCUMENT} has no place for the table")
    return text


def faults(results: Sequence[str]) -> str:
    """Return a line about the tests, and a table of faults: how often, how many steps were redone, the outcome."""
    suites = [suite for result in results for suite in ElementTree.fromstring(result).iter("testsuite")]
    for kind in ("failures", "errors", "skipped"):
        if number := sum(int(suite.get(kind, 0)) for suite in suites):
            raise ValueError(f"the results have {number} {kind}")
    tests = [_properties(case) for suite in suites for case in suite.iter("testcase")]
    tests = [test for test in tests if "fault" in test]
    environments = [_properties(suite) for suite in suites]
    commit, hardware, versions = (
        " and ".join(dict.fromkeys(each[name] for each in environments)) for name in ("commit", "hardware", "versions")
    )
    lines = _lines(tests)
    total, seconds = sum(line["times"] for line in lines), sum(float(suite.get("time", 0)) for suite in suites)
    return (
        f"{suites[-1].get('timestamp', '')[:10]}, commit {commit}, {hardware}; {versions}: "
        f"{total} faults in {len(tests)} tests, {seconds / 60:.0f} minutes.\n\n{markdown(lines)}\n"
    )


def _lines(tests: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Return one line for all faults "KIND: DETAIL" of the same kind with the same outcome."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for test in tests:
        kind, _, detail = test["fault"].partition(": ")
        row = rows.setdefault((kind, test["end"]), {"details": {}, "times": 0, "redone": []})
        row["details"] |= {detail: None} if detail else {}
        row["times"] += int(test["times"])
        row["redone"] += [int(test["steps_lost"])] if test["steps_lost"] else []
    return [
        {
            "fault": ": ".join([kind, "; ".join(row["details"])] if row["details"] else [kind]),
            "times": row["times"],
            "steps redone, at most": max(row["redone"], default="-"),
            "outcome": _shortened(end),
        }
        for (kind, end), row in rows.items()
    ]


def _shortened(outcome: str) -> str:
    for text, short in SHORT:
        outcome = outcome.replace(text, short)
    return outcome


def _properties(element: ElementTree.Element) -> dict[str, str]:
    return {each.get("name", ""): each.get("value", "") for each in element.findall("properties/property")}


if __name__ == "__main__":
    main()
