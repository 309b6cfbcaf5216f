"""Start from: a run goes on from the adapter in use, where that has the same shape."""

from __future__ import annotations

from dataclasses import dataclass

from runner.contract.layout import Outputs, RunFolder
from runner.contract.promotions import current_run
from runner.contract.record import ErrorFacts, RunRecord
from runner.contract.states import TRAINS
from runner.spec.adapter_fits import other_base, other_shape
from runner.spec.spec import JobSpec

NOTHING_IN_USE = "No adapter was in use to start from (start_from: current): it began afresh."


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run starts."""

    run_id: str | None = None
    """The run whose adapter it goes on from; None: afresh."""
    note: str | None = None
    problem: ErrorFacts | None = None
    """Why it cannot start so."""
    choose_again: bool = False
    """The box itself chose an adapter when the rows were prepared, and that fits no more."""


def choose_start(outputs: Outputs, record: RunRecord, spec: JobSpec) -> Start:
    """Find the adapter that a run starts from; one that was chosen once stays so."""
    if spec.start_from == "fresh":
        return Start()
    if spec.start_from == "auto":  # prepare has decided it, by the rows
        if record.started_from is None:
            return Start()
        what = _misfit(outputs.run(record.job, record.started_from), record, spec)
        return Start(choose_again=True) if what else Start(run_id=record.started_from)
    run_id = record.started_from or current_run(outputs, record.job)
    trains = record.next_stage in TRAINS
    began = record.rates is not None and record.rates.steps > 0
    if record.started_from is None and trains and (spec.replay is not None or began):
        # Nothing was in use when its rows were chosen, which are all of the data's, or when the
        # first of its small runs began, with which the others are compared.
        run_id = None
    if run_id is None:
        return Start(note=NOTHING_IN_USE)
    run = outputs.run(record.job, run_id)
    what = _misfit(run, record, spec)
    if what is None:
        return Start(run_id=run_id)
    advice = "Give the spec the same values, or leave start_from out to begin afresh."
    if not run.adapter.is_dir():
        advice = (
            f"Take outputs/{record.job}/{run_id}/ back from a backup, or put another run into use "
            f"(`runner rollback {record.job}`); or leave start_from out to begin afresh."
        )
    problem = ErrorFacts(
        kind="bad_spec",
        message=f"start_from: current cannot go on from {record.job}/{run_id}: {what}",
        advice=advice,
    )
    return Start(problem=problem)


def _misfit(run: RunFolder, record: RunRecord, spec: JobSpec) -> str | None:
    base = None if record.model is None else other_base(run, record.model)  # known from prepare on
    return base or other_shape(run, spec)
