"""Retention: which large files of a run that has ended go by themselves, and which stay.

A pure decision. Adapters, records, logs, evaluations and reports are not its business: they stay
until a person erases them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from runner.contract.record import RunRecord
from runner.errors import RunnerError


class Part(StrEnum):
    """What may go of a run, each by a rule of its own."""

    CHECKPOINTS = "checkpoints"
    ROWS = "rows"
    """The copy of the data, and the tokens made from it."""
    EXPORTS = "exports"
    """Merged weights and GGUF files: `runner export` makes them again."""


NOTHING: frozenset[Part] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What the box's owner set."""

    keep_runs: int = 5
    """Newest runs of a job whose large files stay; 0: those of all runs."""
    keep_checkpoints: bool = False
    """Those of runs that succeeded stay as long as other large files."""
    keep_exports: bool = False
    """Those of runs that are not in use stay."""


@dataclass(frozen=True, kw_only=True)
class JobFacts:
    """How a job stands."""

    newest: frozenset[str]
    """Its newest runs that have ended, `Rule.keep_runs` of them."""
    current: str | None = None
    """The run in use; None: none is, or it cannot be known."""
    rollback: frozenset[str] = frozenset()
    """What was in use before, and what a rollback would bring back."""
    last_good: str | None = None
    """The newest run that succeeded."""
    learned_from: frozenset[str] = frozenset()
    """Runs whose adapters a kept run went on from: `replay` learns their rows again."""

    @property
    def needed(self) -> frozenset[str]:
        """Runs that are served, brought back, rated or measured again."""
        one = {run_id for run_id in (self.current, self.last_good) if run_id}
        return self.rollback | one


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """How a run of it stands."""

    run_id: str
    has_succeeded: bool
    adapter_is_whole: bool
    """Every file of its adapter is there as it was made."""
    awaits_approval: bool = False
    """It waits for a person who puts it into use."""
    exported_by_hand: bool = False
    """A person asked for its exports by `runner export`."""


def may_go(run: RunFacts, job: JobFacts, rule: Rule) -> frozenset[Part]:
    """Decide which large files of a run that has ended go."""
    is_needed = run.run_id in job.needed or _may_come_into_use(run, job)
    is_old = bool(rule.keep_runs) and run.run_id not in job.newest and not is_needed
    gone = set()
    # Without a whole adapter, a checkpoint is all that is left of a run that succeeded.
    if run.has_succeeded and run.adapter_is_whole and (is_old or not rule.keep_checkpoints):
        gone.add(Part.CHECKPOINTS)
    if not run.has_succeeded and is_old:
        gone.add(Part.CHECKPOINTS)
    if is_old and run.run_id not in job.learned_from:
        gone.add(Part.ROWS)
    # Where nothing is in use, any run's exports may be served from its own folder.
    replaced = job.current is not None and not is_needed and not run.exported_by_hand
    if replaced and run.has_succeeded and run.adapter_is_whole and not rule.keep_exports:
        gone.add(Part.EXPORTS)
    return frozenset(gone)


def _may_come_into_use(run: RunFacts, job: JobFacts) -> bool:
    """Whether a person has still to decide about it: run ids begin with their time."""
    return run.awaits_approval and (job.current is None or run.run_id > job.current)


def check_cleared(record: RunRecord) -> None:
    """Refuse to measure a run whose rows are gone.

    Raises:
        RunnerError: they are.
    """
    if record.cleared is not None:
        raise RunnerError(
            f"The held-out rows of {record.job}/{record.run_id} were removed on "
            f"{record.cleared.at:%Y-%m-%d}, because its job has newer runs",
            advice="There is nothing to measure it on; drop its spec and data again. "
            "RUNNER_KEEP_RUNS in .env says how many runs keep their rows.",
        )
