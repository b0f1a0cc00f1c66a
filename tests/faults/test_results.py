"""The results of these tests say what was tested, for docs/generate_reliability.py."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from faults.broken_runs import ROOT

pytestmark = pytest.mark.faults


def test_results_of_parallel_tests_say_what_was_tested(tmp_path: Path) -> None:
    """The workers of pytest-xdist can't write them."""
    command = (sys.executable, "-m", "pytest", "tests/faults", "-m", "faults", "-n", "1", "-k", "no_such_test")
    subprocess.run([*command, f"--junitxml={tmp_path / 'results.xml'}"], cwd=ROOT, check=False, timeout=400)
    properties = ElementTree.parse(tmp_path / "results.xml").iterfind("testsuite/properties/property")
    assert [each.get("name") for each in properties] == ["commit", "versions", "hardware"]
