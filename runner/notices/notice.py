"""Notice: what is told of a run, of a change by hand, of a lost card: names, never a row.

It goes out of the box, so it holds no sentence of an error either: those name files and columns.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from runner.contract.gate import Decision
from runner.contract.layout import JOB_NAME_BYTES, RUN_ID
from runner.contract.promotions import GATE, Change, How
from runner.contract.record import RunRecord
from runner.contract.record_head import Outcome
from runner.contract.record_time import Time
from runner.contract.states import State
from runner.errors import DamagedError
from runner.files.plain import read_plain
from runner.files.unreadable import require_storage

_BYTES = 16 * 1024  # one has some 300
SUFFIX = ".json"
_STAMP = "%Y%m%dT%H%M%SZ"  # as run ids begin: notices lie in the order of what happened


class Kind(StrEnum):
    """What a person is to do about it; each can be sent elsewhere."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NEEDS_PERSON = "needs_person"
    """It succeeded, and somebody should look before anybody uses its adapter, or decide."""
    IN_USE = "in_use"
    """Somebody has put an adapter into use, or an earlier one into use again."""
    CARD_LOST = "card_lost"
    """The GPU is away, and nothing is trained until it is back."""


class Notice(BaseModel):
    """That a run has ended, or that something else has happened which people should know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    kind: Kind
    happened_at: Time
    event: str | None = Field(None, pattern=r"^\d{8}T\d{6}Z-(use-[0-9a-f]{12}|card)$")
    """What names its file, where it is no run's end."""
    job: str | None = Field(None, max_length=JOB_NAME_BYTES)
    run_id: str | None = Field(None, pattern=f"^{RUN_ID.pattern}$")
    """The run that has ended, or whose adapter is in use now."""
    state: State | None = None
    how: How | None = None
    """How the adapter came into use."""
    verdict: Outcome | None = None
    changed: bool | None = None
    """False: the adapter has no effect at all."""
    promotion: Decision | None = None
    error_kind: str | None = Field(None, max_length=100)
    """The name of what went wrong, such as ``bad_data``."""

    @model_validator(mode="after")
    def _is_whole(self) -> Notice:
        is_change, is_card = self.kind is Kind.IN_USE, self.kind is Kind.CARD_LOST
        is_end = not is_change and not is_card
        wanted = {
            "event": not is_end,
            "job": not is_card,
            "run_id": not is_card,
            "state": is_end,
            "how": is_change,
        }
        if any((getattr(self, name) is not None) is not held for name, held in wanted.items()):
            raise ValueError(f"is no notice of the kind {self.kind}")
        return self

    @property
    def id(self) -> str:
        """Name it; a run ends once."""
        return self.event or str(self.run_id)


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
        happened_at=record.ended_at or record.created_at,
        verdict=verdict.outcome if verdict else None,
        changed=verdict.changed if verdict else None,
        promotion=promotion,
        error_kind=record.error.kind[:100] if record.error else None,
    )


def notice_of_change(job: str, change: Change) -> Notice | None:
    """Make the notice of a change by hand; None: the gate's is told with its run's end."""
    if change.by == GATE or not change.run_id:
        return None
    told = f"{job} {change.model_dump_json()}"
    digest = hashlib.sha256(told.encode(errors="backslashreplace")).hexdigest()[:12]
    return Notice(
        kind=Kind.IN_USE,
        happened_at=change.time,
        event=f"{change.time.astimezone(UTC):{_STAMP}}-use-{digest}",
        job=job,
        run_id=change.run_id,
        how=change.how,
    )


def notice_of_lost_card(at: datetime) -> Notice:
    """Make the notice that the card is away."""
    event = f"{at.astimezone(UTC):{_STAMP}}-card"
    return Notice(kind=Kind.CARD_LOST, happened_at=at, event=event)


def file_name(notice_id: str) -> str:
    """Name a notice's file."""
    return f"{notice_id}{SUFFIX}"


def read_notice(path: Path) -> Notice:
    """Read one.

    Raises:
        DamagedError: the file is none.
        UnreadableError: it cannot be read now.
    """
    try:
        found = Notice.model_validate(json.loads(read_plain(path, limit_bytes=_BYTES)))
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        require_storage(error, path)
        advice = "It is passed over; the run's report is in outputs/."
        raise DamagedError(f"{path.name} is no notice", advice=advice) from error
    if file_name(found.id) != path.name:
        raise DamagedError(f"{path.name} is another notice", advice="It is passed over; delete it.")
    return found


def is_old(happened_at: datetime, at: datetime, *, seconds: float) -> bool:
    """Whether it happened so long ago; a clock that was set back makes nothing old."""
    return (at - happened_at).total_seconds() > seconds
