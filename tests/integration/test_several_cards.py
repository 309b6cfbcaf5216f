"""Several cards under a real daemon: a job on each, a lost card, and what people are told of them.

The driver is a stand-in (its file says why), and so are the stages; two jobs on two real cards are
measured by benchmarks/cards_side_by_side.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from card_box import UUIDS, CardsBox
from daemon_box import attempt_of, wait_until
from test_card_daemon import LENGTHS, LLAMA_8B

from runner.clock import now
from runner.commands.health import health
from runner.commands.page import Page
from runner.commands.status import read_overview, render
from runner.commands.try_ import named_cards, take_card
from runner.contract.card_shown import read_cards
from runner.contract.record import RunRecord
from runner.contract.requests import leave_request
from runner.contract.states import State
from runner.doctor.cards import look_at_cards
from runner.doctor.finding import Level
from runner.errors import BusyError
from runner.exit_codes import ExitCode
from runner.files.lock import Lock
from runner.forecast.lessons import read_lessons
from runner.forecast.work import GIB
from runner.language.speaker import Language, Speaker
from runner.report.gather import gather
from runner.report.page import page as report_page

OFF_THE_BUS = 15
LLAMA_34B = {
    **LLAMA_8B,
    "hidden_size": 8192,
    "intermediate_size": 22016,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "vocab_size": 32000,
}
TWO_FIELDS = "model: m\ndata: data.jsonl\n"


@pytest.fixture
def box(tmp_path: Path) -> CardsBox:
    """A box with two cards."""
    return CardsBox(tmp_path)


def states(box: CardsBox) -> dict[str, State]:
    """Give each job's state."""
    return {record.job: record.state for record in box.records()}


def test_two_runs_are_prepared_at_once_for_two_cards(box: CardsBox) -> None:
    """Not a third one, and not two of one job: the later one's rows are compared with the other's.

    None of them sees a card, and no export does.
    """
    for job in ("first", "second", "third"):
        box.drop(job, prepare=["held 0"])
    preparing = {"first": State.PREPARING, "second": State.PREPARING, "third": State.QUEUED}
    with box.watching():
        wait_until(lambda: states(box) == preparing)
        folders = [box.run_of(job).prepared for job in ("first", "second")]
        wait_until(lambda: all((folder / "environment.json").exists() for folder in folders))
        for folder in folders:
            seen = json.loads((folder / "environment.json").read_text())
            assert seen["CUDA_VISIBLE_DEVICES"] == "-1"
        (folders[1] / "go").touch()
        wait_until(lambda: states(box)["third"] == State.PREPARING)
        assert states(box)["first"] == State.PREPARING
        for job in ("first", "third"):
            (box.run_of(job).prepared / "go").touch()
        wait_until(lambda: set(states(box).values()) == {State.SUCCEEDED})
    for job in ("first", "second", "third"):
        seen = json.loads((box.run_of(job).export / "environment.json").read_text())
        assert seen["CUDA_VISIBLE_DEVICES"] == "-1"


@pytest.mark.parametrize("gpus", [2, "auto"])
def test_what_is_prepared_first_does_not_go_before_a_job_for_several(
    box: CardsBox, gpus: int | str
) -> None:
    """It would hold one of the cards that the first job asks for, for hours."""
    drop_for_two(box, "first", gpus, prepare=["held 0"])
    with box.watching():
        wait_until(lambda: list(box.outputs.root.glob("first/*/prepared/hanging")))
        box.drop("second")
        wait_until(lambda: list(box.outputs.root.glob("second/*/prepared/result.json")))
        wait_until(lambda: states(box)["second"] == State.QUEUED)
        time.sleep(1.5)  # three times what a round takes here
        assert states(box) == {"first": State.PREPARING, "second": State.QUEUED}
        (box.run_of("first").prepared / "go").touch()
        wait_until(lambda: set(states(box).values()) == {State.SUCCEEDED})
    first, second = box.records()
    assert first.attempts[0].started_at <= second.attempts[0].started_at


