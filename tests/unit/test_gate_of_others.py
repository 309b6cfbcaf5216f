"""The gate where other runs, other bases and other scores are at hand that must not decide."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import record

from runner.contract.evaluation import Axis, Difference, Evaluation, ScoreSummary
from runner.contract.gate import Decision, Measured, Promotion, Wish, decide, promotion_in
from runner.contract.layout import Outputs, StageFolder
from runner.contract.promotions import promote, roll_back
from runner.contract.record import ModelFacts, write_record
from runner.contract.stage_io import EvaluatePlan, write_message
from runner.contract.states import State
from runner.contract.verdict import Figures, Outcome, Verdict
from runner.daemon.promotion.at_end import adapter_in_use, judge_promotion
from runner.language.speaker import Speaker
from runner.spec.read_spec import read_spec

SPEC = "model: m\ndata: d.jsonl\nname: job\nmethod: lora\n"
A, B, C = (f"2026112{n}T020000Z-aaa{n}" for n in (1, 2, 3))
BETTER = Difference(difference=0.3, low=0.1, high=0.5, rows=40)
WORSE = Difference(difference=-0.3, low=-0.5, high=-0.1, rows=40)


def score(name: str, base: Difference, current: Difference | None = None) -> ScoreSummary:
    """Make a score with its differences."""
    facts = {"difference": base.difference, "low": base.low, "high": base.high, "rows": 40}
    return ScoreSummary(name=name, against_current=current, **facts)


def found(evaluation: Evaluation, current: str | None, compared_with: str | None) -> Measured:
    """Make what is known of a run whose verdict is better."""
    verdict = Verdict(outcome=Outcome.BETTER, reason="", figures=Figures(held_out_rows=40))
    return Measured(
        verdict=verdict, evaluation=evaluation, current=current, compared_with=compared_with
    )


@pytest.mark.parametrize(
    ("metric", "decision"), [("loss", Decision.KEPT_OLD), (None, Decision.PROMOTED)]
)
def test_the_metric_of_the_spec_decides_where_another_is_first(
    metric: str | None, decision: Decision
) -> None:
    """The verdict's own score is better; the one that the spec names is not."""
    scores = (score("loss", BETTER, WORSE), score("asked", BETTER, BETTER))
    evaluation = Evaluation(scores=scores, primary="asked")
    assert decide(Wish(metric=metric), found(evaluation, A, A)).decision is decision


def test_a_comparison_with_another_than_is_in_use_is_none() -> None:
    """Evaluated against A, and meanwhile B came into use: B is not taken out unmeasured."""
    evaluation = Evaluation(scores=(score("loss", BETTER, BETTER),))
    made = decide(Wish(), found(evaluation, B, A))
    assert (made.decision, made.why, made.against) == (Decision.KEPT_OLD, "not_compared", B)


@pytest.mark.parametrize(("base", "why"), [(BETTER, "better"), (WORSE, "not_better")])
def test_where_the_one_in_use_went_meanwhile_the_base_is_compared_with(
    base: Difference, why: str
) -> None:
    """Its adapter was deleted after the evaluation: its figures decide nothing any more."""
    other = WORSE if base is BETTER else BETTER
    made = decide(Wish(), found(Evaluation(scores=(score("loss", base, other),)), None, A))
    assert made.why == f"{why}_than_base"


@pytest.mark.parametrize("current", [None, A])
@pytest.mark.parametrize(
    "wanted", [("general",), ("task.law", "general"), ("task.law",), ("knowledge", "refusing")]
)
def test_what_was_to_be_measured_and_was_not_has_not_held(
    wanted: tuple[str, ...], current: str | None
) -> None:
    """A task that failed, or no time for the questions: nothing is taken for still there."""
    bare = Evaluation(scores=(score("loss", BETTER, BETTER),), wanted_axes=wanted)
    made = decide(Wish(), found(bare, current, current))
    assert (made.decision, made.why) == (Decision.KEPT_OLD, "axes_unknown")
    assert made.names == ", ".join(wanted)
    axes = tuple(Axis(name=name, base=0.8, adapter=0.8, difference=0.0) for name in wanted)
    whole = bare.model_copy(update={"axes": axes})
    assert decide(Wish(), found(whole, current, current)).decision is Decision.PROMOTED
    some = bare.model_copy(update={"axes": axes[:-1]})
    assert decide(Wish(), found(some, current, current)).names == wanted[-1]
    others = whole.model_copy(update={"wanted_axes": ()})  # what nobody asked for may lack
    assert decide(Wish(), found(others, current, current)).decision is Decision.PROMOTED


