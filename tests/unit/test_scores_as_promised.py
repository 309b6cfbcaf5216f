"""Scores at the edges of what is promised: all of a form, the whole answer, nothing remote."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.contract.evaluation import Recital
from runner.spec.evaluation import EvaluationWish, compiled, schema_problem
from runner.training.evaluate.forgetting import noise_key
from runner.training.evaluate.recital import is_by_heart
from runner.training.evaluate.scores import Answer, Scorer, likeness_of_length, matches
from runner.training.evaluate.taxonomy import broken_fields, field_value, is_allowed


def scores(text: str, reference: str, *, schema: dict[str, object] | None = None, **wish: object):
    """Score one answer."""
    scorer = Scorer(EvaluationWish.model_validate(wish), schema=schema)
    return scorer.score(Answer(text=text, stopped=True), reference)


def test_in_form_is_all_of_the_form() -> None:
    """A right section does not make up for a value that nobody allows, nor the other way round."""
    wish = {"sections": ["Kind"], "taxonomy": {"kind": ["Lease", "Sale"]}}
    reference = "Kind: Lease"
    cases = {"Kind: Lease": (1, 1, 1), "Kind: Loan": (0, 1, 0), "* kind: Sale": (1, 1, 1)}
    for text, (whole, sections, taxonomy) in cases.items():
        found = scores(text, reference, **wish)
        assert (found["in_form"], found["sections"], found["taxonomy"]) == (
            whole,
            sections,
            taxonomy,
        )
    both = scores('{"kind": "Lease"}', reference, **wish)  # allowed values, no section
    assert (both["in_form"], both["sections"], both["taxonomy"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("text", "fits"),
    [("AB-12", True), ("AB-12 and more", False), ("so AB-12", False), ("AB-12\nAB-13", False)],
)
def test_a_pattern_is_that_of_the_whole_answer(text: str, *, fits: bool) -> None:
    """What stands before it or after it is not asked for."""
    assert matches(text, compiled("[A-Z]+-[0-9]+")) is fits
    assert scores(text, "AB-12", pattern="[A-Z]+-[0-9]+")["in_form"] == float(fits)


def test_a_list_is_allowed_where_each_of_it_is() -> None:
    """One good value among others does not let them pass."""
    allowed = ["Lease", "Sale"]
    assert is_allowed("Lease, Sale", allowed)
    for value in ("Lease, Loan", "Loan, Lease", "Lease,", "Lease; Sale"):
        assert not is_allowed(value, allowed)
    assert broken_fields('{"kind": ["Lease", "Loan"]}', {"kind": allowed}) == ["kind"]


def test_a_field_that_the_expected_answer_lacks_is_right_in_no_answer() -> None:
    """Both lack it: nothing was asked, and nothing is counted as found."""
    assert scores("nothing", "nothing", taxonomy={"kind": ["Lease"]})["field.kind"] == 0
    assert scores("kind: Lease", "nothing", taxonomy={"kind": ["Lease"]})["field.kind"] == 0


def test_of_a_field_that_stands_there_twice_the_first_counts() -> None:
    """Also where it is empty: a model that writes on finds nothing afterwards."""
    assert field_value("Kind: Lease\nKind: Sale", "kind") == "Lease"
    assert field_value("Kind:\nKind: Sale", "kind") is None


def test_a_field_may_lie_within_an_object() -> None:
    """`party.name` is found whatever the case; half of the way is not the field."""
    text = json.dumps({"Party": {"Name": "Acme", "seat": {"town": "Bonn"}}})
    assert field_value(text, "party.name") == "Acme"
    assert field_value(text, "party.seat.town") == "Bonn"
    assert field_value(text, "party.town") is None
    assert field_value(json.dumps({"party": "Acme"}), "party.name") is None
    assert field_value(json.dumps({"party.name": "Acme"}), "party.name") == "Acme"


def test_an_empty_answer_has_no_length_to_speak_of() -> None:
    """Nothing beside something is none of it; nothing beside nothing is as long."""
    assert likeness_of_length("", "four") == 0
    assert likeness_of_length(" \n", "") == 1
    found = scores("", "Kind: Lease", taxonomy={"kind": ["Lease"]}, scores=["chrf", "exact_match"])
    assert set(found.values()) == {0.0}


@pytest.fixture
def asked_for() -> Iterator[tuple[str, list[str]]]:
    """A server that would answer with a schema, and what it was asked."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "object"}')

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()
    server.server_close()


def test_a_schema_fetches_nothing(asked_for: tuple[str, list[str]], tmp_path: Path) -> None:
    """Neither from an address nor from a file of the box; the sentence names what it wanted."""
    address, paths = asked_for
    file = tmp_path / "other.json"
    file.write_text('{"type": "object"}')
    wanted = (f"{address}/a.json", file.as_uri(), "other.json")
    for reference in wanted:
        for schema in ({"$ref": reference}, {"items": {"$ref": f"{reference}#/x"}}):
            assert reference in str(schema_problem({**schema}))
    for key in ("$schema", "$id"):
        schema_problem({key: f"{address}/meta", "$ref": "b.json"})
    assert paths == []


def test_noise_belongs_to_a_base_and_what_is_measured_on_it() -> None:
    """Another base, other arithmetic or other items: it is measured anew."""

    def key(model: str = "m qlora", compute: str = "float32", items: bytes = b"1") -> str:
        machine = SimpleNamespace(on_gpu=False, compute=compute)
        return noise_key(SimpleNamespace(machine=machine, model=None), model, items)

    assert key() == key()
    keys = [key(), key(model="m lora"), key(compute="bfloat16"), key(items=b"2")]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("learned", "by_base", "held_out", "is_said"),
    [
        ((10, 40), 0, (0, 40), True),
        ((10, 40), 0, (2, 8), False),  # as large a share of rows that it never saw
        ((10, 40), 0, (0, 8), False),  # of so few, none would be recited by chance, too
        ((10, 40), 9, (0, 40), False),  # the base does as well: they are in the world's texts
        ((10, 40), 0, (0, 0), True),  # nothing is held out
        ((40, 1000), 0, (0, 1000), False),  # beyond chance, and too few to warn of
        ((0, 40), 0, (0, 40), False),
    ],
)
def test_learned_by_heart_is_more_than_form_and_base_explain(
    learned: tuple[int, int], by_base: int, held_out: tuple[int, int], *, is_said: bool
) -> None:
    """Shares are compared, of however many rows each."""
    found = Recital(
        learned_rows=learned[1],
        by_adapter=learned[0],
        by_base=by_base,
        held_out_rows=held_out[1],
        held_out_by_adapter=held_out[0],
    )
    assert is_by_heart(found) is is_said
