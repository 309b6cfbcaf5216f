"""Notices: what is told of a run that has ended, to whom, how often, and never a row."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.header import decode_header, make_header
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import made_runs
import pytest
from aiosmtpd import controller

from runner.clock import now
from runner.contract.gate import Decision, Promotion
from runner.contract.layout import Outputs
from runner.contract.record import ErrorFacts
from runner.contract.states import State
from runner.daemon.leftovers import sweep_box
from runner.errors import DamagedError
from runner.language.speaker import ENGLISH, Language, Speaker
from runner.notices import send, tell
from runner.notices.due import FIRST_SECONDS, LONGEST_SECONDS, PATIENCE_SECONDS, Do, Tried, decide
from runner.notices.leave import KEPT_SECONDS, leave_missed, leave_notice
from runner.notices.notice import Kind, Notice, notice_of, read_notice
from runner.notices.send import NoPlaceError, Place, Sender, read_mark, read_places, send_notices
from runner.notices.word import text_of, title_of

GERMAN = Speaker(Language.GERMAN)
SECRET = "zqxcanaryzqx"


def ended(**changes):
    """Make a record that ended a minute ago."""
    return made_runs.record(**{"ended_at": now() - timedelta(minutes=1), **changes})


def promotion(decision: Decision) -> Promotion:
    return Promotion(decision=decision, why="approved", reason=SECRET)


@pytest.fixture
def outputs(tmp_path) -> Outputs:
    return Outputs(tmp_path / "outputs")


@contextmanager
def webhook():
    """A real web server on loopback; it answers with the statuses in its list, then 200."""
    statuses: list[int] = []
    got: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = statuses.pop(0) if statuses else 200
            if status == 200:
                got.append(json.loads(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"json://127.0.0.1:{server.server_port}/hook", got, statuses
    finally:
        server.shutdown()
        server.server_close()


def sender_to(outputs: Outputs, tmp_path: Path, text: str, speak: Speaker = ENGLISH) -> Sender:
    urls = tmp_path / "notify.urls"
    urls.write_text(text)
    said: list[str] = []
    return Sender(folder=outputs.notices, places=read_places(urls), speak=speak, say=said.append)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, Kind.SUCCEEDED),
        ({"promotion": promotion(Decision.PROMOTED)}, Kind.SUCCEEDED),
        ({"promotion": promotion(Decision.KEPT_OLD)}, Kind.SUCCEEDED),
        ({"promotion": promotion(Decision.AWAITS)}, Kind.NEEDS_PERSON),
        ({"verdict": {"outcome": "worse", "reason": SECRET}}, Kind.NEEDS_PERSON),
        ({"verdict": {"outcome": "no_difference", "reason": SECRET}}, Kind.NEEDS_PERSON),
        ({"state": State.FAILED, "error": ErrorFacts(kind="x", message=SECRET)}, Kind.FAILED),
        ({"state": State.REJECTED, "verdict": None}, Kind.FAILED),
        ({"state": State.CANCELLED}, None),
        ({"state": State.TRAINING}, None),
    ],
)
def test_what_a_run_s_end_is_to_people(changes, kind) -> None:
    """Succeeded, failed, or somebody should look; who cancelled it knows."""
    notice = notice_of(ended(**changes))
    assert (notice and notice.kind) == kind


@pytest.mark.parametrize("speak", [ENGLISH, GERMAN])
@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.REJECTED])
def test_a_notice_holds_names_and_verdicts_alone(speak, state, outputs) -> None:
    """No sentence of an error, of the gate or of the verdict goes out: they may name more."""
    record = ended(
        state=state,
        error=ErrorFacts(kind="bad_data", message=SECRET, advice=SECRET),
        verdict={"outcome": "better", "reason": SECRET},
        promotion=promotion(Decision.AWAITS),
        shortfalls=(SECRET,),
        file_name=f"{SECRET}.yaml",
    )
    leave_notice(outputs, record)
    (path,) = outputs.notices.glob("*.json")
    assert SECRET not in path.read_text()
    notice = read_notice(path)
    said = title_of(notice, speak) + text_of(notice, speak)
    assert SECRET not in said
    assert "contracts" in title_of(notice, speak)
    assert f"outputs/contracts/{record.run_id}/report.html" in said


def test_titles_are_the_report_s_headlines() -> None:
    """Mail and report do not say different things."""
    assert title_of(notice_of(ended()), ENGLISH) == "contracts: The model has become better"
    failed = notice_of(ended(state=State.FAILED))
    assert title_of(failed, GERMAN) == "contracts: Der Lauf ist fehlgeschlagen"
    unchanged = notice_of(ended(verdict={"outcome": "worse", "changed": False, "reason": ""}))
    assert title_of(unchanged, ENGLISH) == "contracts: The training changed nothing"


def test_a_missed_notice_is_left_at_the_next_start_and_an_old_one_is_not(outputs) -> None:
    """A daemon that was cut off before the notice makes up for it; a lost index floods nobody."""
    leave_missed(outputs, ended())
    (path,) = outputs.notices.glob("*.json")
    before = path.stat().st_ino
    leave_missed(outputs, ended())
    assert path.stat().st_ino == before, "it was there"
    leave_missed(outputs, ended(run_id="20261126T110000Z-old2", ended_at=now() - timedelta(days=2)))
    assert list(outputs.notices.glob("*.json")) == [path]


def test_old_notices_and_marks_go(outputs) -> None:
    """The folder does not grow for ever; what somebody else put there stays."""
    leave_notice(outputs, ended())
    (old,) = outputs.notices.glob("*.json")
    mark, foreign = outputs.notices_sent / old.name, outputs.notices / "notes.txt"
    for path in (mark, foreign):
        path.write_text("{}")
    long_ago = time.time() - KEPT_SECONDS - 60
    for path in (old, mark, foreign):
        os.utime(path, (long_ago, long_ago))
    leave_notice(outputs, ended(run_id="20261126T110000Z-new2"))
    assert sorted(p.name for p in outputs.notices.rglob("*") if p.is_file()) == [
        "20261126T110000Z-new2.json",
        "notes.txt",
    ]


def test_a_folder_that_cannot_be_written_keeps_no_run_from_its_end(outputs) -> None:
    """Whoever cannot be told is not told."""
    outputs.private.mkdir(parents=True)
    outputs.notices.write_text("a file stands in the way")
    leave_notice(outputs, ended())


def test_the_same_place_is_told_once_also_after_a_restart(outputs, tmp_path) -> None:
    """The mark is what counts, not the process."""
    leave_notice(outputs, ended())
    with webhook() as (url, got, _):
        for _ in range(3):
            assert send_notices(sender_to(outputs, tmp_path, url), once=True)
    assert [one["title"] for one in got] == ["contracts: The model has become better"]
    assert got[0]["type"] == "success"


def test_a_place_that_fails_is_tried_again_and_others_are_not_told_twice(outputs, tmp_path) -> None:
    """Each place has its own mark; a failure is tried later, and later still."""
    leave_notice(outputs, ended(state=State.FAILED))
    with webhook() as (good, got, _), webhook() as (bad, late, statuses):
        statuses += [500, 503]
        sender = sender_to(outputs, tmp_path, f"{good}\n{bad}\n")
        assert sender.round(at=0.0), "something waits"
        assert sender.round(at=29.0), "not before its time"
        assert (len(got), len(late), len(statuses)) == (1, 0, 1)
        assert sender.round(at=31.0)
        assert sender.round(at=89.0), "twice as long after the second failure"
        assert not sender.round(at=92.0)
        assert (len(got), len(late)) == (1, 1)
    (mark,) = outputs.notices_sent.glob("*.json")
    assert len(read_mark(mark)) == 2


def test_kinds_go_where_they_are_wanted(outputs, tmp_path) -> None:
    """A tag before a URL chooses what goes there; a URL without one gets everything."""
    leave_notice(outputs, ended())
    leave_notice(outputs, ended(run_id="20261126T110000Z-bad2", state=State.FAILED))
    with webhook() as (one, some, _), webhook() as (other, every, _):
        places = f"# the night shift\nfailed,needs_person={one}\n{other}\n"
        assert send_notices(sender_to(outputs, tmp_path, places), once=True)
    assert [x["type"] for x in some] == ["failure"]
    assert Counter(x["type"] for x in every) == {"success": 1, "failure": 1}


def test_a_real_mail_arrives_with_its_headline(outputs, tmp_path) -> None:
    """A real SMTP server on loopback gets it, umlauts and all."""
    mails = []

    class Keep:
        async def handle_DATA(self, _server, _session, envelope):  # noqa: N802  aiosmtpd calls it so
            mails.append(message_from_bytes(envelope.content))
            return "250 OK"

    leave_notice(outputs, ended(verdict={"outcome": "no_difference", "reason": ""}))
    with socket.create_server(("127.0.0.1", 0)) as free:  # its controller wants a port by number
        port = free.getsockname()[1]
    server = controller.Controller(Keep(), hostname="127.0.0.1", port=port)
    server.start()
    try:
        url = (
            f"mailto://127.0.0.1:{port}?from=box@office.example&to=ada@office.example&mode=insecure"
        )
        assert send_notices(sender_to(outputs, tmp_path, url, GERMAN), once=True)
    finally:
        server.stop()
    (mail,) = mails
    subject = str(make_header(decode_header(mail["Subject"])))
    assert "contracts: Eine Verbesserung ist nicht erkennbar" in subject
    assert mail["To"] == "ada@office.example"
    parts = [part for part in mail.walk() if part.get_content_maintype() == "text"]
    text = parts[0].get_payload(decode=True).decode()
    assert "Bitte sehen Sie sich den Bericht an" in text


NOTICE = Notice(
    kind=Kind.FAILED,
    job="c",
    run_id="20261126T110000Z-k3f9",
    state=State.FAILED,
    happened_at=datetime(2026, 11, 27, tzinfo=UTC),
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Do.SEND),
        ({"is_sent": True}, Do.NOTHING),
        ({"tags": frozenset({"succeeded"})}, Do.NOTHING),
        ({"tags": frozenset({"failed", "succeeded"})}, Do.SEND),
        ({"tried": Tried(times=1, again_at=101.0)}, Do.WAIT),
        ({"tried": Tried(times=1, again_at=100.0)}, Do.SEND),
        ({"clock": NOTICE.happened_at + timedelta(seconds=PATIENCE_SECONDS + 1)}, Do.NOTHING),
        ({"clock": NOTICE.happened_at - timedelta(days=400)}, Do.SEND),
    ],
)
def test_what_is_due(changes, expected) -> None:
    """Sent, not wanted, too early, too old; a clock that was set back makes nothing old."""
    given = {"tags": frozenset(), "is_sent": False, "tried": Tried(), "at": 100.0}
    assert decide(NOTICE, **{**given, "clock": NOTICE.happened_at, **changes}) is expected


def test_failures_wait_longer_each_time_up_to_an_hour() -> None:
    """A mail server that is down for a day is asked some thirty times, not thousands."""
    tried, at, times = Tried(), 0.0, 0
    while at < 24 * 3600:
        tried = tried.failed(at)
        assert tried.again_at - at <= LONGEST_SECONDS
        at, times = tried.again_at, times + 1
    assert 24 < times < 40


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        json.dumps({"kind": "failed"}),
        NOTICE.model_dump_json().replace("k3f9", "xxxx"),
        NOTICE.model_dump_json().replace('"c"', json.dumps("c" * 200)),
        NOTICE.model_dump_json().replace('"failed"', '"<script>"', 1),
    ],
)
def test_what_is_no_notice_is_passed_over_and_the_others_are_sent(content, outputs) -> None:
    """A torn or forged file holds up nobody, and is spoken of once."""
    outputs.notices_sent.mkdir(parents=True)
    (outputs.notices / "20261126T110000Z-k3f9.json").write_text(content)
    with pytest.raises(DamagedError):
        read_notice(outputs.notices / "20261126T110000Z-k3f9.json")
    leave_notice(outputs, ended(run_id="20261126T110000Z-new2"))
    told, said = [], []
    place = Place(
        id="p", name="p", tags=frozenset(), tell=lambda *words: told.append(words) or True
    )
    sender = Sender(folder=outputs.notices, places=[place], say=said.append)
    for _ in range(2):
        sender.round(at=0.0)
    assert len(told) == 1
    assert sum("is no notice" in line or "another notice" in line for line in said) == 1


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "nonsense", "json://\n", "lunch=json://localhost", "include http://x/y"],
)
def test_places_that_cannot_be_used_are_refused_at_the_start(text, tmp_path) -> None:
    """A typing error is found when the container starts, not when a run has failed."""
    urls = tmp_path / "notify.urls"
    urls.write_text(text)
    with pytest.raises(NoPlaceError):
        read_places(urls)


def test_what_is_said_of_a_place_holds_no_secret(outputs, tmp_path) -> None:
    """Neither log nor mark tells a password or a token that stands in a URL."""
    leave_notice(outputs, ended())
    urls = "json://user:hunter2@127.0.0.1:9/token-4711\n"
    sender = sender_to(outputs, tmp_path, urls)
    sender.round(at=0.0)
    said = " ".join([*sender.say.__self__, *(p.name + p.id for p in sender.places)])
    assert "hunter2" not in said
    assert "4711" not in said


def test_the_places_that_the_page_shows_can_be_used(tmp_path) -> None:
    """Whoever copies docs/notify.md's file and puts in his own addresses has a file that works."""
    page = (Path(__file__).parents[2] / "docs" / "notify.md").read_text()
    (block,) = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    urls = tmp_path / "notify.urls"
    urls.write_text(block)
    names = [place.name for place in read_places(urls)]
    assert len(names) == 4
    assert {tag for place in read_places(urls) for tag in place.tags} == {"failed", "needs_person"}


