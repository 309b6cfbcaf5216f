"""Turns what people and their machines do to a share into runs, answers and nothing lost."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import time
import unicodedata
from pathlib import Path
from random import Random

import pytest
from daemon_box import wait_until
from fast_stage import HOLD_COPY, HOLD_PREPARED, SLOW
from figures import Figures
from share_box import SETTLE_SECONDS, ShareBox

from runner.contract.states import Stage, State


def write_slowly(path: Path, content: bytes, *, pieces: int, pause: float) -> None:
    """Write as over a slow line: in pieces, each flushed."""
    size = -(-len(content) // pieces)
    ticks = itertools.count()
    with path.open("wb", buffering=0) as file:
        for at in range(0, len(content), size):
            file.write(content[at : at + size])
            os.fsync(file.fileno())
            pause_for(pause, ticks)


def pause_for(seconds: float, ticks: itertools.count[int]) -> None:
    """Let time pass, as somebody who works slowly does."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end and next(ticks) >= 0, seconds=seconds + 5)


def test_a_slow_writer_is_waited_for(box: ShareBox) -> None:
    """A spec and its data that arrive in pieces are taken once, whole."""
    rows = b"".join(b'{"text": "row %04d"}\n' % number for number in range(2000))
    spec = b"model: m\ndata: slow.jsonl\nname: slow\n" + b"# " + b"x" * 3000 + b"\n"
    box.expect("slow.yaml", spec.decode())
    with box.watching():
        write_slowly(box.people / "slow.yaml", spec, pieces=5, pause=0.4 * SETTLE_SECONDS)
        write_slowly(box.people / "slow.jsonl", rows, pieces=5, pause=0.4 * SETTLE_SECONDS)
        box.wait_for_all()
    (data,) = box.record().data
    assert data.sha256 == hashlib.sha256(rows).hexdigest()
    assert box.lost() == []


def test_an_upload_that_stalls_is_waited_for(box: ShareBox) -> None:
    """Half a spec is no bad spec: its other half may still come. Then it runs, once."""
    spec = "model: m\ndata: half.jsonl\nname: half\n"
    (box.people / "half.jsonl").write_text("rows")
    box.expect("half.yaml", spec)
    with box.watching(broken_spec_seconds=30):
        with (box.people / "half.yaml").open("w") as file:
            file.write(spec[:12])
            file.flush()
            os.fsync(file.fileno())
            pause_for(3 * SETTLE_SECONDS, itertools.count())
            assert box.records() == []
            assert list((box.people / "rejected").glob("*")) == []
            file.write(spec[12:])
        box.wait_for_all()
    assert box.record().state is State.SUCCEEDED
    assert box.lost() == []


def test_data_that_goes_on_growing_after_a_stall_is_taken_whole(box: ShareBox) -> None:
    """Data that was taken for complete and then grew is copied again before a step is trained."""
    rows = [b'{"text": "row %04d"}\n' % number for number in range(400)]
    box.expect("grows.yaml", "model: m\ndata: grows.jsonl\nname: grows\n")
    (box.people / "grows.yaml").write_text(box.dropped["grows.yaml"][0].decode())
    (box.root / HOLD_PREPARED).touch()
    with box.watching(), (box.people / "grows.jsonl").open("wb", buffering=0) as file:
        file.write(b"".join(rows[:200]))
        os.fsync(file.fileno())
        wait_until(lambda: list(box.outputs.root.glob("*/*/data/*-grows.jsonl")))
        file.write(b"".join(rows[200:]))
        os.fsync(file.fileno())
        file.close()
        (box.root / HOLD_PREPARED).unlink()
        box.wait_for_all()
    (data,) = box.record().data
    assert data.sha256 == hashlib.sha256(b"".join(rows)).hexdigest()
    assert box.lost() == []


def test_a_file_replaced_while_it_settles_is_taken_as_it_is_in_the_end(box: ShareBox) -> None:
    """A spec that is written anew, and one that is replaced by a rename, run once as they end."""
    (box.people / "r.jsonl").write_text("rows")
    first = "model: m\ndata: r.jsonl\nname: a\nnotes: first\n"
    for name in ("over.yaml", "renamed.yaml"):
        (box.people / name).write_text(first)
        box.expect(name, first.replace("first", "last ").replace("name: a", f"name: {name[0]}"))
    with box.watching(settle_seconds=3.0):
        wait_until((box.people / "STATUS.txt").exists)
        (box.people / "over.yaml").write_bytes(box.dropped["over.yaml"][0])
        beside = box.people / ".renamed.yaml.swp"
        beside.write_bytes(box.dropped["renamed.yaml"][0])
        os.utime(beside, (os.stat(box.people / "renamed.yaml").st_mtime,) * 2)
        beside.replace(box.people / "renamed.yaml")
        box.wait_for_all()
    assert len(box.records()) == 2


