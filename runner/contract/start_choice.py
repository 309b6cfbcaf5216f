"""Start choice: afresh, or on from the adapter in use, where a spec leaves it to the box, and why.

``start_from: auto``, the default. A pure decision; its facts are put together where the rows are
(training/data/start.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

REPLAY = 0.3
"""Share of the old rows that is learned again: what was measured (docs/measurements.md, training
afresh or going on). New rows alone lose old ones."""
MOST_GOINGS_ON = 1
"""In a row, then an adapter is trained afresh: drift was measured over no more."""
LEAST_GROWTH, MOST_GROWTH = 0.5, 1.0
"""New rows for each old one. Measured: as many. Half as many is our judgement: with fewer, most of
the run repeats what the adapter knows; with more, going on saves little."""

Why = Literal[
    "grown",
    "settings",
    "other_spec",
    "does_not_fit",
    "went_on",
    "due",
    "unknown_rows",
    "rows_gone",
    "held_out",
    "nothing_new",
    "growth",
]


class StartChoice(BaseModel):
    """What was chosen, and what it was chosen by."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_id: str
    """The run whose adapter was in use."""
    why: Why
    """``grown``: the run goes on from it. For all others it begins afresh. ``went_on``: another
    run did already, and did not take its place; ``due``: it has itself gone on from
    others; ``growth``: more or fewer new rows than was measured."""
    count: int = 0
    """Rows, or goings-on, that ``why`` speaks of."""
    old: int = 0
    """Rows that the adapter in use has learned."""

    @property
    def goes_on(self) -> bool:
        """Whether the run starts from the adapter in use."""
        return self.why == "grown"


@dataclass(frozen=True, kw_only=True)
class StartFacts:
    """What is known of the adapter in use, and of its rows in today's data."""

    run_id: str
    usual_settings: bool = True
    """No learning rates are tried first, and the length of the training follows from the rows."""
    same_spec: bool = True
    """It was trained by a spec of the same bytes, so by the same settings."""
    fits: bool = True
    """It is there, and base model and shape are those of this run."""
    went_on: bool = False
    """A run that has ended went on from it, and another one than that is in use."""
    goings_on: int = 0
    """From how many adapters before it, one after the other, it went on."""
    rows_known: bool = True
    """What it learned is known, and what those learned that it went on from."""
    old: int = 0
    """Different rows that it has learned."""
    gone: int = 0
    """Of these: not in the data any more with the same answer."""
    held_out: int = 0
    """Of these: in the data, and not to be learned this time."""
    new: int = 0
    """Different rows to be learned that it has not."""


def choose_by_itself(facts: StartFacts) -> StartChoice:
    """Decide: on from the adapter in use exactly where that was measured to do better."""

    def chosen(why: Why, count: int = 0) -> StartChoice:
        return StartChoice(run_id=facts.run_id, why=why, count=count, old=facts.old)

    if not facts.usual_settings:
        return chosen("settings")
    if not facts.same_spec:
        return chosen("other_spec")
    if not facts.fits:
        return chosen("does_not_fit")
    if facts.went_on:
        return chosen("went_on")
    if facts.goings_on >= MOST_GOINGS_ON:
        return chosen("due", facts.goings_on)
    if not facts.rows_known:
        return chosen("unknown_rows")
    if facts.gone:
        return chosen("rows_gone", facts.gone)
    if facts.held_out:
        return chosen("held_out", facts.held_out)
    if not facts.new:
        return chosen("nothing_new")
    if not LEAST_GROWTH * facts.old <= facts.new <= MOST_GROWTH * facts.old:
        return chosen("growth", facts.new)
    return chosen("grown", facts.new)


def sentence(choice: StartChoice) -> str:
    """Say what was chosen and why."""
    run, count, old = choice.run_id, choice.count, choice.old
    if choice.goes_on:
        if old == 1:
            return (
                f"goes on from the adapter in use ({run}): the only row that it has learned still "
                f"stands in the data; new rows: {count}"
            )
        return (
            f"goes on from the adapter in use ({run}): all {old} rows that it has learned still "
            f"stand in the data; new rows: {count}"
        )
    reason = {
        "settings": "going on was not measured with try or max_steps",
        "other_spec": "the spec has been edited since",
        "does_not_fit": "its folder is not whole, or its base model or shape differs",
        "went_on": "a run went on from it before, and that one is not in use",
        "due": f"it has itself gone on from earlier ones, as many as was measured: {count}",
        "unknown_rows": "not all rows that it has learned are known any more",
        "rows_gone": "taken out or corrected since: the only row that it has learned"
        if old == 1
        else f"taken out or corrected since: {count} of the {old} rows that it has learned",
        "held_out": "held out or too long now: the only row that it has learned"
        if old == 1
        else f"held out or too long now: {count} of the {old} rows that it has learned",
        "nothing_new": "no row of the data is new to it",
        "growth": f"new rows: {count} beside {old} old ones; going on is for half as many new ones "
        "up to as many",
    }[choice.why]
    return f"begins afresh and not from the adapter in use ({run}): {reason}"
