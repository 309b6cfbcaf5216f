"""Which large files of a run that has ended go, and which stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_runs import NOW, record

from runner.contract.record import Cleared
from runner.contract.retention import JobFacts, Part, Rule, RunFacts, check_cleared, may_go
from runner.errors import RunnerError

OLD, BEFORE, CURRENT, NEW = (f"2026112{day}T020000Z-aaaa" for day in range(4))
JOB = JobFacts(
    newest=frozenset({NEW}), current=CURRENT, rollback=frozenset({BEFORE}), last_good=NEW
)
GOOD = RunFacts(run_id=OLD, has_succeeded=True, adapter_is_whole=True)
FAILED = RunFacts(run_id=OLD, has_succeeded=False, adapter_is_whole=False)
CHECKPOINTS, ROWS, EXPORTS = Part.CHECKPOINTS, Part.ROWS, Part.EXPORTS
NO_HISTORY = JobFacts(newest=frozenset({NEW}), last_good=NEW)


@pytest.mark.parametrize(
    ("run", "job", "rule", "gone"),
    [
        # One that nothing needs: all that is large goes.
        (GOOD, JOB, Rule(), {CHECKPOINTS, ROWS, EXPORTS}),
        (FAILED, JOB, Rule(), {CHECKPOINTS, ROWS}),
        # What is in use, was so before, or is the last good one: its checkpoints alone.
        (replace(GOOD, run_id=CURRENT), JOB, Rule(), {CHECKPOINTS}),
        (replace(GOOD, run_id=BEFORE), JOB, Rule(), {CHECKPOINTS}),
        (replace(GOOD, run_id=NEW), JOB, Rule(), {CHECKPOINTS}),
        (replace(GOOD, run_id=NEW), replace(JOB, newest=frozenset()), Rule(), {CHECKPOINTS}),
        # Among the newest, and not in use: its rows stay.
        (GOOD, replace(JOB, newest=frozenset({OLD})), Rule(), {CHECKPOINTS, EXPORTS}),
        (FAILED, replace(JOB, newest=frozenset({OLD})), Rule(), set()),
        # The settings.
        (GOOD, JOB, Rule(keep_runs=0), {CHECKPOINTS, EXPORTS}),
        (FAILED, JOB, Rule(keep_runs=0), set()),
        (GOOD, JOB, Rule(keep_checkpoints=True), {CHECKPOINTS, ROWS, EXPORTS}),
        (replace(GOOD, run_id=NEW), JOB, Rule(keep_checkpoints=True), set()),
        (replace(GOOD, run_id=CURRENT), JOB, Rule(keep_checkpoints=True), set()),
        (GOOD, JOB, Rule(keep_exports=True), {CHECKPOINTS, ROWS}),
        (GOOD, JOB, Rule(keep_runs=0, keep_checkpoints=True, keep_exports=True), set()),
        # Its checkpoints are all that is left of its training.
        (replace(GOOD, adapter_is_whole=False), JOB, Rule(), {ROWS}),
        # A later run went on from its adapter: `replay` learns its rows again.
        (GOOD, replace(JOB, learned_from=frozenset({OLD})), Rule(), {CHECKPOINTS, EXPORTS}),
        # A person asked for its exports.
        (replace(GOOD, exported_by_hand=True), JOB, Rule(), {CHECKPOINTS, ROWS}),
        # Where nothing is in use, exports may be served from the run's own folder.
        (GOOD, NO_HISTORY, Rule(), {CHECKPOINTS, ROWS}),
        # A person has still to decide about it; one before the run in use was passed over.
        (
            replace(GOOD, run_id=NEW, awaits_approval=True),
            replace(JOB, newest=frozenset(), last_good=CURRENT),
            Rule(),
            {CHECKPOINTS},
        ),
        (replace(GOOD, awaits_approval=True), JOB, Rule(), {CHECKPOINTS, ROWS, EXPORTS}),
        (replace(GOOD, awaits_approval=True), NO_HISTORY, Rule(), {CHECKPOINTS}),
    ],
)
def test_what_goes(run: RunFacts, job: JobFacts, rule: Rule, gone: set[Part]) -> None:
    """Never what serves, brings back, rates or measures the run in use or the last good one."""
    assert may_go(run, job, rule) == gone


def test_a_run_without_its_rows_is_not_measured() -> None:
    """The refusal says when they went, why, and which setting decides it."""
    check_cleared(record())
    with pytest.raises(RunnerError) as caught:
        check_cleared(record(cleared=Cleared(at=NOW)))
    assert "removed on 2026-11-26, because its job has newer runs" in caught.value.message
    assert "RUNNER_KEEP_RUNS" in str(caught.value.advice)
