"""Schedules under a real daemon, whose clock the test sets: each time one run, or a reason."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from daemon_box import WrongClockBox, wait_until

from runner.contract.schedules import Outcome, Schedule, read_schedules
from runner.contract.states import State

SUNDAY = datetime(2026, 11, 29, 1, 0, tzinfo=UTC)
"""02:00 in Berlin, a Sunday in winter."""
WEEK = timedelta(days=7)
SPEC = 'model: m\ndata: contracts.jsonl\nschedule: "0 2 * * sun"\n'


class ScheduledBox(WrongClockBox):
    """A box in Berlin with one schedule, and data that lets its runs succeed."""

    def __init__(self, root: Path) -> None:
        """Begin a day before the first time."""
        super().__init__(root)
        self.at(SUNDAY - timedelta(days=1))
        (self.jobs / "contracts.jsonl").write_text("{}")

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon inherits."""
        return super().environment | {"TZ": "Europe/Berlin"}

    def at(self, moment: datetime) -> None:
        """Set the daemon's clock to a time."""
        self.wrong_by((moment - datetime.now(UTC)).total_seconds())

    def schedule(self, extra: str = "", name: str = "contracts.yaml") -> None:
        """Put the spec where schedules stay."""
        folder = self.jobs / "scheduled"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(SPEC + extra)

    def known(self) -> Schedule:
        """Read what is known of the one schedule."""
        (found,) = read_schedules(self.outputs).values()
        return found

    def is_known(self) -> bool:
        """Whether the schedule was taken up and answered."""
        return self.told().startswith("contracts: on schedule")

    def told(self) -> str:
        """Read the answer beside it."""
        path = self.jobs / "scheduled" / "contracts.yaml.txt"
        return path.read_text() if path.exists() else ""

    def outcomes(self) -> list[str]:
        """List what started each run, and how it ended."""
        return [f"{record.trigger} {record.state}" for record in self.records()]


@pytest.fixture
def box(tmp_path: Path) -> ScheduledBox:
    """A box a day before the first time."""
    return ScheduledBox(tmp_path)


def test_a_dropped_schedule_stays_and_starts_a_run_each_sunday(box: ScheduledBox) -> None:
    """Dropped into jobs/, it moves to scheduled/, says when, and starts a run each time, once.

    A restart starts nothing again, and a clock that is set back two hours does not, either.
    """
    (box.jobs / "contracts.yaml").write_text(SPEC)
    with box.watching():
        wait_until(box.is_known)
        assert "Next time: Sunday 2026-11-29 02:00 CET." in box.told()
        assert not (box.jobs / "contracts.yaml").exists()
        wait_until(lambda: "contracts: next on Sunday 2026-11-29 02:00 CET" in box.status())
        assert "contracts.jsonl" not in box.status()  # no stray: the schedule names it
        box.at(SUNDAY + timedelta(seconds=5))
        wait_until(lambda: box.outcomes() == ["schedule succeeded"])
        wait_until(lambda: "Next time: Sunday 2026-12-06 02:00 CET." in box.told())
        wait_until(lambda: "succeeded" in box.told())
        assert "Last time: 2026-11-29 02:00, run" in box.told()
        box.at(SUNDAY - timedelta(hours=1, minutes=59, seconds=58))
        box.at(SUNDAY + timedelta(seconds=2))
    with box.watching():
        box.drop("another")
        wait_until(lambda: len(box.records()) == 2)
        box.at(SUNDAY + WEEK + timedelta(seconds=1))
        wait_until(lambda: box.outcomes().count("schedule succeeded") == 2)
    assert (box.jobs / "scheduled" / "contracts.yaml").read_text() == SPEC
    assert len(list((box.jobs / "done").glob("contracts--*.yaml"))) == 2


@pytest.mark.parametrize(
    ("extra", "outcomes", "says"),
    [
        ("", ["schedule succeeded"], "made up for"),
        ("when_missed: skip\n", [], "is not made up for"),
    ],
)
def test_missed_times_are_made_up_for_once_or_not(
    box: ScheduledBox, extra: str, outcomes: list[str], says: str
) -> None:
    """The box was off for three weeks: it owes one run, or says that it starts none."""
    box.schedule(extra)
    with box.watching():
        wait_until(box.is_known)
    box.at(SUNDAY + 2 * WEEK + timedelta(days=2))
    with box.watching():
        wait_until(lambda: says in box.told())
        wait_until(lambda: box.outcomes() == outcomes)
        assert "Next time: Sunday 2026-12-20 02:00 CET." in box.told()
    assert box.known().last.due == SUNDAY + 2 * WEEK


def test_never_two_of_one_job_at_once(box: ScheduledBox) -> None:
    """While last week's run is under way, this week's time starts nothing, and says so."""
    (box.jobs / "contracts.jsonl").write_text(json.dumps({"train": ["train 2 then hang", "ok"]}))
    box.schedule()
    with box.watching():
        wait_until(box.is_known)
        box.at(SUNDAY + timedelta(seconds=1))
        wait_until(lambda: list(box.outputs.root.glob("contracts/*/attempts/01-*/hanging")))
        box.at(SUNDAY + WEEK + timedelta(seconds=1))
        wait_until(lambda: "was still under way" in box.told())
        assert box.known().last.outcome is Outcome.BUSY
        assert len(box.records()) == 1


