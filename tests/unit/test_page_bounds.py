"""Bounds of the page: what one client, one form, one line or one slow sender can take of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_runs
import pytest
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from runner.commands.submit import FILE_MODE
from runner.contract.layout import Outputs
from runner.contract.page_key import READ_KEY
from runner.contract.record import read_record
from runner.contract.states import Stage, State
from runner.errors import BusyError, DamagedError
from runner.language.speaker import Speaker
from runner.office import live, look, metrics, pieces, upload, who
from runner.office.api import paging
from runner.office.api.events import event_object, lines_backwards, read_events
from runner.office.api.files import Files
from runner.office.api.job_index import JobIndex
from runner.office.app import make_app
from runner.office.box import Box
from runner.office.limits import TooSlowError
from runner.office.render import Reader
from runner.office.who import WrongKeys

ROWS = b"a,b\n1,2\n"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    names = ("jobs", "outputs", "models", "page")
    for name in names:
        (tmp_path / name).mkdir()
    return Box(**{f"{name}_dir": tmp_path / name for name in names})


@pytest.fixture
def page(box: Box) -> Iterator[TestClient]:
    """Its page, to one who is signed in."""
    app = make_app(box)
    key = app.state.keys.make()
    (box.page_dir / READ_KEY).write_text("only-for-reading-this-box")
    with TestClient(app, base_url="http://localhost") as client:
        client.cookies["box_session"] = app.state.keys.open_session(key)
        client.headers["origin"] = "http://localhost"
        yield client


def test_a_form_has_no_more_fields_than_the_page_asks_for(box: Box, page: TestClient) -> None:
    """Neither very many nor a very long one is kept in memory; nothing of the form is left."""
    file = {"file": ("a.csv", ROWS)}
    for fields in ({f"f{n}": "v" for n in range(60)}, {"model": "x" * 70_000}):
        assert page.post("/upload", data=fields, files=file).status_code == 409
    assert not (box.jobs_dir / "data").exists() or not list((box.jobs_dir / "data").iterdir())


def test_what_is_uploaded_can_be_read_by_everybody_of_the_share(box: Box, page: TestClient) -> None:
    """Whatever the umask of the page's process is."""
    before = os.umask(0o077)
    try:
        assert page.post("/upload", files={"file": ("a.csv", ROWS)}).status_code == 200
    finally:
        os.umask(before)
    assert (box.jobs_dir / "data" / "a.csv").stat().st_mode & 0o777 == FILE_MODE


