"""Gather: everything that a run's folder tells, for its report. Any file may be missing or torn.

Nothing here fails on what it finds: the folder may be half-written, damaged or hostile, and the
report of such a run is wanted most of all. Sizes are limited, links are not followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.contract.findings import DataFinding, in_order, read_findings
from runner.contract.handed_over import SERVED_ANSWERS
from runner.contract.in_use import Use, use_of
from runner.contract.layout import RunFolder
from runner.contract.preview import Preview, read_preview
from runner.contract.progress import Progress, read_progress
from runner.contract.record import RunRecord, read_record
from runner.contract.row_losses import RowLosses, read_row_losses, with_more
from runner.contract.salvage import salvage
from runner.contract.states import State
from runner.errors import DamagedError
from runner.files.plain import read_plain
from runner.report.curve import Curve, read_curve

SPEC_BYTES = 64 * 1024  # a longer spec is cut, and the page says so
_SAMPLES_BYTES = 4 * 1024 * 1024
_LOSSES_BYTES = 64 * 1024 * 1024  # of a million held-out rows
_CARD_BYTES = 256 * 1024
_SNIPPET = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FORM = re.compile(r"[a-z0-9_]{1,40}")
_HIGHEST_LOSS = 1e9  # more is no loss; it is false of what is no number, too
EXTREMES = 3  # held-out rows shown at each end


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One held-out question with its answers."""

    question: str
    before: str
    after: str
    reference: str
    served: tuple[tuple[str, str], ...] = ()
    """What each GGUF file answered in llama.cpp: its form, and the answer."""


_TEXTS = ("question", "before", "after", "reference")


@dataclass(frozen=True, kw_only=True)
class RowLoss:
    """One held-out row's loss per token, before and after."""

    row: int
    before: float
    after: float
    question: str = ""
    answer: str = ""
    """As the data has it."""
    said_before: str | None = None
    said_after: str | None = None
    """What base and adapter answered; None: they were not asked."""

    @property
    def improvement(self) -> float:
        """Above zero: its answer has become more likely."""
        return self.before - self.after


@dataclass(frozen=True, kw_only=True)
class HeldOutRows:
    """How the held-out rows did, one by one."""

    count: int
    better: int
    worse: int
    best: tuple[RowLoss, ...]
    worst: tuple[RowLoss, ...]

    @property
    def some_asked(self) -> bool:
        """Whether base and adapter were asked any of the rows shown."""
        return any(one.said_after is not None for one in (*self.best, *self.worst))


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What is known of a run."""

    record: RunRecord
    progress: Progress | None = None
    """While it trains."""
    spec: str = ""
    curve: Curve = field(default_factory=Curve)
    samples: tuple[Sample, ...] = ()
    held_out: HeldOutRows | None = None
    findings: tuple[DataFinding, ...] = ()
    row_losses: RowLosses = field(default_factory=RowLosses)
    """How likely the base found single answers before any training."""
    measured_rows: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """Question and answer of those that are shown, by the row's place in the data."""
    preview: Preview | None = None
    snippet: str | None = None
    """Python that loads the adapter, from its card."""
    has_adapter: bool = False
    use: Use | None = None
    """Whether its adapter is in use; None: that cannot be known."""


def gather(run: RunFolder) -> Gathered:
    """Read a run's folder.

    Raises:
        NewerRecordError, OSError: there is no record that this version could read.
    """
    try:
        record = read_record(run.record)
    except DamagedError:
        record = salvage(run)
    losses = read_row_losses(run)
    return Gathered(
        record=record,
        progress=read_progress(run, record) if record.state is State.TRAINING else None,
        spec=_text(run.spec, SPEC_BYTES),
        curve=read_curve(run, record),
        use=use_of(run),
        samples=_samples(run, record),
        held_out=_held_out(run),
        findings=_findings(run, record, losses),
        row_losses=losses,
        measured_rows={
            row: (str(one.get("question") or ""), str(one.get("answer") or ""))
            for row, one in _texts(run.measured_rows).items()
        },
        preview=read_preview(run.preview),
        snippet=_snippet(run.adapter / "README.md"),
        has_adapter=(run.adapter / "adapter_model.safetensors").is_file(),
    )


