"""Merged: base and adapter as one model, made in two ways; the better one is named, with figures.

Into the base as `qlora` trained on it, and into the original: which of them keeps what was learned
differs by model and data, so both are measured on the held-out rows beside the adapter itself.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.contract.evaluation import Form
from runner.contract.handed_over import MERGED, Figures, HandedOver
from runner.training.export import compare
from runner.training.export.base_weights import SIDE_BY_SIDE, WAYS, NotMergeableError
from runner.training.export.compare import NoNumbersError
from runner.training.export.makers import Source
from runner.training.export.merge import (
    Merge,
    merge,
    plan_merge,
    require_memory,
    require_room,
)
from runner.training.export.nf4_weights import nf4_weights
from runner.training.export.where_it_fits import (
    PROCESSOR_ROWS,
    available_bytes,
    processor_for,
    unless_memory_runs_out,
)
from runner.training.import_stack import TRIES, import_stack

if TYPE_CHECKING:
    from runner.training.export.compare import Read, Row
    from runner.training.fit.model import Machine

_IN_WORDS: dict[Form, str] = {
    "as_trained": "the base as it was trained on (4 bits, unpacked)",
    "original": "the original base",
}


@dataclass(kw_only=True)
class Merged:
    """What came of it."""

    base: Form
    folder: Path
    """Beside its final name."""
    figures: Figures | None = None
    other: Figures | None = None
    within: bool | None = None
    reference: Figures | None = None
    rows: int = 0
    places: int = 0
    shortfalls: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """The adapter on the base that it was trained on, and that base without it."""

    rows: list[Row]
    words: int
    adapter: Read
    base: Read
    scores: dict[str, float]
    score_rows: int


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What each form is beside the adapter."""

    reference: _Reference | None
    figures: dict[Form, Figures | None]
    """A form whose answers are no numbers is not among them."""
    not_measured: str = ""
    """Why nothing could be measured, although there are held-out rows."""
    on_processor: bool = False


def make_merged(source: Source, machine: Machine, folder: Path, *, free_bytes: int) -> Merged:
    """Merge in each way there is, measure each, and keep the better one.

    Without held-out rows there is nothing to choose by, and one way is taken.

    Args:
        source: run, spec, base and adapter.
        machine: where it is measured, and NF4 packed.
        folder: empty, beside the final name.
        free_bytes: of the disk.

    Raises:
        NotMergeableError: it cannot be done; nothing stands under its final name.
    """
    plan = plan_merge(source.base, source.adapter, name=source.spec.model)
    has_rows = bool(_rows(source))
    ways = WAYS[source.spec.method] if has_rows else (_unmeasured_way(source),)
    leave = source.plan.leave_bytes
    require_room(plan, ways=len(ways), free_bytes=free_bytes, leave_bytes=leave)
    require_memory(plan, available_bytes=available_bytes())
    for form in ways:
        _merge(plan, source, machine, folder / form, form)
    measured = _measured(source, machine, folder, ways, weight_bytes=plan.bytes)
    if not measured.figures:
        raise NotMergeableError(
            "the merged model answers with values that are no numbers (NaN)", advice=SIDE_BY_SIDE
        )
    made = _choose(folder, measured.figures, measured.reference)
    made.shortfalls += _left_out(ways, measured)
    if measured.reference is None:
        cleared = bool(source.plan.facts.get("cleared"))
        why = "its held-out rows were removed" if cleared else "no row is held out"
        why = measured.not_measured or why
        made.shortfalls.append(
            f"Merged weights were not compared with the adapter: {why}. They stand on "
            f"{_IN_WORDS[made.base]}."
        )
    return made


def _left_out(ways: tuple[Form, ...], measured: _Measured) -> list[str]:
    """Say what was not measured as it usually is."""
    said = [
        f"Merged into {_IN_WORDS[form]}, the model answers with values that are no numbers (NaN): "
        "that way was not taken."
        for form in ways
        if measured.reference is not None and form not in measured.figures
    ]
    if measured.on_processor and measured.reference is not None:
        by = " and chosen by the loss" if len(measured.figures) > 1 else ""
        said.append(
            f"The card has no room for the model in 16 bits: merged/ was compared{by} on "
            f"{len(measured.reference.rows)} held-out rows by the processor, and no answers of it "
            "were scored."
        )
    return said


def _measured(
    source: Source, machine: Machine, folder: Path, ways: tuple[Form, ...], *, weight_bytes: int
) -> _Measured:
    """Measure each form: where the card has no room for it, on the processor, and fewer rows."""

    def measure(where: Machine, rows: list[Row]) -> _Measured:
        is_whole = where is machine  # generated answers would take a processor hours
        try:
            reference = _reference(source, machine, rows, scored=is_whole)
        except NoNumbersError:
            raise NotMergeableError(
                "the adapter itself answers with values that are no numbers (NaN), on the base "
                "that it was trained on",
                advice="Train it again, with a smaller learning rate.",
            ) from None
        found: dict[Form, Figures | None] = {}
        for form in ways:
            with contextlib.suppress(NoNumbersError):
                found[form] = _measure(source, where, folder / form, reference, scored=is_whole)
        return _Measured(reference=reference, figures=found, on_processor=not is_whole)

    rows = _rows(source)
    found = unless_memory_runs_out(lambda: measure(machine, rows))
    if found is not None:
        return found
    processor, why = processor_for(weight_bytes)
    if processor is not None:
        return measure(processor, rows[:PROCESSOR_ROWS])
    return _Measured(reference=None, figures={ways[-1]: None}, not_measured=why)


