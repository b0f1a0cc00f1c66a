"""The table of faults is made of what their tests told, and only of a whole and faultless run of them."""

import pytest

from docs.generate_reliability import DOCUMENT, END, START, with_new_table

TOLD = (
    '<property name="fault" value="{}"/><property name="times" value="{}"/>'
    '<property name="steps_lost" value="{}"/><property name="end" value="as before"/>'
)


def results(failures: int = 0) -> str:
    cases = "".join(
        f'<testcase name="{number}" time="1"><properties>{TOLD.format(*told)}</properties></testcase>'
        for number, told in enumerate([("kill", 8, 3), ("kill", 2, 5), ("quota", 4, "")])
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
    assert "| kill | 10 | 10 | 5 | as before |" in text
    assert "| quota | 4 | 4 | - | as before |" in text
    assert text.endswith(f"{END}after")


def test_results_with_failures_make_no_table() -> None:
    with pytest.raises(ValueError, match="1 failures"):
        with_new_table(f"{START}{END}", [results(), results(failures=1)])


def test_the_document_has_a_place_for_the_table() -> None:
    assert "28 faults in 6 tests, 3 minutes" in with_new_table(DOCUMENT.read_text(), [results(), results()])