def test_the_same_data_is_not_trained_on_again(box: ScheduledBox) -> None:
    """By its content: a file that was only touched is the same, one that grew is not."""
    box.schedule("when_data_changed: true\n")
    data = box.jobs / "contracts.jsonl"
    with box.watching():
        wait_until(box.is_known)
        box.at(SUNDAY + timedelta(seconds=1))
        wait_until(lambda: box.outcomes() == ["schedule succeeded"])
        os.utime(data)
        box.at(SUNDAY + WEEK + timedelta(seconds=1))
        wait_until(lambda: "the data is the same as at run" in box.told())
        assert len(box.records()) == 1
        data.write_text('{"lengths": [1]}')
        box.at(SUNDAY + 2 * WEEK + timedelta(seconds=1))
        wait_until(lambda: box.outcomes() == ["schedule succeeded"] * 2)


@pytest.mark.parametrize("meanwhile", ["deleted", "busy"])
def test_one_whose_data_is_being_compared_holds_up_no_other(
    box: ScheduledBox, meanwhile: str
) -> None:
    """Gigabytes are hashed when its spec goes, or its job is run by hand."""
    with (box.jobs / "large.jsonl").open("wb") as file:
        file.truncate(4 * 1024**3)
    two = "data: [contracts.jsonl, large.jsonl]"
    extra = "when_data_changed: true\n"
    box.schedule(extra, "zeta.yaml")
    spec = box.jobs / "scheduled" / "contracts.yaml"
    spec.write_text(SPEC.replace("data: contracts.jsonl", two) + extra)
    zeta = box.jobs / "scheduled" / "zeta.yaml"
    zeta.write_text(zeta.read_text().replace("contracts.jsonl", "zeta.jsonl"))
    (box.jobs / "zeta.jsonl").write_text("{}")
    with box.watching() as daemon:
        wait_until(lambda: box.is_known() and "zeta: next" in box.status())
        box.at(SUNDAY + timedelta(seconds=1))
        wait_until(lambda: box.outcomes() == ["schedule succeeded"] * 2)
        (box.jobs / "zeta.jsonl").write_text('{"a": []}')
        if meanwhile == "busy":
            script = {"train": ["train 2 then hang", "ok"]}
            (box.jobs / "contracts.jsonl").write_text(json.dumps(script))
        wait_until(lambda: zeta.with_name("zeta.yaml.txt").read_text().count("succeeded"))
        box.at(SUNDAY + WEEK + timedelta(seconds=1))
        descriptors = Path(f"/proc/{daemon.pid}/fd")

        def is_hashing() -> bool:
            try:
                return any(
                    os.readlink(one).endswith("large.jsonl") for one in descriptors.iterdir()
                )
            except FileNotFoundError:
                return False

        wait_until(is_hashing, every=0.005)
        if meanwhile == "deleted":
            spec.unlink()
        else:
            box.drop_spec("contracts")
        wait_until(
            lambda: len([one for one in box.records() if one.job == "zeta"]) == 2, seconds=60
        )


def test_a_broken_edit_pauses_and_a_deletion_stops(box: ScheduledBox) -> None:
    """The answer and STATUS.txt say what is wrong; corrected, it counts from then on."""
    box.schedule()
    spec = box.jobs / "scheduled" / "contracts.yaml"
    with box.watching():
        wait_until(box.is_known)
        spec.write_text(SPEC.replace("0 2", "0 25"))
        wait_until(lambda: "the schedule is paused" in box.told())
        assert "has an hour that is none: 25" in box.told()
        wait_until(lambda: "jobs/scheduled/contracts.yaml" in box.status())
        box.at(SUNDAY + timedelta(hours=1))
        spec.write_text(SPEC.replace("0 2", "0 4"))
        wait_until(lambda: "Next time: Sunday 2026-11-29 04:00 CET." in box.told())
        wait_until(lambda: "jobs/scheduled/contracts.yaml" not in box.status())
        assert box.records() == []
        spec.unlink()
        wait_until(lambda: not box.told() and not read_schedules(box.outputs))
        box.at(SUNDAY + timedelta(hours=4))
        box.drop("another")
        wait_until(lambda: box.outcomes() == ["drop succeeded"])


