"""The table of texts: every sentence in every language, filled in alike."""

from __future__ import annotations

import re
import string
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runner.contract.findings import Level
from runner.contract.preview import Why
from runner.contract.states import State
from runner.contract.verdict import Figures, Outcome, Verdict, judge, reason_in
from runner.daemon.stages.retry import RULES
from runner.language.speaker import ENGLISH, Language, Speaker, language_of
from runner.language.texts import table
from runner.language.translate import translated

GERMAN = Speaker(Language.GERMAN)
ROOT = Path(__file__).parents[2] / "runner"


def names(text: str) -> set[str]:
    """List what a sentence wants filled in."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_sentence_stands_in_every_language() -> None:
    """No key lacks a language, none has one too many, and all fill in the same names."""
    wrong = [
        key
        for key, said in table().items()
        if said.keys() != set(Language)
        or not all(said.values())
        or len({frozenset(names(text)) for text in said.values()}) != 1
    ]
    assert wrong == []


def test_german_is_german() -> None:
    """A sentence that reads the same in both languages is a name or a figure, and listed here."""
    same = {
        key for key, said in table().items() if said["en"] == said["de"] and len(said["en"]) > 9
    }
    figures = {"page_title", "dropped_as", "trigger_submit", "use_python"}
    assert same <= figures


def test_every_text_asked_for_is_there() -> None:
    """A key in the code or the templates that the table lacks would be met by a reader first."""
    asked = set()
    for path in [*ROOT.rglob("*.py"), *ROOT.rglob("*.j2")]:
        text = path.read_text(encoding="utf-8")
        asked |= set(re.findall(r"\b(?:speak|t)\(\s*[\"']([a-z_]+)[\"']", text))
    asked |= {f"head_{state}" for state in State if state is not State.SUCCEEDED}
    asked |= {f"state_{state}" for state in State} | {f"level_{level}" for level in Level}
    asked |= {f"why_{why}" for why in Why} | {f"head_{outcome}" for outcome in Outcome}
    asked |= {f"{outcome}_short" for outcome in Outcome} | {f"{outcome}_use" for outcome in Outcome}
    asked |= {f"outcome_{rule.outcome.replace(' ', '_')}" for rule in RULES.values()}
    assert len(asked) > 100
    assert asked - table().keys() == set()


@pytest.mark.parametrize(
    ("setting", "environment", "language"),
    [
        ("", {}, "en"),
        ("de", {}, "de"),
        ("en", {"LANG": "de_DE.UTF-8"}, "en"),
        ("", {"LANG": "de_AT.UTF-8"}, "de"),
        ("", {"LANG": "de_DE.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ("", {"LANG": "fr_FR.UTF-8"}, "en"),
        ("", {"LC_ALL": "", "LANG": "de"}, "de"),
    ],
)
def test_the_language_is_the_owners_then_the_machines(
    setting: str, environment: dict[str, str], language: str
) -> None:
    """RUNNER_LANGUAGE wins, then LC_ALL, LC_MESSAGES and LANG; what is not spoken is English."""
    assert language_of(setting, environment) == language


def test_numbers_and_times_follow_the_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,234.5 is 1.234,5 in German, and a day is written as its readers write it."""
    moment = datetime(2026, 11, 3, 9, 5, tzinfo=UTC)
    assert (ENGLISH.whole(1234567), GERMAN.whole(1234567)) == ("1,234,567", "1.234.567")
    assert (ENGLISH.number(1.5), GERMAN.number(1.5)) == ("1.500", "1,500")
    assert GERMAN.percent(0.41) == "41 %"
    assert GERMAN.time(moment, day=True).startswith("03.11.2026")
    assert ENGLISH.time(moment, day=True).startswith("2026-11-03")


FIGURES = [
    Figures(),
    Figures(held_out_rows=9),
    Figures(held_out_rows=9, loss_before=2.0),
    *(
        Figures(
            held_out_rows=rows, loss_before=2.0, loss_after=after, change_low=low, change_high=high
        )
        for rows in (1, 1200)
        for after in (1.0, 1.999, 2.0, 2.1, 9.0)
        for low, high in ((None, None), (-1.1, -0.9), (-0.01, 0.01), (0.05, 0.15), (-1.0, 1.0))
    ),
]


@pytest.mark.parametrize("figures", FIGURES)
def test_each_verdict_has_its_reason_in_german(figures: Figures) -> None:
    """A reason kept in English in the record is said in German from the same figures."""
    for zero, changed in ((True, 3), (False, 0), (False, 3), (None, None)):
        verdict = judge(figures, adapter_is_zero=zero, rows_changed=changed)
        german = reason_in(verdict, GERMAN)
        assert german != verdict.reason
        assert reason_in(verdict, ENGLISH) == verdict.reason
        older = Verdict.model_validate({**verdict.model_dump(), "why": None})
        assert reason_in(older, GERMAN) == german


def test_a_verdict_worded_otherwise_stays_as_it_is() -> None:
    """What an older runner said in its own words is not said in others."""
    verdict = Verdict(outcome=Outcome.BETTER, reason="It is fine.", figures=FIGURES[4])
    assert reason_in(verdict, GERMAN) == "It is fine."


def said(key: str, **values: object) -> str:
    """Say a text of the table in English, as its producer does."""
    return table()[key]["en"].format(**values)


@pytest.mark.parametrize("key", [key for key in table() if key.startswith("record_")])
def test_a_sentence_of_the_record_is_recognised_and_said_in_german(key: str) -> None:
    """Names and figures are carried over as they are."""
    values = {name: f"<{name}.1>" for name in names(table()[key]["en"])}
    german = translated(said(key, **values), GERMAN)
    assert german == table()[key]["de"].format(**values)
    assert translated(said(key, **values), ENGLISH) == said(key, **values)


def test_a_sentence_that_is_not_in_the_table_stays_english() -> None:
    """What cannot be said in German is said in English, and the caller is told."""
    assert translated("Something else happened.", GERMAN) is None
    assert translated("x" * 99_999, GERMAN) is None


def test_the_sentences_of_the_record_are_those_that_the_code_writes() -> None:
    """A pattern whose English nobody writes any more would silently leave Germans with English."""
    code = " ".join(
        re.sub(r'"\s*f?"', "", path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")
    )
    code = re.sub(r"\s+", " ", code)
    gone = []
    for key, text in table().items():
        if key.startswith("record_"):
            literals = [part for part, *_ in string.Formatter().parse(text["en"])]
            longest = max(literals, key=len).strip(" ():")
            if longest[-40:] not in code:  # what comes before may be put together
                gone.append(key)
    assert gone == []
