"""The page's answers to what it should not stumble over: an app in this process, real folders."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from runner.contract.page_key import READ_KEY
from runner.office import limits, live, who
from runner.office.api import files as api_files
from runner.office.app import make_app
from runner.office.box import Box
from runner.office.files import FileAnswer
from runner.office.headers import SAFE
from runner.office.look import Look, Looks, Seen
from runner.office.who import WRONG_KEYS, Keys


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
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        client.cookies["box_session"] = app.state.keys.open_session(key)
        client.headers["origin"] = "http://localhost"
        yield client


def test_a_name_that_is_no_text_is_listed(box: Box, page: TestClient) -> None:
    """A share may hold any bytes: one such file keeps nobody from the list."""
    folder = box.jobs_dir / "data" / "api"
    folder.mkdir(parents=True)
    id_ = "file-0123456789abcdef01234567"
    (folder / f"{id_}-\udcff.jsonl").write_bytes(b"{}")
    answer = page.get("/v1/files")
    assert (answer.status_code, [one["id"] for one in answer.json()["data"]]) == (200, [id_])
    assert page.get(f"/v1/files/{id_}").json()["filename"] == "\udcff.jsonl"


@pytest.mark.parametrize(("folder", "path"), [("outputs", "/"), ("models", "/models")])
def test_a_folder_whose_name_is_no_text_breaks_no_list(
    box: Box, page: TestClient, folder: str, path: str
) -> None:
    """It is listed among the others; its link leads nowhere."""
    there = getattr(box, f"{folder}_dir") / "odd-\udcff"
    there.mkdir()
    (there / "config.json").write_text("{}")
    (there / "model.safetensors").write_text("")
    answer = page.get(path)
    assert answer.status_code == 200
    assert "odd-" in answer.text


def test_looking_at_where_the_key_is_asked_for_is_no_wrong_key(page: TestClient) -> None:
    """HEAD, too: a foreign page could keep people out with it."""
    page.cookies.clear()
    found = {page.head("/sign-in").status_code for _ in range(2 * WRONG_KEYS)}
    assert found == {200}


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "cannot read or write its folders just now"),
        ("de", "kann ihre Ordner gerade nicht lesen oder beschreiben"),
    ],
)
def test_a_folder_that_cannot_be_written_is_answered_in_words(
    box: Box, page: TestClient, language: str, said: str
) -> None:
    """A file stands where uploads go: no upload, no traceback, and the safe headers."""
    (box.jobs_dir / "data").write_text("a file stands in the way")
    files = {"file": ("a.csv", b"a,b\n1,2\n")}
    answer = page.post("/upload", files=files, headers={"accept-language": language})
    assert answer.status_code == 503
    assert said in answer.text
    assert answer.headers.items() >= SAFE.items()


def test_a_key_that_cannot_be_asked_for_is_answered_in_words(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate stands outside the pages: its failures are answered there, too."""

    def fail(_keys: Keys, _cookie: str) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Keys, "session_may_write", fail)
    answer = page.get("/")
    assert answer.status_code == 503
    assert "cannot read or write its folders" in answer.text
    assert answer.headers.items() >= SAFE.items()


def test_what_nobody_foresaw_has_the_safe_headers(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it happens on a page or at the gate; it tells nothing of the inside."""

    def fail(_keys: Keys, _cookie: str) -> bool:
        raise KeyError("secret")

    monkeypatch.setattr(Keys, "session_may_write", fail)
    answer = page.get("/")
    assert answer.status_code == 500
    assert answer.headers.items() >= SAFE.items()
    assert "secret" not in answer.text
    assert "Something unexpected happened" in answer.text


def test_a_box_without_outputs_shows_what_it_has(box: Box, page: TestClient) -> None:
    """Before the daemon's first start, or while a disk is not mounted."""
    box.outputs_dir.rmdir()
    answer = page.get("/doctor")
    assert answer.status_code == 200
    assert "jobs, models" in answer.text


def test_a_page_of_too_many_digits_is_the_first(page: TestClient) -> None:
    """Python reads no number of more than 4,300."""
    assert page.get("/", params={"page": "9" * 5000}).status_code == 200


def test_a_form_whose_boundary_is_too_long_is_no_form(page: TestClient) -> None:
    """RFC 2046 has 70 characters for it."""
    kind = f"multipart/form-data; boundary={'x' * 300}"
    answer = page.post("/upload", content=b"x", headers={"content-type": kind})
    assert answer.status_code == 409
    assert "not a form with a file" in answer.text


def test_a_body_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte every five seconds is never late, and the whole of it is."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(limits, "time", clock)
    sent: list[dict] = []

    async def receive() -> dict:
        clock.now += 5.0
        assert clock.now < 1000
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: dict) -> None:
        sent.append(message)

    async def reads(scope, receive, _send) -> None:
        await Request(scope, receive).body()

    scope = {"type": "http", "method": "POST", "path": "/v1/fine_tuning/jobs", "headers": []}
    asyncio.run(limits.Bodies(reads)(scope, receive, send))
    assert sent[0]["status"] == 408


