"""Retry: what follows each exit code and signal, in one table."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from runner.contract.memory_story import OUT_OF_HOST_MEMORY
from runner.contract.record import Attempt
from runner.contract.states import Stage
from runner.exit_codes import ExitCode

ASKED = "the daemon was asked to stop"
"""Reason of an attempt that was ended from outside; it does not speak against the run."""
LOW_SPACE = "the disk was nearly full"
"""Reason of an attempt that was asked to leave a checkpoint while there was room for one."""
OUTSIDE_HOURS = "the card's hours had ended"
"""Reason of an attempt that was asked to leave a checkpoint because the owner needs the card."""
BOX_LOST = "its box was not seen any more"
"""Reason of an attempt on a further box that was given up."""
BOX_LEFT = "its box was asked to leave"
"""Reason of an attempt whose box's agent was stopped by a person."""
HEAD_AWAY = "its box did not see the head any more"
"""Reason of an attempt that a further box ended by itself, with a checkpoint."""
NOT_PLACED = "its ticket could not be written"
"""Reason of an attempt whose ticket could not be written, for want of something but room."""
NOT_THE_RUN = (ASKED, LOW_SPACE, OUTSIDE_HOURS, BOX_LOST, BOX_LEFT, HEAD_AWAY, NOT_PLACED)
WENT_DOWN = "the daemon or the machine went down"
"""Reason of an attempt that was found open at a start; falls.py counts these."""
ATTEMPTS_WITHOUT_PROGRESS = 3
"""So many attempts in a row without a new durable step end a run."""


class Next(StrEnum):
    """What the daemon does after a stage has ended."""

    GO_ON = "go on"
    SAME_PLAN = "again, same plan"
    SMALLER_PLAN = "again, smaller plan"
    SMALLER_FOOTPRINT = "again, sparing the machine's own memory"
    HOLD = "hold"
    """Not the run's fault: nothing starts until the box is well again."""
    REST = "again, after a rest"
    """Not the run's fault, and perhaps of its own files alone: the others go on meanwhile."""
    FAIL = "fail"
    REJECT = "reject"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What follows from one way to end."""

    outcome: str
    """As the attempt's record tells it."""
    then: Next
    at_most: int = ATTEMPTS_WITHOUT_PROGRESS
    """Attempts in a row without progress that are let through."""


RULES: dict[ExitCode, Rule] = {
    ExitCode.OK: Rule(outcome="succeeded", then=Next.GO_ON),
    # Usually a defect, and defects repeat; once more covers the driver's and file system's moods.
    ExitCode.UNEXPECTED: Rule(outcome="failed", then=Next.SAME_PLAN, at_most=2),
    ExitCode.BAD_INPUT: Rule(outcome="bad input", then=Next.REJECT),
    ExitCode.OUT_OF_GPU_MEMORY: Rule(outcome="out of memory", then=Next.SMALLER_PLAN),
    ExitCode.OUT_OF_HOST_MEMORY: Rule(outcome=OUT_OF_HOST_MEMORY, then=Next.SMALLER_FOOTPRINT),
    ExitCode.INTERRUPTED: Rule(outcome="interrupted", then=Next.SAME_PLAN),
    ExitCode.GPU_LOST: Rule(outcome="gpu lost", then=Next.HOLD),
    ExitCode.DIVERGED: Rule(outcome="diverged", then=Next.FAIL),
    ExitCode.DISK_FULL: Rule(outcome="disk full", then=Next.HOLD),
    ExitCode.UNREADABLE: Rule(outcome="unreadable", then=Next.REST),
}
"""One rule for each exit code."""

