"""The verdict: whether a run's adapter is better than what was before, and why, for a lawyer.

A pure decision over the figures of the evaluate stage. It errs towards a warning: an adapter is
called better only where its interval over the held-out rows leaves no other reading, and worse
already where a much higher loss is all there is.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from pydantic import BaseModel, ConfigDict

from runner.contract.evaluation import LOSS, STOPS, TASK, Evaluation, Form, ScoreSummary
from runner.contract.intervals import CONFIDENCE
from runner.contract.record_head import GUESSING, VerdictHead
from runner.contract.record_head import Outcome as Outcome  # noqa: PLC0414 - others find it here
from runner.language.speaker import ENGLISH, Speaker

VERSION = 1
POWER = 0.8  # the usual chance that a difference of that size shows itself
DISCORDANT = 0.3
"""Share of held-out rows that only one of two models gets right, where nothing better is known:
with it 40, 120 and 200 rows show 24, 14 and 11 points, the figures that this was planned with."""
FAR_WORSE = 1.1  # times the loss before: too much for chance, however few the rows are
FAR_LIKELIER = 100  # times: a model that could not speak at all; more says nothing more
SAME_SCORE = 0.05
"""Of a score between 0 and 1: an interval within it on both sides shows that nothing changed."""
FAR_BETTER_THERE = 0.05
"""Of a score: an adapter that loses more on the form that is served was trained on the wrong one.
SmolLM2's lost 0.33 (91% in 4 bits, 59% on the base in 16), and nothing when trained in 16."""
RUNS_ON = 0.1
"""Of the answers: by so many fewer that end by themselves, a lower loss is no better adapter."""
ONE_ANSWER = 10  # questions, at least: of fewer, all may be answered alike by chance
OTHERS_EXPECTED = 3  # questions, at least: of fewer, the frequent answer may be the right guess
AS_GOOD = 0.02  # of a score: so near the base with examples comes to doing as well
_SCORES_SAID = 5  # in one sentence
_MOST_ROWS_SAID = 5000  # nobody holds out more to be surer
SAME = 0.01  # of the loss before: an interval within it on both sides shows that nothing changed


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Scored(_Part):
    """One score that the job asked for, before and after."""

    name: str
    before: float
    after: float
    is_worse: bool = False
    """By more than chance explains."""


class Figures(_Part):
    """What the verdict stands on."""

    loss_before: float | None = None
    """The base model's on the held-out rows, nats per token: lower is better."""
    loss_after: float | None = None
    """The adapter's. With rows and without a loss, it was not a number."""
    uniform_loss: float | None = None
    """The loss of guessing each token of the vocabulary alike, its logarithm; None: not known."""
    held_out_rows: int = 0
    change_low: float | None = None
    """Where the change of the loss lies, with 95% confidence over the rows; None: too few rows."""
    change_high: float | None = None
    smallest_points: float | None = None
    """The smallest difference of two success rates that so many rows show, in percentage points."""
    form: Form = "as_trained"
    """The form of the base that this was measured on."""
    scores: tuple[Scored, ...] = ()
    """What the job asks of the answers; with them, the verdict goes by their mean."""
    answered_rows: int = 0
    """Held-out rows whose answers were scored."""
    difference: float | None = None
    """Of the scores' mean; above zero is better."""
    low: float | None = None
    """Where it lies, with 95% confidence; None: too few rows."""
    high: float | None = None
    examples: int = 0
    """Rows in the base's prompt with which it does as well; 0: it does not."""
    examples_score: float | None = None
    other_form_score: float | None = None
    """The mean on the form that it was trained on, where it answers far better there."""
    fallen: tuple[Scored, ...] = ()
    """Where the loss decides: scores of answers that have fallen all the same."""
    one_answer: int = 0
    """Questions that all got one and the same answer, though others were expected; 0: not so."""
    confused: str | None = None
    """The field, the expected and the given value that were confused most often."""

    @property
    def runs_on(self) -> bool:
        """Whether far fewer answers end by themselves than the base's do."""
        return any(one.name == STOPS and one.before - one.after > RUNS_ON for one in self.fallen)

    @property
    def rows(self) -> int:
        """The rows that the verdict stands on."""
        return self.answered_rows if self.scores else self.held_out_rows


class Verdict(VerdictHead):
    """Whether a run's adapter is better than what was before, with its reason and figures."""

    version: int = VERSION
    figures: Figures = Figures()


