"""The catalogue of errors has every sentence that the source can say, and its examples are such sentences."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from error_catalogue import note_errors

from alexnet_jax.errors import UserError
from alexnet_jax.parallel.launcher import find_place
from docs.generate_errors import DOCUMENT, ROOT, Seen, Sentence, document, find_examples, read_seen, rows_in, split
from docs.generate_errors import sentences as all_sentences

UPDATE = "run the tests of what you changed with --errors=FILE, then `python -m docs.generate_errors FILE`"


def test_the_catalogue_has_every_sentence() -> None:
    rows, wanted = rows_in(DOCUMENT.read_text()), all_sentences()
    for sentence, row in zip(wanted, rows, strict=False):
        assert sentence.match(row.text), f"{sentence.path}:{sentence.line} has no row in docs/errors.md: {UPDATE}"
    assert len(rows) == len(wanted), f"docs/errors.md has rows that no error has, or lacks some: {UPDATE}"


def test_what_is_said_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process and in others, in several lines too; and found again in the source."""
    monkeypatch.setattr(UserError, "__init__", UserError.__init__)
    monkeypatch.setattr(subprocess.Popen, "communicate", subprocess.Popen.communicate)
    note_errors(tmp_path / "seen.jsonl")
    with pytest.raises(UserError, match=r"HOST:PORT") as caught:
        find_place({}, "node1", 2, 0)
    program = "import alexnet_jax.errors as it; it.print_error('config.seed=-1 is not allowed; it must be 0.\\na')"
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT)
    lines = (tmp_path / "seen.jsonl").read_text().splitlines()
    assert [json.loads(line)["place"] is None for line in lines] == [False, True, True]
    found = find_examples(all_sentences(), map(read_seen, lines))
    seen = {sentence.path: example for sentence, example in found.items() if example}
    assert seen["alexnet_jax/parallel/launcher.py"].text == str(caught.value)
    assert seen["alexnet_jax/validation.py"].text == "config.seed=-1 is not allowed; it must be 0."
    assert seen["alexnet_jax/validation.py"].test == "test_errors.py::test_what_is_said_is_noted"


def test_rows_are_read_as_they_were_written() -> None:
    sentence = Sentence("alexnet_jax/cli.py", 1, (None, " is wrong; do ", None, " (or not)."), 2)
    seen = Seen("a|b *c* <d> is wrong; do `e` (or not).", None, "test_a.py::test_b")
    text = document({sentence: seen, sentence._replace(line=2): None})
    assert rows_in(text) == [seen, Seen("… is wrong; do … (or not).", None, "-")]


def test_nothing_of_this_machine_is_written_down() -> None:
    """Names of folders, but for the last; values that are very long."""
    said = {
        "sentence": "--workdir=/tmp/pytest-of-me/3/w is in use",
        "place": "alexnet_jax/workdir.py:5",
        "test": "t[a] (b)",
    }
    assert read_seen(json.dumps(said)) == Seen("--workdir=…/w is in use", "alexnet_jax/workdir.py", "t")
    assert not [row for row in rows_in(DOCUMENT.read_text()) if "/tmp" in row.text or "pytest" in row.text]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a is wrong; do b", ("a is wrong;", "do b")),
        ("a (b; c) is wrong; do d (e)", ("a (b; c) is wrong;", "do d (e)")),
        ("a is wrong (b; c).", ("a is wrong (b; c).", "")),
        ("a is missing: give b.", ("a is missing:", "give b.")),
        ("a is wrong. Do b.", ("a is wrong.", "Do b.")),
    ],
)
def test_what_to_do_is_told_from_what_is_wrong(text: str, parts: tuple[str, str]) -> None:
    assert split(text) == parts
