"""The record, run.json: the truth about a run; the daemon is its only writer.

The schema has a version. A record of an older version is upgraded while it is read; fields that
this version does not know are kept, so that an older runner loses nothing that a newer one wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from runner.contract.evaluation import Evaluation
from runner.contract.findings import DataFinding
from runner.contract.gate import Promotion
from runner.contract.handed_over import HandedOver
from runner.contract.method_choice import MethodChoice
from runner.contract.rating import Rating
from runner.contract.record_head import RECORD_BYTES as RECORD_BYTES  # noqa: PLC0414
from runner.contract.record_head import SCHEMA_VERSION, RecordHead, read_as
from runner.contract.record_head import Attempt as Attempt  # noqa: PLC0414
from runner.contract.record_head import CardUsed as CardUsed  # noqa: PLC0414
from runner.contract.record_head import ErrorFacts as ErrorFacts  # noqa: PLC0414
from runner.contract.record_head import Waiting as Waiting  # noqa: PLC0414
from runner.contract.record_time import Time as Time  # noqa: PLC0414 - others find it here
from runner.contract.start_choice import StartChoice
from runner.contract.states import Stage
from runner.contract.verdict import Verdict
from runner.files.durable import write_json


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Falls(_Part):
    """How often a run was cut off because the machine or the runner went down under it."""

    times: int
    """In a row, without a new durable step or a finished stage in between."""
    last_at: Time
    """When the newest one was found out: at the start that followed it."""


class DataFile(_Part):
    """One file of the snapshot; hash and size come from the bytes that were copied."""

    path: str
    """As the spec names it."""
    sha256: str
    bytes: int
    rows: int


class DataChange(_Part):
    """How a run's rows differ from those of the job's run before it."""

    new: int
    changed: int
    """The same question with another answer."""
    gone: int
    rows_before: int


class Replay(_Part):
    """Old rows that a run learned again beside its new ones (``replay`` in the spec)."""

    run_id: str
    """The run whose adapter it went on from."""
    share: float
    old: int
    """Rows that this adapter was trained on and that could be learned again."""
    replayed: int
    new: int
    """Rows that it was not trained on."""
    gone_runs: tuple[str, ...] = ()
    """Runs that it had learned from and whose rows are not known any more."""

    def sentence(self) -> str:
        """Say it in words."""
        old = f"of the rows that the adapter in use ({self.run_id}) was trained on"
        again = f"{self.replayed} of {self.old} are learned again (replay); new rows: {self.new}"
        return f"{old}, {again}"


class Erased(_Part):
    """A run's rows were erased, with all that was made from them."""

    at: Time
    by: str
    """Who asked for it."""
    adapter: bool = False
    """Whether the adapter went as well."""


class Cleared(_Part):
    """Its copied data and tokens went because the job has newer runs (``RUNNER_KEEP_RUNS``)."""

    at: Time


class ModelFacts(_Part):
    """Which base model the run stands on."""

    id: str
    revision: str | None = None
    """The hub's commit, where the model was fetched from one."""
    sha256: str | None = None
    """Hash over the names, sizes and hashes of its configuration and weight index or headers."""
    architecture: str | None = None
    parameters: int | None = None


class RunRecord(RecordHead):
    """The truth about a run."""

    next_stage: Stage | None = None
    """What is to be done next, or is under way; None once the run is over."""
    trigger: str = "drop"
    """What started the run: ``drop``, ``schedule``, ``submit``."""
    file_name: str
    """The name under which the spec was dropped."""
    spec_sha256: str
    data: tuple[DataFile, ...] = ()
    data_change: DataChange | None = None
    model: ModelFacts | None = None
    effective_batch_size: int | None = None
    """Examples per optimizer step; None: it is left to the box, which has not counted the rows."""
    method: MethodChoice | None = None
    """What was chosen where the spec says `method: auto`; None: it names one, or not yet."""
    tries: dict[str, int] = Field(default_factory=dict)
    """How often each stage other than train was started, but for starts that went down with the
    machine."""
    falls: Falls | None = None
    """None: it has got further since the machine last went down under it."""
    environment: dict[str, Any] = Field(default_factory=dict)
    verdict: Verdict | None = None
    """Whether its adapter is better than what was before; None until it has been measured."""
    evaluation: Evaluation | None = None
    """The scores that the verdict stands on; `evaluation/scores.jsonl` has each row's."""
    handed_over: HandedOver | None = None
    """Forms made for serving it (`export` in the spec, `runner export`), each with its figures."""
    started_from: str | None = None
    """The run whose adapter it went on from; None: it began afresh."""
    start: StartChoice | None = None
    """Whether it was to go on from the adapter in use, and why; None: that was not the box's to
    choose, or nothing was in use."""
    replay: Replay | None = None
    """Old rows that were learned again; None: all were learned."""
    rating: Rating | None = None
    """What experts found who marked its answers beside another's without knowing which is which."""
    promotion: Promotion | None = None
    """Whether its adapter was to take the place of the one in use, and why; None until then."""
    shortfalls: tuple[str, ...] = ()
    """What the run did not do as one might expect, in sentences: rows left out, ChatML used, …"""
    findings: tuple[DataFinding, ...] = ()
    """What the checks say of the data, the most serious first; `prepared/findings.json` has the
    figures, too."""
    erased: Erased | None = None
    """None: what it learned from is still there, as far as the box knows."""
    cleared: Cleared | None = None
    """None: its data and tokens were not removed by the box itself."""

    def but(self, **changes: Any) -> RunRecord:
        """Give the same record with some fields changed and checked."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return RunRecord.model_validate({**(self.model_extra or {}), **fields, **changes})


def write_record(path: Path, record: RunRecord) -> None:
    """Replace the record durably."""
    write_json(path, record.model_dump(mode="json"))


def upgraded(record: RunRecord, *, version: object) -> RunRecord:
    """Bring a record of an older schema to this one.

    Version 2 names the next stage. Before, it followed from what the earlier stages had left.
    """
    if record.state.is_final or record.next_stage is not None:
        wanted = record.next_stage
    elif record.total_steps is None:
        wanted = Stage.PREPARE
    elif not any(attempt.outcome == "succeeded" for attempt in record.attempts):
        wanted = Stage.TRAIN
    else:
        wanted = Stage.EVALUATE if "adapter_files" in record.metrics else Stage.EXPORT
    is_older = isinstance(version, int) and version < SCHEMA_VERSION
    changes = {"schema_version": SCHEMA_VERSION} if is_older else {}
    return record.but(next_stage=wanted, **changes) if changes or wanted else record


def read_record(path: Path) -> RunRecord:
    """Read a record of any schema version.

    Raises:
        NewerRecordError: a newer runner wrote it, in a way that this one cannot read.
        DamagedError: the file is no record.
        OSError: it could not be read at all.
    """
    record, version = read_as(RunRecord, path)
    return upgraded(record, version=version)