def judge(
    figures: Figures,
    *,
    adapter_is_zero: bool | None,
    rows_changed: int | None,
    evaluation: Evaluation | None = None,
) -> Verdict:
    """Say what an evaluation means.

    Args:
        figures: what was measured; the smallest difference is filled in.
        adapter_is_zero: every B matrix of the adapter is zero: it adds nothing to any layer.
        rows_changed: held-out rows whose loss is another than before; None: not known.
        evaluation: scores of answers, where there are any.
    """
    if evaluation is not None:
        figures = with_scores(figures, evaluation)
    points = smallest_points(figures.rows)
    figures = figures.model_copy(update={"smallest_points": points})
    changed: bool | None = False
    if adapter_is_zero:
        why, outcome = "zero", Outcome.NO_DIFFERENCE
    elif figures.held_out_rows and rows_changed == 0:
        why, outcome = "unchanged", Outcome.NO_DIFFERENCE
    else:
        why, outcome = _compare(figures)
        is_asked = evaluation is not None and bool(evaluation.deciding) and not figures.scores
        if is_asked and outcome in (Outcome.BETTER, Outcome.NO_DIFFERENCE):
            # The job says what its answers have to be: a loss alone does not say that they are.
            why, outcome = "not_answered", Outcome.CANNOT_TELL
        if outcome is Outcome.BETTER and figures.one_answer:
            why, outcome = "one_answer", Outcome.CANNOT_TELL
        elif outcome is Outcome.BETTER and figures.runs_on:
            why, outcome = "runs_on", Outcome.CANNOT_TELL
        changed = True if rows_changed or adapter_is_zero is False else None
    reason = _worded(why, figures, ENGLISH)
    return Verdict(outcome=outcome, changed=changed, why=why, reason=reason, figures=figures)


def not_measured(figures: Figures | None = None) -> Verdict:
    """Say that the evaluation itself failed: the adapter is there, and nothing is known of it."""
    figures = figures or Figures()
    reason = _worded("failed", figures, ENGLISH)
    return Verdict(outcome=Outcome.CANNOT_TELL, why="failed", reason=reason, figures=figures)


def with_scores(figures: Figures, evaluation: Evaluation) -> Figures:
    """Add what the job asked of the answers to the figures; without answers they stay as they are.

    The mean of all scores that decide is compared: the best of many intervals would promise more
    than each of them does.
    """
    decides = [evaluation.score(name) for name in evaluation.deciding]
    of_mean = evaluation.score(evaluation.primary) if evaluation.primary else None
    known = {"form": evaluation.form, "one_answer": _answered_alike(evaluation)}
    if of_mean is None or not evaluation.answered_rows or not any(decides):
        fallen = () if evaluation.deciding else _fallen(evaluation)
        return figures.model_copy(update={**known, "fallen": fallen})
    examples = of_mean.against_examples
    as_good = examples is not None and examples.difference <= AS_GOOD and not examples.is_better
    elsewhere = next((o for o in evaluation.other_form if o.name == of_mean.name), None)
    worst = max(evaluation.confusions, key=lambda one: one.times, default=None)
    return figures.model_copy(
        update={
            **known,
            "scores": tuple(_scored(one) for one in decides if one is not None),
            "answered_rows": of_mean.rows,
            "difference": of_mean.difference,
            "low": of_mean.low,
            "high": of_mean.high,
            "examples": evaluation.examples if as_good else 0,
            "examples_score": of_mean.examples if as_good else None,
            "other_form_score": _where_far_better(of_mean, elsewhere),
            "confused": worst and f"{worst.field}: {worst.expected} → {worst.given}",
        }
    )


def _answered_alike(evaluation: Evaluation) -> int:
    """Count the questions that all got one answer; 0: they did not, or it may well be right."""
    rows = evaluation.answered_questions
    others = rows - evaluation.same_expected
    alike = rows >= ONE_ANSWER and evaluation.same_answers == rows and others >= OTHERS_EXPECTED
    return rows if alike else 0


def _fallen(evaluation: Evaluation) -> tuple[Scored, ...]:
    """Give the scores of answers that are lower than the base's, by more than chance explains."""
    scored = (_scored(one) for one in evaluation.scores if one.name != LOSS)
    return tuple(one for one in scored if one.is_worse and one.before - one.after > AS_GOOD)


