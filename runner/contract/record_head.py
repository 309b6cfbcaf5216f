"""The head of a record: what lists of runs show of each, read without the rest of run.json.

`runner status` is called by scripts and by people who wait. To build the models of a whole record
takes pydantic a tenth of a second; `RunRecord` adds the rest to this one.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.contract.batch import BatchPlan
from runner.contract.rates import RatesTried
from runner.contract.record_time import Time
from runner.contract.states import State
from runner.errors import DamagedError, NewerRecordError
from runner.files.plain import read_plain

SCHEMA_VERSION = 2
RECORD_BYTES = 8 * 1024 * 1024  # a larger run.json is damaged or not ours
GUESSING = "guessing"
"""Why nothing can be told of a loss that no choice of words at random would have."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Waiting(_Part):
    """Why a run that could go on does not."""

    reason: str
    since: Time
    until: Time | None = None
    """When the run is rejected if what it waits for has not come; None: it waits on."""
    again_at: Time | None = None
    """The earliest time at which it is tried again, where that is known."""
    advice: str | None = None
    """What a person can do about it."""


class CardUsed(_Part):
    """A card that an attempt trained on."""

    number: str
    """As people call it: its number on the host, or its UUID where it was named by that."""
    name: str = ""
    """The model's; empty: the driver did not say."""
    uuid: str = ""


class Attempt(_Part):
    """One process of the train stage."""

    number: int
    token: str = ""
    """Drawn by the daemon: part of the name of its folder. Nothing that was written for another
    one is adopted, nor for this one once it has an outcome. Empty: an older runner's."""
    box: str = ""
    """The further box that trains it (docs/cluster.md); empty: this one."""
    fenced: bool = False
    """Its box was not seen any more before it ended: its result counts for nothing, and the run
    goes on from what it had sealed."""
    batch_plan: BatchPlan
    started_at: Time
    ended_at: Time | None = None
    seconds: float | None = None
    """How long it worked, by a clock that does not jump; None: it is open, or an older runner's."""
    outcome: str | None = None
    """``succeeded``, ``out of memory``, ``interrupted``, ``killed``, …; None while it is open."""
    exit_code: int | None = None
    """The child's status; negative: the signal that ended it."""
    first_step: int | None = None
    """The first optimizer step that this attempt counts for (1-based)."""
    last_step: int | None = None
    """The last one; after a hard kill it is the resumed checkpoint's."""
    peak_gpu_memory_bytes: int | None = None
    """Of one card: of several, the one that took most."""
    cards: tuple[CardUsed, ...] = ()
    """Those that it trained on; none: the processor, or an older runner's."""
    ranks: int = 1
    """Processes that trained, one a card."""
    shard_base: bool = False
    """The cards shared the base model: none had the room for all of it."""
    left_fast_path: bool = False
    """The fast path failed in the middle of it: it went on plainly, and later attempts begin so."""
    reason: str | None = None

    @property
    def got_further(self) -> bool:
        """Whether it left a new durable step."""
        return (self.last_step or 0) >= (self.first_step or 1)


class ErrorFacts(_Part):
    """Why a run did not succeed, and what to do next."""

    kind: str
    message: str
    advice: str | None = None


class Outcome(StrEnum):
    """What the held-out rows say about an adapter."""

    BETTER = "better"
    NO_DIFFERENCE = "no_difference"
    WORSE = "worse"
    CANNOT_TELL = "cannot_tell"


class VerdictHead(_Part):
    """Whether a run's adapter is better than what was before, without the figures."""

    outcome: Outcome
    changed: bool | None = None
    """False: the adapter has no effect at all; None: not known."""
    why: str | None = None
    """The name of the reason in the table of texts; None: an older runner's."""
    reason: str
    """For a person who is not an engineer."""

    @property
    def needs_person(self) -> bool:
        """Whether somebody should look before anybody uses the adapter."""
        is_useless = self.changed is False or self.why == GUESSING
        return is_useless or self.outcome in (Outcome.WORSE, Outcome.NO_DIFFERENCE)


class RecordHead(_Part):
    """What lists show of a run; all else that its record holds is in ``model_extra``, unchecked."""

    schema_version: int = SCHEMA_VERSION
    job: str
    run_id: str
    state: State
    priority: int = 0
    sequence: int = 0
    """Order of the claim; with the priority it decides who is next."""
    created_at: Time
    started_at: Time | None = None
    """When the first stage began."""
    ended_at: Time | None = None
    waiting: Waiting | None = None
    batch_plan: BatchPlan | None = None
    total_steps: int | None = None
    """Optimizer steps of the whole run, known after prepare."""
    rates: RatesTried | None = None
    """Learning rates that are compared before the training; None: that was not asked for."""
    attempts: tuple[Attempt, ...] = ()
    forecast: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    verdict: VerdictHead | None = None
    """Whether its adapter is better than what was before; None until it has been measured."""
    error: ErrorFacts | None = None


_Read = TypeVar("_Read", bound=RecordHead)


def read_head(path: Path) -> RecordHead:
    """Read the head of a record of any schema version.

    Raises:
        NewerRecordError: a newer runner wrote it, in a way that this one cannot read.
        DamagedError: the file is no record.
        OSError: it could not be read at all.
    """
    return read_as(RecordHead, path)[0]


def read_as(model: type[_Read], path: Path) -> tuple[_Read, object]:
    """Read a record, or its head, and give the schema version that the file names.

    Raises:
        NewerRecordError: a newer runner wrote it, in a way that this one cannot read.
        DamagedError: the file is no record.
        OSError: it could not be read at all.
    """
    content = read_plain(path, limit_bytes=RECORD_BYTES)
    fields: Any = None
    try:
        # A cut record is no JSON: one that is too large is damaged like any other.
        fields = json.loads(content[:RECORD_BYTES])
        # Not indented: that is Python's own encoder, and takes ten times as long.
        json.dumps(
            fields, ensure_ascii=False, allow_nan=False
        ).encode()  # what could not be written again (NaN, half a character) is not ours
        return model.model_validate(fields), fields.get("schema_version")
    except (ValueError, ValidationError, RecursionError) as error:
        where = f"{path.parent.name}/{path.name}"
        version = fields.get("schema_version") if isinstance(fields, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise NewerRecordError(
                f"{where} was written by a newer version of the runner",
                advice="It is left as it is; start that version again.",
            ) from error
        raise DamagedError(
            f"{where} cannot be read as a run's record",
            advice="`runner show` shows what can be recovered.",
        ) from error