def _unmeasured_way(source: Source) -> Form:
    """Choose where nothing can be measured: as it was measured before, or as it was trained."""
    known = source.plan.facts.get("handed_over")
    before = HandedOver.model_validate(known).form(MERGED) if known else None
    if before is not None and before.base is not None and before.figures is not None:
        return before.base
    return WAYS[source.spec.method][-1]


def _choose(
    folder: Path, found: dict[Form, Figures | None], reference: _Reference | None
) -> Merged:
    original, trained = found.get("original"), found.get("as_trained")
    base = next(iter(found))
    ours = Figures()
    if reference is not None:
        ours = compare.figures(reference.adapter, reference.adapter, reference.base).model_copy(
            update={"scores": reference.scores, "score_rows": reference.score_rows}
        )
    if original is not None and trained is not None:
        base = "as_trained" if compare.better_base(ours, original, trained) else "original"
    other: Form = "as_trained" if base == "original" else "original"
    shutil.rmtree(folder / other, ignore_errors=True)
    (folder / base).rename(folder / MERGED)
    made = Merged(base=base, folder=folder / MERGED, figures=found[base], other=found.get(other))
    if reference is None or made.figures is None:
        return made
    made.reference = ours
    made.rows, made.places = len(reference.rows), len(reference.adapter.log_probs)
    said = compare.differences(made.reference, made.figures)
    made.within = not said
    if said:
        made.shortfalls.append(
            f"merged/ does not do what the adapter does on the base that it was trained on: "
            f"{'; '.join(said)}. It stands on {_IN_WORDS[base]}."
        )
    if ours.kl_from_base is not None and ours.kl_from_base < compare.NO_CHANGE:
        made.shortfalls.append("The adapter changes no answer: merged/ is the base model.")
    return made


def _merge(plan: Merge, source: Source, machine: Machine, target: Path, form: Form) -> None:
    target.mkdir()
    packed: frozenset[str] = frozenset()
    if form == "as_trained":
        trust = source.plan.trust_remote_code
        packed = nf4_weights(source.base, compute=machine.compute, trust_remote_code=trust)
    merge(plan, target, nf4=packed, compute=machine.compute, device=machine.device)


def _rows(source: Source) -> list[Row]:
    from datasets import load_from_disk

    folder = source.run.prepared / "eval"
    if not (folder / "state.json").is_file():
        return []
    return compare.held_out(load_from_disk(str(folder)))


def _reference(
    source: Source, machine: Machine, rows: list[Row], *, scored: bool
) -> _Reference | None:
    """Read the held-out rows by the adapter on its base, and by the base; None: there are none."""
    from runner.training.fit.memory import let_go
    from runner.training.fit.model import base_cache_of, load_base

    if not rows:
        return None
    import_stack("torch", *TRIES)
    from peft import PeftModel

    base = load_base(
        source.base,
        method=source.spec.method,
        machine=machine,
        trust_remote_code=source.plan.trust_remote_code,
        whole=True,
        cache=base_cache_of(source.plan),
    )
    words = int(base.get_input_embeddings().weight.shape[0])
    model = PeftModel.from_pretrained(base, source.adapter).eval()
    adapter = compare.read(model, rows, machine, words=words)
    with model.disable_adapter():
        plain = compare.read(model, rows, machine, words=words)
    scores, score_rows = _scores(source, machine, model) if scored else ({}, 0)
    del model, base
    let_go()
    return _Reference(
        rows=rows, words=words, adapter=adapter, base=plain, scores=scores, score_rows=score_rows
    )


def _measure(
    source: Source,
    machine: Machine,
    folder: Path,
    reference: _Reference | None,
    *,
    scored: bool,
) -> Figures | None:
    """Load merged weights as their user would, and compare them."""
    if reference is None:
        return None
    from runner.training.fit.memory import let_go
    from runner.training.fit.model import load_base

    trust = source.plan.trust_remote_code
    model = load_base(folder, method="lora", machine=machine, trust_remote_code=trust, whole=True)
    model.eval()
    found = compare.read(model, reference.rows, machine, words=reference.words)
    scores, score_rows = _scores(source, machine, model) if scored else ({}, 0)
    del model
    let_go()
    measured = compare.figures(reference.adapter, found, reference.base)
    return measured.model_copy(update={"scores": scores, "score_rows": score_rows})


def _scores(source: Source, machine: Machine, model: Any) -> tuple[dict[str, float], int]:
    """Score generated answers where the job asks for scores, within its time for them."""
    if not source.spec.evaluation.asks:
        return {}, 0
    from runner.training.data.tokenizer_folder import load_tokenizer
    from runner.training.evaluate.held_out_answers import scores_of

    until = time.monotonic() + 60 * source.spec.evaluation.most_minutes / 2
    tokenizer = load_tokenizer(source.adapter)
    return scores_of(model, tokenizer, machine, source.run, source.spec, until=until)
