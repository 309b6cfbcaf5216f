"""Rates tried: the learning rates that a run compares in small runs before it trains (`try:`)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from runner.language.speaker import ENGLISH, Speaker

MEASURED, DIVERGED = "measured", "diverged"
MOST_RATES = 8
"""More small runs than that would take longer than the training that they are for."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class RateTrial(_Part):
    """The small run of one learning rate."""

    learning_rate: float
    token: str = ""
    """Of its newest try, as an attempt's."""
    outcome: str | None = None
    """``measured`` or ``diverged``; None: it is not done."""
    eval_loss: float | None = None
    """Nats per token on the held-out rows at its end, weighted by token."""
    seconds: float = 0.0
    """How long it worked, tries that were cut off included."""
    difference: float | None = None
    """By so much its loss is lower than the own rate's; above zero, it is better."""
    low: float | None = None
    """Where that lies with 95% confidence, over the held-out rows in pairs; None: too few rows."""
    high: float | None = None


class RatesTried(_Part):
    """The learning rates of a run: how far their comparison is, and what came out of it."""

    own: float
    """Of those tried, the one nearest to ``training.learning_rate``: it is kept unless another one
    is shown to be better."""
    steps: int = 0
    """Optimizer steps of each small run; 0: not decided yet."""
    is_timed: bool = False
    """A small run has shown that its time is enough for its steps: the others get as many."""
    trials: tuple[RateTrial, ...] = ()
    left_fast_path: bool = False
    """A small run fell back to the plain path, or a defect ended it: what follows begins there."""
    chosen: float | None = None
    """The rate that the run trains with; None: they are still compared."""
    why: str = ""
    """The name of the reason in the table of texts."""
    reason: str = ""
    """For a person who is not an engineer."""

    @property
    def next_trial(self) -> int | None:
        """The place of the first rate that is not done, from 0; None: none is left to try."""
        if self.chosen is not None:
            return None
        return next((at for at, one in enumerate(self.trials) if one.outcome is None), None)

    @property
    def seconds(self) -> float:
        """How long all of them worked."""
        return sum(one.seconds for one in self.trials)

    def trial(self, rate: float) -> RateTrial:
        """Find the small run of a rate."""
        return next(one for one in self.trials if one.learning_rate == rate)

    def with_trial(self, at: int, **changes: object) -> RatesTried:
        """Give the same with one small run changed."""
        trials = list(self.trials)
        trials[at] = trials[at].model_copy(update=changes)
        return self.model_copy(update={"trials": tuple(trials)})

    def choosing(self, rate: float, why: str) -> RatesTried:
        """Give the same with the rate that the run trains with, and the reason."""
        chosen = self.model_copy(update={"chosen": rate, "why": why})
        return chosen.model_copy(update={"reason": rates_in(chosen, ENGLISH)})


class HeldOutLosses(_Part):
    """What a small run's model expects of held-out rows, those of a question or file together."""

    sums: tuple[float, ...] = ()
    """Nats, summed over their learned tokens."""
    tokens: tuple[int, ...] = ()
    """Their learned tokens."""


def in_words(rate: float, speak: Speaker = ENGLISH) -> str:
    """Write a learning rate: ``2e-4`` is read more safely than ``0.0002``."""
    mantissa, _, power = f"{rate:.3e}".partition("e")
    digits = mantissa.rstrip("0").rstrip(".")
    return f"{speak.number(float(digits), 'g')}e{int(power)}"


def rates_in(rates: RatesTried, speak: Speaker = ENGLISH) -> str:
    """Say which learning rate was chosen and why, or how far the comparison is."""
    at = rates.next_trial
    if rates.chosen is None:
        if at is None:
            return ""
        rate = in_words(rates.trials[at].learning_rate, speak)
        return speak("rates_under_way", number=at + 1, all=len(rates.trials), rate=rate)
    if not speak.knows(f"rates_{rates.why}"):
        return rates.reason
    measured = [one for one in rates.trials if one.eval_loss is not None]
    best = min(measured, key=lambda one: one.eval_loss or 0.0, default=None)
    own = next((one for one in measured if one.learning_rate == rates.own), None)
    return speak(
        f"rates_{rates.why}",
        rates=", ".join(in_words(one.learning_rate, speak) for one in rates.trials),
        chosen=in_words(rates.chosen, speak),
        own=in_words(rates.own, speak),
        best="–" if best is None else in_words(best.learning_rate, speak),
        loss=speak.number(best.eval_loss if best else None, ".4f"),
        own_loss=speak.number(own.eval_loss if own else None, ".4f"),
        steps=rates.steps,
        few=speak("steps_count", count=rates.steps or 0),
    )


def trial_in(rates: RatesTried, one: RateTrial, speak: Speaker = ENGLISH) -> str:
    """Say what came out of one rate's small run."""
    if one.eval_loss is None:
        return speak("rate_diverged" if one.outcome == DIVERGED else "rate_not_done")
    loss = speak.number(one.eval_loss, ".4f")
    if one.difference is None or one.low is None or one.high is None:
        return speak("rate_measured", loss=loss)
    if one.low > 0:
        key, ends = "rate_lower", (one.low, one.high)
    elif one.high < 0:
        key, ends = "rate_higher", (-one.high, -one.low)
    else:
        key, ends = "rate_alike", (one.high, -one.low)
    low, high = (speak.number(end, ".4f") for end in ends)
    return speak(key, loss=loss, own=in_words(rates.own, speak), low=low, high=high)
