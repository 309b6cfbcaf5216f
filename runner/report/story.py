"""What happened in a run, in sentences and in order."""

from __future__ import annotations

from collections.abc import Iterator

from runner.contract.batch import describe_change
from runner.contract.cards_story import cards_story
from runner.contract.memory_story import IN_4_BITS, OUT_OF_HOST_MEMORY
from runner.contract.record import Attempt, RunRecord
from runner.contract.states import State
from runner.language.speaker import Speaker
from runner.report.phrase import Phrase, foreign
from runner.words import visible

OUT_OF_MEMORY = "out of memory"
"""Outcome of an attempt; how daemon/stages/retry.py names it."""
_INTERRUPTED = "interrupted"


def story(record: RunRecord, speak: Speaker) -> list[Phrase]:
    """Tell a run: accepted, prepared, trained with all that came in between, exported, ended."""
    told = [speak("event_created", time=speak.time(record.created_at, day=True))]
    train, held = (record.metrics.get(key) for key in ("train_rows", "eval_rows"))
    if isinstance(train, int) and isinstance(held, int):
        told.append(speak("event_prepared", train=speak("rows_count", count=train), held=held))
    told += _attempts(record, speak)
    if record.falls is not None:
        told.append(speak("event_falls", count=record.falls.times))
    if record.metrics.get("adapter_files"):
        told.append(speak("event_exported"))
    if record.metrics.get("eval_loss_after") is not None:
        told.append(speak("event_evaluated"))
    phrases = [Phrase(text=text) for text in told]
    if record.waiting is not None and not record.state.is_final:
        phrases.append(foreign(record.waiting.reason, speak))
    if record.ended_at is not None:
        state = speak(f"state_{record.state}")
        ended = speak("event_ended", time=speak.time(record.ended_at, day=True), state=state)
        phrases.append(Phrase(text=ended))
    return phrases


def _attempts(record: RunRecord, speak: Speaker) -> Iterator[str]:
    attempts = record.attempts
    for place, attempt in enumerate(attempts):
        is_last = place + 1 == len(attempts)
        follower = None if is_last else attempts[place + 1].batch_plan
        ends = is_last or attempt.reason == IN_4_BITS
        yield from _end_of(attempt, speak, is_last=ends)
        after = record.batch_plan if follower is None else follower
        if attempt.reason == IN_4_BITS:
            yield speak("event_in_4_bits")
            continue
        if after is not None and after != attempt.batch_plan and attempt.outcome != OUT_OF_MEMORY:
            yield speak("event_smaller", change=describe_change(attempt.batch_plan, after, speak))
    if record.state in (State.SUCCEEDED, State.EXPORTING, State.EVALUATING):
        steps = max((a.last_step or 0 for a in attempts), default=0)
        if steps:
            counted = speak("attempts_count", count=len(attempts))
            yield speak("event_trained", steps=speak("steps_count", count=steps), attempts=counted)
    yield from cards_story(record, speak)


def _end_of(attempt: Attempt, speak: Speaker, *, is_last: bool) -> Iterator[str]:
    if attempt.outcome in (None, "succeeded"):
        return
    values = {"number": attempt.number, "step": attempt.last_step or 0}
    last = "_last" if is_last else ""
    if attempt.outcome == OUT_OF_MEMORY:
        yield speak(f"event_oom{last}", **values)
    elif attempt.outcome == OUT_OF_HOST_MEMORY:
        yield speak("event_host_memory", **values)
    elif attempt.outcome == _INTERRUPTED:
        yield speak(f"event_interrupted{last}", **values)
    else:
        yield speak("event_attempt_ended", outcome=outcome_in(attempt.outcome, speak), **values)


def outcome_in(outcome: str | None, speak: Speaker) -> str:
    """Say an attempt's outcome."""
    key = f"outcome_{(outcome or 'running').replace(' ', '_')}"
    return speak(key) if speak.knows(key) else visible(outcome)[:200]
