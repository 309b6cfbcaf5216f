"""Turns a run's record into the words that lie beside its spec, and all runs into STATUS.txt."""

from __future__ import annotations

from collections.abc import Sequence

from runner.contract.memory_story import memory_story
from runner.contract.progress import STARTING, Progress
from runner.contract.record import RunRecord
from runner.contract.states import State
from runner.words import roughly, visible_lines

_WORDS = {
    State.QUEUED: "accepted, waiting for its turn",
    State.PREPARING: "accepted, its data is being checked",
    State.TRAINING: "training",
    State.EXPORTING: "trained; the adapter is being written",
    State.EVALUATING: "trained; the adapter is being measured",
    State.INTERRUPTED: "interrupted; it goes on from its last checkpoint by itself",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.REJECTED: "rejected",
    State.CANCELLED: "cancelled",
}


_PLACES_TOLD = 20
_RUNS_TOLD = 100  # in STATUS.txt: a person reads no more


def progress_line(record: RunRecord, progress: Progress) -> str:
    """Say in one line how far training is and how long it will take."""
    text = f"step {progress.step} of {record.total_steps or '?'}"
    if progress.loss is None:
        return f"{text}, {STARTING}"
    text += f", loss {progress.loss:.3f}"
    if progress.eta_seconds is not None:
        text += f", about {roughly(progress.eta_seconds)} left"
    return text


def answer(record: RunRecord, *, place: int | None = None, progress: Progress | None = None) -> str:
    """Write what the person who dropped the spec wants to know."""
    lines = [f"{record.job}: {_WORDS[record.state]}"]
    if record.state is State.QUEUED and place is not None:
        lines.append(_place(place))
    if record.waiting is not None and not record.state.is_final:
        lines.append(f"It waits: {record.waiting.reason} (since {record.waiting.since:%H:%M} UTC)")
    if progress is not None and record.state is State.TRAINING:
        lines.append(progress_line(record, progress))
    lines += [f"It did not fit into memory; {change}" for change in memory_story(record)]
    if record.state is State.SUCCEEDED:
        lines += _outcome(record)
    lines += [f"Note: {sentence}" for sentence in record.shortfalls]
    if record.error is not None:
        lines += ["", record.error.message]
        if record.error.advice:
            lines.append(f"What to do: {record.error.advice}")
    if not record.state.is_final:
        lines += ["", "To cancel it, delete its spec from this folder. Edits have no effect."]
    elif record.state is State.REJECTED:
        lines += ["", "Mend it, then drop the spec into the inbox again."]
    elif record.state is not State.SUCCEEDED:
        lines += ["", "To try again, drop the spec into the inbox."]
    lines.append(f"Everything about it: outputs/{record.job}/{record.run_id}/")
    return visible_lines("\n".join(lines)) + "\n"


def _place(place: int) -> str:
    """Say whose turn it is; far behind, in words that need not be written anew at each step."""
    if place == 1:
        return "It is next."
    if place <= _PLACES_TOLD:
        return f"It is number {place} in the queue."
    return f"More than {_PLACES_TOLD} are before it in the queue."


def _outcome(record: RunRecord) -> list[str]:
    lines = [f"The adapter: outputs/{record.job}/{record.run_id}/adapter/"]
    before, after = (record.metrics.get(f"eval_loss_{when}") for when in ("before", "after"))
    if isinstance(before, float) and isinstance(after, float):
        lines.append(f"Loss on held-out rows: {before:.3f} before, {after:.3f} after")
    if record.started_at and record.ended_at:
        lines.append(f"It took {roughly((record.ended_at - record.started_at).total_seconds())}.")
    return lines


def rejection(file_name: str, message: str) -> str:
    """Write why a spec was not accepted."""
    lines = [f"{file_name}: rejected", "", message, "", "Mend it and drop it into the inbox again."]
    return visible_lines("\n".join(lines)) + "\n"


def status(
    *, needs_person: Sequence[str], live: Sequence[RunRecord], ended: Sequence[RunRecord]
) -> str:
    """Write the whole inbox in words, opening with what needs a person."""
    lines = ["Needs a person:", *(f"  {line}" for line in needs_person)]
    if not needs_person:
        lines = ["Nothing needs a person."]
    lines += ["", "Now:" if live else "Nothing is running or waiting."]
    for record in live[:_RUNS_TOLD]:
        line = f"  {record.job} ({record.run_id}): {_WORDS[record.state]}"
        if record.waiting is not None:
            line += f"; {record.waiting.reason}"
        lines.append(line)
    if len(live) > _RUNS_TOLD:
        lines.append(f"  and {len(live) - _RUNS_TOLD} more")
    if ended:
        lines += ["", "Lately ended:"]
        lines += [
            f"  {record.job} ({record.run_id}): {_WORDS[record.state]}"
            + (f", {record.ended_at:%Y-%m-%d %H:%M} UTC" if record.ended_at else "")
            for record in ended
        ]
    return visible_lines("\n".join(lines)) + "\n"
