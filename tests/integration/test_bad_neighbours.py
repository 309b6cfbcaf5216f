"""One bad neighbour beside good work, for each place that is listed or written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from daemon_box import REPOSITORY, Box, wait_until

from runner.contract.layout import claimed_name
from runner.contract.states import State

RUN_ID = "20200101T000000Z-aaaa"
_STRANGER = 12345  # a user id that is nobody's here


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box whose daemon has no right to read what is others', also where tests are root."""
    box = Box(tmp_path)
    if os.geteuid() == 0:
        box.prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    return box


def of_a_stranger(path: Path) -> None:
    """Take away everybody's right to look into something; root's lost+found is like that."""
    path.chmod(0o700 if os.geteuid() == 0 else 0)
    if os.geteuid() == 0:
        os.chown(path, _STRANGER, _STRANGER)


def odd_things(folder: Path, stem: str, ending: str) -> None:
    """Plant one of everything that is no plain readable file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}folder{ending}").mkdir()
    (folder / f"{stem}dangling{ending}").symlink_to("/nowhere/at/all")
    (folder / f"{stem}loop{ending}").symlink_to(f"{stem}loop{ending}")
    (folder / f"{stem}link{ending}").symlink_to("/etc/passwd")
    os.mkfifo(folder / f"{stem}pipe{ending}")
    with socket.socket(socket.AF_UNIX) as unix:
        here = os.getcwd()
        os.chdir(folder)  # a socket's path may be 107 bytes long
        unix.bind(f"{stem}socket{ending}"[:100])
        os.chdir(here)
    for name in (
        f"{stem}control\x1b[31m\n{ending}".encode(),
        f"{stem}bytes".encode() + b"\xff\xfe" + ending.encode(),
        (stem.encode() + "ü".encode() * 130)[: 255 - len(ending)] + ending.encode(),
    ):
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_bytes(b"x")
    closed = folder / f"{stem}closed{ending}"
    closed.write_text("model: m\n")
    of_a_stranger(closed)


def _in_the_root(box: Box) -> None:
    odd_things(box.jobs, "a", ".yaml")
    odd_things(box.jobs, "b", ".json")
    odd_things(box.jobs, "c", "")
    for number in range(2000):
        (box.jobs / f"junk{number}").touch()
    secret = box.jobs / "closed folder"
    secret.mkdir()
    of_a_stranger(secret)
    (box.jobs / "STATUS.txt").mkdir()
    (box.jobs / ".runner-lock").mkdir()
    (box.jobs / ".runner-inbox").symlink_to("/etc/passwd")


def _in_the_state_folders(box: Box) -> None:
    for name in ("queued", "running", "done", "failed", "rejected", "cancelled"):
        odd_things(box.jobs / name, "", ".yaml")
        odd_things(box.jobs / name, "x--" + RUN_ID, ".yaml")
        odd_things(box.jobs / name, "y--" + RUN_ID, ".txt")


def _a_state_folder_is_none(box: Box) -> None:
    (box.jobs / "queued").write_text("a file")
    (box.jobs / "running").symlink_to("/tmp")
    os.mkfifo(box.jobs / "done")


def _in_outputs(box: Box) -> None:
    odd_things(box.outputs.root, "", "")
    for name in ("lost+found", "closed job"):
        (box.outputs.root / name).mkdir()
        of_a_stranger(box.outputs.root / name)


def _in_a_jobs_folder(box: Box) -> None:
    odd_things(box.outputs.root / "good", "", "")
    odd_things(box.outputs.root / "good", "20200101T0000", "")
    closed = box.outputs.root / "good" / RUN_ID
    closed.mkdir()
    of_a_stranger(closed)


def _in_a_run_folder(box: Box) -> None:
    for number, name in enumerate(("run.json", "spec.yaml", "data", "checkpoints", "log.jsonl")):
        run = box.outputs.run("other", f"20200101T00000{number}Z-aaaa").root
        run.mkdir(parents=True)
        os.mkfifo(run / name)
        if name != "run.json":
            old = REPOSITORY / "tests/data/records/v1-1-first.json"
            fields = json.loads(old.read_bytes()) | {"job": "other", "run_id": run.name}
            (run / "run.json").write_text(json.dumps(fields | {"state": "interrupted"}))
    run = box.outputs.run("other", "20200101T000009Z-aaaa").root
    run.mkdir()
    (run / "run.json").symlink_to("run.json")
    odd_things(run, "", "")


def _in_the_private_folder(box: Box) -> None:
    odd_things(box.outputs.private, "", ".json")
    (box.outputs.private / "heartbeat.json").mkdir()
    os.mkfifo(box.outputs.private / "inbox")
    os.mkfifo(box.outputs.private / "forecasts.jsonl")
    os.mkfifo(box.outputs.private / "daemon.jsonl")
    os.mkfifo(box.outputs.private / "gpu.lease.holder")


def _in_requests(box: Box) -> None:
    odd_things(box.outputs.requests, "", ".json")
    for number, content in enumerate(
        [
            {"verb": "cancel", "args": {"level": "x", "event": 1, "run_log": "y", "self": 2}},
            {"verb": "fly", "args": {"level": "critical", "verb": "x"}},
            {"verb": {}, "args": []},
            [1],
            "cancel",
            None,
        ]
    ):
        (box.outputs.requests / f"{number}.json").write_text(json.dumps(content))
    (box.outputs.requests / "huge.json").write_bytes(b"[" * 3_000_000)


def _in_models(box: Box) -> None:
    odd_things(box.root / "models", "", "")
    odd_things(box.root / "models" / "m2", "", ".json")
    os.mkfifo(box.root / "models" / "m2" / "config.json")
    (box.root / "models" / "lost+found").mkdir()
    of_a_stranger(box.root / "models" / "lost+found")


PLACES = [
    _in_the_root,
    _in_the_state_folders,
    _a_state_folder_is_none,
    _in_outputs,
    _in_a_jobs_folder,
    _in_a_run_folder,
    _in_the_private_folder,
    _in_requests,
    _in_models,
]


@pytest.mark.parametrize("plant", PLACES, ids=lambda plant: plant.__name__.strip("_"))
def test_a_bad_neighbour_never_stops_good_work(box: Box, plant: Callable[[Box], None]) -> None:
    """Whatever lies beside it, at the start and while the daemon runs, a good job succeeds."""
    plant(box)
    box.drop("good")
    with box.watching() as daemon:
        done = box.jobs / "done"
        wait_until(lambda: _is_folder(done) and list(done.glob("good--*.yaml.txt")))
        assert daemon.poll() is None
        log = _log(box)
        lines = [line for line in log.splitlines() if '"warning"' in line]
        said = [(json.loads(line)["event"], json.loads(line).get("reason")) for line in lines]
        assert all(said.count(one) <= 3 for one in said), "said in each round"
    assert daemon.returncode in (0, 1)
    assert "Traceback" not in (box.root / "daemon.out").read_text(errors="replace")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _log(box: Box) -> str:
    path = box.outputs.daemon_log
    return path.read_text() if path.is_file() else ""


def test_a_link_planted_beside_the_lock_is_never_written_through(box: Box, tmp_path: Path) -> None:
    """Who can make links in the share can have no file of the runner's user overwritten."""
    precious = tmp_path / "precious"
    precious.write_text("do not touch")
    for name in (".runner-lock.holder", ".runner-lock", "STATUS.txt"):
        (box.jobs / name).symlink_to(precious)
    box.drop("good")
    assert box.once().returncode == 0
    assert precious.read_text() == "do not touch"
    assert "process" in (box.jobs / ".runner-lock.holder").read_text()


