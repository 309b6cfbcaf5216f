"""Hand over: merged weights and GGUF files of a run, each measured on the held-out rows.

Command: `python -m runner.training hand-over outputs/contracts/20261123T221005Z-k3f9/hand-over`.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.contract.checkpoints import sha256_of
from runner.contract.handed_over import (
    ADAPTER_GGUF,
    MERGED,
    MODELFILE,
    Figures,
    HandedOver,
    ServedForm,
)
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.model_kind import language_part
from runner.contract.models import find_model, read_config
from runner.contract.stage_io import (
    HandOverPlan,
    HandOverResult,
    read_message,
    write_message,
)
from runner.errors import RunnerError, StageError
from runner.exit_codes import ExitCode
from runner.files.durable import write_bytes, write_text
from runner.spec.read_spec import read_spec
from runner.training.export.export import read_prepared
from runner.training.export.makers import WHOLE, Source, maker_of, tools_missing
from runner.training.export.merged_card import MergedCard, write_merged_card
from runner.training.export.put_in_place import beside, put_in_place
from runner.words import visible

if TYPE_CHECKING:
    from runner.training.export.merged import Merged


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
        StageError: none could be made, and why.
    """
    began = time.monotonic()
    run, stage = RunFolder.containing(folder), StageFolder(folder)
    plan = read_message(stage.plan, HandOverPlan)
    spec = read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml").with_method(plan.method)
    found = _Found()
    base = find_model(Path(plan.models_dir), spec.model)
    source = Source(run=run, spec=spec, plan=plan, base=base, adapter=run.adapter, model=None)
    with contextlib.ExitStack() as kept:
        if plan.merged or plan.gguf:
            source = _merged(source, found, kept)
        if plan.gguf:
            source = replace(source, whole=kept.enter_context(beside(run.root)) / "whole.gguf")
        for name in _gguf_forms(plan):
            made = _gguf(source, name, found)
            if name == WHOLE and made is not None:
                source = replace(source, whole=made)  # and none is written only to be made from
    if not found.forms:
        raise StageError(
            " ".join(found.shortfalls),
            exit_code=ExitCode.BAD_INPUT,  # it would be the same again
            kind="not_exported",
        )
    write_message(
        stage.result,
        HandOverResult(
            handed_over=HandedOver(
                forms=tuple(found.forms),
                reference=found.reference,
                rows=found.rows,
                places=found.places,
                seconds=round(time.monotonic() - began, 1),
                peak_host_memory_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            ),
            shortfalls=tuple(found.shortfalls),
        ),
    )


def _gguf_forms(plan: HandOverPlan) -> Iterator[str]:
    """Give the forms in the order in which they are made: the others are made from 16 bits."""
    yield from sorted(plan.gguf, key=lambda name: name != WHOLE)
    if plan.adapter_gguf:
        yield ADAPTER_GGUF


def _merged(source: Source, found: _Found, kept: contextlib.ExitStack) -> Source:
    """Merge, name it where it is asked for, and give it to the other makers.

    Args:
        source: what it is made from.
        found: what is told of it.
        kept: closed at the end of the stage: what only GGUF files are made from goes then.
    """
    from runner.training.export.merged import make_merged
    from runner.training.fit.model import find_machine

    run, plan = source.run, source.plan
    machine = find_machine(plan.device, plan.compute)
    try:
        folder = kept.enter_context(beside(run.root))
        free = shutil.disk_usage(run.root).free
        made = make_merged(source, machine, folder, free_bytes=free)
    except RunnerError as error:
        said = " ".join(filter(None, (error.message, error.advice)))
        found.shortfalls.append(f"{MERGED}/ was not made: {visible(said).rstrip('.')}.")
        return source
    found.shortfalls += made.shortfalls
    found.reference, found.rows, found.places = made.reference, made.rows, made.places
    if not plan.merged:
        return replace(source, model=made.folder)
    write_text(made.folder / "README.md", write_merged_card(_card(source, made)), mode=0o640)
    put_in_place(made.folder, run.merged)
    found.forms.append(_form_of(run, made))
    return replace(source, model=run.merged)


def _card(source: Source, made: Merged) -> MergedCard:
    run, plan = source.run, source.plan
    return MergedCard(
        job=run.job,
        run_id=run.run_id,
        model=source.spec.model,
        base=made.base,
        bytes=sum(path.stat().st_size for path in made.folder.glob("*.safetensors")),
        folder=str(run.merged),
        system_prompt=source.spec.system_prompt,
        folds_system=read_prepared(run).folds_system,
        figures=made.figures,
        reference=made.reference,
        other=made.other,
        within=made.within,
        rows=made.rows,
        trust_remote_code=plan.trust_remote_code,
        reads_pictures=language_part(read_config(source.base, source.spec.model)) is not None,
    )


def _form_of(run: RunFolder, made: Merged) -> ServedForm:
    files = [path for path in sorted(run.merged.rglob("*")) if path.is_file()]
    return ServedForm(
        name=MERGED,
        path=run.merged.name,
        bytes=sum(path.stat().st_size for path in files),
        files={path.relative_to(run.merged).as_posix(): sha256_of(path) for path in files},
        base=made.base,
        figures=made.figures,
        other=made.other,
        within=made.within,
    )


def _gguf(source: Source, name: str, found: _Found) -> Path | None:
    """Make one GGUF file and give it, or say why not."""
    missing = tools_missing(name)
    if missing is None and name != ADAPTER_GGUF and source.model is None:
        missing = "there are no merged weights that it could be made from"
    if missing is not None:
        found.shortfalls.append(f"{name} was not made: {missing}.")
        return None
    run = source.run
    target = run.gguf / f"{run.job}-{name}.gguf"
    try:
        with beside(run.root) as folder:
            made = maker_of(name)(source, folder / target.name)
            put_in_place(folder / target.name, target)
    except RunnerError as error:
        said = " ".join(filter(None, (error.message, error.advice)))
        found.shortfalls.append(f"{name} was not made: {visible(said)}")
        return None
    found.shortfalls += made.shortfalls
    _modelfile(source, name, target, found)
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
    return target


def _modelfile(source: Source, name: str, gguf: Path, found: _Found) -> None:
    """Write the Modelfile beside a GGUF file; what it cannot say is a shortfall."""
    from runner.training.export.for_ollama import modelfile_for

    text, lost = modelfile_for(source, gguf, is_adapter=name == ADAPTER_GGUF)
    write_bytes(gguf.with_suffix(MODELFILE), text.encode())
    found.shortfalls += [f"{name} with Ollama: {one}." for one in lost]
