"""Scores and axes of an evaluation as the rows of its tables."""

from __future__ import annotations

from dataclasses import dataclass

from runner.contract.evaluation import Axis, Evaluation, ScoreSummary
from runner.contract.verdict import axis_name, score_name
from runner.language.speaker import Speaker

_SHOWN = 40  # rows of each table: a taxonomy may have 50 fields


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a table, as it is shown."""

    name: str
    base: str
    adapter: str
    difference: str
    """With where it lies; above zero is better."""
    examples: str = ""
    current: str = ""


def score_lines(found: Evaluation | None, speak: Speaker) -> list[Line]:
    """Give a row for each score, the loss first."""
    scores = found.scores if found else ()
    return [_score(one, speak) for one in scores[:_SHOWN]]


def other_form_lines(found: Evaluation | None, speak: Speaker) -> list[Line]:
    """Give a row for each score on the form that is not served, where it was measured too."""
    return [_score(one, speak) for one in (found.other_form[:_SHOWN] if found else ())]


def axis_lines(found: Evaluation | None, speak: Speaker) -> list[Line]:
    """Give a row for each thing that may have been forgotten."""
    return [_axis(one, speak) for one in (found.axes[:_SHOWN] if found else ())]


def _score(one: ScoreSummary, speak: Speaker) -> Line:
    def shown(value: float | None) -> str:
        if value is None:
            return ""
        return speak.percent(value) if one.is_share else speak.number(value)

    return Line(
        name=score_name(one.name, speak),
        base=shown(one.base),
        adapter=shown(one.adapter),
        examples=shown(one.examples),
        current=shown(one.current),
        difference=_difference(one.difference, one.low, one.high, speak),
    )


def _axis(one: Axis, speak: Speaker) -> Line:
    name = axis_name(one.name, speak)
    return Line(
        name=f"{name} ({speak('axis_fallen')})" if one.has_fallen else name,
        base=speak.number(one.base, ".2f"),
        adapter=speak.number(one.adapter, ".2f"),
        difference=_difference(one.difference, one.low, one.high, speak),
    )


def _difference(
    difference: float | None, low: float | None, high: float | None, speak: Speaker
) -> str:
    if difference is None:
        return ""
    said = improvement(difference, speak, ".2f")
    if low is None or high is None:
        return said
    ends = {"low": speak.number(low, "+.2f"), "high": speak.number(high, "+.2f")}
    if low <= 0 <= high:
        return speak("difference_chance", difference=speak.number(difference, "+.2f"), **ends)
    return speak("difference_lies", difference=said, **ends)


def improvement(difference: float, speak: Speaker, pattern: str) -> str:
    """Say a difference of which more is better: its sign, and in words what the sign means."""
    said = speak.number(difference, f"+{pattern}")
    if not float(format(difference, pattern)):
        return speak("improved_not", difference=speak.number(0.0, pattern))
    return speak("improved" if difference > 0 else "worsened", difference=said)