def _trains(box: Box, name: str) -> bool:
    return bool(list(box.outputs.root.glob(f"{name}/*/attempts/01-*/hanging")))


def test_deleting_the_folder_of_a_run_ends_that_run_alone(box: Box) -> None:
    """The queue goes on, the spec is answered, and the daemon still stops when asked to."""
    box.drop("first", train=["hang"])
    with box.watching() as daemon:
        wait_until(lambda: _trains(box, "first"))
        box.drop("good")
        wait_until(lambda: list((box.jobs / "queued").glob("good--*.yaml")))
        shutil.rmtree(box.outputs.root / "first")
        wait_until(lambda: list((box.jobs / "done").glob("good--*.txt")))
        (answer,) = (box.jobs / "cancelled").glob("first--*.txt")
        assert "was deleted" in answer.read_text()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) in (0, 1)


def test_a_daemon_that_cannot_write_a_record_still_leaves_when_asked(box: Box) -> None:
    """SIGTERM works whatever is in the way of the last write."""
    box.drop("first", train=["hang"])
    with box.watching() as daemon:
        wait_until(lambda: _trains(box, "first"))
        (run,) = box.outputs.runs()
        run.record.unlink()
        run.record.mkdir()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=40) == 1


@pytest.mark.parametrize("how", ["renamed", "deleted", "a file", "a link"])
def test_no_run_is_cancelled_because_its_state_folder_went(box: Box, how: str) -> None:
    """Renaming queued/ in Explorer cancels nothing: the specs are put back, and all jobs run."""
    box.drop("first", train=["hang", "ok"])
    with box.watching():
        wait_until(lambda: _trains(box, "first"))
        box.drop("second")
        box.drop("third")
        queued = box.jobs / "queued"
        wait_until(lambda: len(list(queued.glob("*.yaml"))) == 2)
        wait_until(lambda: len(list(queued.glob("*.yaml.txt"))) == 2)
        queued.rename(box.jobs / "old" if how != "deleted" else box.root / "gone")
        if how == "a file":
            queued.write_text("x")
        elif how == "a link":
            queued.symlink_to(box.jobs / "old")
        wait_until(lambda: _is_folder(queued) and len(list(queued.glob("*.yaml"))) == 2)
        (spec,) = (box.jobs / "running").glob("first--*.yaml")
        spec.unlink()  # one that is really deleted is cancelled all the same
        wait_until(lambda: len(list((box.jobs / "done").glob("*.txt"))) == 2)
    states = {record.job: record.state for record in box.records()}
    assert states == {
        "first": State.CANCELLED,
        "second": State.SUCCEEDED,
        "third": State.SUCCEEDED,
    }


