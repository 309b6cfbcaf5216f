"""The page's lists, runs, reports and downloads, and what can be asked for, on the real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_server import PageServer, serving

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from made_runs import (
    HALF,
    HOSTILE,
    PLAN,
    attempt,
    make_hostile_run,
    make_run,
    record,
    step,
    write_lines,
)

from runner.clock import now
from runner.contract.layout import Outputs
from runner.contract.promotions import promote
from runner.contract.requests import read_requests
from runner.contract.states import State
from runner.language.speaker import Language, Speaker
from runner.report.gather import gather
from runner.report.page import page as report_page
from runner.report.write import write_report

# The same in every worker: they are parts of tests' names.
ids = [f"202611{day}T120000Z-k3f{day % 10}" for day in (26, 27, 28, 29)]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two results of a job, the first in use; one run that trains; one that is hostile."""
    folder = tmp_path_factory.mktemp("box")
    (folder / "outputs" / ".runner" / "requests").mkdir(parents=True)
    outputs = Outputs(folder / "outputs")
    for run_id in ids[:2]:
        run = make_run(outputs.root, record(run_id=run_id))
        (run.adapter / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 400)
        write_report(outputs, run, Speaker(), share_name="", inbox=None)
    promote(outputs, outputs.run("contracts", ids[0]), why="better", by="the gate")
    make_run(
        outputs.root,
        record(
            job="leases",
            run_id=ids[2],
            state=State.TRAINING,
            ended_at=None,
            verdict=None,
            metrics={},
            total_steps=60,
            attempts=(
                attempt(1, PLAN, first=1, last=3, outcome="out of memory"),
                attempt(2, HALF, first=4, last=None, outcome=None),
            ),
        ),
    )
    hostile = make_hostile_run(folder / "hostile")
    shutil.copytree(hostile.root, outputs.root / "tenders" / ids[3])
    changed = json.loads(hostile.record.read_text()) | {"run_id": ids[3], "job": HOSTILE[:60]}
    (outputs.root / "tenders" / ids[3] / "run.json").write_text(json.dumps(changed))
    secret = folder / "secret.txt"
    secret.write_text("not for you")
    (outputs.root / "linked").symlink_to(outputs.root / "contracts")
    (outputs.root / "contracts" / "20260101T000000Z-aaaa").symlink_to(folder)
    (outputs.run("contracts", ids[0]).adapter / "link.safetensors").symlink_to(secret)
    (outputs.run("contracts", ids[0]).adapter / ".hidden").write_text("not for you")
    (outputs.run("contracts", ids[0]).root / "merged").symlink_to(folder)
    return folder


@pytest.fixture(scope="module")
def server(box: Path) -> Iterator[PageServer]:
    """Its page, signed in."""
    with serving(box) as served:
        served.sign_in()
        yield served


@pytest.fixture
def outputs(box: Path) -> Outputs:
    return Outputs(box / "outputs")


def way(run_id: str, job: str = "contracts") -> str:
    return f"/runs/{job}/{run_id}"


def test_the_first_page_shows_what_runs_and_what_came_out(server: PageServer) -> None:
    """Progress with its figures; results with their verdicts in words; what is in use."""
    text = server.get("/").text
    assert 'href="/runs/leases/' in text
    assert "Better than before" in text
    assert f"In use: {ids[0]}" in text
    assert "The box is not at work" in text  # no daemon runs here, and the files are shown


def test_german_by_the_browsers_language(server: PageServer) -> None:
    """All of it, from the one table of texts."""
    text = server.get("/", accept_language="de-DE,de;q=0.9").text
    assert '<html lang="de">' in text
    assert "Besser als vorher" in text
    assert "Die Box arbeitet gerade nicht" in text
    assert "heartbeat" not in text


