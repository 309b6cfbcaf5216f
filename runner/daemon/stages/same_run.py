"""The same spec dropped twice: find the earlier run that had the same spec, data and model."""

from __future__ import annotations

from runner.contract.layout import Outputs
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.errors import RunnerError

_LOOKED_AT = 20  # the job's newest runs: whoever drops a spec twice does so soon
_SO_FAR = {
    State.SUCCEEDED: "which succeeded",
    State.FAILED: "which failed",
    State.CANCELLED: "which was cancelled",
}


def same_run_notes(outputs: Outputs, record: RunRecord) -> tuple[str, ...]:
    """Say that a prepared run repeats an earlier one; nothing where it does not."""
    for run in outputs.runs_of(record.job)[-_LOOKED_AT:][::-1]:
        if run.run_id == record.run_id:
            continue
        try:
            earlier = read_record(run.record)
        except (OSError, RunnerError):
            continue
        # By the order of their claims: the clock may have been put back in between.
        if earlier.sequence < record.sequence and _is_same(earlier, record):
            so_far = _SO_FAR.get(earlier.state, "which is not finished yet")
            return (f"This is the same spec and data as run {run.run_id}, {so_far}.",)
    return ()


def _is_same(one: RunRecord, other: RunRecord) -> bool:
    def inputs(record: RunRecord) -> tuple[object, ...]:
        model = record.model and (record.model.id, record.model.sha256)
        files = tuple((file.path, file.sha256) for file in record.data)
        return record.spec_sha256, files, model

    return bool(one.data) and one.state is not State.REJECTED and inputs(one) == inputs(other)
