"""Scores of answers and what they show, against references that the product did not make."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from runner.contract.verdict import smallest_points
from runner.spec.evaluation import EvaluationWish
from runner.training.evaluate.chrf import chrf
from runner.training.evaluate.rouge import rouge_l
from runner.training.evaluate.scores import Answer, Scorer, has_sections, is_json
from runner.training.evaluate.statistics import FEWEST_CLUSTERS, clusters_of, paired_difference
from runner.training.evaluate.taxonomy import (
    MISSING,
    OTHER,
    confusions,
    field_value,
    is_allowed,
    meant,
)

FORM = "CATEGORY: Permissive\nCOPYLEFT: no\n"
TAXONOMY = {"category": ["Permissive", "Copyleft"], "copyleft": ["yes", "no"]}


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        (
            "The notice period is three months.",
            "The notice period is two months.",
            0.7975402767735631,
        ),
        ("abc", "abc", 1.0),
        ("", "abc", 0.0),
        ("a", "abcdefg", 0.17241379310344823),
        (
            "Die Kündigungsfrist beträgt drei Monate",
            "Kündigungsfrist: 3 Monate zum Quartalsende",
            0.4770289793266523,
        ),
        ("x", "y", 0.0),
        ("ab cd", "abcd", 1.0),
    ],
)
def test_chrf_is_sacrebleus(answer: str, reference: str, score: float) -> None:
    """The figures are those of `CHRF().sentence_score` of sacrebleu 2.6.0."""
    assert chrf(answer, reference) == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("the cat sat on the mat", "the cat lay on the mat", 0.8333333333333334),
        ("police killed the gunman", "police kill the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),  # Lin's own example
        ("Category: Lease\nRenewal: yes", "Category: Sale\nRenewal: yes, by notice", 0.6),
        ("It's 30-day notice_period", "its 30 day notice period", 0.7272727272727272),
        ("same", "same", 1.0),
        ("a b c d", "d c b a", 0.25),
        ("one two", "three", 0.0),
        ("", "x", 0.0),
    ],
)
def test_rouge_l_is_that_of_rouge_score(answer: str, reference: str, score: float) -> None:
    """The figures are those of rouge-score 0.1.2's rougeL (F measure, without stemming)."""
    assert rouge_l(answer, reference) == pytest.approx(score, abs=1e-9)


def test_rouge_l_reads_words_of_any_language() -> None:
    """Umlauts are letters, in either of their encodings; nothing said of nothing is right."""
    assert rouge_l("Die Kündigungsfrist beträgt drei Monate", "die Kündigungsfrist") == 4 / 7
    assert rouge_l("Ku\u0308ndigung", "Kündigung") == 1.0
    assert rouge_l("fur", "für") == 0.0
    assert rouge_l("", "") == 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("CATEGORY: Permissive\nOTHER: x", "Permissive"),
        ("- **Category:** Permissive", "Permissive"),
        ('{"Category": "Permissive"}', "Permissive"),
        ('{"category": ["b", "a"]}', "a, b"),
        ('{"category": null}', None),
        ("Category:", None),
        ("The category is Permissive", None),
        ("", None),
    ],
)
def test_a_field_is_found_as_people_and_models_write_it(text: str, value: str | None) -> None:
    """A key of JSON, or a line of its own, whatever the case and the marks around it."""
    assert field_value(text, "category") == value


def test_values_count_as_they_are_written() -> None:
    """`permissive` is not `Permissive`: whoever filters by it would find nothing."""
    assert is_allowed("Permissive", TAXONOMY["category"])
    assert is_allowed("Permissive, Copyleft", TAXONOMY["category"])
    assert not is_allowed("permissive", TAXONOMY["category"])
    assert not is_allowed(None, TAXONOMY["category"])


def test_confusions_name_no_text_of_a_row() -> None:
    """What stood where: values of the taxonomy by name, all else as another value."""
    found = confusions(
        [
            ("CATEGORY: Copyleft\nCOPYLEFT: no", FORM),
            ("CATEGORY: Secret Ltd\nCOPYLEFT: no", FORM),
            ("COPYLEFT: no", FORM),
            (FORM, FORM),
        ],
        TAXONOMY,
    )
    told = {(one.field, one.expected, one.given): one.times for one in found}
    assert told == {
        ("category", "Permissive", "Copyleft"): 1,
        ("category", "Permissive", OTHER): 1,
        ("category", "Permissive", MISSING): 1,
    }


def test_every_score_that_is_asked_for() -> None:
    """A form with its parts, the fields one by one, and the likeness to the expected answer."""
    wish = EvaluationWish(
        scores=["exact_match", "stops_by_itself", "length"],
        pattern="(?s)CATEGORY: .*",
        sections=["Category", "Copyleft"],
        taxonomy=TAXONOMY,
    )
    scorer = Scorer(wish, schema=None)
    assert scorer.deciding == ("in_form", "field.category", "field.copyleft", "exact_match")
    right = scorer.score(Answer(text=FORM, stopped=True), FORM)
    assert set(right.values()) == {1.0}
    wrong = scorer.score(Answer(text="CATEGORY: Copyleft\nCOPYLEFT: no", stopped=False), FORM)
    assert wrong["in_form"] == wrong["field.copyleft"] == 1.0
    assert wrong["field.category"] == wrong["exact_match"] == wrong["stops_by_itself"] == 0.0
    unformed = scorer.score(Answer(text="It is permissive.", stopped=True), FORM)
    assert unformed["in_form"] == unformed["sections"] == unformed["taxonomy"] == 0.0


