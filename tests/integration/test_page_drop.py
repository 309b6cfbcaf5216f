"""New jobs by the page: uploads that fail safely, a look at real rows, a start that loses none."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from page_server import ORIGIN, Answer, PageServer, serving

from runner.office.drop import as_yaml
from runner.spec.read_spec import read_spec

ROWS = [
    (f"What is the notice period of clause {n}?", f"Under clause {n} it is {1 + n % 6} months.")
    for n in range(60)
]
BOUNDARY = "----WebKitFormBoundaryabcdefgh12345678"


def table(names: tuple[str, ...] = ("Question", "Answer")) -> bytes:
    held = io.StringIO()
    csv.writer(held).writerows([names, *ROWS])
    return held.getvalue().encode()


def form(content: bytes, name: str = "rows.csv", **fields: str) -> bytes:
    """Write a form as browsers do."""
    what = "Content-Disposition: form-data"
    parts = [
        f'--{BOUNDARY}\r\n{what}; name="{field}"\r\n\r\n{value}\r\n'.encode()
        for field, value in fields.items()
    ]
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
    head += "Content-Type: application/octet-stream\r\n"
    parts.append(f"--{BOUNDARY}\r\n{head}\r\n".encode() + content + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[PageServer]:
    """The page of a box with a real small model; no upload may be larger than 8 MiB."""
    folder = tmp_path_factory.mktemp("box")
    model = folder / "models" / "small"
    model.mkdir(parents=True)
    for file in tiny_model.iterdir():
        os.link(file, model / file.name)
    (folder / "jobs").mkdir()
    with serving(folder, RUNNER_PAGE_UPLOAD_GIB=str(8 / 1024)) as served:
        served.sign_in()
        yield served


@pytest.fixture
def data(server: PageServer) -> Path:
    """jobs/data/, empty."""
    folder = server.folder / "jobs" / "data"
    for file in folder.glob("*") if folder.is_dir() else ():
        file.unlink()
    return folder


def upload(server: PageServer, content: bytes, name: str = "rows.csv") -> Answer:
    return server.ask("POST", "/upload", body=form(content, name, model="small"), headers=HEADERS)


def test_an_upload_lies_on_the_share_byte_for_byte(server: PageServer, data: Path) -> None:
    """Under its own name, where everybody's data lies; the next page shows it."""
    content = os.urandom(5 * 1024 * 1024)
    answer = upload(server, content)
    assert (answer.status, unquote(answer.headers["location"])) == (
        303,
        "/drop/job?model=small&data=data/rows.csv",
    )
    assert (data / "rows.csv").read_bytes() == content
    assert [file.name for file in data.iterdir()] == ["rows.csv"]


def test_the_same_file_again_is_the_same_file(server: PageServer, data: Path) -> None:
    """Another of that name gets a name of its own; nothing is ever replaced."""
    for content, name in ((b"a,b\n1,2\n", "rows.csv"), (b"a,b\n1,2\n", "rows.csv")):
        assert unquote(upload(server, content).headers["location"]).endswith(f"data/{name}")
    assert unquote(upload(server, b"x,y\n1,2\n").headers["location"]).endswith("data/rows-2.csv")
    assert (data / "rows.csv").read_bytes() == b"a,b\n1,2\n"


