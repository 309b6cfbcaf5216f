"""Lines of fields: what a stage finds wrong with a spec names the spec's file and line."""

from __future__ import annotations

import pytest

from runner.errors import InputError, Problem
from runner.spec.field_lines import with_lines

SPEC = b"model: m\ndata: d.jsonl\n\nevaluation:\n  samples: 5\n  pattern: 'x'\n"


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("model", 1),
        ("evaluation.pattern", 6),
        ("evaluation.scores", 4),  # not there: the block that it belongs to
        ("training.max_length", None),
        ("model.name", 1),
    ],
)
def test_a_field_has_its_line_or_that_of_what_it_belongs_to(field: str, line: int | None) -> None:
    """As the reading of a spec names them."""
    (found,) = with_lines([Problem(message="is wrong", field=field)], SPEC, "job.yaml")
    assert (found.file, found.line) == ("job.yaml", line)


def test_what_has_its_place_keeps_it() -> None:
    """A data file's line, another file, a problem of no field."""
    kept = [
        Problem(message="is wrong", file="d.jsonl", line=7),
        Problem(message="is wrong", file="schema.json", field="evaluation.json_schema"),
        Problem(message="is wrong", file="job.yaml", field="model", line=9),
        Problem(message="is wrong"),
    ]
    assert with_lines(kept, SPEC, "job.yaml") == kept


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"a: [", b"", b"- 1\n"])
def test_a_spec_that_cannot_be_read_gives_no_line(content: bytes) -> None:
    """The problem is told all the same."""
    (found,) = with_lines([Problem(message="is wrong", field="model")], content, "job.yaml")
    assert (found.file, found.line) == ("job.yaml", None)


def test_an_error_says_its_problems_as_they_are_known_now() -> None:
    """Its words, too, and not only its list."""
    error = InputError([Problem(message="is wrong", field="model")])
    error.reword(with_lines(error.problems, SPEC, "job.yaml"))
    assert str(error) == error.message == "job.yaml, line 1: model: is wrong"
