"""Turns records into the words that people read beside their specs."""

from __future__ import annotations

from typing import Any

from runner.clock import now
from runner.contract.progress import Progress
from runner.contract.record import ErrorFacts, RunRecord, Waiting
from runner.contract.states import State
from runner.daemon.inbox.answer import answer, status


def record(**changes: Any) -> RunRecord:
    """Make a record."""
    fields: dict[str, Any] = {
        "job": "contracts",
        "run_id": "20261123T221005Z-k3f9",
        "state": State.QUEUED,
        "file_name": "contracts.yaml",
        "created_at": now(),
        "spec_sha256": "0" * 64,
        **changes,
    }
    return RunRecord(**fields)


def test_a_queued_spec_learns_its_place() -> None:
    """Accepted, and when it is its turn."""
    assert "It is number 3 in the queue." in answer(record(), place=3)
    assert "It is next." in answer(record(), place=1)


def test_waiting_says_for_what() -> None:
    """A job that does not go on says why."""
    text = answer(record(waiting=Waiting(reason="waiting for a.jsonl", since=now())))
    assert "waiting for a.jsonl" in text


def test_training_shows_progress_and_eta() -> None:
    """Step, loss and the time that is left."""
    training = record(state=State.TRAINING, total_steps=120)
    text = answer(training, progress=Progress(step=20, loss=1.25, eta_seconds=600.0))
    assert "step 20 of 120, loss 1.250, about 10 min left" in text
    assert "step 0 of 120, loading the model" in answer(training, progress=Progress())


def test_an_end_says_what_to_do_next() -> None:
    """A failure comes with its advice, and with how to try again."""
    error = ErrorFacts(kind="diverged", message="The loss is NaN.", advice="Lower the rate.")
    text = answer(record(state=State.FAILED, error=error))
    assert "The loss is NaN.\nWhat to do: Lower the rate." in text
    assert "drop the spec into the inbox" in text


def test_status_opens_with_what_needs_a_person() -> None:
    """The first line of STATUS.txt is for the one who has to act."""
    text = status(needs_person=["The queue is held: no GPU."], live=[record()], ended=[])
    assert text.startswith("Needs a person:\n  The queue is held: no GPU.\n")
    assert status(needs_person=[], live=[], ended=[]).startswith("Nothing needs a person.")