_KILLED = Rule(outcome="killed", then=Next.SAME_PLAN)  # a person; for memory: host_memory.py
_CRASHED = Rule(outcome="crashed", then=Next.SAME_PLAN, at_most=2)  # a defect in native code
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}
_HUNG = Rule(outcome="hung", then=Next.SAME_PLAN, at_most=2)  # once may be the driver's mood
_NOT_COUNTED = (
    *(ExitCode.OUT_OF_GPU_MEMORY, ExitCode.GPU_LOST, ExitCode.DISK_FULL),
    ExitCode.UNREADABLE,
)
_UNKNOWN = RULES[ExitCode.UNEXPECTED]
_DEFECTS = (_UNKNOWN, _CRASHED, _HUNG)


def rule_for(exit_code: int, *, hung: bool = False) -> Rule:
    """Find the rule for an exit status; a negative one is the signal that ended the child."""
    if hung and exit_code != ExitCode.OK:
        return _HUNG
    if exit_code < 0:
        return _CRASHED if -exit_code in _CRASHES else _KILLED
    return RULES[ExitCode(exit_code)] if exit_code in set(ExitCode) else _UNKNOWN


def stalled(attempts: Sequence[Attempt]) -> int:
    """Count the newest attempts in a row that left no new durable step.

    An attempt that ran out of GPU memory is not counted: the next one runs a smaller plan, and
    there are few of those. Nor is one that lost the GPU or the disk: that is not the run's fault.
    Nor one that the machine went down under: falls.py says what follows from these.
    """
    count = 0
    for attempt in reversed(attempts):
        if attempt.got_further:
            break
        if attempt.reason in (*NOT_THE_RUN, WENT_DOWN) or attempt.exit_code in _NOT_COUNTED:
            continue
        count += 1
    return count


def spares_host_memory(attempts: Sequence[Attempt]) -> bool:
    """Decide whether the next attempt makes do with less of the machine's own memory."""
    return any(attempt.outcome == OUT_OF_HOST_MEMORY for attempt in attempts)


def leaves_fast_path(attempts: Sequence[Attempt]) -> bool:
    """Decide whether the next attempt takes the plain path: a defect may be one of our kernels.

    One that left the fast path by itself, or one that a defect ended.
    """
    defects = {rule.outcome for rule in _DEFECTS}
    return any(one.left_fast_path or one.outcome in defects for one in attempts)


def is_defect(exit_code: int, *, hung: bool = False) -> bool:
    """Whether the end of a child may be a fault of one of our kernels."""
    return rule_for(exit_code, hung=hung) in _DEFECTS


def after_attempt(exit_code: int, *, attempts: Sequence[Attempt], smaller_exists: bool) -> Next:
    """Decide what follows an attempt of the train stage; ``attempts`` includes it, closed."""
    hung = attempts[-1].outcome == _HUNG.outcome
    rule = rule_for(exit_code, hung=hung)
    if hung and sum(attempt.outcome == _HUNG.outcome for attempt in attempts) >= rule.at_most:
        return Next.FAIL  # in a row or not: each costs hours of standing still
    if rule.then is Next.SMALLER_PLAN:
        return Next.SMALLER_PLAN if smaller_exists else Next.FAIL
    if rule.then is Next.SMALLER_FOOTPRINT:
        moved = attempts[-1].got_further
        return rule.then if moved or not spares_host_memory(attempts[:-1]) else Next.FAIL
    if rule.then is Next.SAME_PLAN and stalled(attempts) >= rule.at_most:
        return Next.FAIL
    return rule.then


def after_stage(stage: Stage, exit_code: int, *, tries: int, hung: bool = False) -> Next:
    """Decide what follows another stage; ``tries`` counts its starts in this run, this one too.

    These stages back off from a lack of memory by themselves: running out all the same is final.
    """
    if stage is Stage.TRAIN:
        raise ValueError("attempts of the train stage are judged by after_attempt")
    rule = rule_for(exit_code, hung=hung)
    if rule.then is Next.SMALLER_PLAN:
        return Next.FAIL
    if rule.then is Next.SAME_PLAN and tries >= rule.at_most:
        return Next.FAIL
    if rule.then is Next.SMALLER_FOOTPRINT and tries > 1:  # every second try spares memory
        return Next.FAIL
    return rule.then