def test_the_page_s_kinds_and_times_are_the_code_s() -> None:
    """A table that names a kind which is gone would send nothing there."""
    page = (Path(__file__).parents[2] / "docs" / "notify.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {kind.value for kind in Kind}
    assert f"after {FIRST_SECONDS:.0f} seconds" in page
    assert (LONGEST_SECONDS, PATIENCE_SECONDS) == (3600, 3 * 86400)
    assert "up to an hour, for\nthree days" in page
    assert f"go after {KEPT_SECONDS / 86400:.0f} days" in page


def test_what_a_kill_left_half_written_goes(outputs, tmp_path) -> None:
    """The daemon sweeps its own folder at its start, the sender his: neither the other's."""
    leave_notice(outputs, ended())
    torn = [folder / ".tmp-0123456789ab" for folder in (outputs.notices, outputs.notices_sent)]
    for path in torn:
        path.write_text("{")
    sweep_box(outputs)
    assert [path.exists() for path in torn] == [False, True]
    place = Place(id="p", name="p", tags=frozenset(), tell=lambda *_: True)
    assert send_notices(Sender(folder=outputs.notices, places=[place]), once=True)
    assert not torn[1].exists()


def test_places_whose_addresses_look_alike_without_their_secrets_are_two(tmp_path) -> None:
    """Tokens are masked before an id is made of them; the ids stay the same at each start."""
    urls = tmp_path / "notify.urls"
    team = "slack://T1JJ3T3L{0}/A1BRTD4J{0}/TIiajkdnlazkcOXrIdevi7F{0}/#runs\n"
    urls.write_text(team.format("A") + team.format("A").replace("kdn", "xyz"))
    ids = [place.id for place in read_places(urls)]
    assert len(set(ids)) == 2
    assert [place.id for place in read_places(urls)] == ids


def test_a_mark_that_cannot_be_written_sends_nothing_twice(outputs, tmp_path) -> None:
    """The others are sent, and the mark is written when that is possible again."""
    ids = ("20261126T110000Z-aaa2", "20261126T110001Z-bbb2")
    for run_id in ids:
        leave_notice(outputs, ended(run_id=run_id))
    told: list[str] = []
    places = [
        Place(id=name, name=name, tags=frozenset(), tell=lambda *words: told.append(words) or True)
        for name in ("p", "q")
    ]
    sender = Sender(folder=outputs.notices, places=places, say=lambda _: None)
    in_the_way = outputs.notices_sent
    in_the_way.rmdir()
    in_the_way.symlink_to(tmp_path / "unmounted")  # nothing can be read or written there
    for _ in range(2):
        with pytest.raises(OSError, match=r"unmounted|sent"):
            sender.round(at=0.0)
    assert len(told) == 4
    in_the_way.unlink()
    in_the_way.mkdir()
    assert not sender.round(at=0.0)
    assert len(told) == 4
    assert [set(read_mark(in_the_way / f"{one}.json")) for one in ids] == [{"p", "q"}] * 2


@contextmanager
def answering(pieces: Iterator[bytes]):
    """A web server that answers one request with these pieces, however many there are."""

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                for piece in pieces:
                    connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        Thread(target=serve, daemon=True).start()
        yield f"json://127.0.0.1:{listening.getsockname()[1]}/hook"


def dripping() -> Iterator[bytes]:
    """Give a byte a tenth of a second, for longer than anybody waits."""
    for _ in range(6000):
        yield b"x"
        time.sleep(0.1)


@pytest.mark.parametrize("pieces", [dripping, lambda: iter([bytes(2**20)] * 300)])
def test_a_server_whose_answer_has_no_end_keeps_no_other_place_waiting(
    outputs, tmp_path, pieces, monkeypatch
) -> None:
    """One that drips is left after its time, one that pours before the memory is gone."""
    monkeypatch.setattr(tell, "TELL_SECONDS", 5.0)
    leave_notice(outputs, ended())
    with answering(pieces()) as endless, webhook() as (hook, got, _):
        sender = sender_to(outputs, tmp_path, f"{endless}\n{hook}\n")
        assert sender.round(at=0.0)
    assert len(got) == 1
    said = [line.partition(": ")[2].partition(" (")[0] for line in sender.say.__self__]
    assert said == ["could not be sent to line 1", "sent to line 2"]


def test_of_very_many_notices_the_newest_are_sent(outputs, monkeypatch) -> None:
    """A folder that somebody filled keeps nobody from being told what happens now."""
    for run_id in ("20261126T110000Z-aaa2", "20261126T110001Z-bbb2"):
        leave_notice(outputs, ended(run_id=run_id))
    monkeypatch.setattr(send, "_MOST", 1)
    told: list[str] = []
    place = Place(
        id="p", name="p", tags=frozenset(), tell=lambda _, text, __: told.append(text) or True
    )
    assert not Sender(folder=outputs.notices, places=[place], say=lambda _: None).round(at=0.0)
    assert len(told) == 1
    assert "bbb2" in told[0]