def test_a_file_renamed_into_place_is_taken(box: ShareBox) -> None:
    """What uploads under another name and renames at the end is taken once, with its old times."""
    (box.people / "r.jsonl.part").write_text("rows")
    os.utime(box.people / "r.jsonl.part", (1_000_000_000, 1_000_000_000))
    spec = "model: m\ndata: r.jsonl\nname: r\n"
    (box.people / "r.yaml.filepart").write_text(spec)
    os.utime(box.people / "r.yaml.filepart", (1_000_000_000, 1_000_000_000))
    box.expect("r.yaml", spec)
    with box.watching():
        wait_until((box.people / "STATUS.txt").exists)
        (box.people / "r.yaml.filepart").rename(box.people / "r.yaml")
        wait_until(lambda: box.records() and box.record().waiting is not None)
        assert "r.jsonl" in str(box.record().waiting)
        (box.people / "r.jsonl.part").rename(box.people / "r.jsonl")
        box.wait_for_all()
    assert box.lost() == []


def test_the_same_name_in_another_case_is_another_run_of_the_same_job(box: ShareBox) -> None:
    """Fall.yaml, fall.yaml and FALL.YAML are three runs of the job "fall", none lost."""
    (box.people / "r.jsonl").write_text("rows")
    with box.watching():
        for number, name in enumerate(("Fall.yaml", "fall.yaml", "FALL.YAML"), start=1):
            text = f"model: m\ndata: r.jsonl\npriority: {number}\n"
            (box.people / name).write_text(text)
            wait_until(lambda n=number: len(box.records()) == n)
        wait_until(lambda: [r.state for r in box.records()] == [State.SUCCEEDED] * 3, seconds=60)
        wait_until(lambda: len(list((box.people / "done").glob("*.txt"))) == 3)
    assert {record.job for record in box.records()} == {"fall"}
    assert [r.file_name for r in box.records()] == ["Fall.yaml", "fall.yaml", "FALL.YAML"]


NAMES = (
    "two words and  more.yaml",
    "100% & 'quoted' #1 (copy) [x] {y} $z ;.yaml",
    unicodedata.normalize("NFC", "Überprüfung für Zoë.yaml"),
    unicodedata.normalize("NFD", "Überprüfung für Noël.yaml"),
    "契約書 2026 📄.yaml",
    "-rf.yaml",
    "x" * 250 + ".yaml",
    "ü" * 120 + "12345" + ".yml",
    "current.yaml",
    "con.yaml",
)


def test_every_name_that_a_share_can_hold_is_taken(box: ShareBox, kind: str) -> None:
    """Spaces, signs, composed and decomposed letters, 255 bytes, Windows's devices: all run."""
    # Samba lists Windows's own names (con.yaml) as 8.3 ones; nobody on Windows can write them.
    names = [name for name in NAMES if kind != "smb" or name != "con.yaml"]
    for number, name in enumerate(names):
        assert len(name.encode()) <= 255
        (box.people / f"d{number}.jsonl").write_text("rows")
        text = f"model: m\ndata: d{number}.jsonl\nnotes: {number}\n"
        (box.people / name).write_text(text)
        box.expect(name, text)
    with box.watching():
        box.wait_for_all(seconds=240)
    assert sorted(r.file_name for r in box.records()) == sorted(names)
    assert {record.state for record in box.records()} == {State.SUCCEEDED}


