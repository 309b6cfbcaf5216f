"""Several cards under a real daemon: a job on each, a lost card, and what people are told of them.

The driver is a stand-in (its file says why), and so are the stages; two jobs on two real cards are
measured by benchmarks/cards_side_by_side.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from card_box import UUIDS, CardsBox
from daemon_box import wait_until
from test_card_daemon import LENGTHS, LLAMA_8B

from runner.commands.health import health
from runner.commands.page import Page
from runner.commands.status import read_overview, render
from runner.commands.try_ import named_cards, take_card
from runner.contract.card_shown import read_cards
from runner.contract.requests import leave_request
from runner.contract.states import State
from runner.doctor.cards import look_at_cards
from runner.doctor.finding import Level
from runner.errors import BusyError
from runner.exit_codes import ExitCode
from runner.files.lock import Lock

OFF_THE_BUS = 15
TWO_FIELDS = "model: m\ndata: data.jsonl\n"


@pytest.fixture
def box(tmp_path: Path) -> CardsBox:
    """A box with two cards."""
    return CardsBox(tmp_path)


def states(box: CardsBox) -> dict[str, State]:
    """Give each job's state."""
    return {record.job: record.state for record in box.records()}


def both_train(box: CardsBox) -> None:
    """Wait until two jobs train side by side."""
    wait_until(lambda: box.hangs("first") and box.hangs("second"))


def test_two_jobs_train_side_by_side_and_the_third_waits(box: CardsBox) -> None:
    """Each stage sees one card alone, by its UUID; a stop lets both go on later, each step once."""
    for name in ("first", "second"):
        box.drop(name, train=["train 3 then hang", "ok"])
    with box.watching():
        both_train(box)
        box.drop("third")
        wait_until(lambda: "third" in states(box))
        assert {box.card_of("first"), box.card_of("second")} == set(UUIDS)
        shown = wait_until(lambda: _with_runs(box, 2))
        assert {(one.job, one.uuid) for one in shown} == {
            (job, box.card_of(job)) for job in ("first", "second")
        }
        said = render(read_overview(box.outputs), Page(width=120, colors=False))
        for one in shown:
            assert one.title in said
        answers = [path.read_text() for path in (box.jobs / "running").glob("*.txt")]
        assert sorted("It is at work on GPU" in text for text in answers) == [True, True]
    assert states(box)["third"] in (State.QUEUED, State.PREPARING)
    assert box.once().returncode == 0
    assert set(states(box).values()) == {State.SUCCEEDED}
    first, second, third = box.records()
    for record in (first, second):
        assert [(one.first_step, one.last_step) for one in record.attempts] == [(1, 3), (4, 8)]
    assert len(third.attempts) == 1
    assert read_cards(box.outputs) == ()  # no daemon runs: nothing is known


def _with_runs(box: CardsBox, count: int) -> Any:
    shown = read_cards(box.outputs)
    return shown if sum(bool(one.run_id) for one in shown) == count else None


def test_a_lost_card_holds_only_its_own_job(box: CardsBox) -> None:
    """The other card trains on, the daemon stays, and the job of the lost one goes on there."""
    box.drop("first", train=["hang"])
    box.drop("second", train=["train 3 then 14", "ok"])
    with box.watching(gpu_lost_seconds=1) as daemon:
        wait_until(lambda: box.hangs("first"))
        wait_until(lambda: any(one.attempts and one.attempts[0].exit_code for one in box.records()))
        lost = box.card_of("second")
        wait_until(lambda: "takes no job; the others go on" in box.status())
        box.cards_say(*(OFF_THE_BUS if uuid == lost else 0 for uuid in UUIDS))
        wait_until(lambda: "fallen off the bus" in box.status(), seconds=40)
        assert states(box)["first"] is State.TRAINING
        assert daemon.poll() is None
        assert "fallen off the bus" in health(box.outputs).reason
        assert health(box.outputs).well
        assert "queue is held" not in box.status()
        leave_request(box.outputs, "cancel", run_id=box.run_of("first").run_id)
        wait_until(lambda: states(box)["second"] is State.SUCCEEDED)
        assert daemon.poll() is None  # a new container would be refused the card
    assert box.card_of("second", attempt=2) != lost
    assert states(box)["first"] is State.CANCELLED
    (second,) = [record for record in box.records() if record.job == "second"]
    assert [(one.first_step, one.last_step) for one in second.attempts] == [(1, 3), (4, 8)]


