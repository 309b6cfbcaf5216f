"""Start: what is known of the adapter in use and of its rows, where the box chooses the start.

``start_from: auto`` in a spec with a schedule; contract/start_choice.py decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from runner.contract.layout import RUN_ID, RunFolder
from runner.contract.models import describe_model
from runner.contract.record import RunRecord, read_record
from runner.contract.stage_io import PreparePlan
from runner.contract.start_choice import StartFacts
from runner.contract.states import State
from runner.errors import RunnerError
from runner.spec.adapter_fits import other_base, other_shape
from runner.spec.spec import JobSpec
from runner.training.data.base import Base
from runner.training.data.learned import learned_by
from runner.training.data.token_table import HELD_OUT, TRAIN, Rows


def look_at_adapter(
    plan: PreparePlan, spec: JobSpec, spec_bytes: bytes, base: Base
) -> StartFacts | None:
    """Say what is known of the adapter in use before the rows are; None: nothing is to choose."""
    if not spec.leaves_start or plan.replay_from is None:
        return None
    run = RunFolder(Path(plan.replay_from))
    record = _record_of(run)
    model = describe_model(base.folder, spec.model)
    whole = (run.adapter / "adapter_model.safetensors").is_file()
    return StartFacts(
        run_id=run.run_id,
        usual_settings=not spec.rates_tried and spec.training.max_steps is None,
        same_spec=record is None or record.spec_sha256 == hashlib.sha256(spec_bytes).hexdigest(),
        fits=whole and (other_base(run, model) or other_shape(run, spec)) is None,
        went_on=any(one.started_from == run.run_id for one in _ended(run)),
    )


def with_rows(facts: StartFacts, source: Path, rows: Rows, part: Any) -> StartFacts:
    """Add what the data says of the rows that the adapter in use has learned.

    Args:
        facts: those of the adapter.
        source: the folder of its run.
        rows: those of the data.
        part: what becomes of each where all are learned.
    """
    runs, gone = learned_by(RunFolder(source))
    known = [one.rows.content[one.known] for one in runs]
    old = np.unique(np.concatenate([np.zeros(0, "uint64"), *known]))
    trained, held = part == TRAIN, part == HELD_OUT
    learned_now = trained & ~np.isin(rows.place, rows.place[held])
    there = np.isin(old, rows.content)
    kept = np.isin(old, rows.content[learned_now])
    new = np.unique(rows.content[trained])
    return replace(
        facts,
        goings_on=len(runs) + len(gone) - 1,
        rows_known=not gone,
        old=len(old),
        gone=int((~there).sum()),
        held_out=int((there & ~kept).sum()),
        new=int((~np.isin(new, old)).sum()),
    )


def _ended(run: RunFolder) -> Iterator[RunRecord]:
    """Give the runs of its job that have ended, but for those that somebody cancelled."""
    for folder in sorted(run.root.parent.iterdir()):
        if RUN_ID.fullmatch(folder.name):
            record = _record_of(RunFolder(folder))
            if record and record.state.is_final and record.state is not State.CANCELLED:
                yield record


def _record_of(run: RunFolder) -> RunRecord | None:
    try:
        return read_record(run.record)
    except (OSError, RunnerError):
        return None
