"""What a spec may ask of the evaluation, and how a slip in it is answered."""

from __future__ import annotations

import time
from typing import Any

import pytest

from runner.errors import Problem, SpecError
from runner.spec.evaluation import compiled, schema_problem, validator
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec

TWO = "model: m\ndata: d.jsonl\n"


def read(evaluation: str, more: str = "") -> JobSpec:
    """Read a spec with an evaluation."""
    text = TWO + more + "evaluation:\n" + "".join(f"  {line}\n" for line in evaluation.split("\n"))
    return read_spec(text.encode(), file_name="contracts.yaml")


def only(evaluation: str, more: str = "") -> Problem:
    """Give the one thing that is wrong."""
    with pytest.raises(SpecError) as caught:
        read(evaluation, more)
    (problem,) = caught.value.problems
    return problem


def test_an_evaluation_is_read_as_a_law_firm_writes_it() -> None:
    """Sections, a taxonomy with blanks in its values, and scores, in one block."""
    wish = read(
        "samples: 40\nscores: [exact_match, chrf]\nsections: ['1. Parties', '2. Term']\n"
        "taxonomy:\n  category: [Free, 'Public Domain']\n  Copyleft: ['yes', no]\n"
        "served: original\npattern: '(?s)CATEGORY: .*'"
    ).evaluation
    assert (wish.samples, wish.scores, wish.served) == (40, ["exact_match", "chrf"], "original")
    assert wish.taxonomy == {"category": ["Free", "Public Domain"], "Copyleft": ["yes", "no"]}
    assert wish.asks
    assert wish.asks_for_form


def test_nothing_is_asked_for_by_default() -> None:
    """Without the block a run is judged by its loss, as before."""
    wish = read_spec(TWO.encode(), file_name="a.yaml").evaluation
    assert not wish.asks
    assert wish.samples == "auto"


@pytest.mark.parametrize(
    ("wrong", "field", "line", "said"),
    [
        ("pattern: '(a'", "pattern", 4, "cannot be read"),
        ("pattern: 'a(?=b)'", "pattern", 4, "cannot be read"),
        ('json_schema: \'{"type": "objct"}\'', "json_schema", 4, "not a JSON Schema"),
        ("json_schema: '{\"type\": '", "json_schema", 4, "not JSON"),
        (
            'json_schema: \'{"$ref": "http://x.invalid/a.json"}\'',
            "json_schema",
            4,
            "not a JSON Schema",
        ),
        ("json_schema: ../secret.json", "json_schema", 4, ""),
        ("json_schema: notes.txt", "json_schema", 4, "neither a .json file nor a schema"),
        ("json_schema:\n  type: object", "json_schema", 5, "no settings of its own"),
        ("scores: [exact_match, bleu]", "scores", 4, "not a score"),
        ("taxonomy: [a, b]", "taxonomy", 4, "names with their values"),
        ("taxonomy:\n  category: {a: b}", "taxonomy", 5, "a list of values"),
        ("taxonomy:\n  category: [a, a]", "taxonomy", 4, "twice"),
        ("taxonomy:\n  category: [\u00fc, u\u0308]", "taxonomy", 4, "twice"),
        ("taxonomy:\n  category: [a, ' ']", "taxonomy", 4, "empty value"),
        ("taxonomy:\n  Art der Sache: [a]\n  art_der_sache: [b]", "taxonomy", 4, "same field"),
        ("general: ../secret.jsonl", "general", 4, ""),
        ("general: a.jsonl\nforgetting: false", "general", 4, "general is measured with it"),
        ("tasks: [a]\nforgetting: false", "tasks", 4, "tasks is measured with it"),
        ("tasks: [a, b, a]", "tasks", 4, "a stands there twice"),
        ("tasks: []", "tasks", 4, ""),
        ("taxonomy:\n  ' ': [a]", "taxonomy", 4, "cannot be the name"),
        ("taxonomy:\n  category: []", "taxonomy", 5, "empty"),
        ("sections: [A, A]", "sections", 4, "twice"),
        ("samples: 0\nscores: [chrf]", "samples", 4, "needs answers"),
        ("served: gguf", "served", 4, "not one of these"),
        ("minutes: 0", "minutes", 4, "too small"),
    ],
)
def test_a_slip_is_answered_at_its_place(wrong: str, field: str, line: int, said: str) -> None:
    """Whoever wrote it reads which line it is and what is wrong with it."""
    problem = only(wrong)
    assert problem.field == f"evaluation.{field}"
    assert problem.line == line
    assert said in problem.message


@pytest.mark.parametrize("more", ["eval_split: 0\n", "format: text\n"])
def test_a_score_that_the_data_cannot_have_is_refused(more: str) -> None:
    """No held-out rows, or texts without answers: no score can come of it."""
    assert only("scores: [chrf]", more).field == "evaluation.scores"


def test_hostile_patterns_and_schemas_take_no_time() -> None:
    """A pattern that keeps other engines busy for hours is answered at once, like a deep schema."""
    began = time.monotonic()
    hostile = compiled("(a+)+b").fullmatch("a" * 5000 + "!")
    assert hostile is None
    assert not validator({"type": "string", "pattern": "^(a+)+$"}).is_valid("a" * 5000 + "!")
    deep: dict[str, object] = {}
    for _ in range(20_000):
        deep = {"properties": {"a": deep}}
    assert schema_problem(deep)
    assert only("pattern: '((a{1,1000}){1,1000}){1,1000}'").field == "evaluation.pattern"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": {"kind": {"type": "objekt"}}}, "at properties/kind/type"),
        ({"$ref": "https://example.com/a.json"}, "it refers to https://example.com/a.json, and"),
        ({"$ref": "file:///etc/passwd"}, "it refers to file:///etc/passwd, and nothing outside"),
    ],
)
def test_what_is_wrong_with_a_schema_has_its_place(schema: dict[str, Any], says: str) -> None:
    """Where it stands in the schema, and that nothing is fetched."""
    assert says in str(schema_problem(schema))


@pytest.mark.parametrize(
    ("lines", "field", "says"),
    [
        ("schedule: ''", "schedule", "is empty"),
        ("evaluation:\n  pattern: ''", "evaluation.pattern", "is empty"),
        ("evaluation:\n  json_schema: '  '", "evaluation.json_schema", "is empty"),
        ("evaluation:\n  general: ''", "evaluation.general", "is empty"),
        ("promote: {metric: ''}", "promote.metric", "is empty"),
        ("evaluation:\n  sections: ['']", "evaluation.sections", "an entry of it is"),
        ("try: {learning_rate: []}", "try.learning_rate", "has too few entries"),
    ],
)
def test_what_is_empty_is_not_left_out_in_silence(lines: str, field: str, says: str) -> None:
    """Who wrote the field meant something; the answer has its line, and no blank list of values."""
    with pytest.raises(SpecError) as caught:
        read_spec(f"model: m\ndata: d.jsonl\n{lines}\n".encode(), file_name="job.yaml")
    (problem,) = caught.value.problems
    assert (problem.field, problem.line) == (field, 2 + lines.count("\n") + 1)
    assert says in problem.message
    assert "" not in (problem.allowed, problem.found)