def _where_far_better(served: ScoreSummary, trained: ScoreSummary | None) -> float | None:
    """Give the adapter's score on the form that it was trained on, if it is far better there."""
    if trained is None or trained.adapter is None or served.adapter is None:
        return None
    return trained.adapter if trained.adapter - served.adapter > FAR_BETTER_THERE else None


def _scored(one: ScoreSummary) -> Scored:
    return Scored(
        name=one.name,
        before=one.base or 0.0,
        after=one.adapter or 0.0,
        is_worse=one.high is not None and one.high < 0,
    )


def _compare_scores(figures: Figures) -> tuple[str, Outcome]:
    """Compare the answers; give the text's name and what it means."""
    low, high, difference = figures.low, figures.high, figures.difference or 0.0
    if high is not None and high < 0:
        return "score_worse", Outcome.WORSE
    if low is not None and low > 0:
        return "score_better", Outcome.BETTER
    if low is not None and high is not None and low > -SAME_SCORE and high < SAME_SCORE:
        return "score_same", Outcome.NO_DIFFERENCE
    if difference <= 0:
        return "score_no_better", Outcome.NO_DIFFERENCE
    return "score_chance", Outcome.CANNOT_TELL


def _compare(figures: Figures) -> tuple[str, Outcome]:
    """Compare losses or answers; give the text's name (``verdict_…``) and what it means."""
    before, after = figures.loss_before, figures.loss_after
    if figures.scores and not (figures.held_out_rows and after is None):
        return _compare_scores(figures)
    if not figures.held_out_rows:
        return "no_rows", Outcome.CANNOT_TELL
    if before is None or not math.isfinite(before):
        return "base_unusable", Outcome.CANNOT_TELL
    if after is None or not math.isfinite(after):
        return "not_a_number", Outcome.WORSE
    low, high = figures.change_low, figures.change_high
    if after > before * FAR_WORSE:
        return "far_worse", Outcome.WORSE
    if after > before and (low is None or low > 0):
        return "worse", Outcome.WORSE
    if figures.uniform_loss is not None and after >= figures.uniform_loss:
        return GUESSING, Outcome.CANNOT_TELL
    if after >= before:
        return "no_better", Outcome.NO_DIFFERENCE
    if low is not None and high is not None and high < 0:
        return "better", Outcome.BETTER
    if low is not None and high is not None and -SAME * before < low and high < SAME * before:
        return "same", Outcome.NO_DIFFERENCE
    return "chance", Outcome.CANNOT_TELL


def reason_in(verdict: Verdict, speak: Speaker) -> str:
    """Say a verdict's reason in a language; in English where an older runner worded it otherwise.

    The record holds the English sentence; it is said anew from the same figures.
    """
    figures = verdict.figures
    asked = [verdict.why] if verdict.why else ["zero", "unchanged", _compare(figures)[0]]
    for why in asked:
        if speak.knows(f"verdict_{why}") and _worded(why, figures, ENGLISH) == verdict.reason:
            return _worded(why, figures, speak)
    return verdict.reason


def _worded(why: str, figures: Figures, speak: Speaker) -> str:
    rows = speak("rows_count", count=figures.rows)
    said = speak(
        f"verdict_{why}",
        losses=_losses(figures, speak),
        uniform=speak.number(figures.uniform_loss, ".3f") if figures.uniform_loss else "",
        rows=rows,
        scores=_scores(figures, speak),
        alike=figures.one_answer,
    )
    return " ".join([said, *_also(why, figures, speak)])


def _scores(figures: Figures, speak: Speaker) -> str:
    """Say each score before and after."""
    said = [
        speak(
            "score_change",
            name=score_name(one.name, speak),
            before=speak.percent(one.before),
            after=speak.percent(one.after),
        )
        for one in (figures.scores or figures.fallen)[:_SCORES_SAID]
    ]
    return "; ".join(said)


def score_name(name: str, speak: Speaker = ENGLISH) -> str:
    """Name a score for people; a field of the taxonomy by its own name."""
    if name.startswith("field."):
        return speak("score_field", name=name.removeprefix("field."))
    return speak(f"score_{name}") if speak.knows(f"score_{name}") else name


def axis_name(name: str, speak: Speaker = ENGLISH) -> str:
    """Name an axis for people; a task of the owner's by its own name."""
    if name.startswith(TASK):
        return speak("axis_task", name=name.removeprefix(TASK))
    return speak(f"axis_{name}") if speak.knows(f"axis_{name}") else name


