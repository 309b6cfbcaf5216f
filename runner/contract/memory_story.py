"""What an out-of-memory changed in a run, and what it did not, in sentences."""

from __future__ import annotations

from runner.contract.batch import describe_change
from runner.contract.record_head import RecordHead
from runner.language.speaker import ENGLISH, Speaker

OUT_OF_HOST_MEMORY = "out of host memory"
"""Outcome of an attempt; how daemon/retry.py names it."""

IN_4_BITS = "it did not fit in 16 bits at any plan, and began again in 4"
"""Reason of the last attempt in 16 bits of a run whose method the box changed; see
daemon/stages/change_method.py."""


def memory_story(record: RecordHead, speak: Speaker = ENGLISH) -> list[str]:
    """Tell each change of plan, and each time that the machine's own memory ran out."""
    plans = [attempt.batch_plan for attempt in record.attempts]
    if record.batch_plan is not None:
        plans.append(record.batch_plan)
    changes = [
        describe_change(attempt.batch_plan, after, speak)
        for attempt, after in zip(record.attempts, plans[1:], strict=False)
        if attempt.batch_plan != after and attempt.reason != IN_4_BITS
    ]
    lost = [
        speak("memory_lost", number=attempt.number, step=attempt.last_step or 0)
        for attempt in record.attempts
        if attempt.outcome == OUT_OF_HOST_MEMORY
    ]
    return [*changes, *lost]
