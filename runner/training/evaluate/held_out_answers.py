"""Held-out answers of a run: who answers, how many rows, what is written down of it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from runner.contract.evaluation import ASKED as ASKED_SCORE
from runner.contract.evaluation import GENERAL, TASK, Evaluation, RowScore, ScoreSummary
from runner.contract.layout import RunFolder
from runner.contract.stage_io import EvaluatePlan
from runner.files.durable import write_bytes, write_json
from runner.spec.evaluation import EvaluationWish
from runner.spec.spec import JobSpec
from runner.training.data.form import SCHEMA_FILE
from runner.training.data.general import general_questions
from runner.training.data.learned import known_to
from runner.training.data.questions import ALWAYS, ASKED, MOST_ANSWERED, Question, read_questions
from runner.training.evaluate import forgetting, recital, tasks
from runner.training.evaluate.adapted import Adapted
from runner.training.evaluate.answers import unpack_for_answers
from runner.training.evaluate.answers_page import answers_page
from runner.training.evaluate.attempt import attempt
from runner.training.evaluate.forgetting import AXES, measure_axes
from runner.training.evaluate.generate import Generator
from runner.training.evaluate.measure_answers import (
    ADAPTER,
    BASE,
    CURRENT,
    EXAMPLES,
    Answered,
    Room,
    Who,
    answer_all,
    examples_among,
    most_alike,
    row_scores,
    score_all,
    summaries,
)
from runner.training.evaluate.recital import measure_recital
from runner.training.evaluate.scores import Scorer
from runner.training.evaluate.taxonomy import confusions
from runner.training.fit.model import Machine

_SHARE_OF_TIME = 0.7  # for the answers; the rest is for what is recited and what was forgotten
_SHORT_ANSWER = 96  # tokens, where a CPU answers three questions that nobody asked to be scored
_IN_REPORT = 3  # questions; a person reads no more there
_NO_LIMIT = 1_000_000  # tokens: of a model whose config names no longest text
_IN_PAGE = 20  # questions of answers.txt


@dataclass(kw_only=True)
class Answers:
    """What came of the answers."""

    evaluation: Evaluation
    row_scores: list[RowScore] = field(default_factory=list)
    shortfalls: list[str] = field(default_factory=list)


def held_out_answers(
    adapted: Adapted,
    run: RunFolder,
    spec: JobSpec,
    *,
    folder: Path,
    until: float,
    plan: EvaluatePlan,
) -> Answers:
    """Answer held-out questions by everybody, score the answers, and write all of it down.

    Args:
        adapted: the loaded model.
        run: the run.
        spec: its spec.
        folder: where it is written.
        until: monotonic time at which it ends.
        plan: names the adapter in use.
    """
    wish, on_gpu = spec.evaluation, adapted.machine.on_gpu
    questions = read_questions(run.prepared)
    in_full = wish.asks or on_gpu
    asked = _asked(questions, wish, in_full=in_full)
    examples = examples_among(questions) if in_full else []
    scorer = scorer_of(run, spec)
    if not asked and not _wants_more(wish, adapted):
        write_json(folder / "samples.json", [])
        return Answers(evaluation=Evaluation())
    unpack_for_answers(adapted.model, adapted.machine)
    generator = Generator(adapted.model, adapted.tokenizer, adapted.machine, until=until)
    if _wants_more(wish, adapted):
        left = until - time.monotonic()
        generator.until = time.monotonic() + _SHARE_OF_TIME * left
    room = Room(context=adapted.context)
    if not in_full:
        room = Room(context=adapted.context, answer=_SHORT_ANSWER)
    answered = answer_all(generator, _everybody(adapted, examples, plan), asked, room)
    score_all(answered, scorer)
    _write_answers(folder, answered)
    # Who asks the same in every row gets the same answer to all of them.
    apart = list({one.question.cluster: one for one in answered}.values())
    answers = Answers(
        evaluation=Evaluation(
            scores=summaries(answered) if in_full else (),
            answered_rows=len(answered),
            answered_questions=len(apart),
            same_answers=most_alike(one.answers[ADAPTER].text for one in apart),
            same_expected=most_alike(one.question.reference for one in apart),
            examples=len(examples),
            deciding=scorer.deciding,
            wanted_axes=wanted_axes(wish, on_gpu=on_gpu),
            primary=ASKED_SCORE if len(scorer.deciding) > 1 else next(iter(scorer.deciding), None),
            confusions=confusions(
                [(one.answers[ADAPTER].text, one.question.reference) for one in answered],
                scorer.taxonomy,
            ),
        ),
        row_scores=list(row_scores(answered)) if in_full else [],
        shortfalls=_time_over(len(answered), len(asked), wish.most_minutes),
    )
    generator.until = until
    job = run, spec, plan
    # Before what is recited: the gate goes by this, and a slow card may have no time left for both.
    answers.shortfalls += attempt(
        "forgetting", lambda: _forgotten(adapted, generator, job, answers), on_gpu=on_gpu
    )
    answers.shortfalls += attempt(
        "recital",
        lambda: _by_heart(adapted, generator, questions, spec, answers),
        on_gpu=on_gpu,
    )
    _by_tasks(adapted, until, job, answers)
    return answers


def scores_alone(
    adapted: Adapted, run: RunFolder, spec: JobSpec, *, until: float, plan: EvaluatePlan
) -> tuple[ScoreSummary, ...]:
    """Answer and score the same rows on another form of the base; nothing is written down."""
    questions = read_questions(run.prepared)
    asked = _asked(questions, spec.evaluation, in_full=True)
    unpack_for_answers(adapted.model, adapted.machine)
    generator = Generator(adapted.model, adapted.tokenizer, adapted.machine, until=until)
    everybody = _everybody(adapted, examples_among(questions), plan)
    answered = answer_all(generator, everybody, asked, Room(context=adapted.context))
    score_all(answered, scorer_of(run, spec))
    return summaries(answered)


def scores_of(
    model: Any, tokenizer: Any, machine: Machine, run: RunFolder, spec: JobSpec, *, until: float
) -> tuple[dict[str, float], int]:
    """Score a model of its own, without an adapter: the scores that decide, and of how many rows.

    Args:
        model: loaded, such as merged weights.
        tokenizer: of the adapter.
        machine: where it computes.
        run: has the held-out questions.
        spec: says how answers are scored.
        until: monotonic time at which it ends.
    """
    asked = asked_in_full(read_questions(run.prepared), spec.evaluation)
    scorer = scorer_of(run, spec)
    generator = Generator(model, tokenizer, machine, until=until)
    context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 0)
    answered = answer_all(generator, [itself()], asked, Room(context=context or _NO_LIMIT))
    score_all(answered, scorer)
    found = {one.name: one.adapter for one in summaries(answered)}
    deciding = {name: found[name] for name in scorer.deciding if found.get(name) is not None}
    return {name: value for name, value in deciding.items() if value is not None}, len(answered)


def itself() -> Who:
    """Say who answers where a model is asked that has no adapter to switch."""
    return Who(name=ADAPTER, switched_on=contextlib.nullcontext)


def scorer_of(run: RunFolder, spec: JobSpec) -> Scorer:
    """Give the scores that a job asks for."""
    return Scorer(spec.evaluation, schema=_schema(run.prepared))


def asked_in_full(questions: Sequence[Question], wish: EvaluationWish) -> list[Question]:
    """Choose the held-out rows that are answered where answers are scored."""
    return _asked(questions, wish, in_full=True)


def _asked(questions: Sequence[Question], wish: EvaluationWish, *, in_full: bool) -> list[Question]:
    """Choose the held-out rows that are answered."""
    most = MOST_ANSWERED if wish.samples == "auto" and in_full else wish.samples
    return [one for one in questions if one.part == ASKED][: ALWAYS if most == "auto" else most]


def _wanted(wish: Literal["auto"] | bool, *, on_gpu: bool) -> bool:  # noqa: FBT001  a setting
    return on_gpu if wish == "auto" else wish


def _wants_more(wish: EvaluationWish, adapted: Adapted) -> bool:
    on_gpu = adapted.machine.on_gpu
    return _wanted(wish.recital, on_gpu=on_gpu) or bool(wanted_axes(wish, on_gpu=on_gpu))


def wanted_axes(wish: EvaluationWish, *, on_gpu: bool) -> tuple[str, ...]:
    """List what is to be measured of the base's other abilities, in a spec or by the box itself."""
    ours = AXES if _wanted(wish.forgetting, on_gpu=on_gpu) else ()
    general = (GENERAL,) if wish.general else ()
    return (*ours, *general, *(f"{TASK}{name}" for name in wish.tasks or ()))