def test_what_is_prepared_first_takes_the_card_that_is_left(box: CardsBox) -> None:
    """Where the cards are alike and the first job asks for one, its card stays free."""
    box.drop("first", prepare=["held 0"])
    box.drop("second", train=["hang"])
    box.drop("third")
    with box.watching():
        wait_until(lambda: box.hangs("second"))
        wait_until(lambda: list(box.outputs.root.glob("third/*/prepared/result.json")))
        wait_until(lambda: states(box)["third"] == State.QUEUED)
        time.sleep(1.5)  # three times what a round takes here
        kept = {"first": State.PREPARING, "second": State.TRAINING, "third": State.QUEUED}
        assert states(box) == kept
        (box.run_of("first").prepared / "go").touch()
        wait_until(lambda: states(box)["first"] == states(box)["third"] == State.SUCCEEDED)


def test_two_runs_of_a_job_are_prepared_one_after_the_other(box: CardsBox) -> None:
    """The later one's rows are compared with those of the one before."""
    box.drop("first", prepare=["held 0"])
    with box.watching():
        wait_until(lambda: list(box.outputs.root.glob("first/*/prepared/hanging")))
        box.drop("first", prepare=["ok"])
        box.drop("other", prepare=["ok"])
        wait_until(lambda: states(box).get("other") == State.SUCCEEDED)
        mine = [record for record in box.records() if record.job == "first"]
        assert sorted(record.state for record in mine) == [State.PREPARING, State.QUEUED]
        for run in box.outputs.runs():
            if run.job == "first" and run.prepared.exists():
                (run.prepared / "go").touch()
        wait_until(lambda: {record.state for record in box.records()} == {State.SUCCEEDED})


def test_one_run_is_prepared_at_a_time_where_one_card_is_left(box: CardsBox) -> None:
    """A card that is lost waits for no rows, and two at once share the cores."""
    box.cards_say(0, OFF_THE_BUS)
    with box.watching():
        wait_until(lambda: "fallen off the bus" in box.status())
        for job in ("first", "second"):
            box.drop(job, prepare=["held 0"])
        wait_until(lambda: list(box.outputs.root.glob("*/*/prepared/hanging")))
        wait_until(lambda: len(states(box)) == 2)
        time.sleep(1.5)  # three times what a round takes here
        assert sorted(states(box).values()) == [State.PREPARING, State.QUEUED]
        for _ in range(2):
            (one,) = wait_until(lambda: list(box.outputs.root.glob("*/*/prepared/hanging")))
            one.unlink()
            (one.parent / "go").touch()
        wait_until(lambda: set(states(box).values()) == {State.SUCCEEDED})


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
    with box.watching(gpu_lost_seconds=1) as daemon:
        wait_until(lambda: box.hangs("first"))
        box.drop("second", train=["train 3 then 14", "ok"])
        wait_until(lambda: any(one.attempts and one.attempts[0].exit_code for one in box.records()))
        lost = box.card_of("second")
        wait_until(lambda: "takes no job; the others go on" in box.status())
        box.cards_say(*(OFF_THE_BUS if uuid == lost else 0 for uuid in UUIDS))
        wait_until(lambda: "fallen off the bus" in box.status(), seconds=40)
        assert states(box)["first"] is State.TRAINING
        assert daemon.poll() is None
        # Nobody is sent to reboot a machine on which another job trains.
        wait_until(lambda: "waits until another one is free" in waits(box, "second"))
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


@pytest.mark.parametrize("what", ["a folder", "a link", "a pipe"])
@pytest.mark.parametrize("lease", ["gpu.lease", f"gpu-{UUIDS[1]}.lease"])
def test_a_lease_that_is_no_file_is_its_cards_trouble_alone(
    box: CardsBox, lease: str, what: str
) -> None:
    """Jobs train on the other card; whoever waits says which file it is; removed, both work."""
    path = box.outputs.private / lease
    path.parent.mkdir()
    if what == "a folder":
        path.mkdir()
    elif what == "a link":
        path.symlink_to(box.root / "elsewhere")
    else:
        os.mkfifo(path)
    for job in ("first", "second"):
        box.drop(job, train=["train 2 then hang"])
    with box.watching() as daemon:
        wait_until(lambda: box.hangs("first") or box.hangs("second"))
        wait_until(lambda: f"outputs/.runner/{lease} cannot be held" in box.status())
        path.rmdir() if what == "a folder" else path.unlink()
        both_train(box)
        assert daemon.poll() is None
        assert {box.card_of("first"), box.card_of("second")} == set(UUIDS)
    assert not (box.root / "elsewhere").exists()


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
    """Without the setting a stage sees the first that the daemon sees, and nobody is told of it."""
    box.drop("first")
    assert box.once(gpus="").returncode == 0
    assert box.card_of("first") == "0"
    beat = json.loads(box.outputs.heartbeat.read_bytes())
    assert beat["cards"] == []


