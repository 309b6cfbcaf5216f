"""Answers beside the specs: their words, for people who train no models.

Times are shown in the box's own zone (TZ), paths as the share's users see them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from runner.clock import now
from runner.contract.cards_story import cards_story
from runner.contract.findings import Level, name_places, said_in
from runner.contract.gate import promotion_in
from runner.contract.handed_over import forms_in
from runner.contract.in_use import Use
from runner.contract.memory_story import memory_story
from runner.contract.progress import Progress
from runner.contract.rates import rates_in
from runner.contract.rating import rating_in
from runner.contract.record import RunRecord, Waiting
from runner.contract.states import State
from runner.contract.verdict import loss_meaning, reason_in
from runner.language.speaker import ENGLISH, Language, Speaker
from runner.language.translate import in_words_of
from runner.words import roughly, share_path, visible_lines

_PLACES_SHOWN = 20
_FINDINGS_SHOWN = 3  # about the data: an answer is read on one screen
_PATH = re.compile(r"(?<![\w/\\.-])(?:outputs|jobs)/[^\s,;:'\"()]*[\w/]")
"""A path of the box in a sentence; what ends the sentence is no part of it."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What else was left for the reader of an answer."""

    share_name: str = ""
    """What its users put before jobs/ and outputs/: ``\\\\server``; empty: nothing."""
    bad_rows: str | None = None
    """The file beside the answer that lists the rows that cannot be used."""
    report: str | None = None
    """The file beside the answer that says it with charts."""
    answers: str | None = None
    """Where the held-out questions lie with the answers before and after."""
    use: Use | None = None
    """Whether its adapter is in use."""
    card: str = ""
    """The card that it is at work on, where the box has several."""


def progress_line(progress: Progress, speak: Speaker = ENGLISH) -> str:
    """Say in one line how far training is and how long it will take."""
    text = speak("answer_step", step=progress.step, total=progress.total_steps or "?")
    if progress.loss is None:
        return f"{text}, {speak('answer_starting')}"
    text += ", " + speak("answer_loss", loss=speak.number(progress.loss))
    if progress.eta_seconds is not None:
        done = _five_minutes(now() + timedelta(seconds=progress.eta_seconds))
        left = roughly(progress.eta_seconds)
        text += ", " + speak("answer_left", left=left, time=speak.time(done))
    return text


def _five_minutes(moment: datetime) -> datetime:
    """Bring a forecast time to five minutes: it is no more exact, and the answer changes less."""
    return moment + timedelta(minutes=-(moment.minute % 5) % 5)


def answer(
    record: RunRecord,
    *,
    place: int | None = None,
    progress: Progress | None = None,
    beside: Beside | None = None,
    speak: Speaker = ENGLISH,
) -> str:
    """Write what the person who dropped the spec wants to know."""
    beside = beside or Beside()
    lines = [f"{record.job}: {headline(record, speak)}"]
    if record.state is State.SUCCEEDED:
        lines += _result(record, speak)
    if record.state is State.QUEUED and place is not None:
        lines.append(_place(place, speak))
    if record.waiting is not None and not record.state.is_final:
        lines.append(waiting_sentence(record.waiting, speak))
        if record.waiting.advice:
            advice = in_words_of(record.waiting.advice, speak)
            lines.append(speak("answer_then_drop", advice=advice))
    if record.rates is not None and (said := rates_in(record.rates, speak)):
        lines.append(said)
    if not record.state.is_final:
        lines += [speak("answer_card", card=beside.card)] if beside.card else []
        lines += _time_left(record, progress, speak)
    lines += [speak("answer_memory", change=change) for change in memory_story(record, speak)]
    lines += cards_story(record, speak) if record.state.is_final else []
    if record.state is State.SUCCEEDED:
        lines += _where(record, beside, speak)
    lines += _of_the_data(record, speak)
    lines += [speak("answer_note", note=in_words_of(note, speak)) for note in record.shortfalls]
    if record.error is not None:
        lines += ["", in_words_of(record.error.message, speak)]
        if record.error.advice:
            advice = in_words_of(record.error.advice, speak)
            lines.append(speak("answer_to_do", advice=advice))
    if beside.bad_rows:
        lines.append(speak("answer_bad_rows", name=beside.bad_rows))
    lines += _what_next(record, speak)
    if beside.report:
        lines.append(speak("answer_report", name=beside.report))
    lines.append(speak("answer_everything", job=record.job, run=record.run_id))
    return visible_lines(shown_paths("\n".join(lines), beside.share_name)) + "\n"


def _of_the_data(record: RunRecord, speak: Speaker) -> list[str]:
    """Say what the checks advise about the data: the first few, with the lines to look at."""
    advice = [finding for finding in record.findings if finding.level is not Level.INFORM]
    lines = []
    for finding in advice[:_FINDINGS_SHOWN]:
        places = name_places(finding, speak)
        where = speak("answer_data_see", places=places) if places else ""
        message, to_do = finding.message, finding.advice
        if speak.language is not Language.ENGLISH:
            message = said_in(finding, speak) or message
            to_do = to_do and (said_in(finding, speak, "advice") or to_do)
        to_do = f" {to_do}" if to_do else ""
        lines.append(speak("answer_data", message=message, where=where, advice=to_do))
    more = len(advice) - len(lines)
    return [*lines, *([speak("answer_more_data", count=more)] if more > 0 else [])]