def _by_heart(
    adapted: Adapted,
    generator: Generator,
    questions: Sequence[Question],
    spec: JobSpec,
    answers: Answers,
) -> None:
    """Measure how many learned rows are recited, where that is wanted and there is time."""
    if not _wanted(spec.evaluation.recital, on_gpu=adapted.machine.on_gpu):
        return
    found = measure_recital(adapted, generator, questions)
    if found is not None:
        answers.evaluation = answers.evaluation.model_copy(update={"recital": found})
        answers.shortfalls += recital.told_of(found)


def _forgotten(
    adapted: Adapted,
    generator: Generator,
    job: tuple[RunFolder, JobSpec, EvaluatePlan],
    answers: Answers,
) -> None:
    """Measure what was forgotten, where that is wanted and there is time."""
    run, spec, plan = job
    ours = AXES if _wanted(spec.evaluation.forgetting, on_gpu=adapted.machine.on_gpu) else ()
    general = general_questions(run.prepared)
    if not ours and not general:
        return
    if generator.is_late:
        answers.shortfalls.append(
            "There was no time left to measure what was forgotten: evaluation.minutes allows more."
        )
        return
    axes = measure_axes(
        adapted,
        noise_folder=Path(plan.noise_folder) if plan.noise_folder else None,
        model=f"{spec.model} {spec.method}",
        axes=ours,
        general=general,
    )
    answers.evaluation = answers.evaluation.model_copy(update={"axes": tuple(axes)})
    answers.shortfalls += forgetting.told_of(axes)