def test_specs_that_are_selected_and_deleted_together_are_cancelled(box: Box) -> None:
    """The folder stays and only they go: that is somebody's wish, for one spec as for all."""
    box.drop("first", train=["hang", "ok"])
    with box.watching():
        wait_until(lambda: _trains(box, "first"))
        box.drop("second")
        box.drop("third")
        queued = box.jobs / "queued"
        wait_until(lambda: len(list(queued.glob("*.yaml.txt"))) == 2)
        for spec in queued.glob("*.yaml"):
            spec.unlink()
        cancelled = box.jobs / "cancelled"
        wait_until(lambda: len(list(cancelled.glob("*.yaml.txt"))) == 2)
    states = {record.job: record.state for record in box.records()}
    assert states == {
        "first": State.INTERRUPTED,
        "second": State.CANCELLED,
        "third": State.CANCELLED,
    }


def test_a_share_whose_content_is_gone_as_a_whole_cancels_nothing(box: Box) -> None:
    """An empty folder where the share was mounted: it is unavailable, and nobody deleted a spec."""
    box.drop("first", train=["hang", "ok"])
    away = box.root / "away"

    def inbox_is(what: str) -> bool:
        return what in json.loads(box.outputs.heartbeat.read_bytes())["inbox"]

    with box.watching():
        wait_until(lambda: _trains(box, "first"))
        box.drop("second")
        wait_until(lambda: list((box.jobs / "queued").glob("second--*.yaml.txt")))
        box.jobs.rename(away)
        box.jobs.mkdir()
        wait_until(lambda: inbox_is("unavailable"))  # many looks are made till then
        # A mount covers what lies below it, and the lock may: a look was under way meanwhile.
        box.jobs.rename(box.root / "covered")
        away.rename(box.jobs)
        wait_until(lambda: inbox_is("available") and not inbox_is("unavailable"))
    states = {record.job: record.state for record in box.records()}
    assert set(states) == {"first", "second"}
    assert State.CANCELLED not in states.values()


