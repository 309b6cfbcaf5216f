"""Further boxes train what one box's queue has, through files on a share that all of them see."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_box import LEASE_SECONDS, ClusterBox
from daemon_box import REPOSITORY, Box, wait_until

from runner.contract.states import Stage, State
from runner.daemon.stages.retry import BOX_LEFT, BOX_LOST, HEAD_AWAY, NOT_PLACED
from runner.exit_codes import ExitCode

WHOLE = list(range(1, 9))  # the steps of the stand-in
HOLD = "train 3 then held 0"  # it leaves a checkpoint of step 3, and waits


@pytest.fixture
def box(tmp_path: Path) -> Iterator[ClusterBox]:
    """A head and no further box yet."""
    made = ClusterBox(tmp_path)
    with made.ending_agents():
        yield made


def _status(box: Box) -> str:
    command = [sys.executable, "-m", "runner.cli", "status"]
    command += ["--outputs-dir", str(box.outputs.root)]
    environment = {**box.environment, "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    ).stdout


def _succeeds(box: ClusterBox, *jobs: str) -> None:
    wait_until(lambda: all(box.of(job).state is State.SUCCEEDED for job in jobs))


def test_without_the_setting_there_is_no_cluster(tmp_path: Path) -> None:
    """One box stays as it is: no folder, no file."""
    box = Box(tmp_path)
    box.drop("contracts")
    assert box.once().returncode == 0
    assert not (box.outputs.private / "cluster").exists()
    assert box.record().attempts[0].box == ""


def test_two_boxes_take_two_jobs_at_once(box: ClusterBox) -> None:
    """Each trains one; status names boxes and cards; every run has its evaluation at the end."""
    for job in ("one", "two"):
        box.drop(job, train=["train 8 then held 0"])
    with box.watching():
        agents = [box.agent("cellar"), box.agent("attic")]
        wait_until(lambda: box.hanging("one") and box.hanging("two"))
        assert {box.attempts(job)[0].box for job in ("one", "two")} == {"cellar", "attic"}
        for agent in agents:
            environment = [Path(f"/proc/{pid}/environ").read_bytes() for pid in agent.family()[1:]]
            assert any(f"RUNNER_BOX={agent.name}".encode() in one for one in environment)
        (log,) = box.outputs.root.glob("one/*/attempts/*/train.log")
        assert log.stat().st_mode & 0o777 == 0o640  # for the share's group as well, as the head's
        wait_until(lambda: "cellar, CPU" in _status(box) and "attic, CPU" in _status(box))
        for job in ("one", "two"):
            box.go(job)
        _succeeds(box, "one", "two")
        wait_until(lambda: not list(box.folder.tickets.iterdir()))
    for job in ("one", "two"):
        (attempt,) = box.attempts(job)
        assert (attempt.outcome, attempt.fenced, attempt.exit_code) == ("succeeded", False, 0)
        assert box.of(job).metrics["eval_loss_after"] == 1.5
    assert not list(box.folder.seen.iterdir())


def test_this_box_trains_beside_the_others(box: ClusterBox) -> None:
    """With `on`, two jobs are at work on two boxes, one of which is the head."""
    for job in ("one", "two"):
        box.drop(job, train=["train 8 then held 0"])
    with box.watching(cluster="on"):
        box.agent("cellar")
        wait_until(lambda: box.hanging("one") and box.hanging("two"))
        assert {box.attempts(job)[0].box for job in ("one", "two")} == {"cellar", ""}
        for job in ("one", "two"):
            box.go(job)
        _succeeds(box, "one", "two")


def test_a_box_whose_agent_is_killed_costs_the_steps_since_its_checkpoint(box: ClusterBox) -> None:
    """Its stage ends with it; the attempt is fenced; the run goes on elsewhere, each step once."""
    box.drop("one", train=[HOLD, "ok"])
    with box.watching():
        agent = box.agent("cellar")
        wait_until(lambda: box.hanging("one"))
        stages = agent.family()[1:]
        agent.process.kill()
        agent.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in stages))
        other = box.agent("attic")
        wait_until(lambda: box.attempts("one")[0].fenced)
        assert len(box.attempts("one")) == 1  # the record says so before another is placed
        _succeeds(box, "one")
        assert other.process.poll() is None
    first, second = box.attempts("one")
    assert (first.box, first.reason, first.last_step) == ("cellar", BOX_LOST, 3)
    assert (second.box, second.first_step, second.outcome) == ("attic", 4, "succeeded")
    assert box.counted("one") == WHOLE


def test_an_agent_that_starts_anew_says_what_became_of_its_stage(box: ClusterBox) -> None:
    """Nobody waits for a box to be taken for lost whose agent is back."""
    box.drop("one", train=[HOLD, "ok"])
    with box.watching(lease_seconds=30):
        agent = box.agent("cellar")
        wait_until(lambda: box.hanging("one"))
        agent.process.kill()
        agent.process.wait()
        box.agent("cellar")
        _succeeds(box, "one")
    first, second = box.attempts("one")
    assert (first.reason, first.fenced, first.last_step) == (BOX_LOST, False, 3)
    assert (second.box, second.first_step) == ("cellar", 4)
    assert box.counted("one") == WHOLE


def test_an_agent_that_is_asked_to_leave_hands_its_run_on(box: ClusterBox) -> None:
    """Its stage leaves a checkpoint, its box is not shown any more, another one goes on."""
    box.drop("one", train=["train 3 then hang", "ok"])
    with box.watching(lease_seconds=30):
        agent = box.agent("cellar")
        wait_until(lambda: box.hanging("one"))
        box.agent("attic")
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(60) == 0
        _succeeds(box, "one")
        assert not box.folder.box("cellar").exists()
    first, second = box.attempts("one")
    assert (first.reason, first.fenced, first.last_step) == (BOX_LEFT, False, 3)
    assert (second.box, second.first_step) == ("attic", 4)
    assert box.of("one").falls is None


def test_a_checkpoint_that_is_torn_before_its_export_is_trained_anew_elsewhere(
    box: ClusterBox,
) -> None:
    """The head, which was to export it and trains nothing, hands the run to a box again."""
    box.drop("one", export=["hang", "ok"])
    with box.watching():
        box.agent("cellar")
        wait_until(lambda: list(box.outputs.root.glob("one/*/tries-export")))
    (run,) = box.outputs.runs_of("one")
    for file in run.checkpoints.glob("*/*"):
        if file.name != "manifest.json":
            file.write_bytes(b"torn")
    with box.watching():
        _succeeds(box, "one")
    attempts = box.attempts("one")
    assert [one.box for one in attempts] == ["cellar", "cellar"]
    assert [one.outcome for one in attempts] == ["damaged", "succeeded"]
    assert box.counted("one") == WHOLE


def test_a_thawed_box_changes_nothing_for_the_next_one(box: ClusterBox) -> None:
    """Frozen, given up, thawed while another box trains: what it says then is not accepted."""
    box.drop("one", train=[HOLD, "train 5 then held 0"])
    with box.watching():
        frozen = box.agent("cellar")
        wait_until(lambda: box.hanging("one"))
        family = frozen.freeze()
        box.agent("attic")
        wait_until(lambda: box.hanging("one", 2))
        assert box.attempts("one")[0].fenced
        box.go("one", 1)  # thawed, its stage comes to its end with a result, or is ended before
        for pid in family:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: len(frozen.family()) == 1)
        wait_until(lambda: "box cellar is there" in (box.root / "daemon.out").read_text())
        assert len(box.attempts("one")) == 2
        box.go("one", 2)
        _succeeds(box, "one")
    first, second = box.attempts("one")
    assert (first.outcome, first.reason, first.last_step) == ("interrupted", BOX_LOST, 3)
    assert (second.box, second.first_step, second.last_step) == ("attic", 4, 8)
    assert box.counted("one") == WHOLE


def test_a_head_that_is_killed_and_back_at_once_follows_its_trainings(box: ClusterBox) -> None:
    """The box trains on, and nothing is started twice."""
    box.drop("one", train=["train 8 then held 0", "1"])
    agent = None
    with box.watching(lease_seconds=30) as head:
        agent = box.agent("cellar")
        wait_until(lambda: box.hanging("one"))
        stages = agent.family()[1:]
        head.kill()
        head.wait()
    with box.watching(lease_seconds=30):
        wait_until(lambda: (box.root / "daemon.out").read_text().count("watching") == 2)
        assert agent.family()[1:] == stages
        box.go("one")
        _succeeds(box, "one")
    (attempt,) = box.attempts("one")
    assert (attempt.outcome, attempt.box) == ("succeeded", "cellar")


def test_a_head_that_is_killed_while_it_gives_up_a_box_goes_on_with_that(box: ClusterBox) -> None:
    """The record says that the attempt is fenced; its end is waited for once more."""
    box.drop("one", train=[HOLD, "ok"])
    with box.watching() as head:
        agent = box.agent("cellar")
        wait_until(lambda: box.hanging("one"))
        frozen = agent.freeze()
        wait_until(lambda: box.attempts("one")[0].fenced)
        head.kill()
        head.wait()
    box.agent("attic")
    with box.watching():
        _succeeds(box, "one")
    first, second = box.attempts("one")
    assert (first.fenced, first.reason, second.box) == (True, BOX_LOST, "attic")
    assert box.counted("one") == WHOLE
    assert all(Path(f"/proc/{pid}").exists() for pid in frozen)


def test_a_head_that_is_asked_to_leave_lets_boxes_train_on(box: ClusterBox) -> None:
    """`docker compose restart` of the head costs a further box nothing."""
    box.drop("one", train=["train 8 then held 0", "1"])
    with box.watching(lease_seconds=30) as head:
        agent = box.agent("cellar")
        wait_until(lambda: box.hanging("one"))
        head.send_signal(signal.SIGTERM)
        head.wait(20)
        assert len(agent.family()) == 2
    with box.watching(lease_seconds=30):
        box.go("one")
        _succeeds(box, "one")
    assert len(box.attempts("one")) == 1


def test_a_head_that_stays_away_costs_the_steps_since_a_checkpoint(box: ClusterBox) -> None:
    """Its boxes end their stages by themselves; back, it goes on from what they left."""
    box.drop("one", train=["train 3 then hang", "ok"])
    with box.watching() as head:
        agent = box.agent("cellar")
        wait_until(lambda: box.hanging("one"))
        head.kill()
        head.wait()
        wait_until(lambda: len(agent.family()) == 1)
        assert "why=lease" in agent.said()
    with box.watching():
        _succeeds(box, "one")
    first, second = box.attempts("one")
    assert (first.reason, first.last_step) == (HEAD_AWAY, 3)
    assert (second.first_step, second.outcome) == (4, "succeeded")
    assert box.counted("one") == WHOLE


def test_a_box_with_another_version_is_refused_by_name(box: ClusterBox) -> None:
    """Log, status and the run's answer say so; so does the box itself."""
    box.drop("one")
    with box.watching():
        agent = box.agent("cellar", version="0.0.1-older")
        wait_until(lambda: "it has version 0.0.1-older" in _status(box))
        wait_until(lambda: "this box has version" in agent.said())
        wait_until(lambda: box.of("one").waiting is not None)
        assert box.attempts("one") == ()
        assert "box cellar: it has version" in (box.root / "daemon.out").read_text()
        box.agent("attic")
        _succeeds(box, "one")
    assert box.attempts("one")[0].box == "attic"