def gather_result(run: RunFolder, record: RunRecord) -> Gathered:
    """Do the same of what is first seen of a run: where it stands, its curve, some answers."""
    return Gathered(
        record=record,
        progress=read_progress(run, record) if record.state is State.TRAINING else None,
        curve=read_curve(run, record),
        use=use_of(run),
        samples=_samples(run, record),
        has_adapter=(run.adapter / "adapter_model.safetensors").is_file(),
    )


def _findings(run: RunFolder, record: RunRecord, losses: RowLosses) -> tuple[DataFinding, ...]:
    """Put together what is known of the data; the record lacks the figures of what only informs."""
    measured = with_more(read_findings(run.findings), losses.findings)
    return in_order(with_more(record.findings, measured))


def _text(path: Path, limit: int) -> str:
    try:
        return read_plain(path, limit_bytes=limit).decode(errors="replace")
    except OSError:
        return ""


def _json(path: Path, limit: int) -> Any:
    try:
        return json.loads(read_plain(path, limit_bytes=limit))
    except (OSError, ValueError, RecursionError):
        return None


def _samples(run: RunFolder, record: RunRecord) -> tuple[Sample, ...]:
    served = _served_answers(run, record)
    return tuple(
        Sample(
            **{name: str(one.get(name) or "") for name in _TEXTS},
            served=tuple(
                (form, answers[question])
                for form, answers in served.items()
                if (question := str(one.get("question") or "")) in answers
            ),
        )
        for one in _rows(run.evaluation / "samples.json")
    )


def _served_answers(run: RunFolder, record: RunRecord) -> dict[str, dict[str, str]]:
    """Read what each GGUF file answered to the questions of the samples: form → question → answer.

    A form that was made in an earlier stage has none any more.
    """
    found = {}
    for form in record.handed_over.forms if record.handed_over else ():
        if _FORM.fullmatch(form.name):
            rows = _rows(run.hand_over / f"{form.name}{SERVED_ANSWERS}")
            found[form.name] = {
                str(one.get("question") or ""): str(one.get("answer") or "") for one in rows
            }
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    found = _json(path, _SAMPLES_BYTES)
    return [one for one in (found if isinstance(found, list) else []) if isinstance(one, dict)]


def _held_out(run: RunFolder) -> HeldOutRows | None:
    found = _json(run.evaluation / "losses.json", _LOSSES_BYTES)
    rows = []
    for one in found if isinstance(found, list) else []:
        if not isinstance(one, dict):
            continue
        row, before, after = one.get("row"), _loss(one.get("before")), _loss(one.get("after"))
        if isinstance(row, int) and before is not None and after is not None:
            rows.append(RowLoss(row=row, before=before, after=after))
    if not rows:
        return None
    rows.sort(key=lambda one: (-one.improvement, one.row))
    texts = _texts(run.extremes)
    ends = min(EXTREMES, (len(rows) + 1) // 2)
    return HeldOutRows(
        count=len(rows),
        better=sum(one.improvement > 0 for one in rows),
        worse=sum(one.improvement < 0 for one in rows),
        best=tuple(_with_texts(rows[:ends], texts)),
        worst=tuple(_with_texts(rows[max(ends, len(rows) - ends) :][::-1], texts)),
    )


def _texts(path: Path) -> dict[int, dict[str, Any]]:
    """Read the rows at both ends: question and answer, and what was answered where it was asked."""
    found = _json(path, _SAMPLES_BYTES)
    return {
        one["row"]: one
        for one in (found if isinstance(found, list) else [])
        if isinstance(one, dict) and isinstance(one.get("row"), int)
    }


def _with_texts(rows: list[RowLoss], texts: dict[int, dict[str, Any]]) -> Iterator[RowLoss]:
    for one in rows:
        text = texts.get(one.row, {})
        before, after = text.get("before"), text.get("after")
        yield replace(
            one,
            question=str(text.get("question") or ""),
            answer=str(text.get("answer") or ""),
            said_before=None if before is None else str(before),
            said_after=None if after is None else str(after),
        )


def _loss(value: object) -> float | None:
    return value if isinstance(value, int | float) and abs(value) < _HIGHEST_LOSS else None


def _snippet(path: Path) -> str | None:
    match = _SNIPPET.search(_text(path, _CARD_BYTES).replace("\r\n", "\n"))
    return match[1] if match else None
