"""Answers beside the specs: their words, for people who train no models.

Times are shown in the box's own zone (TZ), paths as the share's users see them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from runner.clock import now
from runner.contract.findings import Level, name_places
from runner.contract.memory_story import memory_story
from runner.contract.progress import STARTING, Progress
from runner.contract.record import RunRecord, Waiting
from runner.contract.states import State
from runner.contract.verdict import loss_meaning
from runner.words import local_time, roughly, share_path, visible_lines

STATE_WORDS = {
    State.QUEUED: "accepted, waiting for its turn",
    State.PREPARING: "accepted, its data is being checked",
    State.TRAINING: "training",
    State.EXPORTING: "trained; the adapter is being written",
    State.EVALUATING: "trained; the adapter is being tested on the held-out rows",
    State.INTERRUPTED: "interrupted; it continues from its last checkpoint by itself",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.REJECTED: "rejected",
    State.CANCELLED: "cancelled",
}
_TIME_LEFT = {
    State.PREPARING: "This usually takes a minute or two; large files take longer.",
    State.EXPORTING: "This usually takes less than a minute.",
    State.EVALUATING: "This usually takes a few minutes.",
    State.INTERRUPTED: "The time left is known again after its next steps.",
}
"""Where no rate can be measured: what the stages took on the cards tried."""
_NO_RATE_YET = "The time left is shown after the first steps."

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
    answers: str | None = None
    """Where the held-out questions lie with the answers before and after."""


def progress_line(record: RunRecord, progress: Progress) -> str:
    """Say in one line how far training is and how long it will take."""
    text = f"step {progress.step} of {record.total_steps or '?'}"
    if progress.loss is None:
        return f"{text}, {STARTING}"
    text += f", loss {progress.loss:.3f}"
    if progress.eta_seconds is not None:
        done = now() + timedelta(seconds=progress.eta_seconds)
        text += f", about {roughly(progress.eta_seconds)} left (until {_about(done)})"
    return text


def _about(moment: datetime) -> str:
    """Say a forecast time to five minutes: it is no more exact, and the answer changes less."""
    return f"about {local_time(moment + timedelta(minutes=-(moment.minute % 5) % 5))}"


def answer(
    record: RunRecord,
    *,
    place: int | None = None,
    progress: Progress | None = None,
    beside: Beside | None = None,
) -> str:
    """Write what the person who dropped the spec wants to know."""
    beside = beside or Beside()
    lines = [f"{record.job}: {headline(record)}"]
    if record.state is State.SUCCEEDED:
        lines += _result(record)
    if record.state is State.QUEUED and place is not None:
        lines.append(_place(place))
    if record.waiting is not None and not record.state.is_final:
        lines.append(waiting_sentence(record.waiting))
        if record.waiting.advice:
            lines.append(f"What to do: {record.waiting.advice}. Then drop the spec again.")
    if not record.state.is_final:
        lines += _time_left(record, progress)
    lines += [f"It did not fit into memory; {change}" for change in memory_story(record)]
    if record.state is State.SUCCEEDED:
        lines += _where(record, beside)
    lines += _of_the_data(record)
    lines += [f"Note: {sentence}" for sentence in record.shortfalls]
    if record.error is not None:
        lines += ["", record.error.message]
        if record.error.advice:
            lines.append(f"What to do: {record.error.advice}")
    if beside.bad_rows:
        lines.append(f"All rows that cannot be used: {beside.bad_rows}, in this folder")
    lines += _what_next(record)
    lines.append(f"Everything about it: outputs/{record.job}/{record.run_id}/")
    return visible_lines(shown_paths("\n".join(lines), beside.share_name)) + "\n"


def _of_the_data(record: RunRecord) -> list[str]:
    """Say what the checks advise about the data: the first few, with the lines to look at."""
    advice = [finding for finding in record.findings if finding.level is not Level.INFORM]
    lines = []
    for finding in advice[:_FINDINGS_SHOWN]:
        places = name_places(finding)
        where = f" See {places}." if places else ""
        to_do = f" {finding.advice}" if finding.advice else ""
        lines.append(f"About your data: {finding.message}{where}{to_do}")
    more = len(advice) - len(lines)
    if more > 0:
        things = "1 more thing" if more == 1 else f"{more} more things"
        lines.append(f"About your data: {things} to look at; report.html says which.")
    return lines


def headline(record: RunRecord) -> str:
    """Say a run's state in a few words; a success that needs a look is not only a success."""
    if record.state is State.SUCCEEDED and needs_a_look(record):
        return "finished, but please read this before you use the adapter"
    return STATE_WORDS[record.state]


