"""Findings about the data and the base's losses on single rows, as the report shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runner.contract.findings import DataFinding, Level, Place, said_in
from runner.contract.row_losses import RowLosses, ends_of
from runner.language.speaker import Speaker
from runner.language.translate import translated
from runner.report.phrase import Phrase, foreign, shortened
from runner.words import visible

_LEAST_CHANCE = 0.01


def finding_of(one: DataFinding, speak: Speaker) -> dict[str, Any]:
    """Say a finding: how serious, how many, what, what to do, where."""
    return {
        "level": one.level.value,
        "level_said": speak(f"level_{one.level}"),
        "message": _said(one, "", one.message, speak),
        "advice": _said(one, "advice", one.advice, speak),
        "count": _count(one, speak),
        "places": [_place(place, speak) for place in one.places],
    }


def _count(one: DataFinding, speak: Speaker) -> str:
    """Say of how many rows it is; of all of them its sentence says so."""
    if one.of is None:
        return speak.whole(one.count)
    if one.count == one.of and one.level is Level.INFORM:
        return ""
    return speak("how_many_of", count=one.count, total=one.of)


def _said(one: DataFinding, what: str, english: str | None, speak: Speaker) -> Phrase | None:
    """Say a finding from the table of texts where it stands there; else as the check worded it."""
    if not english:
        return None
    said = said_in(one, speak, what) or sentence_in(english, speak)
    return Phrase(text=shortened(said, speak)) if said else foreign(english, speak)


def sentence_in(english: str, speak: Speaker) -> str | None:
    """Say what makes rows unusable: a refusal's words, which a finding has as a sentence."""
    said = translated(f"{english[:1].lower()}{english[1:].removesuffix('.')}", speak)
    return f"{said[:1].upper()}{said[1:]}." if said and english.endswith(".") else None


def losses_of(
    found: RowLosses, texts: Mapping[int, tuple[str, str]], speak: Speaker
) -> dict[str, Any] | None:
    """Give the rows that the base found hardest and easiest.

    Args:
        found: what was measured.
        texts: question and answer by a row's number, where they are known.
        speak: the language.
    """
    if not found.rows:
        return None
    ends = dict(zip(("hardest", "easiest"), ends_of(found.rows), strict=True))
    return {
        "measured": speak(
            "row_losses_measured", measured=len(found.rows), learned=found.learned_rows
        ),
        "tables": [
            (
                name,
                speak(f"row_losses_{name}"),
                [
                    (
                        _place(one, speak),
                        *_likely(one.loss, speak),
                        *(texts.get(-1 if one.row is None else one.row) or ("", "")),
                    )
                    for one in some
                ],
            )
            for name, some in ends.items()
            if some
        ],
    }


def _likely(loss: float, speak: Speaker) -> tuple[str, str]:
    """Say a loss, and the chance of a token that it stands for."""
    chance = math.exp(-loss)
    said = speak("under_one_percent") if chance < _LEAST_CHANCE else speak.percent(chance)
    return speak.number(loss, ".2f"), said


def _place(place: Place, speak: Speaker) -> str:
    if place.line is None:
        return visible(place.file)
    unit = "row" if place.unit == "row" else "line"
    return speak(f"place_{unit}", file=visible(place.file), line=place.line)