@pytest.mark.parametrize("language", ["en", "de"])
def test_nothing_of_a_users_is_markup(server: PageServer, language: str) -> None:
    """Job names, file names, notes, answers, errors: all are shown, none runs or leaves a tag."""
    for path in ("/", way(ids[3], "tenders"), "/jobs/tenders"):
        text = server.get(path, accept_language=language).text
        assert not re.search(r"<script(?! src=\"/static/)|<svg onload|<img|onerror=", text), path
        assert "\u202e" not in text
        assert "49" not in re.findall(r"alert.{0,40}", text)
    assert "&lt;script&gt;" in server.get(way(ids[3], "tenders")).text


def test_a_run_tells_its_story_and_shows_its_curve(server: PageServer) -> None:
    """The out-of-memory in words, the attempts, the loss as a chart with its description."""
    text = server.get(way(ids[2], "leases")).text
    assert "ran out of memory" in text
    assert 'class="chart"' in text
    assert 'data-live="/runs/leases/' in text


def test_a_result_has_its_report_in_a_frame_that_runs_nothing(server: PageServer) -> None:
    """The very file, by a policy of its own; a sandbox even if it is opened alone."""
    assert 'sandbox title="' in server.get(way(ids[0])).text
    answer = server.get(f"{way(ids[0])}/report.html")
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert "allow" not in answer.headers["content-security-policy"]
    # The page's own frame shows it, and nobody else's.
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    file = (server.folder / "outputs" / "contracts" / ids[0] / "report.html").read_text()
    assert answer.text == file.replace(' <a href="../../index.html">All jobs and runs</a>', "")


def test_the_report_follows_the_reader_s_language(server: PageServer, outputs: Outputs) -> None:
    """The same figures in German as in English, and the file that lies there is left as it is."""
    run = outputs.run("contracts", ids[0])
    kept = run.report.read_bytes()
    way_to_it = f"{way(ids[0])}/report.html"
    english = server.get(way_to_it, Accept_Language="en").text
    german = server.get(way_to_it, Accept_Language="de-AT,de;q=0.9").text
    assert '<html lang="en"' in english
    assert '<html lang="de"' in german
    assert "Bericht über das Training" in german
    assert english == kept.decode().replace(' <a href="../../index.html">All jobs and runs</a>', "")
    assert "index.html" not in english + german
    own = report_page(gather(run), Speaker(Language.GERMAN), now=now())
    assert german == own
    assert run.report.read_bytes() == kept
    run.report.unlink()  # what was taken away is not made again by looking
    try:
        assert server.get(way_to_it, Accept_Language="de").status == 404
    finally:
        run.report.write_bytes(kept)


def test_a_download_is_the_file_byte_for_byte(server: PageServer, outputs: Outputs) -> None:
    """And is kept, not shown."""
    answer = server.get(f"{way(ids[0])}/files/adapter/adapter_model.safetensors")
    file = outputs.run("contracts", ids[0]).adapter / "adapter_model.safetensors"
    assert answer.body == file.read_bytes()
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("begin", [0, 1, 5000, 102_399])
def test_a_cut_off_download_goes_on_where_it_ended(server: PageServer, begin: int) -> None:
    """Ranges, as RFC 9110 has them."""
    path = f"{way(ids[0])}/files/adapter/adapter_model.safetensors"
    whole = server.get(path)
    part = server.get(path, range=f"bytes={begin}-", if_range=whole.headers["etag"])
    assert (part.status, part.body) == (206, whole.body[begin:])
    assert part.headers["content-range"] == f"bytes {begin}-102399/102400"
    assert server.get(path, range="bytes=200000-").status == 416