def test_two_boxes_of_one_name_do_not_work_at_once(box: ClusterBox) -> None:
    """The second one is told, and leaves; the first one's training is none of an earlier agent."""
    box.drop("one", train=["train 8 then held 0", "1"])
    with box.watching():
        first = box.agent("cellar")
        wait_until(lambda: box.hanging("one"))
        stages = first.family()[1:]
        second = box.agent("cellar")
        assert second.process.wait(60) == 3
        assert first.family()[1:] == stages
        box.go("one")
        _succeeds(box, "one")
    assert "an agent is at work under the name of this box, cellar" in second.said()
    assert len(box.attempts("one")) == 1


def test_a_box_without_a_share_says_so(tmp_path: Path) -> None:
    """Whoever mounted nothing, or the wrong folder, reads what to do."""
    box = ClusterBox(tmp_path)
    with box.ending_agents():
        agent = box.agent("cellar")
        wait_until(lambda: "set RUNNER_CLUSTER in .env" in agent.said())
        assert agent.process.poll() is None


def test_a_cancelled_run_is_ended_on_its_box(box: ClusterBox) -> None:
    """Deleting its spec stops it there; its checkpoint is kept."""
    box.drop("one", train=["train 3 then hang"])
    with box.watching():
        agent = box.agent("cellar")
        wait_until(lambda: box.hanging("one"))
        (spec,) = wait_until(lambda: list((box.jobs / "running").glob("one--*.yaml")))
        spec.unlink()
        wait_until(lambda: box.of("one").state is State.CANCELLED)
        assert len(agent.family()) == 1
    error = box.of("one").error
    assert error is not None
    assert "checkpoints/step-00000003/" in error.message


