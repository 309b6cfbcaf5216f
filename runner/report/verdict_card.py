"""The verdict on one screen: is the model better, should I use it, why, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.contract.gate import promotion_in
from runner.contract.record import RunRecord
from runner.contract.states import State
from runner.contract.verdict import Outcome, loss_meaning, reason_in
from runner.language.speaker import Speaker
from runner.report.gather import Gathered
from runner.report.phrase import Phrase, foreign, shortened
from runner.report.scores import improvement
from runner.words import visible

_TONES = {
    Outcome.BETTER: "good",
    Outcome.NO_DIFFERENCE: "careful",
    Outcome.WORSE: "bad",
    Outcome.CANNOT_TELL: "careful",
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of the card."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the first screen says."""

    tone: str
    """``good``, ``careful``, ``bad`` or ``under-way``: a colour, and a sign for who sees none."""
    heading: str
    better: str
    use: str
    not_learned: str
    more_about: tuple[str, str] | None
    """Where the page says more about the data: the section's name and its title; None: nowhere."""
    reasons: tuple[Phrase, ...]
    to_do: tuple[Phrase, ...]
    figures: tuple[Figure, ...]


def card(found: Gathered, speak: Speaker) -> Card:
    """Say what came out of a run, or where it stands."""
    record = found.record
    if record.state is State.SUCCEEDED:
        return _succeeded(found, speak)
    over = record.state.is_final
    return Card(
        tone="bad" if over else "under-way",
        heading=speak(f"head_{record.state}"),
        better=speak("no_adapter" if over else "not_yet_short"),
        use="" if over else speak("not_yet"),
        not_learned="",
        more_about=None,
        reasons=_reasons(record, speak),
        to_do=_to_do(record, speak),
        figures=_figures(found, speak),
    )


def _succeeded(found: Gathered, speak: Speaker) -> Card:
    verdict = found.record.verdict
    name = "no_verdict" if verdict is None else verdict.outcome.value
    about = "unchanged" if verdict is not None and verdict.changed is False else name
    # A lower loss says that it learned. Whether an answer is right, only a reader or a score can.
    by_loss = name == Outcome.BETTER.value and verdict is not None and not verdict.figures.scores
    reasons: list[Phrase] = []
    if verdict is not None:
        reason = reason_in(verdict, speak)
        said_anew = reason != verdict.reason
        reasons.append(
            Phrase(text=shortened(reason, speak)) if said_anew else foreign(reason, speak)
        )
        before, after = verdict.figures.loss_before, verdict.figures.loss_after
        if before is not None and after is not None:
            meaning = loss_meaning(before, after, speak)
            reasons += [Phrase(text=meaning)] if meaning else []
        if verdict.figures.smallest_points is not None and not by_loss:
            points = f"{verdict.figures.smallest_points:.0f}"
            rows = verdict.figures.rows
            reasons.append(Phrase(text=speak("points", rows=rows, points=points)))
    is_used = found.use is not None and found.use.is_this
    promotion = found.record.promotion
    # Of an adapter in use the card says that it is; why it was put there stands below.
    if promotion is not None and not (is_used and promotion.is_promoted):
        said = promotion_in(promotion, speak)
        reasons.append(Phrase(text=shortened(said, speak)))
    if found.use is not None:
        reasons.append(Phrase(text=found.use.said(speak)))
    return Card(
        tone="careful" if verdict is None else _TONES[verdict.outcome],
        heading=speak(f"head_{about}"),
        better=speak(f"{about}_short"),
        use=_use(name, found, speak, by_loss=by_loss),
        not_learned=_not_learned(found.record, speak),
        more_about=_more_about(found.record, speak),
        reasons=tuple(reasons),
        to_do=(),
        figures=_figures(found, speak),
    )


def _use(name: str, found: Gathered, speak: Speaker, *, by_loss: bool) -> str:
    """Say whether to use it, in agreement with whether it is in use already."""
    is_used = found.use is not None and found.use.is_this
    job = visible(found.record.job)
    if name == Outcome.BETTER.value:
        about = "better_by_loss" if by_loss else "better"
        if by_loss and not found.samples:
            about = "better_unread"
        return speak(f"{about}_{'in_use' if is_used else 'use'}", job=job)
    said = speak(f"{name}_use")
    return f"{said} {speak('used_all_the_same', job=job)}" if is_used else said


