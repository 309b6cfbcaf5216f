"""Evaluate: loss, answers and scores on held-out rows, with and without the adapter in adapter/.

The adapter is loaded as its user would load it; what it reaches here must be what training saw.
Command: `python -m runner.training evaluate outputs/contracts/20261123T221005Z-k3f9/evaluation`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.contract.evaluation import Evaluation, Form, RowScore, ScoreSummary, write_row_scores
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import EvaluatePlan, EvaluateResult, read_message, write_message
from runner.errors import StageError
from runner.exit_codes import ExitCode
from runner.files.durable import write_json
from runner.spec.spec import JobSpec
from runner.training.import_stack import EVALUATES, import_stack

if TYPE_CHECKING:
    from runner.training.evaluate.adapted import Adapted
    from runner.training.evaluate.held_out_rows import Paired
    from runner.training.fit.heldout import HeldOut
    from runner.training.fit.model import Machine

NO_ROOM_FOR_SERVED = (
    "No card has the room for the base as it is served, in 16 bits; the verdict goes by the base "
    "in 4 bits, as it was trained on."
)
TOLERANCE = {"float32": 2e-3, "bfloat16": 2e-2, "float16": 2e-2}  # relative


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """What the whole stage knows."""

    run: RunFolder
    folder: Path
    """Where it writes: beside an earlier evaluation until that is replaced."""
    plan: EvaluatePlan
    spec: JobSpec
    machine: Machine

    @property
    def served(self) -> Form:
        """The form that the verdict goes by."""
        is_qlora = self.spec.method == "qlora"
        has_room = self.plan.base_shared_by == 1  # in 16 bits it takes four times as much
        return self.spec.evaluation.served if is_qlora and has_room else "as_trained"

    @property
    def answers_on_both(self) -> bool:
        """Whether answers are scored on both forms of the base, so that they can be compared."""
        return self.served == "original" and self.spec.evaluation.asks

    @property
    def minutes(self) -> float:
        """The time for answers and what was forgotten on one form of the base."""
        return self.spec.evaluation.most_minutes / (2 if self.answers_on_both else 1)


@dataclass(kw_only=True)
class _Losses:
    """Held-out losses on one form of the base."""

    rows: Any = None
    before: HeldOut | None = None
    after: HeldOut | None = None
    paired: Paired | None = None
    against_current: Paired | None = None


@dataclass(kw_only=True)
class _Found:
    """What comes of the stage."""

    served: _Losses = field(default_factory=_Losses)
    trained: _Losses = field(default_factory=_Losses)
    evaluation: Evaluation = field(default_factory=Evaluation)
    other_scores: tuple[ScoreSummary, ...] = ()
    """Of the answers on the form that the verdict does not go by."""
    row_scores: list[RowScore] = field(default_factory=list)
    shortfalls: list[str] = field(default_factory=list)


def evaluate(folder: Path) -> None:
    """Measure the exported adapter against the base model it stands on.

    Raises:
        StageError: the adapter does not reach the loss that training measured.
    """
    import_stack("torch")
    from runner.spec.read_spec import read_spec
    from runner.training.fit.memory import Meter
    from runner.training.fit.model import find_machine

    run, stage = RunFolder.containing(folder), StageFolder(folder)
    plan = read_message(stage.plan, EvaluatePlan)
    spec = read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml").with_method(plan.method)
    machine = find_machine(plan.device, plan.compute)
    # Before the stack is imported: bitsandbytes makes the card's context, which is measured here.
    meter = Meter(on_gpu=machine.on_gpu, cap_bytes=plan.gpu_memory_bytes)
    import_stack(*EVALUATES)
    found = _measure(_Stage(run=run, folder=folder, plan=plan, spec=spec, machine=machine))
    paired, after = found.served.paired, found.trained.after
    write_message(
        stage.result,
        EvaluateResult(
            eval_loss_before=_finite(found.served.before),
            eval_loss_after=_finite(found.served.after),
            eval_tokens=after.tokens if after else 0,
            uniform_loss=_uniform_loss(plan, spec),
            eval_rows=len(paired.rows) if paired else 0,
            rows_changed=paired and paired.changed,
            change_low=paired and paired.interval and paired.interval[0],
            change_high=paired and paired.interval and paired.interval[1],
            adapter_is_zero=adapter_is_zero(run.adapter),
            evaluation=found.evaluation,
            peak_gpu_memory_bytes=meter.peak_bytes(),
            shortfalls=tuple(found.shortfalls),
        ),
    )
    wanted = plan.expected_eval_loss
    if after and math.isfinite(after.loss) and wanted is not None:
        tolerance = TOLERANCE[machine.compute]
        if not math.isclose(after.loss, wanted, rel_tol=tolerance, abs_tol=tolerance):
            raise StageError(
                f"The exported adapter reaches a held-out loss of {after.loss:.4f}; training "
                f"measured {wanted:.4f}.",
                exit_code=ExitCode.UNEXPECTED,
                kind="adapter_differs",
                advice="Do not use this adapter; please report it with the run's record.",
            )


def _measure(stage: _Stage) -> _Found:
    """Load each form of the base that is asked for, and measure what is measured on it."""
    from runner.training.evaluate.adapted import load_adapted
    from runner.training.fit.memory import let_go

    found = _Found()
    if stage.plan.base_shared_by > 1 and stage.spec.evaluation.served == "original":
        found.shortfalls.append(NO_ROOM_FOR_SERVED)
    forms: list[Form] = (
        ["as_trained"] if stage.served == "as_trained" else ["as_trained", "original"]
    )
    for form in forms:
        adapted = load_adapted(stage.run, stage.spec, stage.plan, stage.machine, form)
        losses = _losses(stage, adapted)
        if form == "as_trained":
            found.trained = losses
        adapted.end_of_losses()
        if form == stage.served:
            found.served = losses
            _write_losses(stage, adapted, losses)
            _answers(stage, adapted, found)
        elif stage.answers_on_both:
            _other_answers(stage, adapted, found)
        del adapted
        let_go()
    _write_scores(stage, found)
    return found


def _losses(stage: _Stage, adapted: Adapted) -> _Losses:
    """Measure the loss of the held-out rows."""
    from datasets import load_from_disk

    from runner.training.data.clusters import clusters_of_rows
    from runner.training.data.learned import known_to
    from runner.training.evaluate.held_out_rows import identities_of, pair

    folder = stage.run.prepared / "eval"
    if not (folder / "state.json").is_file() or not len(held := load_from_disk(str(folder))):
        return _Losses()
    before, after = adapted.base_loss(held), adapted.loss(held)
    prepared = stage.run.prepared
    clusters = clusters_of_rows(prepared, held["row"])
    paired = pair(held["row"], before, after, clusters)
    found = _Losses(rows=held, before=before, after=after, paired=paired)
    if stage.plan.current_adapter:
        # A row that it was trained on says nothing of it: it would know the answer.
        known = known_to(stage.plan.current_adapter)
        identities = identities_of(prepared)
        new = [at for at, row in enumerate(held["row"]) if identities.get(row) not in known]
        if new:
            rows = held.select(new)
            # Both on the same path: how it rounds must not tell them apart.
            of_current = adapted.current_loss(rows)
            of_own = adapted.plain_loss(rows, batch_size=of_current.batch_size)
            clusters = clusters_of_rows(prepared, rows["row"])
            found.against_current = pair(rows["row"], of_current, of_own, clusters)
    return found


def _write_losses(stage: _Stage, adapted: Adapted, losses: _Losses) -> None:
    from runner.training.evaluate.extremes import extremes, write_measured_rows

    path = stage.folder / stage.run.measured_rows.name
    write_measured_rows(stage.run, adapted.tokenizer, path)
    if losses.paired:
        write_json(stage.folder / "losses.json", losses.paired.as_json())
        columns = asdict(losses.paired)
        del columns["clusters"]
        shown = extremes(losses.rows, adapted.tokenizer, **columns)
        write_json(stage.folder / stage.run.extremes.name, shown)


def _answers(stage: _Stage, adapted: Adapted, found: _Found) -> None:
    """Generate and score answers; where that fails, the run stands without them."""
    from runner.training.evaluate.attempt import attempt
    from runner.training.evaluate.extreme_answers import answer_extremes
    from runner.training.evaluate.held_out_answers import (
        held_out_answers,
        scorer_of,
        wanted_axes,
    )

    until = time.monotonic() + 60 * stage.minutes

    def answer() -> None:
        # First: an evaluation that fails further on was asked for all the same.
        found.evaluation = Evaluation(
            deciding=scorer_of(stage.run, stage.spec).deciding,
            wanted_axes=wanted_axes(stage.spec.evaluation, on_gpu=stage.machine.on_gpu),
        )
        answers = held_out_answers(
            adapted, stage.run, stage.spec, folder=stage.folder, until=until, plan=stage.plan
        )
        found.evaluation, found.row_scores = answers.evaluation, answers.row_scores
        found.shortfalls += answers.shortfalls
        extremes = stage.folder / stage.run.extremes.name
        answer_extremes(adapted, found.served.rows, extremes, until=until)

    found.shortfalls += attempt("answers", answer, on_gpu=stage.machine.on_gpu)


def _other_answers(stage: _Stage, adapted: Adapted, found: _Found) -> None:
    """Score the same answers on the form that the adapter was trained on, beside the served one."""
    from runner.training.evaluate.attempt import attempt
    from runner.training.evaluate.held_out_answers import scores_alone

    until = time.monotonic() + 60 * stage.minutes

    def answer() -> None:
        found.other_scores = scores_alone(
            adapted, stage.run, stage.spec, until=until, plan=stage.plan
        )

    found.shortfalls += attempt("answers", answer, on_gpu=stage.machine.on_gpu)


def _write_scores(stage: _Stage, found: _Found) -> None:
    """Put the loss first among the scores, and write them down, without a row's text."""
    from runner.training.evaluate.held_out_rows import identities_of, loss_rows, loss_summary

    losses = found.served
    if losses.paired:
        loss = loss_summary(losses.paired, losses.against_current)
        identities = identities_of(stage.run.prepared)
        rows: Iterator[RowScore] = loss_rows(losses.paired, losses.against_current, identities)
        found.row_scores = [*rows, *found.row_scores]
        scores = (loss, *found.evaluation.scores)
        changes = {"scores": scores, "held_out_rows": len(losses.paired.rows)}
        found.evaluation = found.evaluation.model_copy(update=changes)
    if stage.served == "original" and found.trained.paired:
        other = loss_summary(found.trained.paired, None)
        both = (other, *found.other_scores)
        found.evaluation = found.evaluation.model_copy(update={"other_form": both})
    found.evaluation = found.evaluation.model_copy(update={"form": stage.served})
    write_json(stage.folder / "scores.json", found.evaluation.model_dump(mode="json"))
    write_row_scores(stage.folder / stage.run.row_scores.name, found.row_scores)


def adapter_is_zero(adapter: Path) -> bool | None:
    """Say whether an adapter adds nothing to any layer: each of its B matrices is zero.

    None: it has no B matrices, so it is of a kind that this does not know.
    """
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as tensors:
        names = [n for n in tensors.keys() if "lora_B" in n or "lora_embedding_B" in n]  # noqa: SIM118
        if not names:
            return None
        return not any(bool(tensors.get_tensor(name).any()) for name in names)


def _uniform_loss(plan: EvaluatePlan, spec: JobSpec) -> float | None:
    """Give the loss of guessing each token of the base's vocabulary alike."""
    from runner.contract.models import find_model, read_config, table_of_words

    config = read_config(find_model(Path(plan.models_dir), spec.model), spec.model)
    words = table_of_words(config)
    return math.log(words) if words else None


def _finite(found: HeldOut | None) -> float | None:
    """Give a loss that JSON can say; None for what is no number."""
    return found.loss if found and math.isfinite(found.loss) else None