# -- one job on several cards ----------------------------------------------------------------------


def drop_for_two(box: CardsBox, name: str, gpus: int | str = 2, **script: Any) -> None:
    """Drop a job that asks for cards."""
    box.drop(name, **script)
    box.drop_spec(name, f"resources: {{gpus: {gpus}}}\n")


def waits(box: CardsBox, job: str) -> str:
    """Tell what a job's run waits for; empty: for nothing."""
    found = [record for record in box.records() if record.job == job]
    return found[-1].waiting.reason if found and found[-1].waiting else ""


def record_of(box: CardsBox, job: str) -> RunRecord:
    """Read the record of a job's only run."""
    (found,) = [record for record in box.records() if record.job == job]
    return found


def test_one_job_trains_on_two_cards_and_what_follows_takes_one(box: CardsBox) -> None:
    """The stage sees both and is told so, both are said to be at work, and nobody else trains."""
    drop_for_two(box, "large", train=["train 3 then hang", "ok"])
    with box.watching():
        wait_until(lambda: box.hangs("large"))
        assert box.card_of("large") == ",".join(UUIDS)
        plan = json.loads((attempt_of(box.run_of("large"), 1) / "plan.json").read_bytes())
        assert (plan["ranks"], plan["shard_base"]) == (2, False)
        shown = wait_until(lambda: _with_runs(box, 2))
        assert {one.job for one in shown} == {"large"}
        said = render(read_overview(box.outputs), Page(width=200, colors=False))
        assert "Training: on 2 cards at once (GPU 0 (" in said
        assert "It is at work on GPU 0" in box.answer("running")
        assert "GPU 1" in box.answer("running")
        for uuid in UUIDS:
            with pytest.raises(BusyError):
                take_lease(box, uuid)
        box.drop("small")
        wait_until(lambda: states(box).get("small") is State.QUEUED)
    assert box.once().returncode == 0
    large, small = box.records()
    assert [(one.first_step, one.last_step) for one in large.attempts] == [(1, 3), (4, 8)]
    assert [(one.ranks, [card.uuid for card in one.cards]) for one in large.attempts] == [
        (2, list(UUIDS)),
        (2, list(UUIDS)),
    ]
    assert [len(one.cards) for one in small.attempts] == [1]
    after, export = (
        json.loads((folder / "environment.json").read_text())["CUDA_VISIBLE_DEVICES"]
        for folder in (box.run_of("large").evaluation, box.run_of("large").export)
    )
    assert after in UUIDS
    assert export == "-1"  # it uses no card
    told = {text.split(":")[0]: text for text in _done(box)}
    assert "Training: on 2 cards at once (GPU 0 (" in told["large"]
    assert "at once" not in told["small"]
    page = report_page(gather(box.run_of("large")), Speaker(Language.GERMAN), now=now())
    assert "Training: auf 2 Grafikkarten zugleich (GPU 0 (" in page


def _done(box: CardsBox) -> list[str]:
    return [path.read_text() for path in (box.jobs / "done").glob("*.txt")]


def take_lease(box: CardsBox, uuid: str) -> None:
    """Take a card as `runner try` does."""
    first = uuid == UUIDS[0]
    path = box.outputs.gpu_lease if first else box.outputs.lease_of_card(uuid)
    Lock.take(path, what="the GPU", holder="a person").release()


