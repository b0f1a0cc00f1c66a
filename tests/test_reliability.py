"""The table of faults has the results of their tests, and only those of a run without failures."""

import pytest

from docs.generate_reliability import DOCUMENT, END, START, with_new_table

PROPERTIES = (
    '<property name="fault" value="{}"/><property name="times" value="{}"/>'
    '<property name="steps_lost" value="{}"/><property name="end" value="as before"/>'
)


FAULTS = [("kill", 8, 3), ("kill", 2, 5), ("quota", 4, "")]


def results(failures: int = 0) -> str:
    cases = "".join(
        f'<testcase name="{number}" time="1"><properties>{PROPERTIES.format(*fault)}</properties></testcase>'
        for number, fault in enumerate(FAULTS)
    )
    return (
        f'<testsuites><testsuite errors="0" failures="{failures}" skipped="0" time="90.0" timestamp="2026-01-02T03:04">'
        '<properties><property name="commit" value="abc"/><property name="versions" value="jax 1"/>'
        f'<property name="hardware" value="two cores"/></properties>{cases}<testcase name="more" time="1"/>'
        "</testsuite></testsuites>"
    )


def test_rows_of_one_fault_are_added_up() -> None:
    text = with_new_table(f"before\n{START}old\n{END}after", [results()])
    assert text.startswith(f"before\n{START}2026-01-02, commit abc, two cores; jax 1: 14 faults in 3 tests, 2 minutes.")
    assert "| kill | 10 | 5 | as before |" in text
    assert "| quota | 4 | - | as before |" in text
    assert text.endswith(f"{END}after")


def test_faults_of_one_kind_share_a_row() -> None:
    result = results().replace('value="quota"', 'value="kill: twice"')
    assert "| kill: twice | 14 | 5 | as before |" in with_new_table(f"{START}{END}", [result])
    result = result.replace('value="as before"', 'value="one sentence, status 2, then as uninterrupted, bit for bit"')
    assert "| kill: twice | 14 | 5 | refused, then exact |" in with_new_table(f"{START}{END}", [result])


def test_results_with_failures_make_no_table() -> None:
    with pytest.raises(ValueError, match="1 failures"):
        with_new_table(f"{START}{END}", [results(), results(failures=1)])


def test_the_document_has_a_place_for_the_table() -> None:
    assert "28 faults in 6 tests, 3 minutes" in with_new_table(DOCUMENT.read_text(), [results(), results()])