def test_hostile_neighbours_never_stop_the_loop(box: ScheduledBox) -> None:
    """Links, a folder, a pipe and thousands of files: the schedule works, no round takes long."""
    box.schedule()
    folder = box.jobs / "scheduled"
    (folder / "link.yaml").symlink_to("/etc/passwd")
    (folder / "folder.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    (folder / "no-schedule.yaml").write_text("model: m\ndata: contracts.jsonl\n")
    for number in range(3000):
        (folder / f"note-{number}.md").touch()
    for number in range(200):
        (folder / f"zz-{number:04}.yaml").write_text("nonsense: [")
    with box.watching():
        wait_until(box.is_known)
        wait_until(lambda: "pipe.yaml" in box.status())
        box.at(SUNDAY + timedelta(seconds=1))
        wait_until(lambda: box.outcomes() == ["schedule succeeded"])
        wait_until(lambda: "it has no schedule" in (folder / "no-schedule.yaml.txt").read_text())
        wait_until((folder / "zz-0199.yaml.txt").exists)
        assert "pipe.yaml" in box.status()  # also beside so many that are broken
        wait_until(lambda: "longest_round" in box.outputs.heartbeat.read_text())
    log = [json.loads(line) for line in box.outputs.daemon_log.read_text().splitlines()]
    slow = [line["step_seconds"] for line in log if "of its own time: schedules" in line["event"]]
    assert all(seconds < 0.2 for seconds in slow)


def test_a_name_that_another_jobs_schedule_has_is_refused(box: ScheduledBox) -> None:
    """Nobody's schedule is replaced by somebody else's; the same job's is."""
    box.schedule("name: leases\n")
    with box.watching():
        wait_until(lambda: "leases" in box.told())
        (box.jobs / "contracts.yaml").write_text(SPEC)
        wait_until(lambda: list((box.jobs / "rejected").glob("*.txt")))
        assert "is the schedule of another job, leases" in box.answer("rejected")
        assert "leases" in (box.jobs / "scheduled" / "contracts.yaml").read_text()
        again = SPEC.replace("0 2", "30 3") + "name: leases\n"
        (box.jobs / "contracts.yaml").write_text(again)
        wait_until(lambda: "Next time: Sunday 2026-11-29 03:30 CET." in box.told())


def test_outside_the_cards_hours_nothing_trains(box: ScheduledBox) -> None:
    """A run that trains leaves a checkpoint at seven and goes on at six in the evening.

    One that comes at noon is prepared at once, waits, and says until when.
    """
    box.at(SUNDAY + timedelta(hours=4, minutes=30))  # 06:30
    box.drop("early", train=["train 3 then hang", "ok"])
    with box.watching(hours="18:00-07:00"):
        wait_until(lambda: list(box.outputs.root.glob("early/2*/attempts/01-*/hanging")))
        box.at(SUNDAY + timedelta(hours=5, seconds=1))
        wait_until(lambda: box.of("early").state is State.INTERRUPTED)
        box.drop("noon")
        wait_until(lambda: "noon" in box.claimed() and box.of("noon").waiting)
        wait_until(lambda: box.of("noon").total_steps)
        wait_until(lambda: "outside the card's hours" in box.of("noon").waiting.reason)
        wait_until(lambda: "No training runs before 18:00" in box.status())
        assert "Outside the card's hours (18:00-07:00). It is tried again after" in box.status()
        box.at(SUNDAY + timedelta(hours=16, seconds=1))
        wait_until(lambda: [r.state for r in box.records()] == [State.SUCCEEDED] * 2)
        wait_until(lambda: "Trainings may run now" in box.status())
    first, second = box.of("early").attempts
    assert (first.last_step, second.first_step) == (3, 4)
    assert first.reason == "the card's hours had ended"


def test_two_files_of_one_job_start_one_run(box: ScheduledBox) -> None:
    """The one that was there first counts; the other is paused by name until that one goes."""
    box.schedule()
    twin = box.jobs / "scheduled" / "again.yaml.txt"
    with box.watching():
        wait_until(box.is_known)
        box.schedule("name: contracts\n", name="again.yaml")
        wait_until(lambda: twin.exists() and "the same job, contracts" in twin.read_text())
        assert "contracts.yaml is the schedule" in twin.read_text()
        wait_until(lambda: "jobs/scheduled/again.yaml" in box.status())
        box.at(SUNDAY + timedelta(seconds=1))
        wait_until(lambda: box.outcomes() == ["schedule succeeded"])
        (box.jobs / "scheduled" / "contracts.yaml").unlink()
        wait_until(lambda: "Next time: Sunday 2026-12-06 02:00 CET." in twin.read_text())
        assert len(box.records()) == 1


def test_a_cancelled_run_leaves_its_schedule(box: ScheduledBox) -> None:
    """By hand, in the share: the run is cancelled, and the next time starts another one."""
    (box.jobs / "contracts.jsonl").write_text(json.dumps({"train": ["train 2 then hang", "ok"]}))
    box.schedule()
    with box.watching():
        wait_until(box.is_known)
        box.at(SUNDAY + timedelta(seconds=1))
        wait_until(lambda: list(box.outputs.root.glob("contracts/*/attempts/01-*/hanging")))
        (copy,) = (box.jobs / "running").glob("contracts--*.yaml")
        copy.unlink()
        wait_until(lambda: box.outcomes() == ["schedule cancelled"])
        (box.jobs / "contracts.jsonl").write_text("{}")
        box.at(SUNDAY + WEEK + timedelta(seconds=1))
        wait_until(lambda: box.outcomes() == ["schedule cancelled", "schedule succeeded"])