def _also(why: str, figures: Figures, speak: Speaker) -> list[str]:
    """Say what belongs to the verdict beside its reason, and what would make it surer."""
    if not figures.scores or why not in _BY_SCORES:
        return _also_by_loss(figures, speak) if why in _BY_LOSS else []
    found = []
    worse = [score_name(one.name, speak) for one in figures.scores if one.is_worse]
    if worse and why != "score_worse":
        found.append(speak("also_worse_in", names=", ".join(worse)))
    if figures.examples and figures.examples_score is not None:
        score = speak.percent(figures.examples_score)
        found.append(speak("also_examples", count=figures.examples, score=score))
    if why == "score_chance" and (rows := rows_to_show(figures.difference or 0.0)):
        found.append(speak("also_surer", rows=rows))
    if figures.confused:
        found.append(speak("also_confused", confused=figures.confused))
    if figures.form == "original":
        found.append(speak("also_original"))
    if figures.other_form_score is not None:
        found.append(speak("also_other_form", score=speak.percent(figures.other_form_score)))
    return found


def _also_by_loss(figures: Figures, speak: Speaker) -> list[str]:
    names = ", ".join(score_name(one.name, speak) for one in figures.fallen)
    found = [speak("also_worse_in", names=names)] if names else []
    return [*found, speak("also_original")] if figures.form == "original" else found


_BY_SCORES = ("score_worse", "score_better", "score_same", "score_no_better", "score_chance")
_BY_LOSS = ("far_worse", "worse", GUESSING, "no_better", "better", "same", "chance")


def _losses(figures: Figures, speak: Speaker) -> str:
    before, after = figures.loss_before, figures.loss_after
    if before is None or after is None:
        return ""
    places = 3
    while places < 6 and before != after and f"{before:.{places}f}" == f"{after:.{places}f}":
        places += 1
    shown = [speak.number(loss, f".{places}f") for loss in (before, after)]
    return speak("losses", before=shown[0], after=shown[1])


def loss_meaning(before: float, after: float, speak: Speaker = ENGLISH) -> str | None:
    """Say what a change of the loss means: how much likelier the right words became.

    The loss is the mean of -log p over the answers' tokens, so e to the difference is the factor
    by which the (geometric) mean probability of a right token changed.
    """
    if not (math.isfinite(before) and math.isfinite(after)) or abs(before - after) > 50:
        return None
    factor = math.exp(before - after)
    if abs(factor - 1) < 0.005:
        return speak("means_same")
    if factor > FAR_LIKELIER:
        return speak("means_far", factor=FAR_LIKELIER)
    if factor >= 2:
        return speak("means_times", factor=speak.number(factor, ".1f"))
    percent = round(abs(factor - 1) * 100) or 1
    return speak("means_more" if factor > 1 else "means_less", percent=percent)


def _rows_needed(points: float) -> float:
    z_a, z_b = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), NormalDist().inv_cdf(POWER)
    share = max(DISCORDANT, points)
    return (z_a * math.sqrt(share) + z_b * math.sqrt(share - points**2)) ** 2 / points**2


def smallest_points(rows: int) -> float | None:
    """Give the smallest difference of two success rates that so many paired rows show, in points.

    Both models answer the same rows, so McNemar's test compares them, and only rows that one of
    them alone gets right count. Its sample size (Connor, Biometrics 43, 1987, 207 to 211) is
    rows = (z_a √ψ + z_b √(ψ - δ²))² / δ², with ψ the share of such rows and δ the difference, here
    at 95% confidence and 80% power; solved for δ. A difference of more than 30 points needs as many
    such rows, and ψ is then δ.

    Returns:
        24 for 40 rows, 14 for 120, 11 for 200; None where not even a difference of 100 shows.
    """
    if rows < 1 or _rows_needed(1.0) > rows:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _rows_needed(middle) <= rows else (middle, high)
    return round(100 * high, 1)


def rows_to_show(difference: float) -> int | None:
    """Give the held-out rows that show a difference of two success rates; None: very many."""
    if difference <= 0:
        return None
    rows = _rows_needed(min(1.0, difference))
    return math.ceil(rows / 10) * 10 if rows <= _MOST_ROWS_SAID else None