def test_a_run_is_cancelled_while_its_agent_is_down(box: ClusterBox) -> None:
    """The new agent never ran it, and says that it has ended: nobody waits for ever.

    An odd file among those of boxes, and one among those of tickets, keep nobody from that.
    """
    box.drop("one", train=["train 3 then hang"])
    with box.watching(lease_seconds=12):
        agent = box.agent("cellar")
        wait_until(lambda: box.hanging("one"))
        box.folder.box("attic").mkdir()
        box.folder.ticket("a-01").symlink_to("/etc/passwd")
        agent.process.kill()
        agent.process.wait()
        (spec,) = wait_until(lambda: list((box.jobs / "running").glob("one--*.yaml")))
        spec.unlink()
        wait_until(lambda: "stop" in box.folder.head.read_text())
        box.agent("cellar")
        wait_until(lambda: box.of("one").state is State.CANCELLED)
        wait_until(lambda: "its file boxes/attic.json cannot be read" in _status(box))
    assert not box.attempts("one")[0].fenced
    assert len(box.attempts("one")) == 1


def _in_namespace(agent_pid: int, *words: str) -> None:
    subprocess.run(["nsenter", "-t", str(agent_pid), "-m", *words], check=True)


def _can_unshare() -> bool:
    try:
        return subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not _can_unshare(), reason="no mount namespaces here")
