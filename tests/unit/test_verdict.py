"""The verdict: what the figures of an evaluation mean, in words that a lawyer can act on."""

from __future__ import annotations

import math
import random
from statistics import NormalDist
from typing import Any

import pytest

from runner.contract.evaluation import Confusion, Difference, Evaluation, ScoreSummary
from runner.contract.verdict import (
    Figures,
    Outcome,
    Verdict,
    judge,
    not_measured,
    reason_in,
    rows_to_show,
    smallest_points,
)
from runner.language.speaker import Language, Speaker


def verdict(
    before: float | None,
    after: float | None,
    rows: int = 100,
    interval: tuple[float, float] | None = None,
    uniform: float | None = None,
    **more: Any,
) -> Verdict:
    """Judge some figures."""
    low, high = interval or (None, None)
    figures = Figures(
        uniform_loss=uniform,
        loss_before=before,
        loss_after=after,
        held_out_rows=rows,
        change_low=low,
        change_high=high,
    )
    return judge(figures, **{"adapter_is_zero": False, "rows_changed": rows, **more})


CASES = {
    "better": (verdict(2.0, 1.5, interval=(-0.6, -0.4)), Outcome.BETTER, False),
    "better, and better than guessing": (
        verdict(12.0, 10.7, interval=(-1.4, -1.2), uniform=math.log(49152)),
        Outcome.BETTER,
        False,
    ),
    "lower, but both worse than guessing": (
        verdict(18.2, 16.2, interval=(-2.1, -1.9), uniform=math.log(49152)),
        Outcome.CANNOT_TELL,
        True,
    ),
    "higher, and both worse than guessing": (
        verdict(16.2, 18.2, interval=(1.9, 2.1), uniform=math.log(49152)),
        Outcome.WORSE,
        True,
    ),
    "lower, but it may be chance": (
        verdict(2.0, 1.8, rows=5, interval=(-0.5, 0.1)),
        Outcome.CANNOT_TELL,
        False,
    ),
    "lower on a single row": (verdict(2.0, 1.0, rows=1), Outcome.CANNOT_TELL, False),
    "so close that it makes no difference": (
        verdict(2.0, 1.999, interval=(-0.01, 0.01)),
        Outcome.NO_DIFFERENCE,
        True,
    ),
    "equal": (verdict(4.497, 4.497, interval=(-0.1, 0.1)), Outcome.NO_DIFFERENCE, True),
    "higher, but it may be chance": (
        verdict(2.0, 2.01, interval=(-0.1, 0.1)),
        Outcome.NO_DIFFERENCE,
        True,
    ),
    "surely higher": (verdict(2.0, 2.1, interval=(0.05, 0.15)), Outcome.WORSE, True),
    "higher on a single row": (verdict(2.0, 2.1, rows=1), Outcome.WORSE, True),
    "far higher, on very few rows": (
        verdict(4.497, 48.913, rows=2, interval=(-100.0, 190.0)),
        Outcome.WORSE,
        True,
    ),
    "not a number": (verdict(2.0, None), Outcome.WORSE, True),
    "infinite": (verdict(2.0, math.inf), Outcome.WORSE, True),
    "a base that gives no number": (verdict(None, 2.0), Outcome.CANNOT_TELL, False),
    "nothing held out": (verdict(None, None, rows=0), Outcome.CANNOT_TELL, False),
    "all zeros": (verdict(2.0, 2.0, adapter_is_zero=True), Outcome.NO_DIFFERENCE, True),
    "all zeros, nothing held out": (
        verdict(None, None, rows=0, adapter_is_zero=True),
        Outcome.NO_DIFFERENCE,
        True,
    ),
    "without effect": (verdict(2.0, 2.0, rows_changed=0), Outcome.NO_DIFFERENCE, True),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_figures_mean(name: str) -> None:
    """Each kind of end has its outcome, and those that nobody should use unseen need a person."""
    found, outcome, needs_person = CASES[name]
    assert found.outcome is outcome
    assert found.needs_person is needs_person


def test_the_sentences_say_what_to_do() -> None:
    """A run that made it worse, or changed nothing, says so first and in plain words."""
    worse = CASES["far higher, on very few rows"][0].reason
    assert worse.startswith(
        "Careful: on held-out rows the adapter is far worse than its base (4.497 before, 48.913 "
        "after): the learning rate is probably too high. Do not use it."
    )
    assert CASES["equal"][0].reason.startswith("Careful: ")
    assert "(4.497 before, 4.497 after)" in CASES["equal"][0].reason
    for name in ("all zeros", "all zeros, nothing held out", "without effect"):
        found = CASES[name][0]
        assert found.reason.startswith("This run changed nothing: ")
        assert found.changed is False
    for found, _outcome, _needs in CASES.values():
        if " before, " in found.reason and found.changed is not False:
            assert "lower is better" in found.reason
        assert "nan" not in found.reason.lower().split()
        assert found.reason.rstrip(")").endswith(".")


def test_two_losses_that_differ_never_look_equal() -> None:
    """The sentence shows as many places as the difference needs."""
    assert "(2.00000 before, 1.99996 after)" in verdict(2.0, 1.99996, rows=3).reason


@pytest.mark.parametrize(("rows", "points"), [(40, 24), (120, 14), (200, 11)])
def test_how_small_a_difference_so_many_rows_show(rows: int, points: int) -> None:
    """The figures that the share of held-out rows was chosen with."""
    found = smallest_points(rows)
    assert found is not None
    assert round(found) == points


def test_the_smallest_difference_is_shown_four_times_in_five() -> None:
    """Drawn at random, a difference of that size is found by McNemar's test at 80% power."""
    rows, dice = 120, random.Random(3)
    points = smallest_points(rows)
    assert points is not None
    delta, share, shown, draws = points / 100, 0.3, 0, 2000
    z = NormalDist().inv_cdf(0.975)
    for _ in range(draws):
        only_new = only_old = 0
        for _row in range(rows):
            at = dice.random()
            only_new += at < (share + delta) / 2
            only_old += (share + delta) / 2 <= at < share
        shown += (only_new - only_old) ** 2 > z**2 * (only_new + only_old)
    assert 0.77 < shown / draws < 0.84


def test_too_few_rows_show_nothing() -> None:
    """With no row or three, not even every answer mended is beyond chance."""
    assert [smallest_points(rows) for rows in (0, 1, 3)] == [None, None, None]
    assert (smallest_points(6) or 0) > 60
    falling = [smallest_points(rows) or 101 for rows in range(4, 300)]
    assert falling == sorted(falling, reverse=True)


def scored(
    difference: float,
    low: float | None,
    high: float | None,
    *,
    rows: int = 40,
    examples: float | None = None,
    **more: Any,
) -> Evaluation:
    """Make an evaluation of one deciding score, whose base reaches a half."""
    against = None
    if examples is not None:
        gap = 0.5 + difference - examples
        against = Difference(difference=gap, low=gap - 0.05, high=gap + 0.05, rows=rows)
    summary = ScoreSummary(
        name="in_form",
        base=0.5,
        adapter=0.5 + difference,
        examples=examples,
        difference=difference,
        low=low,
        high=high,
        rows=rows,
        against_examples=against,
    )
    return Evaluation(
        scores=(summary,),
        deciding=("in_form",),
        primary="in_form",
        answered_rows=rows,
        examples=3,
        **more,
    )


SCORES = {
    "surely better": (scored(0.3, 0.1, 0.5), Outcome.BETTER, "score_better"),
    "better, but zero lies within": (scored(0.3, -0.01, 0.5), Outcome.CANNOT_TELL, "score_chance"),
    "better on too few rows": (
        scored(0.5, None, None, rows=4),
        Outcome.CANNOT_TELL,
        "score_chance",
    ),
    "surely worse": (scored(-0.3, -0.5, -0.1), Outcome.WORSE, "score_worse"),
    "worse, but zero lies within": (
        scored(-0.1, -0.3, 0.1),
        Outcome.NO_DIFFERENCE,
        "score_no_better",
    ),
    "surely the same": (scored(0.01, -0.03, 0.04), Outcome.NO_DIFFERENCE, "score_same"),
}


@pytest.mark.parametrize("name", SCORES)
def test_what_the_scores_mean(name: str) -> None:
    """What the job asks of answers decides, whatever the loss says; never inside its interval."""
    evaluation, outcome, why = SCORES[name]
    for after, interval in ((1.0, (-1.1, -0.9)), (2.1, (0.05, 0.15))):
        found = verdict(2.0, after, interval=interval, evaluation=evaluation)
        assert (found.outcome, found.why) == (outcome, why)
        assert "in form: 50% before" in found.reason
    assert found.figures.rows == evaluation.answered_rows


def test_examples_that_do_as_well_are_said() -> None:
    """Whoever gets the same from three examples in the prompt needs no training, and reads so."""
    as_good = verdict(2.0, 1.0, evaluation=scored(0.3, 0.1, 0.5, examples=0.79)).reason
    assert "about as well with 3 examples in its prompt (79%)" in as_good
    less = verdict(2.0, 1.0, evaluation=scored(0.3, 0.1, 0.5, examples=0.6)).reason
    assert "examples" not in less


def test_what_would_make_it_surer_is_said() -> None:
    """More held-out rows, as many as such a difference needs; rows of the kind that is confused."""
    confused = (Confusion(field="category", expected="Free", given="Paid", times=5),)
    found = verdict(2.0, 1.0, evaluation=scored(0.11, -0.1, 0.3, confusions=confused)).reason
    assert "About 200 held-out rows" in found.replace("190", "200")
    assert "category: Free → Paid" in found
    assert rows_to_show(0.14) == pytest.approx(120, abs=10)


def test_the_form_that_will_be_served_is_said() -> None:
    """A verdict on the 16-bit base says so: on the 4-bit one it may be another."""
    evaluation = scored(0.3, 0.1, 0.5, form="original")
    assert "in 16 bits" in verdict(2.0, 1.0, evaluation=evaluation).reason


@pytest.mark.parametrize(("there", "is_said"), [(0.91, True), (0.82, False)])
def test_an_adapter_that_answers_far_better_on_its_own_base_says_so(
    there: float, *, is_said: bool
) -> None:
    """Where the served base costs much, the two ways out are named; a small loss is not."""
    other = (ScoreSummary(name="in_form", base=0.4, adapter=there),)
    evaluation = scored(0.3, 0.1, 0.5, form="original", other_form=other)
    found = verdict(2.0, 1.0, evaluation=evaluation)
    assert ("answers far better (91%)" in found.reason) is is_said
    assert ("method: lora" in reason_in(found, Speaker(Language.GERMAN))) is is_said
    assert found.outcome is Outcome.BETTER


def test_a_failed_evaluation_leaves_the_adapter() -> None:
    """It is said that nothing is known, and which command tries again."""
    found = not_measured()
    assert found.outcome is Outcome.CANNOT_TELL
    assert "runner evaluate" in found.reason


@pytest.mark.parametrize("name", SCORES)
def test_every_sentence_is_said_in_german_from_the_record(name: str) -> None:
    """The record holds the English sentence; a German page says the same anew."""
    german = Speaker(Language.GERMAN)
    found = verdict(2.0, 1.0, evaluation=SCORES[name][0])
    again = Verdict.model_validate_json(found.model_dump_json())
    said = reason_in(again, german)
    assert said != found.reason
    assert "in der Form" in said


def test_a_loss_worse_than_guessing_says_what_guessing_gives() -> None:
    """The sentence has the three losses and what is probably wrong, in both languages."""
    found = verdict(18.2, 16.2, interval=(-2.1, -1.9), uniform=math.log(49152))
    for language, says in ((Language.ENGLISH, "10.803"), (Language.GERMAN, "10,803")):
        assert says in reason_in(found, Speaker(language))
    assert "(18.200 before, 16.200 after)" in found.reason
    assert "base model is probably damaged" in found.reason


def test_a_lower_loss_is_not_what_a_job_asked_for() -> None:
    """No answer was scored in time: a form that nobody looked at makes no adapter better."""
    figures = Figures(
        loss_before=3.1, loss_after=1.2, held_out_rows=25, change_low=-2.1, change_high=-1.7
    )
    asked = Evaluation(deciding=("in_form", "field.Art"), primary="asked")
    found = judge(figures, adapter_is_zero=False, rows_changed=25, evaluation=asked)
    assert (found.outcome, found.why) == (Outcome.CANNOT_TELL, "not_answered")
    assert "evaluation.minutes" in found.reason
    worse = figures.model_copy(update={"loss_after": 4.0, "change_low": 0.5, "change_high": 1.3})
    found = judge(worse, adapter_is_zero=False, rows_changed=25, evaluation=asked)
    assert found.outcome is Outcome.WORSE
    found = judge(figures, adapter_is_zero=False, rows_changed=25, evaluation=Evaluation())
    assert found.outcome is Outcome.BETTER


def test_examples_do_as_well_only_where_the_adapter_is_not_surely_better() -> None:
    """A difference of 1.5 points that is beyond chance is one: training was not for nothing."""
    for low, is_said in ((-0.005, True), (0.005, False)):
        evaluation = scored(0.3, 0.1, 0.5, examples=0.785)
        (score,) = evaluation.scores
        sure = Difference(difference=0.015, low=low, high=0.025, rows=40)
        score = score.model_copy(update={"against_examples": sure})
        reason = verdict(2.0, 1.0, evaluation=evaluation.model_copy(update={"scores": (score,)}))
        assert ("about as well" in reason.reason) is is_said


def test_no_change_is_told_from_no_improvement() -> None:
    """Within five points on both sides nothing changed; worse by up to 19 points is not that."""
    assert verdict(2.0, 1.0, evaluation=scored(-0.08, -0.19, 0.03)).why == "score_no_better"
    assert verdict(2.0, 1.0, evaluation=scored(-0.01, -0.04, 0.02)).why == "score_same"


def test_only_what_is_surely_worse_is_named_so() -> None:
    """Of several scores, one whose interval has zero in it is not said to have become worse."""
    evaluation = scored(0.3, 0.1, 0.5)
    (first,) = evaluation.scores
    open_, worse = (
        ScoreSummary(name=f"field.{name}", base=0.5, adapter=0.4, low=-0.3, high=high, rows=40)
        for name, high in (("Open", 0.1), ("Lost", -0.05))
    )
    deciding = ("in_form", "field.Open", "field.Lost")
    changes = {"scores": (first, open_, worse), "deciding": deciding}
    reason = verdict(2.0, 1.0, evaluation=evaluation.model_copy(update=changes)).reason
    assert "worse in this" in reason
    said = reason.partition("worse in this")[2]
    assert "Lost" in said
    assert "Open" not in said


def test_a_loss_that_shows_nothing_says_nothing_of_answers_either() -> None:
    """Asked for scores that nobody could measure: whatever the loss, it cannot be told."""
    asked = Evaluation(deciding=("in_form",), primary="in_form")
    same = Figures(
        loss_before=2.0, loss_after=2.0, held_out_rows=40, change_low=-0.01, change_high=0.01
    )
    found = judge(same, adapter_is_zero=False, rows_changed=40, evaluation=asked)
    assert (found.outcome, found.why) == (Outcome.CANNOT_TELL, "not_answered")
    found = judge(same, adapter_is_zero=False, rows_changed=40, evaluation=None)
    assert found.outcome is Outcome.NO_DIFFERENCE


def test_an_interval_that_begins_at_zero_is_no_better() -> None:
    """No difference at all lies within it: of the answers, and of the losses."""
    assert verdict(2.0, 1.0, evaluation=scored(0.3, 0.0, 0.6)).outcome is Outcome.CANNOT_TELL
    assert verdict(2.0, 1.9, interval=(-0.2, 0.0)).outcome is Outcome.CANNOT_TELL


def test_one_answer_to_all_questions_is_not_better() -> None:
    """The most frequent label, always: right more often than the base, and no question is read."""
    better = scored(0.4, 0.2, 0.6)
    alike = {"answered_questions": 40, "same_answers": 40, "same_expected": 30}
    found = verdict(2.0, 1.0, evaluation=better.model_copy(update=alike))
    assert (found.outcome, found.why) == (Outcome.CANNOT_TELL, "one_answer")
    assert "same answer to 40 different questions" in found.reason
    assert reason_in(found, Speaker(Language.GERMAN)).startswith("Nichts zeigt, dass")
    for other in (
        {**alike, "same_answers": 39},
        {**alike, "same_expected": 38},  # hardly any other was expected
        {"answered_questions": 9, "same_answers": 9, "same_expected": 5},
        {"answered_questions": 1, "same_answers": 1, "same_expected": 1},  # all ask the same
    ):
        found = verdict(2.0, 1.0, evaluation=better.model_copy(update=other))
        assert found.outcome is Outcome.BETTER
    worse = scored(-0.4, -0.6, -0.2).model_copy(update=alike)
    assert verdict(2.0, 1.0, evaluation=worse).outcome is Outcome.WORSE


def fallen(name: str, adapter: float, high: float) -> Evaluation:
    """Answers that were measured where the loss decides."""
    score = ScoreSummary(name=name, base=0.9, adapter=adapter, low=-0.9, high=high, rows=100)
    return Evaluation(scores=(score,), answered_rows=100)


def test_a_lower_loss_is_not_better_where_answers_no_longer_end() -> None:
    """Beyond chance and by much; what may be chance, or is little, is no reason."""
    runs_on = fallen("stops_by_itself", 0.3, -0.4)
    found = verdict(2.0, 1.5, interval=(-0.6, -0.4), evaluation=runs_on)
    assert (found.outcome, found.why) == (Outcome.CANNOT_TELL, "runs_on")
    assert "stops by itself" in found.reason
    assert "abgeschnitten" in reason_in(found, Speaker(Language.GERMAN))
    for better in (fallen("stops_by_itself", 0.3, 0.1), fallen("stops_by_itself", 0.85, -0.01)):
        found = verdict(2.0, 1.5, interval=(-0.6, -0.4), evaluation=better)
        assert (found.outcome, found.why) == (Outcome.BETTER, "better")
    worse = verdict(2.0, 3.0, interval=(0.9, 1.1), evaluation=runs_on)
    assert worse.outcome is Outcome.WORSE


def test_answers_less_like_the_expected_ones_are_named_beside_a_lower_loss() -> None:
    """The loss decides; whoever reads the verdict learns of it."""
    found = verdict(2.0, 1.5, interval=(-0.6, -0.4), evaluation=fallen("chrf", 0.5, -0.2))
    assert found.outcome is Outcome.BETTER
    assert "worse in this: likeness to the expected answer" in found.reason
    chance = verdict(2.0, 1.5, interval=(-0.6, -0.4), evaluation=fallen("chrf", 0.5, 0.2))
    assert "worse in this" not in chance.reason
