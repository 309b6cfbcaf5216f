"""Uploads in pieces, on the real server: cut off anywhere, each goes on where it ended."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from page_server import ORIGIN, PageServer, serving

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A page that takes at most 32 MiB."""
    folder = tmp_path_factory.mktemp("box")
    with serving(folder, RUNNER_PAGE_UPLOAD_GIB=str(32 / 1024)) as served:
        served.sign_in()
        yield served


@pytest.fixture
def data(server: PageServer) -> Path:
    """jobs/data/, empty."""
    folder = server.folder / "jobs" / "data"
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    return folder


def begin(server: PageServer, size: int, name: str = "rows.csv") -> str:
    answer = server.ask("POST", f"/upload/pieces?name={name}&size={size}")
    assert answer.status == 201, answer.text
    said = json.loads(answer.body)
    assert (said["has"], said["path"]) == (0, None)
    return str(said["way"])


def put(server: PageServer, way: str, offset: int, content: bytes) -> tuple[int, Any]:
    answer = server.ask("PUT", way, body=content, headers={"Upload-Offset": str(offset)})
    is_json = answer.headers["content-type"] == "application/json"
    return answer.status, json.loads(answer.body) if is_json else answer.text


def cut_off(server: PageServer, way: str, offset: int, content: bytes, sent: int) -> None:
    """Send a part of a piece, and go."""
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(server.socket_path))
        head = f"PUT {way} HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\n"
        head += f"Cookie: box_session={server.cookie}\r\nContent-Length: {len(content)}\r\n"
        head += f"Upload-Offset: {offset}\r\n\r\n"
        client.sendall(head.encode() + content[:sent])


def has(server: PageServer, way: str) -> int:
    answer = server.get(way)
    assert answer.status == 200
    return int(json.loads(answer.body)["has"])


def wait_for(holds) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_pieces_become_the_file_byte_for_byte(server: PageServer, data: Path) -> None:
    """Nothing has its name before the last piece is there."""
    content = os.urandom(9 * MIB + 7)
    way = begin(server, len(content))
    for offset in range(0, len(content), 4 * MIB):
        assert not (data / "rows.csv").exists()
        status, said = put(server, way, offset, content[offset : offset + 4 * MIB])
        assert status == 200
    assert (said["has"], said["path"]) == (len(content), "data/rows.csv")
    assert (data / "rows.csv").read_bytes() == content
    assert [file.name for file in data.iterdir()] == ["rows.csv"]
    # An answer that was lost on its way: what is asked again is answered alike.
    assert json.loads(server.get(way).body) == said
    assert put(server, way, 8 * MIB, content[8 * MIB :]) == (200, said)


@pytest.mark.parametrize("third", [0, 1, 2])
def test_an_upload_cut_off_in_any_third_goes_on_where_it_ended(
    server: PageServer, data: Path, third: int
) -> None:
    """What had arrived is not sent again, and the file is what it was."""
    content = os.urandom(9 * MIB)
    sent = len(content) * third // 3 + 100_000
    way = begin(server, len(content))
    cut_off(server, way, 0, content, sent)
    wait_for(lambda: has(server, way) == sent)
    assert not (data / "rows.csv").exists()
    wait_for(lambda: put(server, way, sent, content[sent:])[0] == 200)
    assert (data / "rows.csv").read_bytes() == content
    assert [file.name for file in data.iterdir()] == ["rows.csv"]


def test_an_upload_cut_off_again_and_again_arrives(server: PageServer, data: Path) -> None:
    """Every request of it breaks off but the last."""
    content = os.urandom(3 * MIB)
    way = begin(server, len(content))
    for sent in (1, 70_000, 1_000_000, 2_500_000):
        before = has(server, way)
        cut_off(server, way, before, content[before:], sent - before)
        wait_for(lambda sent=sent: has(server, way) == sent)
    wait_for(lambda: put(server, way, 2_500_000, content[2_500_000:])[0] == 200)
    assert (data / "rows.csv").read_bytes() == content


def test_a_piece_that_begins_elsewhere_is_refused_and_changes_nothing(
    server: PageServer, data: Path
) -> None:
    """Its sender is told how much there is."""
    way = begin(server, 10)
    assert put(server, way, 0, b"01234")[0] == 200
    for offset in (0, 4, 6, 10):
        status, said = put(server, way, offset, b"xxxxx")
        assert (status, said["has"]) == (409, 5)
    assert put(server, way, 5, b"56789")[1]["path"] == "data/rows.csv"
    assert (data / "rows.csv").read_bytes() == b"0123456789"


