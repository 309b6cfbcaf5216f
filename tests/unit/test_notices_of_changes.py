"""Notices of what people do and of the card: a change by hand, a lost GPU."""

from __future__ import annotations

from datetime import timedelta

import pytest
from made_runs import make_run, record
from pydantic import ValidationError
from test_notices import GERMAN, SECRET, outputs, sender_to, webhook

from runner.clock import now
from runner.contract.promotions import GATE, promote, roll_back
from runner.language.speaker import ENGLISH
from runner.notices.leave import CARD_AGAIN_SECONDS, leave_change, leave_lost_card
from runner.notices.notice import Kind, Notice, notice_of_lost_card, read_notice
from runner.notices.word import text_of, title_of

__all__ = ["outputs"]  # a fixture


@pytest.mark.parametrize("speak", [ENGLISH, GERMAN])
@pytest.mark.parametrize("how", ["promoted", "rolled back"])
def test_a_change_by_hand_is_told_once_and_the_gate_s_is_not(speak, how, outputs, tmp_path) -> None:
    """Job and run, and not who asked; also when the request is carried out again."""
    first, second = "20261126T110000Z-k3f9", "20261126T120000Z-k3fa"
    for run_id in (first, second):
        make_run(outputs.root, record(job="contracts", run_id=run_id))
    promote(outputs, outputs.run("contracts", first), why="better", by=GATE)
    leave_change(outputs, "contracts")
    assert not outputs.notices.exists(), "the run's end tells it"
    promote(outputs, outputs.run("contracts", second), why=SECRET, by=SECRET, request="1-a.json")
    now_in_use = second
    if how == "rolled back":
        leave_change(outputs, "contracts")
        roll_back(outputs, "contracts", by=SECRET, request="2-b.json")
        now_in_use = first
    for _ in range(2):
        leave_change(outputs, "contracts", request="2-b.json" if how != "promoted" else "1-a.json")
    path = max(outputs.notices.glob("*.json"), key=lambda one: how in one.read_text())
    assert len(list(outputs.notices.glob("*.json"))) == (1 if how == "promoted" else 2)
    assert SECRET not in path.read_text()
    notice = read_notice(path)
    assert (notice.kind, notice.job, notice.run_id) == (Kind.IN_USE, "contracts", now_in_use)
    assert title_of(notice, speak).startswith("contracts: ")
    assert now_in_use in text_of(notice, speak)
    assert SECRET not in title_of(notice, speak) + text_of(notice, speak)
    with webhook() as (url, got, _):
        sender = sender_to(outputs, tmp_path, f"in_use={url}\n")
        assert sender.round(0.0) is False
        assert sender.round(1.0) is False
    assert len(got) == len(list(outputs.notices.glob("*.json")))


def test_each_of_two_changes_is_told_of_by_its_own_request(outputs) -> None:
    """Somebody asked twice before the daemon came to tell of the first."""
    ids = ("20261126T110000Z-k3f9", "20261126T120000Z-k3fa")
    for number, run_id in enumerate(ids):
        make_run(outputs.root, record(job="contracts", run_id=run_id))
        promote(
            outputs, outputs.run("contracts", run_id), why="w", by="m", request=f"{number}.json"
        )
    leave_change(outputs, "contracts", request="0.json")
    (path,) = outputs.notices.glob("*.json")
    assert read_notice(path).run_id == ids[0]


def test_a_lost_card_is_told_once_in_six_hours(outputs) -> None:
    """A daemon that is started again and again for it floods nobody; a day later it is news."""
    for _ in range(3):
        leave_lost_card(outputs)
    (path,) = outputs.notices.glob("*.json")
    notice = read_notice(path)
    assert (notice.kind, notice.job, notice.run_id) == (Kind.CARD_LOST, None, None)
    assert title_of(notice, ENGLISH) == "The fine-tuning box has lost a GPU"
    assert "STATUS.txt" in text_of(notice, GERMAN)
    long_ago = notice_of_lost_card(now() - timedelta(seconds=CARD_AGAIN_SECONDS + 60))
    path.unlink()
    (outputs.notices / f"{long_ago.id}.json").write_text(long_ago.model_dump_json())
    leave_lost_card(outputs)
    assert len(list(outputs.notices.glob("*.json"))) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "card_lost", "event": None},
        {"kind": "card_lost", "event": "../20261126T110000Z-card"},
        {"kind": "card_lost", "job": "c"},
        {"kind": "in_use"},
        {"kind": "in_use", "event": "20261126T110000Z-card", "job": "c", "how": "promoted"},
        {"kind": "failed"},
    ],
)
def test_half_a_notice_is_none(fields) -> None:
    """What is missing would be sent as a word too few, what is too much as a lie."""
    given = {"happened_at": "2026-11-26T11:00:00Z", "event": "20261126T110000Z-card", **fields}
    with pytest.raises(ValidationError):
        Notice.model_validate(given)
