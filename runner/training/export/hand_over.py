"""Hand over: merged weights and GGUF files of a run, each measured on the held-out rows.

Command: `python -m runner.training hand-over outputs/contracts/20261123T221005Z-k3f9/hand-over`.
"""

from __future__ import annotations

import contextlib
import errno
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
from runner.contract.models import describe_model, find_model, read_config
from runner.contract.stage_io import (
    HandOverPlan,
    HandOverResult,
    read_message,
    write_message,
)
from runner.errors import ModelError, RunnerError, StageError
from runner.exit_codes import ExitCode
from runner.files.durable import write_text
from runner.files.unreadable import is_of_storage
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
    shortfalls: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By form; nothing is said of one that does what the adapter does."""
    reference: Figures | None = None
    rows: int = 0
    places: int = 0

    def say(self, name: str, *sentences: str) -> None:
        """Note what a form does not do, or why it was not made."""
        self.shortfalls[name] = (*self.shortfalls.get(name, ()), *sentences)

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that was noted."""
        return tuple(one for said in self.shortfalls.values() for one in said)


def hand_over(folder: Path) -> None:
    """Make each form that is asked for; one that cannot be made does not take the others with it.

    Raises:
        StageError: none could be made, and why.
    """
    began = time.monotonic()
    run, stage = RunFolder.containing(folder), StageFolder(folder)
    plan = read_message(stage.plan, HandOverPlan)
    spec = read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml").with_method(plan.method)
    # What an earlier export said of them is over.
    asked = [*([MERGED] if plan.merged or plan.gguf else []), *_gguf_forms(plan)]
    found = _Found(shortfalls=dict.fromkeys(asked, ()))
    base = find_model(Path(plan.models_dir), spec.model)
    _require_same_base(plan, base, spec.model)
    _require_same_adapter(plan, run)
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
            " ".join(found.sentences),
            exit_code=ExitCode.BAD_INPUT,  # it would be the same again
            kind="not_exported",
        )
    result = _result(run, plan, found, seconds=round(time.monotonic() - began, 1))
    write_message(stage.result, result)


def _result(run: RunFolder, plan: HandOverPlan, found: _Found, *, seconds: float) -> HandOverResult:
    """Put what was made now and what was there before together."""
    made = HandedOver(
        forms=tuple(found.forms),
        shortfalls=found.shortfalls,
        reference=found.reference,
        rows=found.rows,
        places=found.places,
        seconds=seconds,
        peak_host_memory_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
    known = plan.facts.get("handed_over")
    before = HandedOver.model_validate(known) if known else HandedOver()
    there = {form.path for form in before.forms if (run.root / form.path).exists()}
    return HandOverResult(
        handed_over=made.after(before, there=there), shortfalls=tuple(found.sentences)
    )


def _require_same_base(plan: HandOverPlan, base: Path, name: str) -> None:
    """Refuse a base that is another one than the run was trained on, under the same name.

    All would be measured on it, and what was trained would be in none of it.

    Raises:
        StageError: config.json or the weights' shapes, names or formats have changed.
    """
    known = plan.facts.get("model")
    trained_on = known.get("sha256") if isinstance(known, dict) else None
    if trained_on is None or describe_model(base, name).sha256 == trained_on:
        return
    raise StageError(
        f"The base model {visible(name)} under models/ is not the one that this run was trained "
        "on: its configuration or its weights have changed since.",
        exit_code=ExitCode.BAD_INPUT,  # it would be the same again
        kind="base_changed",
        advice="Put the earlier one back, or train again.",
    )


def _require_same_adapter(plan: HandOverPlan, run: RunFolder) -> None:
    """Refuse an adapter that is not as the run made it: each form would be compared with that.

    Raises:
        StageError: which of its files was damaged, or changed since.
    """
    known = plan.facts.get("metrics")
    files = known.get("adapter_files") if isinstance(known, dict) else None
    for name, sha256 in (files or {}).items():
        if name == "README.md":  # people may add to the card; nothing is made from it
            continue
        try:
            is_same = sha256_of(run.adapter / name) == sha256
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise StageError(
                f"adapter/{visible(name)} of this run is not as it was made.",
                exit_code=ExitCode.BAD_INPUT,  # it would be the same again
                kind="adapter_changed",
                advice="Take a backup of that folder back, or check the disk under outputs/.",
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
        if plan.merged:
            card = write_merged_card(_card(source, made))
            write_text(made.folder / "README.md", card, mode=0o640)
            put_in_place(made.folder, run.merged)
    except (RunnerError, OSError) as error:
        if is_of_storage(error):
            raise  # the stage is tried again, with all that was asked for
        found.say(MERGED, f"{MERGED}/ was not made: {_why(error, source)}.")
        return source
    found.say(MERGED, *made.shortfalls)
    found.reference, found.rows, found.places = made.reference, made.rows, made.places
    if not plan.merged:
        return replace(source, model=made.folder)
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
        found.say(name, f"{name} was not made: {missing}.")
        return None
    run = source.run
    target = run.gguf / f"{run.job}-{name}.gguf"
    try:
        with beside(run.root) as folder:
            made = maker_of(name)(source, folder / target.name)
            file, lost = _modelfile(source, name, folder / target.name)
            put_in_place(file, target.with_suffix(MODELFILE))
            put_in_place(folder / target.name, target)
    except (RunnerError, OSError) as error:
        if is_of_storage(error):
            raise
        found.say(name, f"{name} was not made: {_why(error, source)}.")
        return None
    found.say(name, *made.shortfalls, *(f"{name} with Ollama: {one}." for one in lost))
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


def _modelfile(source: Source, name: str, gguf: Path) -> tuple[Path, tuple[str, ...]]:
    """Write the Modelfile beside a GGUF file; give it, and what it cannot say."""
    from runner.training.export.for_ollama import modelfile_for

    text, lost = modelfile_for(source, gguf, is_adapter=name == ADAPTER_GGUF)
    file = gguf.with_suffix(MODELFILE)
    file.write_bytes(text.encode())
    return file, lost


def _why(error: RunnerError | OSError, source: Source) -> str:
    """Say what was in the way of one form, for the others may be made all the same.

    Raises:
        OSError: it is neither the disk, which has no room for a form, nor a base that has gone from
            models/ meanwhile: then it is no form's trouble.
    """
    if isinstance(error, OSError):
        try:  # whichever file was to be read: safetensors and transformers give no error number
            find_model(Path(source.plan.models_dir), source.spec.model)
        except ModelError as gone:
            error = gone
    if isinstance(error, OSError):
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise error
        return "no space was left on the disk of outputs/. Make some room, then ask again"
    message, advice = error.message, error.advice
    if isinstance(error, ModelError):  # of several lines, for a spec's answer
        problem = error.problems[0]
        message = f"the base model {source.spec.model}: {problem.message}"
        advice = problem.hint
    said = " ".join(filter(None, (_sentence(message), advice)))
    return visible(said).rstrip(".")


def _sentence(text: str) -> str:
    """End it with a full stop: an advice follows it."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
