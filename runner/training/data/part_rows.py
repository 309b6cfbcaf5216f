"""Part the rows: each is learned, held out, or left out because it is longer than the limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from runner.contract.models import longest_context
from runner.contract.stage_io import PreparePlan
from runner.contract.start_choice import REPLAY, StartChoice, StartFacts, choose_by_itself, sentence
from runner.contract.verdict import smallest_points
from runner.errors import DataError, Problem
from runner.forecast import work as forecast_work
from runner.forecast.lengths import Lengths
from runner.forecast.model_shape import read_shape
from runner.forecast.what_fits import longest_row
from runner.spec.data_files import matches
from runner.spec.spec import JobSpec
from runner.training.data.base import Base
from runner.training.data.findings import Findings
from runner.training.data.flow import Source
from runner.training.data.replay import Chosen, choose_replay
from runner.training.data.snapshot import Copied
from runner.training.data.split import hold_out
from runner.training.data.start import with_rows
from runner.training.data.token_table import HELD_OUT, LEFT_OUT, TRAIN, Rows, open_row_table

LEFT_OUT_SHARE = 0.05  # of the rows; more than that is not what the job's owner meant


@dataclass(frozen=True, kw_only=True)
class Parted:
    """The rows, and what becomes of each."""

    rows: Rows
    held: Any
    """By row, whether it is held out."""
    told: list[str]
    """What the job's owner should know of the held-out rows."""
    limit: int
    """Tokens of the longest row that is kept."""
    part: Any
    left_out: Rows
    """Those that are longer."""
    replayed: Chosen | None = None
    """Old rows that are learned again; None: none were asked for."""
    start: StartChoice | None = None
    """Whether it goes on from the adapter in use; None: the box had nothing to choose."""

    @property
    def learned_tokens(self) -> int:
        """Tokens in one epoch that the loss counts."""
        more = self.replayed.learned_tokens if self.replayed else 0
        return int(self.rows.learned[self.part == TRAIN].sum()) + more

    @property
    def longest(self) -> int:
        """Tokens of the longest row that is not left out."""
        more = self.replayed.longest if self.replayed else 0
        return max(int(self.rows.longest[self.part != LEFT_OUT].max()), more)


def part_rows(
    spec: JobSpec,
    source: Source,
    base: Base,
    table: Path,
    plan: PreparePlan,
    findings: Findings,
    in_use: StartFacts | None,
) -> Parted:
    """Decide what becomes of each row.

    Args:
        spec: the job's.
        source: the copied data.
        base: the model.
        table: of the rows.
        plan: the stage's.
        findings: what is wrong goes there.
        in_use: the adapter that the box may go on from by itself; None: it does not choose.
    """
    rows = open_row_table(table)
    held, told = _divide(spec, source, rows)
    limit = _max_length(
        spec,
        rows.longest,
        longest_context(base.config),
        _card_length(spec, rows.longest, base.config, plan),
    )
    part, left_out = _parts(source, rows, held, limit, findings)
    parted = Parted(rows=rows, held=held, told=told, limit=limit, part=part, left_out=left_out)
    share = spec.replay
    if in_use is not None:
        start = choose_by_itself(with_rows(in_use, Path(plan.replay_from or ""), rows, part))
        share = REPLAY if start.goes_on else None
        parted = replace(parted, start=start, told=[*told, sentence(start)])
    replayed = _replayed(share, spec, plan, parted)
    if replayed is None:
        return parted
    told = [*parted.told, *replayed.notes()]
    return replace(parted, part=replayed.part, told=told, replayed=replayed)


def _divide(spec: JobSpec, source: Source, rows: Rows) -> tuple[Any, list[str]]:
    """Say by row whether it is held out, and what the job's owner should know of that."""
    if spec.eval_data:
        measured = [n for n, one in enumerate(source.copies) if _is_measured(one, spec)]
        held = np.isin(rows.file, measured)
        if not held.any():
            return held, [
                "no row is held out: all rows of eval_data are marked as not to be learned"
            ]
        return held, [what_rows_show(int(held.sum()))]
    held, _ = hold_out(rows.place, spec.eval_split)
    if spec.eval_split == 0:
        return held, []
    if len(rows) == 1:
        return held, ["no row is held out: there is only one"]
    if not held.any():
        return held, ["no row is held out: all of them ask the same"]
    return held, [what_rows_show(int(held.sum()))]