def test_more_than_was_said_is_no_upload(server: PageServer, data: Path) -> None:
    """Nothing of it is left."""
    way = begin(server, 10)
    status, text = put(server, way, 0, b"x" * 11)
    assert status == 409
    assert "more of the file came" in text
    assert not list(data.iterdir())
    assert server.get(way).status == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (f"name=rows.csv&size={33 * MIB}", 409),
        ("name=rows.csv&size=0", 409),
        ("name=rows.exe&size=10", 409),
        ("name=&size=10", 409),
        ("name=rows.csv&size=-1", 400),
        ("name=rows.csv&size=1e3", 400),
        ("name=rows.csv&size=" + "9" * 40, 400),
        ("name=rows.csv", 400),
    ],
)
def test_what_cannot_be_taken_is_refused_before_it_is_sent(
    server: PageServer, data: Path, query: str, status: int
) -> None:
    """Too large, empty, no data, no number."""
    assert server.ask("POST", f"/upload/pieces?{query}").status == status
    assert not list(data.iterdir())


def test_names_that_are_paths_stay_in_their_folder(server: PageServer, data: Path) -> None:
    """As with the form."""
    way = begin(server, 4, "..%2F..%2F..%2Fetc%2Fx.csv")
    assert put(server, way, 0, b"a,b\n")[1]["path"] == "data/x.csv"
    assert (data / "x.csv").read_bytes() == b"a,b\n"


def test_many_come_at_once_and_each_is_kept(server: PageServer, data: Path) -> None:
    """Of one name, piece by piece by turns; more than twenty are told to wait."""
    contents = [bytes([n]) * (n + 1) * 50_000 for n in range(20)]
    ways = [begin(server, len(content)) for content in contents]
    answer = server.ask("POST", "/upload/pieces?name=rows.csv&size=5")
    assert (answer.status, "too many files" in answer.text) == (409, True)
    found: list[str] = []

    def bring(way: str, content: bytes) -> None:
        half = len(content) // 2
        assert put(server, way, 0, content[:half])[0] == 200
        found.append(put(server, way, half, content[half:])[1]["path"])

    threads = [
        threading.Thread(target=bring, args=pair) for pair in zip(ways, contents, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 20
    kept = sorted((server.folder / "jobs" / path).read_bytes() for path in found)
    assert kept == sorted(contents)


def test_two_pieces_at_once_never_mix(server: PageServer, data: Path) -> None:
    """A connection that hangs, and another try beside it: one of them waits."""
    content = os.urandom(MIB)
    way = begin(server, len(content))
    with closing(socket.socket(socket.AF_UNIX)) as hanging:
        hanging.connect(str(server.socket_path))
        head = f"PUT {way} HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\n"
        head += f"Cookie: box_session={server.cookie}\r\nContent-Length: {MIB}\r\n"
        hanging.sendall(f"{head}Upload-Offset: 0\r\n\r\n".encode() + content[:1000])
        wait_for(lambda: put(server, way, 0, content)[0] == 503)
    wait_for(lambda: has(server, way) == 1000)
    wait_for(lambda: put(server, way, 1000, content[1000:])[0] == 200)
    assert (data / "rows.csv").read_bytes() == content


def test_what_never_went_on_goes_with_the_page(tmp_path: Path) -> None:
    """A page that ends removes what had arrived; the next one knows nothing of it."""
    with serving(tmp_path) as served:
        served.sign_in()
        way = begin(served, 100)
        assert put(served, way, 0, b"x" * 50)[0] == 200
        cookie = served.cookie
        assert len(list((tmp_path / "jobs" / "data").iterdir())) == 1
    assert not list((tmp_path / "jobs" / "data").iterdir())
    with serving(tmp_path) as served:
        served.cookie = cookie
        assert served.get(way).status == 404


def test_who_may_not_write_begins_nothing(server: PageServer, data: Path) -> None:
    """Nor a page of another site, nor one that only knows the address of somebody's upload."""
    way = begin(server, 10)
    (server.folder / "page" / "read-key").write_text("only-for-reading-this-box\n")
    asked = {"Authorization": "Bearer only-for-reading-this-box"}
    foreign = {"Origin": "http://evil.example"}
    for method, path in (("POST", "/upload/pieces?name=a.csv&size=3"), ("PUT", way)):
        for headers in (asked, foreign):
            sent = {**headers, "Upload-Offset": "0"}
            answer = server.ask(method, path, body=b"abc", headers=sent)
            assert answer.status == 403
        sent = {"Upload-Offset": "0"}
        answer = server.ask(method, path, body=b"abc", headers=sent, signed_in=False)
        assert answer.status == 401
    assert server.ask("GET", way, headers=asked, signed_in=False).status == 404
    assert has(server, way) == 0