@pytest.mark.parametrize("third", [0, 1, 2])
def test_an_upload_that_is_cut_off_leaves_nothing(
    server: PageServer, data: Path, third: int
) -> None:
    """In its first, second and last third: no file of any name, and the next try works."""
    content = table() * 1000
    body = form(content)
    with closing(socket.socket(socket.AF_UNIX)) as sent:
        sent.connect(str(server.socket_path))
        head = f"POST /upload HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\n"
        head += f"Cookie: box_session={server.cookie}\r\nContent-Length: {len(body)}\r\n"
        head += f"Content-Type: {HEADERS['Content-Type']}\r\n\r\n"
        sent.sendall(head.encode() + body[: len(body) * third // 3 + 1000])
        wait_for(lambda: data.is_dir() and list(data.iterdir()))
    wait_for(lambda: not list(data.iterdir()))
    assert upload(server, content).status == 303


def wait_for(holds) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_form_that_ends_early_is_no_upload(server: PageServer, data: Path) -> None:
    """A whole request whose form lacks its end: a proxy may have cut it."""
    for content in (table(), b"a,b\n" + b"1,2\n" * 1_500_000):  # the second is written as it comes
        body = form(content)
        answer = server.ask("POST", "/upload", body=body[:-10], headers=HEADERS)
        assert answer.status == 409
        assert not list(data.glob("*"))


def test_what_a_power_cut_left_is_swept_at_the_next_start(tmp_path: Path) -> None:
    """Half a file has a name that nobody takes for data, and goes; others' files stay."""
    data = tmp_path / "jobs" / "data"
    data.mkdir(parents=True)
    (data / ".tmp-0123456789ab").write_bytes(b"half")
    (data / ".tmp-mine.csv").write_bytes(b"a person's")
    with serving(tmp_path):
        assert [file.name for file in data.iterdir()] == [".tmp-mine.csv"]


def test_twenty_people_upload_one_name_at_once(server: PageServer, data: Path) -> None:
    """Each file is kept whole, under a name of its own."""
    contents = [f"a,b\n{n},{n}\n".encode() * 1000 for n in range(20)]
    found: list[str] = []

    def bring(content: bytes) -> None:
        found.append(unquote(upload(server, content).headers["location"]).rpartition("=")[2])

    threads = [threading.Thread(target=bring, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 20
    kept = sorted((server.folder / "jobs" / path).read_bytes() for path in found)
    assert kept == sorted(contents)


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"x" * (9 * 1024 * 1024), "rows.csv"), (b"", "rows.csv"), (b"x", "rows.exe"), (b"x", "a/..")],
)
def test_what_cannot_be_taken_leaves_nothing(
    server: PageServer, data: Path, content: bytes, name: str
) -> None:
    """Too large, empty, or no data: the page says why and what to do."""
    answer = upload(server, content, name)
    assert answer.status == 409
    assert "What to do" in answer.text
    assert not list(data.glob("*"))


def test_a_full_disk_is_left_as_it_is(tmp_path: Path) -> None:
    """What would take from the part that is kept free is refused at once."""
    with serving(tmp_path, RUNNER_MIN_FREE_BYTES=str(10**18)) as served:
        served.sign_in()
        answer = upload(served, b"a,b\n1,2\n")
        assert answer.status == 409
        assert "nearly full" in answer.text
        assert not list((tmp_path / "jobs" / "data").iterdir())


def test_links_on_the_share_lead_nowhere(server: PageServer, tmp_path: Path) -> None:
    """Neither where uploads go nor which file is looked into."""
    with serving(tmp_path / "box") as served:
        served.sign_in()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "secret.csv").write_text("a,b\n1,2\n")
        (tmp_path / "box" / "jobs" / "data").symlink_to(elsewhere)
        assert upload(served, b"a,b\n1,2\n").status == 409
        assert [file.name for file in elsewhere.iterdir()] == ["secret.csv"]
        answer = served.get("/drop/job?model=small&data=data/secret.csv")
        assert answer.status == 409
        assert "secret" not in served.get("/drop").text
    for path in ("data/../../page/key", "../page/key", "queued/x.csv", "data/no.csv", "data/x.txt"):
        assert server.get(f"/drop/job?data={path}").status in (404, 409)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.append(tag)
        self.tags += [f"on:{name}" for name, _ in attrs if name.startswith("on")]


