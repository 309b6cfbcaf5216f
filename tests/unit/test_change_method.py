"""When a run changes from 16 bits to 4, and what its record says then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.contract.memory_story import IN_4_BITS, memory_story
from runner.contract.method_choice import MethodChoice
from runner.contract.pick_rate import begin
from runner.contract.record import RunRecord, read_record
from runner.contract.states import Stage, State
from runner.daemon.stages.change_method import SAID, in_4_bits, may_change
from runner.exit_codes import ExitCode
from runner.language.speaker import Language, Speaker
from runner.report.story import story

RECORD = Path(__file__).parent.parent / "data/records/v2-9-cleared.json"
CARD, MACHINE = ExitCode.OUT_OF_GPU_MEMORY, ExitCode.OUT_OF_HOST_MEMORY


def record(why: str | None = "fits", method: str = "lora", **changes: Any) -> RunRecord:
    """Give a run's record, with a method that the box chose for that reason."""
    chosen = None if why is None else MethodChoice(method=method, why=why, limit_bytes=2**34)  # type: ignore[arg-type]
    return read_record(RECORD).but(**{"method": chosen, "started_from": None, **changes})


@pytest.mark.parametrize(
    ("before", "code", "changes"),
    [
        (record("fits"), CARD, True),
        (record("no_card"), CARD, True),
        (record("no_card"), MACHINE, True),
        (record("fits"), MACHINE, False),  # the weights lie on the card
        (record("fits"), ExitCode.UNEXPECTED, False),
        (record("fits"), -9, False),
        (record(None), CARD, False),  # the spec names it
        (record("goes_on"), CARD, False),  # the adapter stands on 16 bits
        (record("fits", started_from="20261123T221005Z-k3f9"), CARD, False),
        (record("no_room", "qlora"), CARD, False),
        (record("did_not_fit", "qlora"), CARD, False),  # once
    ],
)
def test_when_4_bits_come_next(before: RunRecord, code: int, *, changes: bool) -> None:
    """Only where the box itself chose 16 by their size, and memory is what ran out."""
    assert may_change(before, code) is changes


def test_what_the_record_says() -> None:
    """A new plan is chosen, no step in 16 bits counts, and a second change is not possible."""
    before = record(state=State.TRAINING)
    assert before.attempts[-1].last_step
    after = before.but(**in_4_bits(before))
    assert (after.state, after.batch_plan) == (State.INTERRUPTED, None)
    assert {attempt.last_step for attempt in after.attempts} == {0}
    assert after.attempts[-1].reason == IN_4_BITS
    assert after.shortfalls[-1] == SAID
    assert not may_change(after, CARD)
    again = after.but(**in_4_bits(after))
    assert again.shortfalls == after.shortfalls


@pytest.mark.parametrize("is_chosen", [True, False])
def test_rates_that_are_still_compared_are_compared_anew(*, is_chosen: bool) -> None:
    """The time that they took counts all the same; a rate that was chosen before stays."""
    rates = begin((1e-4, 2e-4), wanted=2e-4).model_copy(update={"steps": 8})
    rates = rates.with_trial(0, outcome="measured", eval_loss=1.0, seconds=60.0)
    rates = rates.choosing(1e-4, "shown") if is_chosen else rates
    before = record(rates=rates, tries={"rates": 3}, attempts=())
    after = before.but(**in_4_bits(before))
    assert after.rates is not None
    if is_chosen:
        assert after.rates == rates
        return
    assert (after.rates.next_trial, after.rates.steps, after.rates.seconds) == (0, 8, 60.0)
    assert after.tries[Stage.RATES.value] == 0


def test_the_story_does_not_call_it_a_smaller_batch() -> None:
    """The first plan in 4 bits is no halved one of the last in 16."""
    before = record()
    first = before.attempts[0]
    plan = first.batch_plan
    after = before.but(**in_4_bits(before.but(attempts=(first,))))
    larger = plan.model_copy(
        update={
            "per_device_batch_size": plan.effective_batch_size,
            "gradient_accumulation_steps": 1,
        }
    )
    assert larger != plan
    second = first.model_copy(update={"number": 2, "batch_plan": larger, "outcome": "succeeded"})
    told = after.but(attempts=(*after.attempts, second), batch_plan=larger)
    assert memory_story(told) == []
    for language, words in (
        (Language.ENGLISH, "began again with the base model in 4 bits"),
        (Language.GERMAN, "begann das Training von vorn mit dem Basismodell in 4 Bit"),
    ):
        said = [one.text for one in story(told, Speaker(language))]
        assert sum(words in one for one in said) == 1