def headline(record: RunRecord, speak: Speaker = ENGLISH) -> str:
    """Say a run's state in a few words; a success that needs a look is not only a success."""
    if record.state is State.SUCCEEDED and needs_a_look(record):
        return speak("answer_look")
    return speak(f"state_{record.state}")


def needs_a_look(record: RunRecord) -> bool:
    """Whether a run's verdict is one that a person should know before they use the adapter."""
    verdict = record.verdict
    return verdict is not None and verdict.needs_person


def waiting_sentence(waiting: Waiting, speak: Speaker = ENGLISH) -> str:
    """Say what a run waits for, and until when."""
    plain = in_words_of(waiting.reason, speak)
    reason = plain[:1].upper() + plain[1:]
    since = speak.time(waiting.since)
    if waiting.until is not None:
        return speak("answer_until", reason=reason, time=speak.time(waiting.until))
    if waiting.again_at is not None:
        again_at = speak.time(waiting.again_at)
        return speak("answer_again_at", reason=reason, time=again_at, since=since)
    if waiting.reason.lower().startswith("waiting"):
        return speak("answer_waits", reason=reason, since=since)
    return speak("answer_waiting_since", since=since, reason=plain)


def _time_left(record: RunRecord, progress: Progress | None, speak: Speaker) -> list[str]:
    if record.state is State.TRAINING and progress is not None:
        lines = [progress_line(progress, speak)]
        if progress.eta_seconds is None:
            seconds = record.forecast.get("seconds")
            if isinstance(seconds, int | float) and math.isfinite(seconds):
                lines.append(speak("answer_forecast", time=roughly(seconds)))
            else:
                lines.append(speak("answer_no_rate"))
        return lines
    # Where no rate can be measured: what the stages took on the cards tried.
    key = f"answer_takes_{record.state}"
    return [speak(key)] if speak.knows(key) else []


def _what_next(record: RunRecord, speak: Speaker) -> list[str]:
    if not record.state.is_final:
        return ["", speak("answer_cancel")]
    if record.state is State.REJECTED:
        return ["", speak("drop_again")]
    return [] if record.state is State.SUCCEEDED else ["", speak("try_again")]


def _place(place: int, speak: Speaker) -> str:
    """Say whose turn it is; far behind, in words that need not be written anew at each step."""
    if place == 1:
        return speak("answer_next")
    if place <= _PLACES_SHOWN:
        return speak("answer_place", place=place)
    return speak("answer_far", place=_PLACES_SHOWN)


def _result(record: RunRecord, speak: Speaker) -> list[str]:
    """Say first whether the adapter is any good, and what the numbers mean."""
    lines = []
    verdict = record.verdict
    before, after = (record.metrics.get(f"eval_loss_{when}") for when in ("before", "after"))
    if verdict is not None:
        lines.append(reason_in(verdict, speak))
        points, rows = verdict.figures.smallest_points, verdict.figures.rows
        if points is not None:
            lines.append(speak("points", rows=rows, points=f"{points:.0f}"))
    elif isinstance(before, float) and isinstance(after, float):
        losses = {"before": speak.number(before), "after": speak.number(after)}
        lines += [speak("answer_losses", **losses), speak("answer_lower")]
    if isinstance(before, float) and isinstance(after, float):
        lines += [meaning] if (meaning := loss_meaning(before, after, speak)) else []
    return lines


def _where(record: RunRecord, beside: Beside, speak: Speaker) -> list[str]:
    lines = [speak("answer_adapter", job=record.job, run=record.run_id)]
    if record.promotion is not None:
        lines.append(promotion_in(record.promotion, speak).strip())
    if beside.use is not None:
        lines.append(speak("answer_current", use=beside.use.said(speak), job=record.job))
    if record.rating is not None:
        lines.append(rating_in(record.rating, speak))
    lines += forms_in(record.handed_over, speak)
    if beside.answers:
        lines.append(speak("answer_answers", where=beside.answers))
    if record.started_at and record.ended_at:
        seconds = (record.ended_at - record.started_at).total_seconds()
        lines.append(speak("answer_took", time=roughly(seconds)))
    return lines


def rejection(file_name: str, message: str, speak: Speaker = ENGLISH) -> str:
    """Write why a spec was not accepted."""
    head = f"{file_name}: {speak('state_rejected')}"
    return visible_lines("\n".join([head, "", message, "", speak("answer_correct")])) + "\n"


def shown_paths(text: str, share_name: str) -> str:
    """Show paths of the box as the share's users see them."""
    if not share_name:
        return text
    return _PATH.sub(lambda match: share_path(match[0], share_name), text)