@pytest.mark.parametrize("leases", [0.5, 3.0])
def test_a_share_that_is_cut_off(box: ClusterBox, leases: float) -> None:
    """Shorter than a lease it costs nothing; longer, the box ends its stage by itself.

    The box's outputs/ vanishes, as a mount that is lost, and comes back.
    """
    box.drop("one", train=["train 3 then hang" if leases > 1 else "train 8 then held 0", "ok"])
    with box.watching():
        agent = box.agent("cellar", prefix=["unshare", "-m", "--propagation", "private"])
        wait_until(lambda: box.hanging("one"))
        outputs = str(box.outputs.root)
        _in_namespace(agent.process.pid, "mount", "-t", "tmpfs", "none", outputs)
        cut_at = time.monotonic()
        wait_until(lambda: time.monotonic() - cut_at > leases * LEASE_SECONDS)
        if leases > 1:
            wait_until(lambda: len(agent.family()) == 1)
            wait_until(lambda: box.attempts("one")[0].fenced)
        _in_namespace(agent.process.pid, "umount", outputs)
        if leases < 1:
            box.go("one")
        _succeeds(box, "one")
    attempts = box.attempts("one")
    assert [a.fenced for a in attempts] == ([True, False] if leases > 1 else [False])
    assert box.counted("one") == WHOLE
    assert json.loads(box.folder.head.read_text())["counter"] > 1


def test_a_ticket_that_cannot_be_written_is_its_runs_trouble_alone(box: ClusterBox) -> None:
    """Something lies under its name: the run waits a minute and says so, and others are placed.

    The queue is not held, as for a full disk, and the attempt does not speak against the run.
    """
    with box.watching():
        box.drop("odd")
        wait_until(lambda: box.records() and box.of("odd").next_stage is Stage.TRAIN)
        (run,) = box.outputs.runs_of("odd")
        in_the_way = box.folder.ticket(f"{run.run_id}-01")
        in_the_way.mkdir()
        (in_the_way / "a file").touch()
        box.agent("cellar")
        wait_until(lambda: box.attempts("odd"))
        box.drop("well")
        wait_until(lambda: len(box.records()) == 2)
        _succeeds(box, "well")
        odd = box.of("odd")
        assert odd.waiting is not None
        assert odd.waiting.reason.startswith("the ticket for box cellar could not be written (")
        assert odd.waiting.again_at is not None
    with box.watching():  # a minute later, or at the next start
        _succeeds(box, "odd")
    first, second = box.attempts("odd")
    assert (first.reason, first.exit_code) == (NOT_PLACED, ExitCode.INTERRUPTED)
    assert (second.box, second.outcome) == ("cellar", "succeeded")


def test_what_lies_in_the_way_of_all_boxes_is_named(box: ClusterBox) -> None:
    """A file where the tickets' folder was: people read its path once, in the box's language."""
    with box.watching(cluster="on", language="de"):
        wait_until(box.folder.tickets.exists)
        box.folder.tickets.rename(box.folder.root / "away")
        box.folder.tickets.touch()
        box.drop("one")
        wait_until(box.records)
        _succeeds(box, "one")  # what this box does itself goes on
        status = box.jobs / "STATUS.txt"
        wait_until(lambda: "outputs/.runner/cluster/tickets ist im Weg" in status.read_text())
        box.drop("two")
        wait_until(lambda: len(box.records()) == 2)
        _succeeds(box, "two")  # some rounds have passed
    assert box.outputs.daemon_log.read_text().count("is in the way") == 1