@pytest.mark.parametrize(
    "path",
    [
        "/runs/contracts/20260101T000000Z-aaaa",
        f"/runs/linked/{ids[0]}",
        "/jobs/linked",
        "/jobs/.runner",
        "/runs/.runner/20260101T000000Z-aaaa",
        "/runs/contracts/current",
        "/runs/contracts/..%2f..%2f..",
        "/runs/..%2fcontracts/" + ids[0],
        f"{way(ids[0])}/files/adapter/link.safetensors",
        f"{way(ids[0])}/files/merged/secret.txt",
        f"{way(ids[0])}/files/../../../secret.txt",
        f"{way(ids[0])}/files/%2e%2e/%2e%2e/%2e%2e/secret.txt",
        f"{way(ids[0])}/files/adapter/../run.json",
        f"{way(ids[0])}/files/adapter/..%2f..%2f..%2f..%2fsecret.txt",
        f"{way(ids[0])}/files//etc/passwd",
        f"{way(ids[0])}/files/adapter%00.txt",
        f"{way(ids[0])}/files/adapter",
        f"{way(ids[0])}/files/data/c.jsonl",
        f"{way(ids[0])}/files/prepared/preview.json",
        f"{way(ids[0])}/files/attempts/01/metrics.jsonl",
        f"{way(ids[0])}/files/adapter/.hidden",
        "/static/../../page/key",
        "/static/x/..%2f..%2fwho.py",
    ],
)
def test_no_path_and_no_link_leads_out_of_what_is_offered(server: PageServer, path: str) -> None:
    """Nothing but a run's results may be taken away; links in outputs/ are followed by nobody."""
    answer = server.get(path)
    assert answer.status == 404
    assert b"not for you" not in answer.body


def test_links_are_not_listed(server: PageServer) -> None:
    """What cannot be taken is not offered."""
    text = server.get(way(ids[0])).text
    assert "adapter/adapter_model.safetensors" in text
    assert "link.safetensors" not in text
    assert "secret" not in text


def test_two_results_are_compared(server: PageServer, outputs: Outputs) -> None:
    """Their figures, the settings that differ, and what both answered to the same questions."""
    run = outputs.run("contracts", ids[1])
    run.spec.write_text("model: m\ndata: c.jsonl\ntraining: {learning_rate: 1e-5}\n")
    answer = server.get(f"/jobs/contracts/compare?a={ids[0]}&b={ids[1]}")
    assert answer.status == 200
    row = answer.text.partition("training.learning_rate")[2].partition("</tr>")[0]
    assert "0.0002" in row
    assert "1e-05" in row
    assert "How?" in answer.text
    for query in ("", f"?a={ids[0]}&b={ids[0]}", f"?a={ids[0]}&b=../../x"):
        assert server.get(f"/jobs/contracts/compare{query}").status == 404


def test_what_is_asked_for_is_left_for_the_daemon(server: PageServer, outputs: Outputs) -> None:
    """The requests are those that the commands leave; who asked is named in the history."""
    before = len(read_requests(outputs))
    assert server.post(f"{way(ids[2], 'leases')}/cancel").status == 303
    assert server.post(f"{way(ids[1])}/promote").status == 303
    promote(outputs, outputs.run("contracts", ids[1]), why="asked", by="me")
    assert server.post("/jobs/contracts/rollback").status == 303
    asked = [(one.verb, one.args) for one in read_requests(outputs)[before:]]
    by = asked[1][1]["by"]
    assert by.startswith("the page")
    assert asked == [
        ("cancel", {"run_id": ids[2]}),
        ("promote", {"job": "contracts", "run_id": ids[1], "by": by}),
        ("rollback", {"job": "contracts", "by": by}),
    ]
    said = server.get(f"{way(ids[2], 'leases')}?asked=cancel").text
    assert "The box is not at work now and does it as soon as it is." in said


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{way(ids[0])}/cancel", 409),
        (f"{way(ids[2], 'leases')}/promote", 409),
        (f"{way('20260101T000000Z-bbbb')}/cancel", 404),
        ("/jobs/leases/rollback", 409),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    server: PageServer, outputs: Outputs, path: str, status: int
) -> None:
    """Nothing is left for the daemon then."""
    before = len(read_requests(outputs))
    answer = server.post(path)
    assert answer.status == status
    assert len(read_requests(outputs)) == before


def events_of(server: PageServer, path: str) -> tuple[object, object]:
    connection = server.connect(timeout=30)
    headers = {"Host": "localhost", "Cookie": f"box_session={server.cookie}"}
    connection.request("GET", path, headers=headers)
    return connection, connection.getresponse()


def next_event(answer) -> str:
    """Read an event's data."""
    lines: list[bytes] = []
    while True:
        line = answer.fp.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: "):
            lines.append(line[6:])
        elif lines and line == b"\n":
            return b"".join(lines).decode()


