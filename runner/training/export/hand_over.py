"""Hand over: merged weights and GGUF files of a run, each measured on the held-out rows.

Command: `python -m runner.training hand-over outputs/contracts/20261123T221005Z-k3f9/hand-over`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runner.contract.checkpoints import sha256_of
from runner.contract.handed_over import Figures, HandedOver, ServedForm
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.models import find_model
from runner.contract.stage_io import (
    HandOverPlan,
    HandOverResult,
    read_message,
    write_message,
)
from runner.errors import RunnerError
from runner.spec.read_spec import read_spec
from runner.training.export.makers import ADAPTER_GGUF, Source, maker_of, tools_missing
from runner.training.export.put_in_place import beside, put_in_place
from runner.words import visible


@dataclass(kw_only=True)
class _Found:
    """What comes of the stage."""

    forms: list[ServedForm] = field(default_factory=list)
    shortfalls: list[str] = field(default_factory=list)
    reference: Figures | None = None
    rows: int = 0
    places: int = 0


def hand_over(folder: Path) -> None:
    """Make each form that is asked for; one that cannot be made does not take the others with it.

    Raises:
        RunnerError: nothing can be made, and why.
    """
    began = time.monotonic()
    run, stage = RunFolder.containing(folder), StageFolder(folder)
    plan = read_message(stage.plan, HandOverPlan)
    spec = read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml")
    found = _Found()
    base = find_model(Path(plan.models_dir), spec.model)
    source = Source(run=run, spec=spec, plan=plan, base=base, adapter=run.adapter, model=None)
    for name in _gguf_forms(plan):
        _make(source, name, found)
    write_message(
        stage.result,
        HandOverResult(
            handed_over=HandedOver(
                forms=tuple(found.forms),
                reference=found.reference,
                rows=found.rows,
                places=found.places,
                seconds=round(time.monotonic() - began, 1),
            ),
            shortfalls=tuple(found.shortfalls),
        ),
    )


def _gguf_forms(plan: HandOverPlan) -> Iterator[str]:
    yield from plan.gguf
    if plan.adapter_gguf:
        yield ADAPTER_GGUF


def _make(source: Source, name: str, found: _Found) -> None:
    """Make one GGUF file, or say why not."""
    missing = tools_missing(name)
    if missing is not None:
        found.shortfalls.append(f"{name} was not made: {missing}.")
        return
    run = source.run
    target = run.gguf / f"{run.job}-{name}.gguf"
    try:
        with beside(run.root) as folder:
            made = maker_of(name)(source, folder / target.name)
            put_in_place(folder / target.name, target)
    except RunnerError as error:
        said = " ".join(filter(None, (error.message, error.advice)))
        found.shortfalls.append(f"{name} was not made: {visible(said)}")
        return
    found.shortfalls += made.shortfalls
    found.forms.append(
        ServedForm(
            name=name,
            path=target.relative_to(run.root).as_posix(),
            bytes=target.stat().st_size,
            files={target.name: sha256_of(target)},
            figures=made.figures,
            within=made.within,
        )
    )