def test_an_upload_is_on_the_disk_before_it_has_a_name(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sees the name after a power cut finds all of it."""
    synced: dict[int, list[str]] = {}
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.setdefault(os.fstat(descriptor).st_ino, os.listdir(box.jobs_dir / "data"))

    monkeypatch.setattr(os, "fsync", noted)
    one = upload.Upload(box, "a.csv")
    try:
        one.write(ROWS)
        one.finish()
    finally:
        one.close()
    file = box.jobs_dir / "data" / "a.csv"
    assert file.read_bytes() == ROWS
    assert "a.csv" not in synced[file.stat().st_ino]


def test_who_reads_the_columns_may_take_no_more_memory_than_that() -> None:
    """The limit is the kernel's, and stands before a byte of the file is read."""
    code = (
        "import resource, sys\n"
        "from runner.office import columns\n"
        "columns.look = lambda *_: resource.getrlimit(resource.RLIMIT_DATA)\n"
        "sys.exit(columns.main(['rows.csv', 'rows.csv']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(done.stdout) == [2 * 1024**3] * 2


def test_an_upload_ends_when_the_disk_gets_full_on_its_way(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only one that began on a full disk; nothing of it is left."""
    monkeypatch.setattr(upload, "_LOOK_BYTES", 10)
    one = upload.Upload(box, "a.csv")
    try:
        one.write(b"0123456789")
        full = SimpleNamespace(f_bavail=1, f_frsize=1)
        monkeypatch.setattr(os, "statvfs", lambda _: full)
        with pytest.raises(upload.UploadError, match="nearly full"):
            one.write(b"0")
    finally:
        one.close()
    assert not list((box.jobs_dir / "data").iterdir())


def test_a_piece_that_came_too_slowly_is_kept_as_far_as_it_came(box: Box) -> None:
    """A bad line does not begin at the beginning again."""

    async def slow() -> AsyncIterator[bytes]:
        yield b"half"
        raise TooSlowError

    async def bring() -> int:
        coming = pieces.Pieces(box)
        one = await coming.begin("rows.csv", 8)
        with pytest.raises(TooSlowError):
            await coming.add(one, 0, slow())
        kept = one.has_bytes
        await coming.close()
        return kept

    assert asyncio.run(bring()) == 4


def test_a_piece_that_takes_long_is_not_given_up_while_it_comes(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what does not go on is; the clock stands still while something arrives."""
    monkeypatch.setattr(pieces, "IDLE_SECONDS", 0.2)

    async def long() -> AsyncIterator[bytes]:
        yield ROWS[:4]
        await asyncio.sleep(0.6)
        yield ROWS[4:]

    async def bring() -> str:
        coming = pieces.Pieces(box)
        one = await coming.begin("rows.csv", len(ROWS))
        await coming.add(one, 0, long())
        await coming.close()
        assert one.stored is not None
        return one.stored.path

    assert (box.jobs_dir / asyncio.run(bring())).read_bytes() == ROWS


def test_more_uploads_than_can_come_at_once_are_told_to_wait(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those that have ended count no more."""
    monkeypatch.setattr(pieces, "_MOST", 1)

    async def whole() -> AsyncIterator[bytes]:
        yield ROWS

    async def bring() -> None:
        coming = pieces.Pieces(box)
        one = await coming.begin("rows.csv", len(ROWS))
        with pytest.raises(BusyError):
            await coming.begin("more.csv", 1)
        await coming.add(one, 0, whole())
        await coming.begin("more.csv", 1)
        await coming.close()

    asyncio.run(bring())


def test_more_looks_than_can_wait_are_told_to_come_back(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a gigabyte and half a minute, one after the other."""
    go_on = threading.Event()
    monkeypatch.setattr(look, "look_at_rows", lambda *_: go_on.wait(60) and look.Seen())
    looks = look.Looks()
    try:
        for number in range(look._WAITING):
            looks.begin(box, f"{number}.yaml", b"")
        with pytest.raises(BusyError):
            looks.begin(box, "more.yaml", b"")
    finally:
        go_on.set()


def test_who_may_only_read_sees_no_form_and_no_look(box: Box, page: TestClient) -> None:
    """A look shows rows that somebody is about to train on, and its page has a button."""
    one = look.Look(id="x", file_name="x.yaml", spec=b"", seen=look.Seen(is_usable=True))
    page.app.state.looks._looks["x"] = one
    (box.jobs_dir / "data").mkdir()
    (box.jobs_dir / "data" / "a.csv").write_bytes(ROWS)
    ways = ("/drop", "/drop/job?data=data/a.csv", "/drop/look/x")
    assert [page.get(way).status_code for way in ways] == [200] * 3
    page.cookies.clear()
    reads = {"authorization": "Bearer only-for-reading-this-box"}
    assert [page.get(way, headers=reads).status_code for way in ways] == [404] * 3


def test_rows_are_shown_of_the_folder_of_data_alone(box: Box, page: TestClient) -> None:
    """The rest of the share is nothing that an address could show."""
    for name in ("data/a.csv", "a.csv", "scheduled/a.csv", "data/a.txt.exe"):
        (box.jobs_dir / name).parent.mkdir(exist_ok=True)
        (box.jobs_dir / name).write_bytes(ROWS)
        shown = page.get("/drop/job", params={"data": name}).status_code
        assert shown == (200 if name == "data/a.csv" else 404), name


def test_clients_that_guess_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that guessed last: an office's network may have many addresses."""
    monkeypatch.setattr(who, "_CLIENTS", 3)
    wrong = WrongKeys()
    for client in "abcde":
        for _ in range(who.WRONG_KEYS):
            wrong.note(client)
    assert [client for client in "abcde" if wrong.is_barred(client)] == ["c", "d", "e"]


def follower(page: TestClient, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the request of one who may read."""
    monkeypatch.setattr(live, "reader_of", lambda _: Reader(speak=Speaker()))
    return SimpleNamespace(
        app=page.app,
        headers={"authorization": "Bearer only-for-reading-this-box"},
        state=SimpleNamespace(may_write=False),
    )


@pytest.mark.parametrize("error", [HTTPException(404), DamagedError("x", advice="y"), OSError(5)])
@pytest.mark.parametrize("shown", [0, 1])
def test_following_a_run_that_goes_ends_and_is_no_defect(
    page: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception, shown: int
) -> None:
    """It is erased, or its record torn: what was sent stays, and nothing is raised into the log."""
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    texts = ["text"] * shown

    def render(_: Reader) -> str:
        if not texts:
            raise error
        return texts.pop()

    async def follow() -> list[bytes]:
        lives = live.Live()
        looks = itertools.count()
        part = live.Part(key="x", look=lambda: next(looks), render=render)
        found = [one async for one in lives._events(follower(page, monkeypatch), part)]
        assert lives.followers == 0
        return found

    assert len(asyncio.run(follow())) == shown


def test_a_part_that_nobody_follows_any_more_is_not_looked_at(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred people who went home cost nothing."""
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    looks = 0

    def count() -> int:
        nonlocal looks
        looks += 1
        return looks

    async def follow() -> int:
        lives = live.Live()
        part = live.Part(key="x", look=count, render=lambda _: "text")
        events = lives._events(follower(page, monkeypatch), part)
        assert (await anext(events)).endswith(b"data: text\n\n")
        await anext(events)
        await events.aclose()
        assert lives.followers == 0
        await asyncio.sleep(0.2)  # a look that had begun may end
        seen = looks
        await asyncio.sleep(0.3)
        return looks - seen

    assert asyncio.run(follow()) == 0


def test_a_run_that_was_erased_is_no_job_any_more(tmp_path: Path) -> None:
    """What was read once of it is not told for ever."""
    (tmp_path / "jobs").mkdir()
    run = made_runs.make_run(tmp_path / "outputs")
    index = JobIndex(tmp_path / "jobs", Outputs(tmp_path / "outputs"))
    job_id = f"ftjob-{run.run_id}"
    assert index.find(job_id) is not None
    shutil.rmtree(run.root)
    assert index.find(job_id) is None


def test_a_line_without_an_end_is_no_event(tmp_path: Path) -> None:
    """A log of which the disk made one long line is not held in memory whole."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * (8 * 2**20))
    assert list(lines_backwards(path)) == []


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "-Infinity"])
def test_a_loss_that_is_no_number_breaks_no_answer(tmp_path: Path, loss: str) -> None:
    """JSON has no such numbers: the step is told without it."""
    run = made_runs.make_run(tmp_path)
    at = {"time": "2026-11-26T12:01:00Z"}
    made_runs.write_lines(run, 2, [made_runs.step(5, **at, loss=float(loss))])
    events = list(read_events(run, read_record(run.record)))
    shown = [event_object(one, total_steps=6) for one in events]
    json.dumps(shown, allow_nan=False)
    step = next(one["data"] for one in shown if one["data"].get("step") == 5)
    assert "train_loss" not in step
    assert step["learning_rate"] == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("heartbeat", "unwell"),
    [({}, False), ({"held": "the GPU is lost"}, True), ({"unwell": "the disk is full"}, True)],
)
def test_monitors_hear_of_a_queue_that_is_held(
    box: Box, heartbeat: dict[str, str], *, unwell: bool
) -> None:
    """A daemon that lives and starts nothing is what somebody has to look at."""
    box.outputs.heartbeat.parent.mkdir(parents=True)
    box.outputs.heartbeat.write_text(json.dumps(heartbeat))
    assert metrics.look(box).unwell is unwell


@pytest.mark.parametrize(
    ("next_stage", "state", "is_needed"),
    [
        (Stage.PREPARE, State.PREPARING, True),
        (Stage.TRAIN, State.QUEUED, False),
        (Stage.EXPORT, State.EXPORTING, False),
    ],
)
def test_a_file_is_needed_until_its_rows_are_copied(
    box: Box, next_stage: Stage, state: State, *, is_needed: bool
) -> None:
    """A run that trains has its own copy, so that the file may go."""
    made = made_runs.record(state=state, next_stage=next_stage, ended_at=None, verdict=None)
    run = made_runs.make_run(box.outputs_dir, made)
    run.spec.write_text("model: m\ndata: data/api/file-1.jsonl\n")
    files = Files(box, threading.Lock())
    assert bool(files._needed_by("data/api/file-1.jsonl")) is is_needed


@pytest.mark.parametrize(("limit", "has_more"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_page_says_whether_there_is_more(limit: int, *, has_more: bool) -> None:
    """Also where the last entry is the page's last."""
    found = paging.page("abc", paging.Wanted(limit=limit), id_of=str, shown=lambda x: {"id": x})
    assert found["has_more"] is has_more


def test_an_adapter_is_found_by_its_whole_name_alone(box: Box, page: TestClient) -> None:
    """Not by another base's: a client that trusts the name would serve it wrongly."""
    run = made_runs.make_run(box.outputs_dir)
    names = [f"ft:{base}:contracts:{run.run_id}" for base in ("m", "other")]
    found = [page.get(f"/v1/models/{name}").status_code for name in names]
    assert found == [200, 404]