def test_a_box_that_starts_with_a_lost_card_works_with_the_other(box: CardsBox) -> None:
    """All jobs are done there, one after the other."""
    box.cards_say(0, OFF_THE_BUS)
    for name in ("first", "second"):
        box.drop(name)
    assert box.once().returncode == 0
    assert set(states(box).values()) == {State.SUCCEEDED}
    assert {box.card_of("first"), box.card_of("second")} == {UUIDS[0]}


def test_when_no_card_is_left_the_daemon_ends(box: CardsBox) -> None:
    """As on a box with one card: a new container may be given them again."""
    box.cards_say(OFF_THE_BUS, OFF_THE_BUS)
    box.drop("first")
    with box.watching(gpu_lost_seconds=2) as daemon:
        assert daemon.wait(timeout=60) == ExitCode.GPU_LOST
    assert not box.record().state.is_final
    assert "The queue is held" in box.status()


def test_a_card_that_a_person_uses_is_passed_over(box: CardsBox) -> None:
    """`runner try` holds one card's lease: jobs take the other."""
    box.outputs.private.mkdir()
    lease = Lock.take(box.outputs.gpu_lease, what="the GPU", holder="`runner try`")
    try:
        box.drop("first")
        assert box.once().returncode == 0
    finally:
        lease.release()
    assert box.card_of("first") == UUIDS[1]


def test_two_runs_of_one_job_go_one_after_the_other(box: CardsBox) -> None:
    """The second says why it waits; another job's run takes the other card meanwhile."""
    for name in ("a", "b"):
        box.drop(name, train=["hang"])
        box.drop_spec(name, "name: contracts\n")
    with box.watching():
        wait_until(lambda: any(record.attempts for record in box.records()))
        wait_until(
            lambda: any("at work" in (r.waiting.reason if r.waiting else "") for r in box.records())
        )
        box.drop("letters")
        wait_until(lambda: states(box).get("letters") is State.SUCCEEDED)
        same = [record for record in box.records() if record.job == "contracts"]
        assert sorted(len(record.attempts) for record in same) == [0, 1]


def test_a_job_takes_the_card_that_has_the_memory(box: CardsBox) -> None:
    """On the first one a program holds what the job needs: it does not wait for that."""
    (box.root / "models" / "m" / "config.json").write_text(json.dumps(LLAMA_8B))
    box.cards_say(0, 0, free_gib=(2.0, 23.5))
    box.drop("first", lengths=LENGTHS)
    assert box.once().returncode == 0
    assert box.card_of("first") == UUIDS[1]
    assert box.record().forecast["fits"]


def test_a_job_waits_for_the_card_that_is_large_enough(box: CardsBox) -> None:
    """On the small one it would end for want of memory; another job takes that meanwhile."""
    (box.root / "models" / "m" / "config.json").write_text(json.dumps(LLAMA_8B))
    box.cards_say(0, 0, free_gib=(3.9, 23.5), total_gib=(4, 24))
    box.drop("first", lengths=LENGTHS, train=["train 3 then hang", "ok"])
    with box.watching():
        wait_until(lambda: box.hangs("first"))
        assert box.card_of("first") == UUIDS[1]
        box.drop("second", lengths=LENGTHS)
        wait_until(
            lambda: any(
                "a larger one" in (r.waiting.reason if r.waiting else "") for r in box.records()
            )
        )
        box.drop("small")  # nothing is known of what it needs
        wait_until(lambda: states(box).get("small") is State.SUCCEEDED)
        assert box.card_of("small") == UUIDS[0]
    assert box.once().returncode == 0
    assert box.card_of("second") == UUIDS[1]