def test_a_follower_sees_a_run_go_on(server: PageServer, outputs: Outputs) -> None:
    """Its page renews itself: another step, another figure."""
    run = outputs.run("leases", ids[2])
    connection, answer = events_of(server, f"{way(ids[2], 'leases')}/live")
    try:
        assert "step 6 of 60" in next_event(answer)
        write_lines(run, 2, [step(4), step(5), step(6), step(17)])
        assert "step 17 of 60" in next_event(answer)
    finally:
        answer.close()
        connection.close()


def test_two_hundred_follow_one_run(server: PageServer, outputs: Outputs) -> None:
    """All see it go on, and others are answered all the same."""
    run = outputs.run("leases", ids[2])
    write_lines(run, 2, [step(4), step(20)])
    streams = [events_of(server, f"{way(ids[2], 'leases')}/live") for _ in range(200)]
    try:
        assert all("step 20 of 60" in next_event(answer) for _, answer in streams)
        write_lines(run, 2, [step(4), step(21)])
        assert all("step 21 of 60" in next_event(answer) for _, answer in streams)
        assert server.get("/").status == 200
    finally:
        for connection, answer in streams:
            answer.close()
            connection.close()


def test_following_ends_with_the_key(tmp_path: Path, outputs: Outputs) -> None:
    """Whoever follows a run when the key is deleted is shown nothing more."""
    shutil.copytree(outputs.root / "leases", tmp_path / "outputs" / "leases")
    with serving(tmp_path) as served:
        served.sign_in()
        connection, answer = events_of(served, f"{way(ids[2], 'leases')}/live")
        try:
            next_event(answer)
            (tmp_path / "page" / "key").unlink()
            run = Outputs(tmp_path / "outputs").run("leases", ids[2])
            write_lines(run, 2, [step(4), step(30)])
            assert b"step 30" not in answer.fp.read()  # to its end, which comes by itself
        finally:
            answer.close()
            connection.close()


def test_following_ends_with_the_key_of_a_program(tmp_path: Path, outputs: Outputs) -> None:
    """Who sent the key itself is asked for it again before each part, too."""
    shutil.copytree(outputs.root / "leases", tmp_path / "outputs" / "leases")
    with serving(tmp_path) as served:
        connection = served.connect()
        headers = {"Authorization": f"Bearer {served.key}", "Host": "localhost"}
        connection.request("GET", f"{way(ids[2], 'leases')}/live", headers=headers)
        answer = connection.getresponse()
        try:
            assert answer.status == 200
            next_event(answer)
            (tmp_path / "page" / "key").write_text("another key, of later, for this box\n")
            run = Outputs(tmp_path / "outputs").run("leases", ids[2])
            write_lines(run, 2, [step(4), step(30)])
            assert b"step 30" not in answer.fp.read()
        finally:
            answer.close()
            connection.close()


def test_a_file_whose_name_is_no_text_breaks_no_page(server: PageServer, outputs: Outputs) -> None:
    """Half a character, as another system's share leaves it: it has no address, the others have."""
    adapter = outputs.run("contracts", ids[0]).adapter
    odd = Path(os.fsdecode(os.fsencode(adapter) + b"/b\xe4der.txt"))
    odd.write_text("x")
    try:
        answer = server.get(way(ids[0]))
        assert answer.status == 200
        assert "adapter/adapter_model.safetensors" in answer.text
    finally:
        odd.unlink()


def test_a_damaged_record_is_told_and_hides_nothing_else(
    server: PageServer, outputs: Outputs
) -> None:
    """Its run is named; its page says what can be known."""
    run = make_run(outputs.root, record(job="torn", run_id=ids[0]))
    run.record.write_bytes(run.record.read_bytes()[:100])
    try:
        text = server.get("/").text
        assert f"torn/{ids[0]}" in text
        assert "Better than before" in text
        assert server.get(way(ids[0], "torn")).status == 200
    finally:
        shutil.rmtree(outputs.root / "torn")
