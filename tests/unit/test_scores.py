"""Scores of answers and what they show, against references that the product did not make."""

from __future__ import annotations

import random

import pytest

from runner.spec.evaluation import EvaluationWish
from runner.training.evaluate.chrf import chrf
from runner.training.evaluate.rouge import rouge_l
from runner.training.evaluate.scores import Answer, Scorer, has_sections, is_json
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


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5000])
def test_a_number_that_no_machine_holds_is_itself(number: str) -> None:
    """It is JSON, it has a value, and another one that is as large is another one."""
    answer = f'{{"due": {number}}}'
    assert is_json(answer)
    assert field_value(answer, "due") == number
    assert field_value(answer.replace(number, "1e500"), "due") != number
    (found,) = confusions([(answer, '{"due": "7"}')], {"due": ["7"]})
    assert found.given == "(another value)"


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


@pytest.mark.parametrize("end", ["", "\n", "\r\n", " "])
def test_a_pattern_asks_for_what_people_see(end: str) -> None:
    """Lines from Windows, a line end after the answer and a Mac's ü are no break of the form."""
    wish = EvaluationWish(pattern="(?m)^Art: K\u00fcndigung$\n^Frist: \\d+$")
    scorer = Scorer(wish, schema=None)
    assert scorer.form(f"Art: Ku\u0308ndigung\r\nFrist: 3{end}")["pattern"]
    assert not scorer.form(f"Art: Kundigung\r\nFrist: 3{end}")["pattern"]


def test_a_section_is_found_however_its_letters_are_encoded() -> None:
    """A Mac's ü and Word's blanks in a heading are the heading."""
    assert has_sections("## Ku\u0308ndigung\u00a0und Frist", ["K\u00fcndigung und Frist"])
    assert has_sections("K\u00fcndigung", ["Ku\u0308ndigung"])


@pytest.mark.parametrize("value", ["C#", "-5", "> 10 Jahre", "#1"])
def test_signs_of_a_value_are_its_own(value: str) -> None:
    """A minus before a number says something; stars around it say nothing."""
    wish = EvaluationWish(taxonomy={"Art": [value, value.strip("#-> ")]})
    scorer = Scorer(wish, schema=None)
    for said in (f"Art: {value}", f"- **Art:** **{value}**", f'{{"Art": "{value}"}}'):
        found = scorer.score(Answer(text=said, stopped=True), f"Art: {value}")
        assert (found["in_form"], found["field.Art"]) == (1.0, 1.0)
    other = Answer(text=f"Art: {value.strip('#-> ')}", stopped=True)
    assert scorer.score(other, f"Art: {value}")["field.Art"] == 0.0


def test_a_field_may_have_the_colon_of_its_script() -> None:
    """A Chinese answer's full-width colon parts a field from its value like any other."""
    wish = EvaluationWish(taxonomy={"\u7c7b\u578b": ["\u79df\u8d41"]})
    assert Scorer(wish, schema=None).form("\u7c7b\u578b\uff1a\u79df\u8d41")["taxonomy"]


def test_a_format_that_a_schema_asks_for_is_checked() -> None:
    """Whoever writes `format: date` means it, whichever draft the schema is of."""
    schema = {"type": "object", "properties": {"from": {"type": "string", "format": "date"}}}
    for draft in ({}, {"$schema": "http://json-schema.org/draft-07/schema#"}):
        scorer = Scorer(EvaluationWish(json_schema="a.json"), schema={**draft, **schema})
        assert scorer.form('{"from": "2026-11-28"}')["json_schema"]
        assert not scorer.form('{"from": "next week"}')["json_schema"]


def test_rouge_l_of_a_script_without_blanks_goes_by_its_letters() -> None:
    """Chinese has no blanks between words: a comma more does not make two texts foreign."""
    assert rouge_l("\u4f60\u597d\u4e16\u754c", "\u4f60\u597d\uff0c\u4e16\u754c") == 1.0
    assert rouge_l("\u4f60\u597d", "\u4f60\u597d\u4e16\u754c") == pytest.approx(2 / 3)


def test_rouge_l_counts_as_the_table_of_the_textbook_does() -> None:
    """On many random texts the count is that of the longest common subsequence, as defined."""
    dice = random.Random(1)
    for _ in range(200):
        some, others = ([dice.choice("abc") for _ in range(dice.randint(1, 9))] for _ in range(2))
        table = [[0] * (len(others) + 1) for _ in range(len(some) + 1)]
        for i, one in enumerate(some):
            for j, other in enumerate(others):
                longer = max(table[i][j + 1], table[i + 1][j])
                table[i + 1][j + 1] = table[i][j] + 1 if one == other else longer
        wanted = 2 * table[-1][-1] / (len(some) + len(others))
        assert rouge_l(" ".join(some), " ".join(others)) == wanted
    assert rouge_l("a " * 1000, "a b " * 200_000) == pytest.approx(2000 / 401_000)


def test_no_section_stands_for_another() -> None:
    """A heading twice is not two headings."""
    assert not has_sections("Term\nTerm", ["Parties", "Term"])