def test_links_that_lead_round_in_data_are_one_jobs_trouble(box: Box) -> None:
    """A link to itself, and one that leads back up: each job is answered, and good work goes on.

    That the true prepare stage follows neither is held by test_snapshot.py.
    """
    (box.jobs / "data").mkdir()
    (box.jobs / "loop").symlink_to("loop")
    (box.jobs / "data" / "again").symlink_to("..")
    (box.jobs / "itself.yaml").write_text("model: m\ndata: loop/rows.jsonl\n")
    (box.jobs / "round.yaml").write_text("model: m\ndata: data/again/data/again/good.jsonl\n")
    box.drop("good")
    with box.watching(data_wait_seconds=1):
        wait_until(lambda: list((box.jobs / "done").glob("good--*.txt")))
        for name in ("itself", "round"):
            wait_until(partial(_is_answered, box, name))


def _is_answered(box: Box, job: str) -> bool:
    """Whether a job has ended and has an answer that says so."""
    ended = ("done", "failed", "rejected")
    return any(list(box.jobs.glob(f"{end}/{job}--*.txt")) for end in ended)


def test_a_folder_deleted_while_the_daemon_was_off_cancels_nothing(box: Box) -> None:
    """What went in the meantime is made anew, and its jobs go on."""
    box.drop("first", train=["hang", "ok"])
    with box.watching():
        wait_until(lambda: _trains(box, "first"))
    shutil.rmtree(box.jobs / "running")
    assert box.once().returncode == 0
    assert box.record().state is State.SUCCEEDED


@pytest.mark.parametrize("folder", ["queued", "running", "done"])
def test_a_spec_dropped_into_a_state_folder_is_run_or_answered(box: Box, folder: str) -> None:
    """Whoever misses jobs/ by one folder is not ignored."""
    box.drop("good")
    (box.jobs / folder).mkdir()
    (box.jobs / "good.yaml").rename(box.jobs / folder / "good.yaml")
    with box.watching():
        if folder == "done":
            answer = box.jobs / "done" / "good.yaml.txt"
            wait_until(answer.exists)
            assert "move it to jobs/" in answer.read_text()
        else:
            wait_until(lambda: list((box.jobs / "done").glob("good--*.txt")))


def test_the_spec_of_a_failed_run_dragged_into_queued_runs_again(box: Box) -> None:
    """To drag a job back is to start it anew."""
    box.drop("good", prepare=["10", "ok"])
    with box.watching():
        rejected = box.jobs / "rejected"  # the answer is written first, then the spec is moved
        wait_until(lambda: len(list(rejected.glob("good--*"))) == 2)
        (spec,) = rejected.glob("good--*.yaml")
        box.drop("x")
        (box.jobs / "good.jsonl").write_text("{}")
        spec.rename(box.jobs / "queued" / spec.name)
        wait_until(lambda: list((box.jobs / "done").glob("good--*.txt")))
    states = [record.state for record in box.records() if record.job == "good"]
    assert states == [State.REJECTED, State.SUCCEEDED]