def test_the_free_card_is_held_for_a_job_that_needs_both(box: CardsBox) -> None:
    """Jobs behind it train nowhere meanwhile, so it is not kept waiting for good; it says why."""
    box.drop("first", train=["hang"])
    with box.watching():
        wait_until(lambda: box.hangs("first"))
        drop_for_two(box, "large")
        wait_until(lambda: "2 cards at once" in waits(box, "large"))
        box.drop("behind")
        wait_until(lambda: states(box).get("behind") is State.QUEUED)
        wait_until((box.run_of("behind").prepared / "result.json").exists)
        assert record_of(box, "behind").attempts == ()
        leave_request(box.outputs, "cancel", run_id=box.run_of("first").run_id)
        wait_until(lambda: states(box)["behind"] is State.SUCCEEDED)
    large, behind = record_of(box, "large"), record_of(box, "behind")
    assert large.attempts[0].ranks == 2
    assert behind.attempts[0].started_at >= large.attempts[0].ended_at


def test_a_job_for_two_cards_waits_for_a_lost_one_and_others_go_on(box: CardsBox) -> None:
    """It says which is lost; `auto` starts on the one that works. By hand it does not hang."""
    box.cards_say(0, OFF_THE_BUS)
    drop_for_two(box, "large")
    drop_for_two(box, "modest", "auto")
    box.drop("small")
    assert box.once().returncode == 1
    assert states(box) == {
        "large": State.QUEUED,
        "modest": State.SUCCEEDED,
        "small": State.SUCCEEDED,
    }
    assert "needs 2 cards at once, and one that it needs is lost (GPU 1" in waits(box, "large")
    box.cards_say(0, 0)
    assert box.once().returncode == 0
    assert states(box)["large"] is State.SUCCEEDED


def test_a_card_lost_under_a_job_on_two_holds_only_that_job(box: CardsBox) -> None:
    """The other card goes on with others; it is taken up at its checkpoint when both are back."""
    drop_for_two(box, "large", train=["train 3 then held 14", "ok"])
    with box.watching():
        wait_until(lambda: box.hangs("large"))
        box.drop("small")
        box.cards_say(0, OFF_THE_BUS)
        (attempt_of(box.run_of("large"), 1) / "go").touch()
        wait_until(lambda: "is lost (GPU 1" in waits(box, "large"))
        wait_until(lambda: states(box).get("small") is State.SUCCEEDED)
        assert box.card_of("small") == UUIDS[0]
        box.cards_say(0, 0)
        wait_until(lambda: states(box)["large"] is State.SUCCEEDED)
    steps = [(one.first_step, one.last_step) for one in record_of(box, "large").attempts]
    assert steps == [(1, 3), (4, 8)]


def test_where_no_card_looks_lost_the_job_rests_and_the_cards_do_not(box: CardsBox) -> None:
    """Its stage lost one of two, and the driver calls both well: others train there meanwhile."""
    drop_for_two(box, "large", train=["train 3 then 14", "ok"])
    with box.watching():
        wait_until(lambda: waits(box, "large"))
        waiting = record_of(box, "large").waiting
        assert waiting is not None
        assert waiting.again_at is not None
        assert 280 < (waiting.again_at - waiting.since).total_seconds() < 320
        for name in ("a", "b"):
            box.drop(name)
        wait_until(lambda: all(states(box).get(name) is State.SUCCEEDED for name in ("a", "b")))
        assert len(record_of(box, "large").attempts) == 1
        assert "takes no job" not in box.status()


def test_a_run_that_began_on_two_cards_waits_where_there_is_one(box: CardsBox) -> None:
    """RUNNER_GPUS was 0,1 and is 0 now: it says both numbers and what else could be done."""
    drop_for_two(box, "large", train=["train 3 then hang", "ok"])
    with box.watching():
        wait_until(lambda: box.hangs("large"))
    box.drop("small")
    assert box.once(gpus="0").returncode == 1
    assert states(box) == {"large": State.INTERRUPTED, "small": State.SUCCEEDED}
    assert "asks for 2 cards, and the box trains on 1 now (RUNNER_GPUS)" in waits(box, "large")
    assert "gpus: auto" in box.answer("running")
    assert box.once().returncode == 0
    assert states(box)["large"] is State.SUCCEEDED