def _not_learned(record: RunRecord, speak: Speaker) -> str:
    """Say which rows the model has not learned; empty where that is not known."""
    held, longer = (record.metrics.get(name) for name in ("eval_rows", "left_out_rows"))
    if not isinstance(held, int):
        return ""
    said = [speak("not_learned_held", count=held)] if held else []
    rows, steps = record.metrics.get("train_rows"), last_step(record)
    if isinstance(rows, int) and (unseen := rows - rows_seen(record, rows)):
        said.append(speak("not_learned_unseen", count=unseen, steps=speak.whole(steps)))
    if isinstance(longer, int) and longer:
        said.append(speak("not_learned_longer", count=longer))
    if not said:
        said.append(speak("not_learned_none"))
    return " ".join(said)


def _more_about(record: RunRecord, speak: Speaker) -> tuple[str, str] | None:
    """Tell the section that says more about the data."""
    if not (record.shortfalls or record.findings):
        return None
    where = "findings" if record.findings else "happened"
    return where, speak(where)


def last_step(record: RunRecord) -> int:
    """Give the last optimizer step that was made; 0: none is known."""
    return max((attempt.last_step or 0 for attempt in record.attempts), default=0)


def rows_seen(record: RunRecord, rows: int) -> int:
    """Count the rows that were trained on: the first pass over them takes each once.

    `max_steps`, a time limit or an early stop may end within it.
    """
    steps, each = last_step(record), record.effective_batch_size
    return min(rows, steps * each) if steps and each else rows


def _reasons(record: RunRecord, speak: Speaker) -> tuple[Phrase, ...]:
    if record.error is not None:
        return (foreign(record.error.message, speak),)
    if record.waiting is not None and not record.state.is_final:
        return (foreign(record.waiting.reason, speak),)
    return ()


def _to_do(record: RunRecord, speak: Speaker) -> tuple[Phrase, ...]:
    found = []
    if record.error is not None and record.error.advice:
        found.append(foreign(record.error.advice, speak))
    if record.waiting is not None and record.waiting.advice and not record.state.is_final:
        found.append(foreign(record.waiting.advice, speak))
    if record.state is State.REJECTED:
        found.append(Phrase(text=speak("drop_again")))
    elif record.state.is_final:
        found.append(Phrase(text=speak("try_again")))
    return tuple(found)


def _losses(metrics: Mapping[str, Any], speak: Speaker) -> list[Figure]:
    """Say the loss before and after in one figure, and which way it went."""
    found = [metrics.get(f"eval_loss_{when}") for when in ("before", "after")]
    known = [one for one in found if isinstance(one, int | float) and math.isfinite(one)]
    if len(known) < len(found):
        return []
    value = speak("before_to_after", before=speak.number(known[0]), after=speak.number(known[1]))
    note = improvement(known[0] - known[1], speak, ".3f")
    return [Figure(name=speak("loss_held_out"), value=value, note=note)]


def _figures(found: Gathered, speak: Speaker) -> tuple[Figure, ...]:
    record, metrics = found.record, found.record.metrics
    figures = _losses(metrics, speak)
    if found.progress is not None:
        progress, total = found.progress, found.progress.total_steps
        of = speak("progress_of", step=progress.step, total=total or "?")
        figures.append(Figure(name=speak("progress"), value=of))
        if isinstance(progress.loss, int | float):
            loss_now = speak.number(progress.loss)
            figures.append(Figure(name=speak("loss_now"), value=loss_now))
        if progress.eta_seconds is not None:
            left = speak("about", time=speak.lasting(progress.eta_seconds))
            figures.append(Figure(name=speak("time_left"), value=left))
    for key, name in (("train_rows", "rows_trained"), ("eval_rows", "rows_held_out")):
        if isinstance(metrics.get(key), int):
            count = metrics[key]
            note = speak("kept_aside") if key == "eval_rows" and count else ""
            if key == "train_rows" and (seen := rows_seen(record, count)) < count:
                note, count = speak("of_all", rows=speak.whole(count)), seen
            figures.append(Figure(name=speak(name), value=speak.whole(count), note=note))
    if record.started_at and record.ended_at:
        seconds = (record.ended_at - record.started_at).total_seconds()
        figures.append(Figure(name=speak("took"), value=speak.lasting(seconds)))
    return tuple(figures)