def _is_measured(one: Copied, spec: JobSpec) -> bool:
    """Whether a file is one of the spec's eval_data, also where a pattern of data names it, too."""
    return any(matches(one.named, entry) for entry in spec.eval_data or ())


def what_rows_show(held_out: int) -> str:
    """Say what a measurement on so many rows can show, and what not."""
    rows = "1 row is" if held_out == 1 else f"{held_out} rows are"
    points = smallest_points(held_out)
    if points is None:
        return f"{rows} held out to measure the result: too few to show any difference for sure"
    return (
        f"{rows} held out to measure the result: where right and wrong answers are counted on so "
        f"few, a difference of up to about {points:.0f} in 100 may be chance"
    )


def _max_length(spec: JobSpec, lengths: Any, context: int | None, card: int | None) -> int:
    """Choose the length limit: what the spec says, or the longest row that can be trained.

    Args:
        spec: the job's.
        lengths: the longest example of each row.
        context: tokens that the model reads at most.
        card: tokens that the card has the memory for. Where that would leave out more than a few
            rows it does not count: the run's own end then tells every way to make it fit.
    """
    longest = int(lengths.max())
    wanted = spec.training.max_length
    if wanted == "auto":
        if card and (lengths > card).sum() > LEFT_OUT_SHARE * len(lengths):
            card = None
        return min(longest, context or longest, card or longest)
    if context is not None and wanted > context:
        what = f"max_length is {wanted}, but the model reads at most {context} tokens"
        hint = f"Write max_length: {context} or less, or delete the line: auto then chooses."
        problem = Problem(field="training.max_length", message=what, hint=hint)
        raise DataError([replace(problem, allowed=f"≤ {context}")])
    return wanted


def _card_length(
    spec: JobSpec, lengths: Any, config: dict[str, Any], plan: PreparePlan
) -> int | None:
    """Forecast the longest row that the card has the memory for; None: every row, or not known."""
    shape = read_shape(config)
    if shape is None or plan.gpu_memory_bytes is None:
        return None
    work = forecast_work.Work.of(spec, shape, summed(lengths), total_steps=1)
    return longest_row(work, forecast_work.Box(budget_bytes=plan.gpu_memory_bytes))


def summed(lengths: Any) -> Lengths:
    """Count how many rows have each length, in tokens."""
    found, counts = np.unique(lengths, return_counts=True)
    return Lengths.counted(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def _parts(
    source: Source, rows: Rows, held: Any, limit: int, findings: Findings
) -> tuple[Any, Rows]:
    """Say by row whether it is learned, held out, or left out because it would lose tokens.

    Returns:
        That, and those left out.

    Raises:
        DataError: more than 5% would be left out, or none is left to learn from.
    """
    left_out = rows.longest > limit
    longer = rows.few(np.flatnonzero(left_out))
    if len(longer) > LEFT_OUT_SHARE * len(rows):
        by_length = np.sort(rows.longest)
        enough = by_length[math.ceil((1 - LEFT_OUT_SHARE) * len(rows)) - 1]
        what = f"the only row is longer than {limit} tokens"
        if len(rows) > 1:
            what = (
                f"the row is longer than {limit} tokens (longer ones: {len(longer)} of {len(rows)} "
                "rows)"
            )
        hint = (
            f"max_length: {by_length[-1]} keeps every row, {enough} keeps 95% of them. Or cut "
            "these rows into shorter ones."
        )
        for file, line in places(source, longer):
            findings.add(file, line, what, hint=hint)
        raise DataError(findings.problems)
    part = np.where(left_out, LEFT_OUT, np.where(held, HELD_OUT, TRAIN)).astype("int8")
    if not (part == TRAIN).any():
        what = "no row is left to learn from"
        hint = "Add rows, or write eval_split: 0 into the spec (none is held out)."
        raise DataError([Problem(message=what, hint=hint)])
    return part, longer


def places(source: Source, rows: Rows) -> Iterator[tuple[str, int]]:
    """Give file and line of each row, without a list of them: there may be millions."""
    for file, line in zip(rows.file, rows.line, strict=True):
        yield source.copies[file].named, int(line)


def _replayed(
    share: float | None, spec: JobSpec, plan: PreparePlan, parted: Parted
) -> Chosen | None:
    """Choose old rows to be learned again; None: none are asked for, or there are none."""
    if share is None or plan.replay_from is None:
        return None
    return choose_replay(
        Path(plan.replay_from),
        share,
        rows=parted.rows,
        part=parted.part,
        limit=parted.limit,
        seed=spec.training.seed,
    )