def test_json_of_a_schema() -> None:
    """Valid and of the schema are two things; NaN is not JSON."""
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    scorer = Scorer(EvaluationWish(scores=["valid_json"], json_schema="s.json"), schema=schema)

    def of(text: str) -> tuple[float, float]:
        found = scorer.score(Answer(text=text, stopped=True), '{"a": 1}')
        return found["valid_json"], found["json_schema"]

    assert of('{"a": 1}') == (1.0, 1.0)
    assert of('{"a": "1"}') == (1.0, 0.0)
    assert of('Sure: {"a": 1}') == (0.0, 0.0)
    assert not is_json("NaN")
    assert of("[" * 100_000) == (0.0, 0.0)


def test_sections_have_their_order() -> None:
    """All of them, in the order that is asked for, with whatever else between."""
    assert has_sections("## Parties\nA and B\n**Term**: 3 years", ["Parties", "Term"])
    assert not has_sections("Term\nParties", ["Parties", "Term"])
    assert not has_sections("Parties", ["Parties", "Term"])


def test_the_interval_is_the_t_intervals_where_rows_are_independent() -> None:
    """For many independent rows the bootstrap gives what the closed form does."""
    dice = np.random.default_rng(1)
    before, after = dice.normal(0, 1, 400), dice.normal(0.2, 1, 400)
    found = paired_difference(before.tolist(), after.tolist(), range(400), seed=3)
    changes = after - before
    half = 1.96 * changes.std(ddof=1) / math.sqrt(400)
    assert found.low == pytest.approx(changes.mean() - half, abs=0.012)
    assert found.high == pytest.approx(changes.mean() + half, abs=0.012)


def test_rows_of_one_cluster_are_no_evidence_of_their_own() -> None:
    """Forty copies of ten questions show no more than ten questions do."""
    dice = random.Random(2)
    changes = [dice.choice([-1.0, 0.0, 1.0]) for _ in range(10)]
    once = paired_difference([0.0] * 10, changes, range(10), seed=1)
    copied = paired_difference([0.0] * 400, changes * 40, [n % 10 for n in range(400)], seed=1)
    taken_apart = paired_difference([0.0] * 400, changes * 40, range(400), seed=1)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert taken_apart.high - taken_apart.low < (copied.high - copied.low) / 3
    assert clusters_of(["q"] * 30, [f"f{n}" for n in range(30)])[0] == "f0"
    assert clusters_of(["q"] * 30, ["f"] * 30)[0] == "q"


def test_too_few_rows_show_nothing() -> None:
    """Five rows that all got better may be chance: no interval, so never better."""
    few = FEWEST_CLUSTERS - 1
    found = paired_difference([0.0] * few, [1.0] * few, range(few), seed=1)
    assert found.low is None
    assert not found.is_better
    assert paired_difference([0.0] * 6, [1.0] * 6, range(6), seed=1).is_better


@pytest.mark.parametrize("rows", [40, 120, 200])
def test_no_difference_is_called_one_about_as_often_as_promised(rows: int) -> None:
    """Two models that are equally good: an interval without zero comes in about 5 of 100 trials."""
    dice = np.random.default_rng(rows)
    wrong = 0
    for trial in range(200):
        before, after = dice.random((2, rows)) < 0.6
        found = paired_difference(before.tolist(), after.tolist(), range(rows), seed=trial)
        wrong += found.is_better or found.is_worse
    assert wrong <= 200 * 0.1
    assert smallest_points(rows) == pytest.approx({40: 24, 120: 14, 200: 11}[rows], abs=1)


@pytest.mark.parametrize(
    "answer",
    [
        "Art: Ku\u0308ndigung",  # as a Mac writes it
        "Art:\u00a0K\u00fcndigung\u00a0",  # as Word writes it
        "**Art:**   K\u00fcndigung",
        '{"art": "Ku\u0308ndigung "}',
    ],
)
def test_how_a_letter_is_encoded_matters_to_no_score(answer: str) -> None:
    """The same word is the same value, in form and right, however a program wrote it down."""
    wish = EvaluationWish(taxonomy={"Art": ["K\u00fcndigung", "Miete"]})
    found = Scorer(wish, schema=None).score(
        Answer(text=answer, stopped=True), "Art: K\u00fcndigung"
    )
    assert (found["in_form"], found["field.Art"]) == (1.0, 1.0)
    field = EvaluationWish(taxonomy={"Ku\u0308ndigung": ["ja"]})
    said = Scorer(field, schema=None).form("K\u00fcndigung: ja")
    assert said == {"taxonomy": True}


def test_case_of_a_value_counts_and_the_meant_one_is_found() -> None:
    """A firm's form has one way to write a value; who wrote it otherwise is told which."""
    assert not is_allowed("miete", ["K\u00fcndigung", "Miete"])
    assert meant("miete", ["K\u00fcndigung", "Miete"]) == "Miete"
    assert meant("Kauf", ["K\u00fcndigung", "Miete"]) is None


def test_half_a_surrogate_breaks_no_score() -> None:
    """JSON can hold what UTF-8 cannot: the row is scored like any other."""
    wish = EvaluationWish(pattern=".*", scores=["chrf", "exact_match"])
    found = Scorer(wish, schema=None).score(Answer(text="a\ud800", stopped=True), "a\ud800")
    assert (found["in_form"], found["exact_match"]) == (1.0, 1.0)