def test_a_person_tries_an_adapter_on_a_free_card(
    box: CardsBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runner try` takes the card that no stage works on, and is refused where there is none."""
    for name, value in box.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # what it is set to goes with the test
    box.outputs.private.mkdir()
    named = named_cards({"RUNNER_GPUS": "all"})
    stage = Lock.take(box.outputs.gpu_lease, what="the GPU", holder="run 1")
    person = take_card(box.outputs, named, "`runner try contracts`")
    try:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == UUIDS[1]
        with pytest.raises(BusyError, match=r"^GPU 1 is held by `runner try contracts`"):
            take_card(box.outputs, named, "another")
    finally:
        stage.release()
        person.release()


def test_the_doctor_looks_at_each_card(box: CardsBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost one is advice while the other works, and trouble where none is left."""
    for name, value in box.environment.items():
        monkeypatch.setenv(name, value)
    box.cards_say(0, OFF_THE_BUS)
    found = look_at_cards("all")
    assert [(one.check, one.level) for one in found.findings] == [
        ("GPU 0", Level.OK),
        ("GPU 1", Level.ADVICE),
    ]
    assert [one.number for one in found.well] == ["0"]
    box.cards_say(OFF_THE_BUS, OFF_THE_BUS)
    assert {one.level for one in look_at_cards("0,1").findings} == {Level.TROUBLE}
    box.cards_say(0, 0)
    (refused,) = look_at_cards("0,5").findings
    assert (refused.level, refused.check) == (Level.TROUBLE, "RUNNER_GPUS")
    assert "the card 5, which is not there" in refused.what


def test_a_card_that_is_not_there_is_refused_in_words(box: CardsBox) -> None:
    """Before anything is claimed: what was asked for, what there is, and where to change it."""
    box.drop("first")
    for setting, says in (
        (
            "gpus=0,7",
            "RUNNER_GPUS names the card 7, which is not there; the driver shows 0 (NVIDIA",
        ),
        ("gpus=1,1", "each once"),
        ("gpus=0,GPU-aa11", "twice"),
    ):
        words = ["watch", "--once", "--set", setting]
        folders = ["jobs", "outputs", "models"]
        for name in folders:
            words += [f"--{name}-dir", str(box.root / name)]
        done = subprocess.run(
            [sys.executable, "-m", "runner.cli", *words],
            env=box.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert says in " ".join(done.stderr.split()), done.stderr
        assert "Traceback" not in done.stderr
    assert (box.jobs / "first.yaml").exists()


def test_a_job_for_more_cards_than_the_box_has_is_refused_at_once(box: CardsBox) -> None:
    """At its line, with both numbers, dropped or on schedule; its neighbour is not touched."""
    (box.jobs / "large.yaml").write_text(TWO_FIELDS + "resources:\n  gpus: 3\n")
    (box.jobs / "weekly.yaml").write_text(
        TWO_FIELDS + 'resources: {gpus: 3}\nschedule: "0 2 * * sun"\n'
    )
    box.drop("first")
    box.once()
    assert states(box) == {"first": State.SUCCEEDED}
    answers = [path.read_text() for path in (box.jobs / "rejected").glob("*.txt")]
    assert len(answers) == 2
    assert all("this box trains on 2 cards" in text for text in answers)
    assert any("line 4" in text for text in answers)


def test_the_one_card_of_a_box_is_handed_on_as_ever(box: CardsBox) -> None:
    """Without the setting a stage sees what the daemon sees, and nobody is told of cards."""
    box.drop("first")
    assert box.once(gpus="").returncode == 0
    assert box.card_of("first") == "None"
    beat = json.loads(box.outputs.heartbeat.read_bytes())
    assert beat["cards"] == []