@pytest.mark.parametrize("what", ["a folder", "immutable"])
def test_an_answer_that_cannot_be_written_is_that_runs_trouble_alone(box: Box, what: str) -> None:
    """The other answers and STATUS.txt are written, and STATUS.txt names it."""
    box.drop("first", train=["hang", "ok"])
    with box.watching():
        wait_until(lambda: _trains(box, "first"))
        (spec,) = wait_until(lambda: list((box.jobs / "running").glob("first--*.yaml")))
        answer = spec.with_name(f"{spec.name}.txt")
        wait_until(answer.exists)
        target = box.jobs / "done" / f"{spec.name}.txt"
        if what == "a folder":
            (target / "x").mkdir(parents=True)
        else:
            target.write_text("x")
            if subprocess.run(["chattr", "+i", target], check=False).returncode:
                pytest.skip("no file can be made immutable here")
        try:
            process = next(box.outputs.root.glob("first/*/attempts/01-*/process"))
            os.kill(int(process.read_text().split()[0]), signal.SIGKILL)
            box.drop("good")
            wait_until(lambda: list((box.jobs / "done").glob("good--*.txt")))
            status = box.jobs / "STATUS.txt"
            wait_until(lambda: "its answer cannot be read or written" in status.read_text())
        finally:
            subprocess.run(["chattr", "-i", target], check=False, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("how", ["closed at the start", "its reader is gone"])
def test_a_daemon_whose_output_nobody_reads_goes_on(box: Box, how: str) -> None:
    """A closed standard error ends nothing."""
    box.drop("good")
    close = ["sh", "-c", 'exec "$@" 2>&- >&- <&-', "sh"] if how == "closed at the start" else []
    reader, writer = os.pipe()
    os.close(reader)
    daemon = subprocess.Popen(
        [*close, *box.command()], cwd=REPOSITORY, env=box.environment, stdout=writer, stderr=writer
    )
    os.close(writer)
    try:
        wait_until(lambda: list((box.jobs / "done").glob("good--*.txt")))
        assert daemon.poll() is None
        if close:  # else a file that is opened gets the number, and what is printed goes into it
            streams = {os.readlink(f"/proc/{daemon.pid}/fd/{number}") for number in (0, 1, 2)}
            assert streams == {os.devnull}
    finally:
        daemon.terminate()
        daemon.wait(timeout=20)


def test_a_copied_run_folder_is_left_alone(box: Box) -> None:
    """Two folders of one run are never both worked on; the copy is named."""
    box.drop("first", train=["hang", "ok"])
    with box.watching():
        wait_until(lambda: _trains(box, "first"))
    shutil.copytree(box.outputs.root / "first", box.outputs.root / "first - Copy")
    assert box.once().returncode == 0
    copied = next((box.outputs.root / "first - Copy").glob("*/run.json"))
    assert json.loads(copied.read_text())["state"] == "interrupted"
    shown = " ".join((box.jobs / "STATUS.txt").read_text().split())
    assert "is a copy of first/" in shown
    assert "Delete the copy, or move it out of the folder outputs." in shown


def test_a_json_spec_with_a_slip_is_answered(box: Box) -> None:
    """A comma too many does not make a spec into data that is left alone."""
    (box.jobs / "good.json").write_text('{"model": "m", "data": "d.jsonl",}\n')
    (box.jobs / "rows.json").write_text('[{"model": "m", "data": "d"}]\n')
    assert box.once().returncode == 1
    assert (box.jobs / "rows.json").exists()
    assert list((box.jobs / "rejected").glob("good--*.json.txt"))


def test_claimed_names_stay_within_what_a_file_system_takes() -> None:
    """A name of 255 bytes has room for the run's id and its answer's ending."""
    name = claimed_name("ü" * 125 + ".yaml", RUN_ID)
    assert len(f"{name}.txt".encode()) <= 255


def test_data_that_no_disk_holds_stops_no_other_job(box: Box) -> None:
    """A sparse file of 8 TiB takes no room where it lies: its job is refused with both sizes.

    One that would fit into the empty disk, and does not now, waits; the others go before it.
    """
    facts = os.statvfs(box.root)
    for name, size in (
        ("huge", 2**43),
        ("large", (facts.f_bavail + (facts.f_blocks - facts.f_bavail) // 2) * facts.f_frsize // 5),
    ):
        with (box.jobs / f"{name}.jsonl").open("wb") as file:
            file.truncate(size)
        box.drop_spec(name)
    with box.watching():
        wait_until(lambda: len(list(box.outputs.runs())) == 2)
        box.drop("good")
        wait_until(lambda: list((box.jobs / "done").glob("good--*.txt")))
        states = {record.job: record for record in box.records()}
    assert states["huge"].state is State.REJECTED
    assert states["huge"].error is not None
    assert "40,960.0 GiB of disk" in states["huge"].error.message
    assert states["large"].state is State.QUEUED
    assert states["large"].waiting is not None
    assert "the disk is nearly full" in states["large"].waiting.reason