def test_auto_takes_a_second_card_where_one_does_not_hold_it(box: CardsBox) -> None:
    """A 34B in 4 bits on two cards of 20 GiB: they share its base; a larger one is taken alone.

    It began on two, and goes on where one large card is left.
    """
    (box.root / "models" / "m" / "config.json").write_text(json.dumps(LLAMA_34B))
    box.cards_say(0, 0, free_gib=(19.8, 19.8), total_gib=(20, 20))
    drop_for_two(
        box, "large", "auto", lengths=LENGTHS, fast=True, train=["train 3 then hang", "ok"]
    )
    box.drop_spec("large", "method: qlora\nresources: {gpus: auto}\n")
    with box.watching():
        wait_until(lambda: box.hangs("large"))
        plan = json.loads((attempt_of(box.run_of("large"), 1) / "plan.json").read_bytes())
        assert (plan["ranks"], plan["shard_base"]) == (2, True)
        forecast = record_of(box, "large").forecast
        assert forecast["fits"]
        assert forecast["ranks"] == 2
        assert forecast["gpu_memory_bytes"] < 20 * GIB
    box.cards_say(0, 0, free_gib=(19.8, 23.8), total_gib=(20, 24))
    assert box.once().returncode == 0
    first, second = record_of(box, "large").attempts
    assert [(one.ranks, one.shard_base) for one in (first, second)] == [(2, True), (1, False)]
    assert box.card_of("large", attempt=2) == UUIDS[1]
    assert (second.first_step, second.last_step) == (4, 8)


def test_a_job_that_one_card_holds_takes_one(box: CardsBox) -> None:
    """With `auto` another job trains on the second meanwhile."""
    (box.root / "models" / "m" / "config.json").write_text(json.dumps(LLAMA_8B))
    for name in ("first", "second"):
        drop_for_two(box, name, "auto", lengths=LENGTHS, fast=True, train=["hang"])
    with box.watching():
        both_train(box)
        assert {box.card_of("first"), box.card_of("second")} == set(UUIDS)


def test_a_cancelled_job_leaves_nothing_on_either_card(box: CardsBox) -> None:
    """Its stage ends, and both leases are free."""
    drop_for_two(box, "large", train=["hang"])
    with box.watching():
        wait_until(lambda: box.hangs("large"))
        leave_request(box.outputs, "cancel", run_id=box.run_of("large").run_id)
        wait_until(lambda: states(box)["large"] is State.CANCELLED)
        for uuid in UUIDS:
            wait_until(lambda uuid=uuid: _is_free(box, uuid))


def _is_free(box: CardsBox, uuid: str) -> bool:
    try:
        take_lease(box, uuid)
    except BusyError:
        return False
    return True


def test_what_two_cards_took_is_no_lesson_for_one(box: CardsBox) -> None:
    """A run on two leaves a lesson of two; a forecast for one card is what it was."""
    (box.root / "models" / "m" / "config.json").write_text(json.dumps(LLAMA_8B))
    box.drop("before", lengths=LENGTHS)
    assert box.once().returncode == 0
    drop_for_two(box, "large", lengths=LENGTHS, peak=20 * GIB)
    assert box.once().returncode == 0
    (lesson,) = [one for one in read_lessons(box.outputs.lessons) if one.ranks == 2]
    box.drop("after", lengths=LENGTHS)
    assert box.once().returncode == 0
    before, after = record_of(box, "before"), record_of(box, "after")
    assert lesson.measured_bytes == 20 * GIB
    assert after.forecast["gpu_memory_bytes"] == before.forecast["gpu_memory_bytes"]
    on_two = record_of(box, "large").forecast
    assert on_two["one_card_seconds"] > on_two["seconds"] > on_two["one_card_seconds"] / 2


def test_learning_rates_are_tried_on_as_many_cards(box: CardsBox) -> None:
    """The small runs are trainings like the one that follows."""
    losses = {"0.0001": [2.0] * 40, "0.0002": [1.0] * 40}
    box.drop("large", losses=losses)
    box.drop_spec("large", "resources: {gpus: 2}\ntry: {learning_rate: [1e-4, 2e-4]}\n")
    assert box.once().returncode == 0
    run = box.run_of("large")
    for number in (1, 2):
        folder = attempt_of(run.rate(number), 1)
        assert json.loads((folder / "plan.json").read_bytes())["ranks"] == 2
        seen = json.loads((folder / "environment.json").read_text())
        assert seen["CUDA_VISIBLE_DEVICES"] == ",".join(UUIDS)
    assert record_of(box, "large").attempts[0].ranks == 2