def _by_tasks(
    adapted: Adapted, until: float, job: tuple[RunFolder, JobSpec, EvaluatePlan], answers: Answers
) -> None:
    """Measure the tasks of lm-evaluation-harness that the spec asks for."""
    _, spec, plan = job
    if not spec.evaluation.tasks:
        return
    room = tasks.Room(
        folder=plan.evaluation_tasks,
        until=until,
        noise_folder=Path(plan.noise_folder) if plan.noise_folder else None,
        model=f"{spec.model} {spec.method}",
    )
    axes, short = tasks.measure_tasks(adapted, spec.evaluation.tasks, room)
    both = (*answers.evaluation.axes, *axes)
    answers.evaluation = answers.evaluation.model_copy(update={"axes": both})
    answers.shortfalls += [*short, *tasks.told_of(axes)]


def _everybody(adapted: Adapted, examples: Sequence[Question], plan: EvaluatePlan) -> list[Who]:
    found = [
        Who(name=BASE, switched_on=adapted.base),
        Who(name=ADAPTER, switched_on=contextlib.nullcontext),
    ]
    if examples:
        found.append(Who(name=EXAMPLES, switched_on=adapted.base, examples=examples))
    if plan.current_adapter:
        known = known_to(plan.current_adapter)
        found.append(Who(name=CURRENT, switched_on=adapted.current, knows=known))
    return found


def _time_over(answered: int, asked: int, minutes: float) -> list[str]:
    if answered == asked:
        return []
    said = (
        f"{answered} of {asked} held-out questions were answered in the time that "
        f"evaluation.minutes allows ({minutes:g} min)."
    )
    return [said]


def _schema(prepared: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((prepared / SCHEMA_FILE).read_bytes())
    except FileNotFoundError:
        return None
    return found


def _write_answers(folder: Path, answered: Sequence[Answered]) -> None:
    """Write every answer for programs, some for people, a few for the report."""
    lines = [
        {
            "row": one.question.row,
            "question": _question(one),
            "reference": one.question.reference,
            **{who: answer.text for who, answer in one.answers.items()},
            "scores": one.scores,
        }
        for one in answered
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_bytes(folder / "answers.jsonl", text.encode())
    shown = [
        {
            "question": _question(one),
            "reference": str(one.question.reference),
            "before": one.answers[BASE].shown,
            "after": one.answers[ADAPTER].shown,
        }
        for one in answered[:_IN_PAGE]
    ]
    write_json(folder / "samples.json", shown[:_IN_REPORT])
    if shown:
        write_bytes(folder / "answers.txt", answers_page(shown).encode(errors="replace"))


def _question(one: Answered) -> str:
    return str(one.question.messages[-1]["content"])