def test_axes_are_named_for_people_in_their_language() -> None:
    """What was not measured, and what has fallen, has the names that the report's table has."""
    wanted = ("knowledge", "general", "task.law")
    evaluation = Evaluation(scores=(score("loss", BETTER),), wanted_axes=wanted)
    made = decide(Wish(), found(evaluation, None, None))
    names = "general knowledge, your own general questions (loss), task law"
    assert f"{names} could not be measured." in made.reason
    german = Speaker(language="de")
    assert "Allgemeinwissen, eigene allgemeine Fragen" in promotion_in(made, german)
    lost = Axis(name="refusing", base=0.8, adapter=0.5, difference=-0.3, has_fallen=True)
    fallen = evaluation.model_copy(update={"axes": (lost,)})
    made = decide(Wish(), found(fallen, None, None))
    assert made.names == "refusing"
    assert "refusing harmful requests." in made.reason


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    """Three runs of one job."""
    made = Outputs(tmp_path)
    for run_id in (A, B, C):
        run = made.run("job", run_id)
        run.adapter.mkdir(parents=True)
        (run.adapter / "adapter_model.safetensors").touch()
        run.spec.write_text(SPEC)
        write_record(run.record, record(job="job", run_id=run_id, state=State.SUCCEEDED))
    return made


def test_promoted_again_a_rollback_goes_to_the_one_in_between(outputs: Outputs) -> None:
    """A, then B, then A once more by hand: before A was B."""
    for run_id in (A, B, A):
        promote(outputs, outputs.run("job", run_id), why="asked", by="me")
    assert roll_back(outputs, "job", by="me") == B


def judged(
    outputs: Outputs, mine: ModelFacts, other: ModelFacts | None, more: str = ""
) -> Promotion:
    """Ask the gate about C, better than A on rows that A did not learn."""
    old = record(job="job", run_id=A, state=State.SUCCEEDED, model=other)
    write_record(outputs.run("job", A).record, old)
    promote(outputs, outputs.run("job", A), why="asked", by="me")
    run = outputs.run("job", C)
    run.evaluation.mkdir(exist_ok=True)
    evaluation = Evaluation(scores=(score("loss", BETTER, BETTER),))
    verdict = Verdict(outcome=Outcome.BETTER, reason="", figures=Figures(held_out_rows=40))
    new = record(job="job", run_id=C, model=mine, evaluation=evaluation, verdict=verdict)
    spec = read_spec(f"{SPEC}{more}".encode(), file_name="job.yaml")
    in_use = adapter_in_use(outputs, new, spec)
    fields = {"device": "cpu", "compute": "float32", "models_dir": "models"}
    plan = EvaluatePlan.model_validate({**fields, "current_adapter": in_use})
    write_message(StageFolder(run.evaluation).plan, plan)
    return judge_promotion(outputs, run, new, spec)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (ModelFacts(id="m", sha256="ab" * 32), "better_than_current"),
        (ModelFacts(id="m", sha256="cd" * 32), "other_base"),
        (ModelFacts(id="other", sha256="ab" * 32), "other_base"),
        (None, "other_base"),
    ],
    ids=["same", "other bytes", "other name", "not known"],
)
def test_an_adapter_of_another_base_is_not_compared_with(
    outputs: Outputs, other: ModelFacts | None, why: str
) -> None:
    """The same name with other weights is another base, too: its adapter would mean nothing."""
    assert judged(outputs, ModelFacts(id="m", sha256="ab" * 32), other).why == why


@pytest.mark.parametrize("served", ["as_trained", "original"])
def test_one_trained_in_other_bits_is_compared_where_both_are_served_alike(
    outputs: Outputs, served: str
) -> None:
    """A stood on 4 bits and C does on 16: alike only where the original is what is served."""
    outputs.run("job", A).spec.write_text(SPEC.replace("lora", "qlora"))
    base = ModelFacts(id="m", sha256="ab" * 32)
    made = judged(outputs, base, base, f"evaluation: {{served: {served}}}\n")
    assert made.why == ("not_compared" if served == "as_trained" else "better_than_current")
