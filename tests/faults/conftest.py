"""Of the tests of faults: uninterrupted runs, random choices, and a record of what was tried, and where."""

import random
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from _pytest.junitxml import xml_key

from benchmarks import records
from faults.broken_runs import LAYOUTS, Run, assert_finished, config_of


@pytest.fixture(scope="session")
def whole(digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """The uninterrupted run of a layout, which is run once."""
    runs: dict[str, Run] = {}

    def of(layout: str) -> Run:
        if layout not in runs:
            number = list(LAYOUTS).index(layout)
            run = Run(tmp_path_factory.mktemp(f"whole{number}"), config_of(layout, digits_dir))
            assert_finished(run, run.finish())
            runs[layout] = run
        return runs[layout]

    return of


@pytest.fixture
def choice(request: pytest.FixtureRequest) -> random.Random:
    """Random choices, the same for a test each time; they are printed."""
    return random.Random(request.node.name)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Records what was tried, for the table in docs/reliability.md; a test that fails records nothing."""

    def told(fault: str, times: int, end: str, steps_lost: int | None = None) -> None:
        record_property("fault", fault)
        record_property("times", times)
        record_property("steps_lost", "" if steps_lost is None else steps_lost)
        record_property("end", end)

    return told


def pytest_sessionstart(session: pytest.Session) -> None:
    """Record what is tested, and on what: in the process that writes the results, not in a worker of pytest-xdist."""
    if results := session.config.stash.get(xml_key, None):
        hardware = records.hardware()
        versions = {name: version for name, version in records.versions().items() if name != "torch"}
        results.add_global_property("commit", records.commit())
        results.add_global_property("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
        where = f"{hardware['cpu']}, {hardware['cores']} cores, {jax.default_backend()}"
        results.add_global_property("hardware", where)