def test_columns_and_cells_are_shown_and_run_nothing(server: PageServer, data: Path) -> None:
    """A table whose names and cells are markup."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}"
    held = io.StringIO()
    csv.writer(held).writerows([[evil, "Answer"], [evil, evil]])
    way = upload(server, held.getvalue().encode(), "<b onclick=x>.csv").headers["location"]
    page = server.get(way)
    assert page.status == 200
    seen = _Text()
    seen.feed(page.text)
    assert not {"img", "b"} & set(seen.tags)
    assert seen.tags.count("script") == 1
    assert not [tag for tag in seen.tags if tag.startswith("on:")]
    assert "&lt;script&gt;alert(1)" in page.text


def looked(server: PageServer, **fields: str) -> tuple[str, str]:
    """Look at a job and wait for what is seen; give the way and the page."""
    answer = server.post("/drop/look", **fields)
    assert answer.status == 303, answer.text
    way = answer.headers["location"]
    while "refresh" in (page := server.get(way)).headers:
        time.sleep(0.3)
    return way, page.text


def test_a_job_is_looked_at_and_started(server: PageServer, data: Path) -> None:
    """The rows as the model sees them, what it takes, and a spec that lies in the inbox whole."""
    upload(server, table())
    way, text = looked(server, name="Clauses", model="small", data="data/rows.csv", epochs="quick")
    assert "This job can start" in text
    assert "<mark>" in text
    assert "notice" in text
    assert "GiB" in text
    assert server.post(f"{way}/start").headers["location"] == "/?dropped=clauses"
    spec = server.folder / "jobs" / "clauses.yaml"
    read = read_spec(spec.read_bytes(), file_name=spec.name)
    assert (read.model, read.data, read.name) == ("small", ["data/rows.csv"], "clauses")
    assert read.training.epochs == 1
    assert not list((server.folder / "page" / "aside").glob("runner-*"))  # no row is left there
    spec.unlink()  # as the daemon claims it
    assert server.post(f"{way}/start").headers["location"] == "/?dropped=clauses"
    assert not spec.exists()  # pressed twice, it is one run


def test_columns_that_the_box_does_not_know_are_mapped(server: PageServer, data: Path) -> None:
    """What was chosen stands in the spec, and its rows are learned."""
    upload(server, table(("Ask", "Say")), "odd.csv")
    way, text = looked(server, name="odd", model="small", data="data/odd.csv")
    assert "This job cannot start as it is" in text
    assert server.post(f"{way}/start").status == 409
    assert not (server.folder / "jobs" / "odd.yaml").exists()
    fields = {"prompt": "Ask", "completion": "Say"}
    _, text = looked(server, name="odd", model="small", data="data/odd.csv", **fields)
    assert "This job can start" in text


def test_a_look_leaves_a_full_disk_as_it_is(server: PageServer, tmp_path: Path) -> None:
    """A copy of the rows would fill it: nothing is looked at, and nothing can start."""
    for name in ("jobs/data", "models"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copytree(server.folder / "models" / "small", tmp_path / "models" / "small")
    (tmp_path / "jobs" / "data" / "rows.csv").write_bytes(table())
    with serving(tmp_path, RUNNER_MIN_FREE_BYTES=str(10**18)) as served:
        served.sign_in()
        way, text = looked(served, name="x", model="small", data="data/rows.csv")
        assert "no room for a copy of the rows" in text
        assert "This job cannot start as it is" in text
        assert served.post(f"{way}/start").status == 409
        assert not (tmp_path / "jobs" / "x.yaml").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "small", "data": ""},
        {"model": "none", "data": "data/rows.csv"},
        {"model": "../../page", "data": "data/rows.csv"},
        {"model": "small", "data": "../page/key"},
        {"model": "small", "data": "/etc/passwd"},
        {"model": "small", "data": "data/rows.csv", "prompt": "{" * 3000},
    ],
)
def test_what_the_spec_may_not_say_is_refused_at_once(
    server: PageServer, data: Path, fields: dict[str, str]
) -> None:
    """By the rules of `runner validate`; nothing is looked at."""
    upload(server, table())
    assert server.post("/drop/look", name="x", **fields).status == 409


def test_two_people_start_one_name_at_once(server: PageServer, data: Path) -> None:
    """One of them is dropped, whole; the other is told that the name is taken."""
    upload(server, table())
    ways = [
        looked(server, name="same", model="small", data="data/rows.csv", notes=f"person {n}")[0]
        for n in range(2)
    ]
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda way=way: found.append(server.post(f"{way}/start").status))
        for way in ways
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [303, 409]
    spec = server.folder / "jobs" / "same.yaml"
    assert read_spec(spec.read_bytes(), file_name=spec.name).notes in ("person 0", "person 1")
    spec.unlink()


def test_a_spec_says_exactly_what_was_chosen() -> None:
    """Texts with every sign that means something in YAML come back as they were."""
    odd = "yes: [no] {a} # \"x\" 'y' \n- 1\n\t| > & * ! % @ ` \\ ä 漢"
    fields = {"model": "m", "data": "data/a.csv", "system_prompt": odd, "notes": None}
    read = read_spec(
        as_yaml({**fields, "columns": {"prompt": "null", "completion": "b"}}), file_name="x.yaml"
    )
    assert (read.system_prompt, read.columns.prompt, read.notes) == (odd, "null", None)
    assert json.loads(read.model_dump_json())["data"] == ["data/a.csv"]