def test_the_form_with_the_key_is_small(page: TestClient) -> None:
    """Whoever is not known yet holds little memory."""
    page.cookies.clear()
    assert page.post("/sign-in", data={"key": "x" * 5000}).status_code == 413
    assert page.post("/sign-in", data={"key": "x" * 1000}).status_code == 403


@pytest.mark.parametrize(
    ("seen", "status"), [(None, 303), (Seen(message="No rows.", advice="Add some."), 409)]
)
def test_only_what_was_seen_to_be_usable_is_started(
    box: Box, page: TestClient, seen: Seen | None, status: int
) -> None:
    """A look that goes on, and one that ended in a refusal."""
    looks: Looks = page.app.state.looks
    spec = b"model: m\nname: a\ndata: data/a.jsonl\n"
    looks._looks["one"] = Look(id="one", file_name="a.yaml", spec=spec, seen=seen)
    (box.jobs_dir / "data").mkdir()
    (box.jobs_dir / "data" / "a.jsonl").write_text('{"messages": []}')
    answer = page.post("/drop/look/one/start", follow_redirects=False)
    assert answer.status_code == status
    assert answer.headers.get("location", "/drop/look/one") == "/drop/look/one"
    assert not list(box.jobs_dir.glob("*.yaml"))


def test_a_start_that_is_pressed_twice_is_one_run(box: Box, page: TestClient) -> None:
    """Also where the daemon has taken the spec in between."""
    looks: Looks = page.app.state.looks
    spec = b"model: m\nname: a\ndata: data/a.jsonl\n"
    looks._looks["one"] = Look(id="one", file_name="a.yaml", spec=spec, seen=Seen(is_usable=True))
    (box.jobs_dir / "data").mkdir()
    (box.jobs_dir / "data" / "a.jsonl").write_text('{"messages": []}')
    for _ in range(2):
        answer = page.post("/drop/look/one/start", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/?dropped=a")
        there = list(box.jobs_dir.glob("*.yaml"))
        for path in there:
            path.unlink()
    assert not there


def test_a_session_ends_after_a_working_day(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cookie that lies about on a shared machine opens nothing the next morning."""
    assert page.get("/nothing").status_code == 404
    monkeypatch.setattr(who, "SESSION_SECONDS", -1)
    assert page.get("/nothing").status_code == 401


def test_a_wrong_key_by_header_counts_as_one_by_the_form(page: TestClient) -> None:
    """Whoever guesses by the API has no more tries."""
    page.cookies.clear()
    tries = [
        page.get("/v1/models", headers={"authorization": f"Bearer wrong-{number}"}).status_code
        for number in range(WRONG_KEYS + 1)
    ]
    assert tries == [401] * WRONG_KEYS + [429]


@pytest.mark.parametrize("site", ["same-site", "none", "cross-site", "Same-Origin"])
def test_only_the_page_itself_may_write_where_the_browser_says_no_origin(
    page: TestClient, site: str
) -> None:
    """Another service of the same office is another site; a typed address changes nothing."""
    del page.headers["origin"]
    assert page.post("/sign-out", headers={"sec-fetch-site": site}).status_code == 403
    answer = page.post(
        "/sign-out", headers={"sec-fetch-site": "same-origin"}, follow_redirects=False
    )
    assert answer.status_code == 303


def test_nobody_signs_a_browser_in_without_an_origin(box: Box, page: TestClient) -> None:
    """Else a foreign form could open a session of its sender's in somebody's browser."""
    del page.headers["origin"]
    page.cookies.clear()
    key = (box.page_dir / "key").read_text()
    assert page.post("/sign-in", data={"key": key}, follow_redirects=False).status_code == 403


def writes(page: TestClient) -> list[tuple[str, str]]:
    """List every route that changes something, as the app has them."""
    return [
        (method, route.path.replace("{path:path}", "x").replace("{model:path}", "x"))
        for route in page.app.routes
        for method in sorted(route.methods - who.SAFE_METHODS)
    ]


def test_every_write_is_refused_to_the_second_key_and_to_other_sites(
    box: Box, page: TestClient
) -> None:
    """Of all routes that there are, not of a list that somebody has to remember."""
    (box.page_dir / READ_KEY).write_text("only-for-reading-this-box")
    reads = {"authorization": "Bearer only-for-reading-this-box"}
    foreign = {"origin": "http://evil.example"}
    found = writes(page)
    assert {method for method, _ in found} == {"POST", "PUT", "DELETE"}
    assert len(found) > 12
    for method, path in found:
        if path not in ("/sign-in", "/sign-out"):
            assert page.request(method, path, headers=reads).status_code == 403, path
        assert page.request(method, path, headers=foreign).status_code == 403, path


def test_whoever_only_asks_for_the_head_of_a_stream_has_an_end(page: TestClient, box: Box) -> None:
    """A link that is tried out by HEAD holds no place among the followers."""
    answer = page.head("/live")
    assert (answer.status_code, answer.headers["content-type"]) == (
        200,
        "text/event-stream; charset=utf-8",
    )
    assert page.app.state.live.followers == 0


def test_a_file_that_grows_is_sent_as_long_as_it_was(tmp_path: Path) -> None:
    """The log of a run that goes on can be taken away; no descriptor of it is left open."""
    path = tmp_path / "log.jsonl"
    content = os.urandom(3 * FileAnswer.chunk_size)
    for was in (b"", b"x", content[: FileAnswer.chunk_size], content):
        path.write_bytes(was)
        answer = FileAnswer(descriptor := os.open(path, os.O_RDONLY), "log.jsonl")
        with path.open("ab") as file:
            file.write(content)
        found = TestClient(answer).get("/")
        assert (found.headers["content-length"], found.content) == (str(len(was)), was)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_an_uploaded_file_that_grows_is_given_back_as_it_was(box: Box) -> None:
    """Whoever has the share may write into it while it is sent."""
    folder = box.jobs_dir / "data" / "api"
    folder.mkdir(parents=True)
    path = folder / "file-0123456789abcdef01234567-rows.jsonl"
    path.write_bytes(b"{}\n")
    own = api_files.Files(box, threading.Lock())
    scope = {"type": "http", "method": "GET", "path_params": {"file_id": path.name[:29]}}

    async def given(method: str) -> tuple[str, bytes]:
        answer = api_files.content_of(Request({**scope, "method": method}), own)
        path.write_bytes(b"{}\n" * 1000)
        blocks = answer.body_iterator if method == "GET" else [answer.body]
        content = b"".join([one async for one in blocks] if method == "GET" else blocks)
        path.write_bytes(b"{}\n")
        return answer.headers["content-length"], content

    assert asyncio.run(given("GET")) == ("3", b"{}\n")
    assert asyncio.run(given("HEAD")) == ("3", b"")


def test_more_followers_than_can_be_are_sent_away(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page works all the same for whoever is."""
    monkeypatch.setattr(live, "FOLLOWERS", 0)
    answer = page.get("/live")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert page.get("/nothing").status_code == 404


def test_of_two_files_of_which_one_cannot_be_taken_neither_is_left(
    box: Box, page: TestClient
) -> None:
    """A form is taken whole or not at all."""
    sent = [("file", ("a.csv", b"a,b\n1,2\n")), ("file", ("b.csv", b""))]
    assert page.post("/upload", files=sent).status_code == 409
    assert not list((box.jobs_dir / "data").iterdir())
