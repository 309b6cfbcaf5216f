"""Turns counts of one into sentences that a person would say, in both languages."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from runner.contract.start_choice import StartFacts, choose_by_itself, sentence
from runner.language.speaker import Language, Speaker
from runner.language.translate import translated
from runner.spec.evaluation import EvaluationWish
from runner.training.data.form import _judge
from runner.training.data.growth import Growth
from runner.training.evaluate.scores import Scorer

GERMAN = Speaker(Language.GERMAN)
ONE_OLD: dict[str, Any] = {"run_id": "20261120T010203Z-ab2c", "old": 1, "new": 1}


def lacking(answers: int) -> str:
    """Give the refusal where not one of so many expected answers is JSON."""
    scorer = Scorer(EvaluationWish(scores=["valid_json"]), schema=None)
    with pytest.raises(Exception, match="expected answer") as refused:
        list(_judge(Counter(), scorer, answers))
    return refused.value.problems[0].message


@pytest.mark.parametrize(
    ("english", "german"),
    [
        (
            sentence(choose_by_itself(StartFacts(**ONE_OLD))),
            "Die einzige Zeile, die er gelernt hat, steht noch in den Daten; neue Zeilen: 1",
        ),
        (
            sentence(choose_by_itself(StartFacts(**{**ONE_OLD, "gone": 1, "new": 0}))),
            "seitdem entfernt oder berichtigt: die einzige Zeile, die er gelernt hat",
        ),
        (
            sentence(choose_by_itself(StartFacts(**{**ONE_OLD, "held_out": 1, "new": 0}))),
            "jetzt zurückgelegt oder zu lang: die einzige Zeile, die er gelernt hat",
        ),
        (
            Growth(new=1, changed=0, gone=0, rows=1).sentence(),
            "seit dem letzten Lauf des Auftrags (1 Zeile): 1 Zeile ist neu",
        ),
        (lacking(1), "die einzige erwartete Antwort erfüllt valid_json nicht"),
        (
            "the only row is no question with an answer that could be scored",
            "die einzige Zeile ist keine Frage mit einer Antwort, die man bewerten könnte",
        ),
        ("the only row is longer than 512 tokens", "die einzige Zeile hat mehr als 512 Token"),
    ],
)
def test_of_one_it_is_said_as_of_one(english: str, german: str) -> None:
    """No "1 rows", no "none of the 1 answers"; and the German is found."""
    assert not any(word in english for word in ("1 rows", "the 1 ", "all 1 "))
    said = translated(english, GERMAN)
    assert said is not None
    assert said.endswith(german)


def test_of_several_it_stays_as_it_was() -> None:
    """The singular takes nothing from the plural."""
    assert lacking(12) == "none of the 12 expected answers fulfils valid_json"
    many = sentence(choose_by_itself(StartFacts(**{**ONE_OLD, "old": 4, "new": 2})))
    assert "all 4 rows that it has learned still stand in the data" in many