@pytest.mark.parametrize(("written", "lies"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_the_same_composed_or_decomposed(box: ShareBox, written: str, lies: str) -> None:
    """A spec written on Windows finds the data that a Mac has named, and the other way round."""
    data, job = "Verträge/Überprüfung.jsonl", "Prüfung"
    at = box.people / unicodedata.normalize(lies, data)
    at.parent.mkdir()
    at.write_text(f"rows of {job}")
    text = f"model: m\ndata: {unicodedata.normalize(written, data)}\nnotes: a\n"
    (box.people / unicodedata.normalize(written, f"{job}.yaml")).write_text(text)
    with box.watching():
        wait_until(lambda: box.in_state(State.SUCCEEDED), seconds=60)
    assert box.record().job == unicodedata.normalize("NFC", "prüfung")


def test_a_name_that_is_no_text_is_answered(box: ShareBox, kind: str) -> None:
    """Bytes that are no UTF-8 in a name (an old archive unpacked) are told of and stop nobody."""
    name = os.fsdecode(b"alt\xe4.yaml")
    try:
        (box.served.backing / name).write_text("model: m\ndata: a.jsonl\n")
    except OSError:
        pytest.skip("this file system refuses such a name itself")
    box.put("good.yaml")
    with box.watching():
        box.wait_for_all()
        if kind != "smb":  # the server shows such a name as another one, which is fine
            wait_until(lambda: "alt\\udce4.yaml" in box.status() or "rejected" in box.status())
    assert (box.served.backing / name).exists() or list((box.people / "rejected").iterdir())


def test_a_folder_named_like_a_spec_is_told_of_and_left_alone(box: ShareBox) -> None:
    """A folder x.yaml, dropped by mistake, is no spec: STATUS.txt says so; the others run."""
    folder = box.people / "x.yaml"
    folder.mkdir()
    (folder / "inside.yaml").write_text("model: m\ndata: a.jsonl\n")
    box.put("good.yaml")
    with box.watching():
        box.wait_for_all()
        wait_until(lambda: "x.yaml is a folder" in box.status())
        shutil.move(folder, box.people / "my things")
        wait_until(lambda: "x.yaml" not in box.status())
    assert (box.people / "my things" / "inside.yaml").exists()
    assert len(box.records()) == 1


def test_a_spec_that_may_not_be_read_is_told_of_and_taken_once_it_may(
    box: ShareBox, kind: str
) -> None:
    """Somebody else's private file stays where it is; STATUS.txt says what to do; others run."""
    if kind in ("local", "fuse"):
        pytest.skip("root may read everything here; the servers of the other kinds may not")
    private = box.served.backing / "private.yaml"
    box.put("private.yaml")
    os.chown(private, 0, 0)
    private.chmod(0o600)
    box.put("good.yaml")
    with box.watching():
        wait_until(lambda: [r.state for r in box.records()] == [State.SUCCEEDED], seconds=60)
        wait_until(lambda: "private.yaml cannot be read" in box.status())
        assert private.exists()
        private.chmod(0o644)
        box.wait_for_all()
        wait_until(lambda: "private.yaml cannot" not in box.status())
    assert box.lost() == []


def test_data_that_may_not_be_read_is_answered_with_what_to_do(box: ShareBox, kind: str) -> None:
    """A job whose data is private to somebody is rejected, saying that it may not be read."""
    if kind in ("local", "fuse"):
        pytest.skip("root may read everything here; the servers of the other kinds may not")
    box.put("p.yaml", state=State.REJECTED)
    data = box.served.backing / "job0.jsonl"
    os.chown(data, 0, 0)
    data.chmod(0o600)
    with box.watching():
        wait_until(lambda: list((box.people / "rejected").glob("*.txt")), seconds=60)
    (answer,) = (box.people / "rejected").glob("*.txt")
    assert "may not read the file" in answer.read_text()


def test_clocks_that_differ_change_nothing(box: ShareBox) -> None:
    """Files from 1970, 1980 and 2099 are taken as soon as any other, and each once."""
    for number, year_seconds in enumerate((1, 315_532_800, 4_086_000_000)):
        path = box.put(f"c{number}.yaml")
        os.utime(path, (year_seconds, year_seconds))
        os.utime(box.people / f"job{number}.jsonl", (year_seconds, year_seconds))
    with box.watching():
        box.wait_for_all()
    assert box.lost() == []


def test_a_share_that_goes_away_and_comes_back_loses_nothing(box: ShareBox) -> None:
    """Its server gone in mid-run: the run goes on, nothing is cancelled, all is shown later."""
    (box.root / SLOW).touch()
    box.put("a.yaml")
    box.put("b.yaml")
    with box.watching() as daemon:
        wait_until(lambda: State.TRAINING in [r.state for r in box.records()], seconds=60)
        wait_until(lambda: len(box.records()) == 2)
        box.served.go_away()
        wait_until(lambda: "the inbox is unavailable" in box.said(), seconds=90)
        (box.root / SLOW).unlink()
        wait_until(lambda: State.SUCCEEDED in [r.state for r in box.records()], seconds=90)
        assert daemon.poll() is None
        box.served.come_back()
        wait_until(lambda: "the inbox is there again" in box.said(), seconds=120)
        box.put("c.yaml")
        box.wait_for_all(seconds=120)
        assert daemon.poll() is None
    assert [record.state for record in box.records()] == [State.SUCCEEDED] * 3
    assert box.lost() == []


def test_a_share_that_goes_away_while_data_is_copied_rejects_nothing(box: ShareBox) -> None:
    """A copy that breaks off because the share went away is made again when it is back."""
    (box.root / HOLD_COPY).touch()
    box.put("a.yaml")
    with box.watching() as daemon:
        wait_until(lambda: box.in_state(State.PREPARING), seconds=60)
        box.served.go_away()
        (box.root / HOLD_COPY).unlink()
        wait_until(lambda: "the inbox is unavailable" in box.said(), seconds=90)
        wait_until(lambda: box.record().state is State.QUEUED, seconds=90)
        box.served.come_back()
        box.wait_for_all(seconds=120)
        assert daemon.poll() is None
    assert box.lost() == []


def test_a_share_that_answers_nobody_costs_no_run(box: ShareBox, kind: str) -> None:
    """Behind a hard mount a server that is gone holds whoever asks it: the daemon is not held.

    The run ends meanwhile, SIGTERM is obeyed, the next daemon goes on with what it can.
    """
    if kind != "fuse":
        pytest.skip("the others answer with an error or cannot be held; their server goes above")
    (box.root / SLOW).touch()
    box.put("a.yaml")
    box.put("b.yaml")
    with box.watching(share_seconds=1.0) as daemon:
        wait_until(lambda: State.TRAINING in [r.state for r in box.records()], seconds=60)
        wait_until(lambda: len(box.records()) == 2)
        box.served.hang()
        wait_until(lambda: "the inbox is unavailable (no answer within 1 s;" in box.said())
        daemon.send_signal(signal.SIGTERM)
        wait_until(lambda: "ended exit_code=0" in box.said(), seconds=60)
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(timeout=5)
        if daemon.poll() is None:
            # The kernel lets nobody go whose question a FUSE server has read, not even killed.
            box.served.hang_no_more()
            daemon.wait(timeout=20)
            box.served.hang()
        assert daemon.returncode == 0
    (box.root / SLOW).unlink()
    with box.watching(share_seconds=1.0) as daemon:
        wait_until(lambda: State.SUCCEEDED in [r.state for r in box.records()], seconds=60)
        assert daemon.poll() is None
        box.served.hang_no_more()
        wait_until(lambda: "the inbox is there again" in box.said(), seconds=60)
        box.put("c.yaml")
        box.wait_for_all(seconds=60)
        assert daemon.poll() is None
    assert [record.state for record in box.records()] == [State.SUCCEEDED] * 3
    assert box.lost() == []


def test_a_share_that_stops_answering_at_any_moment_loses_nothing(
    box: ShareBox, kind: str, share: float, figures: Figures
) -> None:
    """What was asked of it and given up happens all the same, later, or not: both are made good."""
    if kind != "fuse":
        pytest.skip("only a server in user space can be held at a moment of our choice")
    moments, ticks = Random(20261125), itertools.count()
    pauses = max(12, round(60 * share))
    with box.watching(share_seconds=0.1) as daemon:
        for number in range(pauses):
            if number % 3 == 0:
                box.put(f"{number}.yaml")
            pause_for(moments.uniform(0.0, 0.6), ticks)
            box.served.hang()
            pause_for(0.4, ticks)
            box.served.hang_no_more()
        box.wait_for_all(seconds=120)
        assert daemon.poll() is None
    assert box.said().count("no answer within") >= pauses / 4, "it was seldom noticed"
    assert {record.state for record in box.records()} == {State.SUCCEEDED}
    figures.count("shares that stopped answering, at random moments", pauses)
    assert box.lost() == []


def test_an_unmounted_share_cancels_nothing(box: ShareBox) -> None:
    """The empty folder below a mount is not the inbox, even where a marker was once written in it.

    A box that was first started before its share was mounted has left one there.
    """
    box.served.unmount()
    with box.watching():
        wait_until((box.jobs / "STATUS.txt").exists)
    below = sorted(os.listdir(box.jobs))
    assert ".runner-inbox" in below
    box.served.mount()
    (box.root / SLOW).touch()
    box.put("a.yaml")
    with box.watching() as daemon:
        wait_until(lambda: box.in_state(State.TRAINING), seconds=60)
        box.served.unmount()
        wait_until(lambda: "the inbox is unavailable" in box.said(), seconds=60)
        pause_for(4.0, itertools.count())
        assert box.in_state(State.TRAINING)
        (box.root / SLOW).unlink()
        wait_until(lambda: box.in_state(State.SUCCEEDED), seconds=60)
        box.served.mount()
        box.wait_for_all(seconds=60)
        assert daemon.poll() is None
    assert box.lost() == []


def test_a_share_that_is_not_there_at_the_start_cancels_nothing(box: ShareBox) -> None:
    """The box starts before its share is mounted: the run goes on, and its spec is where it was."""
    (box.root / SLOW).touch()
    box.put("a.yaml")
    with box.watching():
        wait_until(lambda: box.in_state(State.TRAINING), seconds=60)
    (box.root / SLOW).unlink()
    box.served.unmount()
    with box.watching() as daemon:
        wait_until(lambda: box.in_state(State.SUCCEEDED), seconds=60)
        assert os.listdir(box.jobs) == []
        box.served.mount()
        box.wait_for_all(seconds=60)
        assert daemon.poll() is None
    assert box.lost() == []


def test_a_share_that_does_not_answer_at_the_start_is_waited_for(box: ShareBox) -> None:
    """Stale handles and I/O errors at the start end no daemon: it goes on with the share."""
    (box.root / SLOW).touch()
    box.put("a.yaml")
    with box.watching():
        wait_until(lambda: box.in_state(State.TRAINING), seconds=60)
    (box.root / SLOW).unlink()
    box.served.go_away()
    with box.watching() as daemon:
        wait_until(lambda: box.in_state(State.SUCCEEDED), seconds=120)
        box.served.come_back()
        box.wait_for_all(seconds=120)
        assert daemon.poll() is None
    assert box.lost() == []


def test_a_state_folder_replaced_by_a_link_is_noticed(box: ShareBox, tmp_path: Path) -> None:
    """Nothing is read or written through it, nothing is cancelled, and every run goes on."""
    (box.root / SLOW).touch()
    box.put("a.yaml")
    box.put("b.yaml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.yaml").write_text("model: m\ndata: a.jsonl\n")
    with box.watching() as daemon:
        wait_until(lambda: State.TRAINING in [r.state for r in box.records()], seconds=60)
        # Once the second is prepared nothing of it changes: what a server itself writes through a
        # link that was put there while it was writing, nobody could prevent.
        wait_until(
            lambda: (
                [r.next_stage for r in box.records()] == [Stage.TRAIN] * 2
                and len(list((box.people / "queued").glob("*.yaml"))) == 1
            ),
            seconds=60,
        )
        pause_for(2.0, itertools.count())
        backing = box.served.backing
        (backing / "queued").rename(backing / "was queued")
        (backing / "queued").symlink_to(elsewhere)
        wait_until(lambda: not (backing / "queued").is_symlink(), seconds=60)  # it is set aside
        pause_for(3.0, itertools.count())
        assert State.CANCELLED not in [record.state for record in box.records()]
        assert [p.name for p in elsewhere.iterdir()] == ["mine.yaml"]
        (box.root / SLOW).unlink()
        box.wait_for_all(seconds=60)
        assert daemon.poll() is None
    assert State.CANCELLED not in [record.state for record in box.records()]
    assert [p.name for p in elsewhere.iterdir()] == ["mine.yaml"]


def test_ten_thousand_files_at_once(box: ShareBox, share: float, figures: Figures) -> None:
    """They are all seen, every spec among them is claimed and answered, and the loop goes on."""
    # A real server's machine is emulated, on one core that the runs' own stages share.
    emulated = box.served.kind in ("smb", "nfs")
    specs = 150 if emulated else max(150, round(1000 * share))
    (box.people / "r.jsonl").write_text("rows")
    for number in range(10_000 - specs):
        (box.served.backing / f"scan {number:05d}.pdf").write_text("a person's")
    for number in range(specs):
        (box.people / f"s{number}.yaml").write_text(f"model: m\ndata: r.jsonl\nnotes: {number}\n")
    beats: list[float] = []
    began = time.monotonic()

    def all_claimed() -> bool:
        heartbeat = box.outputs.heartbeat
        if heartbeat.exists():
            beats.append(time.time() - heartbeat.stat().st_mtime)
        return not list(box.people.glob("*.yaml")) and len(box.outputs.runs()) == specs

    with box.watching() as daemon:
        wait_until(all_claimed, seconds=280)
        seconds = time.monotonic() - began
        wait_until(lambda: "more" in box.status())
        assert daemon.poll() is None
    assert max(beats) < 30
    claimed = {record.file_name for record in box.records()}
    assert claimed == {f"s{number}.yaml" for number in range(specs)}
    assert len(list(box.people.glob("scan *.pdf"))) == 10_000 - specs
    figures.tell(
        f"shares: 10,000 files at once, {box.served.kind}",
        f"{specs} specs among them claimed in {seconds:.0f} s, longest silence of the loop "
        f"{max(beats):.0f} s, lost: 0",
    )