def needs_a_look(record: RunRecord) -> bool:
    """Whether a run's verdict is one that a person should know before they use the adapter."""
    verdict = record.verdict
    return verdict is not None and verdict.needs_person


def waiting_sentence(waiting: Waiting) -> str:
    """Say what a run waits for, and until when."""
    reason = waiting.reason[:1].upper() + waiting.reason[1:]
    if waiting.until is not None:
        end = local_time(waiting.until)
        return f"{reason}. If it has not arrived by {end}, the job is rejected."
    since = local_time(waiting.since)
    if waiting.again_at is not None:
        return f"{reason}. It is tried again after {local_time(waiting.again_at)} (since {since})."
    if reason.startswith("Waiting"):
        return f"{reason} (since {since})."
    return f"Waiting since {since}: {waiting.reason}."


def _time_left(record: RunRecord, progress: Progress | None) -> list[str]:
    if record.state is State.TRAINING and progress is not None:
        lines = [progress_line(record, progress)]
        if progress.eta_seconds is None:
            seconds = record.forecast.get("seconds")
            if isinstance(seconds, int | float) and math.isfinite(seconds):
                lines.append(f"The forecast is {roughly(seconds)} in all.")
            else:
                lines.append(_NO_RATE_YET)
        return lines
    return [line] if (line := _TIME_LEFT.get(record.state)) else []


def _what_next(record: RunRecord) -> list[str]:
    if not record.state.is_final:
        return ["", "To cancel it, delete its spec from this folder. Edits have no effect."]
    if record.state is State.REJECTED:
        return ["", "Correct it, then drop the spec into the inbox (the jobs folder) again."]
    if record.state is not State.SUCCEEDED:
        return ["", "To try again, drop the spec into the inbox (the jobs folder)."]
    return []


def _place(place: int) -> str:
    """Say whose turn it is; far behind, in words that need not be written anew at each step."""
    if place == 1:
        return "It is next."
    if place <= _PLACES_SHOWN:
        return f"It is number {place} in the queue."
    return f"More than {_PLACES_SHOWN} jobs are before it in the queue."


def _result(record: RunRecord) -> list[str]:
    """Say first whether the adapter is any good, and what the numbers mean."""
    lines = []
    verdict = record.verdict
    before, after = (record.metrics.get(f"eval_loss_{when}") for when in ("before", "after"))
    if verdict is not None:
        lines.append(verdict.reason)
        points, rows = verdict.figures.smallest_points, verdict.figures.held_out_rows
        if points is not None:
            lines.append(
                f"{rows} held-out rows can show a difference of about {points:.0f} percentage "
                "points between two success rates; smaller ones are lost in chance."
            )
    elif isinstance(before, float) and isinstance(after, float):
        lines.append(f"Loss on held-out rows: {before:.3f} before, {after:.3f} after.")
        lines.append("Lower is better.")
    if isinstance(before, float) and isinstance(after, float):
        lines += [meaning] if (meaning := loss_meaning(before, after)) else []
    return lines


def _where(record: RunRecord, beside: Beside) -> list[str]:
    lines = [f"The adapter: outputs/{record.job}/{record.run_id}/adapter/"]
    if beside.answers:
        lines.append(f"Answers before and after, to compare: {beside.answers}")
    if record.started_at and record.ended_at:
        lines.append(f"It took {roughly((record.ended_at - record.started_at).total_seconds())}.")
    return lines


def rejection(file_name: str, message: str) -> str:
    """Write why a spec was not accepted."""
    again = "Correct it and drop it into the inbox (the jobs folder) again."
    lines = [f"{file_name}: rejected", "", message, "", again]
    return visible_lines("\n".join(lines)) + "\n"


def shown_paths(text: str, share_name: str) -> str:
    """Show paths of the box as the share's users see them."""
    if not share_name:
        return text
    return _PATH.sub(lambda match: share_path(match[0], share_name), text)
