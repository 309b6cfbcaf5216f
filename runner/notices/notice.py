"""Notice: what is told of a run that has ended: names, states and verdicts, never a row.

It goes out of the box, so it holds no sentence of an error either: those name files and columns.
"""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.contract.gate import Decision
from runner.contract.layout import JOB_NAME_BYTES, RUN_ID
from runner.contract.record import RunRecord
from runner.contract.record_head import Outcome
from runner.contract.record_time import Time
from runner.contract.states import State
from runner.errors import DamagedError
from runner.files.plain import read_plain

_BYTES = 16 * 1024  # one has some 300
SUFFIX = ".json"


class Kind(StrEnum):
    """What a person is to do about it; each can be sent elsewhere."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NEEDS_PERSON = "needs_person"
    """It succeeded, and somebody should look before anybody uses its adapter, or decide."""


class Notice(BaseModel):
    """That a run has ended."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    kind: Kind
    job: str = Field(max_length=JOB_NAME_BYTES)
    run_id: str = Field(pattern=f"^{RUN_ID.pattern}$")
    state: State
    ended_at: Time
    verdict: Outcome | None = None
    changed: bool | None = None
    """False: the adapter has no effect at all."""
    promotion: Decision | None = None
    error_kind: str | None = Field(None, max_length=100)
    """The name of what went wrong, such as ``bad_data``."""


def notice_of(record: RunRecord) -> Notice | None:
    """Make the notice of a run that has ended; None: whoever cancelled it knows."""
    if not record.state.is_final or record.state is State.CANCELLED:
        return None
    promotion = record.promotion.decision if record.promotion else None
    verdict = record.verdict
    kind = Kind.SUCCEEDED
    if record.state is not State.SUCCEEDED:
        kind = Kind.FAILED
    elif promotion is Decision.AWAITS or (verdict is not None and verdict.needs_person):
        kind = Kind.NEEDS_PERSON
    return Notice(
        kind=kind,
        job=record.job,
        run_id=record.run_id,
        state=record.state,
        ended_at=record.ended_at or record.created_at,
        verdict=verdict.outcome if verdict else None,
        changed=verdict.changed if verdict else None,
        promotion=promotion,
        error_kind=record.error.kind[:100] if record.error else None,
    )


def file_name(run_id: str) -> str:
    """Name the file of a run's notice: a run ends once."""
    return f"{run_id}{SUFFIX}"


def read_notice(path: Path) -> Notice:
    """Read one.

    Raises:
        DamagedError: the file is none.
    """
    try:
        found = Notice.model_validate(json.loads(read_plain(path, limit_bytes=_BYTES)))
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        advice = "It is passed over; the run's report is in outputs/."
        raise DamagedError(f"{path.name} is no notice", advice=advice) from error
    if file_name(found.run_id) != path.name:
        raise DamagedError(
            f"{path.name} is another run's notice", advice="It is passed over; delete it."
        )
    return found


def is_old(ended_at: datetime, at: datetime, *, seconds: float) -> bool:
    """Whether a run ended so long ago; a clock that was set back makes nothing old."""
    return (at - ended_at).total_seconds() > seconds
