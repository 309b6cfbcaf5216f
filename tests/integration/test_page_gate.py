"""The page's gate, on the real server: who is let in, from where, how often and how slowly."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from page_server import PageServer, serving

from runner.office import page_health
from runner.office.who import WRONG_KEY_SECONDS, WRONG_KEYS

PATHS = ("/", "/drop", "/models", "/runs/a/b", "/v1/models", "/v1/files", "/metrics", "/nothing")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """One box's page; its second key may only read."""
    folder = tmp_path_factory.mktemp("box")
    with serving(folder, RUNNER_PAGE_HOSTS="box.office.example") as served:
        (folder / "page" / "read-key").write_text("only-for-reading-this-box\n")
        yield served


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_shown_without_a_key(server: PageServer, path: str) -> None:
    """A browser is sent to where the key is asked for, a program is told so in JSON."""
    answer = server.ask("GET", path, signed_in=False)
    if path.startswith(("/v1", "/metrics")):
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    else:
        assert (answer.status, answer.headers["location"].partition("?")[0]) == (303, "/sign-in")


def test_the_key_is_printed_once_and_kept_from_others(server: PageServer) -> None:
    """In the log of the first start; its file is its owner's alone."""
    assert server.log.read_text().count(server.key) == 1
    assert os.stat(server.folder / "page" / "key").st_mode & 0o777 == 0o600


def test_the_cookie_is_one_that_scripts_and_other_sites_never_see(server: PageServer) -> None:
    """HttpOnly and SameSite=Strict; Secure where the door speaks TLS."""
    plain = server.sign_in().headers["set-cookie"]
    assert re.fullmatch(r"box_session=\S+; HttpOnly; Max-Age=\d+; Path=/; SameSite=strict", plain)
    secure = server.sign_in(
        **{"X-Forwarded-Proto": "https", "Origin": "https://localhost"}
    ).headers["set-cookie"]
    assert secure.endswith("; Secure")


def test_a_cookie_planted_before_signing_in_is_worth_nothing(server: PageServer) -> None:
    """Session fixation: signing in always makes a new session."""
    server.cookie = planted = "planted.by.somebody"
    server.sign_in()
    assert server.cookie != planted
    answer = server.ask("GET", "/", signed_in=False, headers={"Cookie": f"box_session={planted}"})
    assert answer.status == 303


def test_signing_out_ends_the_session_for_whoever_has_its_cookie(server: PageServer) -> None:
    """It is not only the browser that forgets."""
    server.sign_in()
    kept = server.cookie
    assert server.post("/sign-out").status == 303
    server.cookie = kept
    assert server.get("/nothing").status == 303


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "localhost.evil.example"])
def test_a_foreign_name_that_leads_here_is_refused(server: PageServer, host: str) -> None:
    """DNS rebinding, with a valid session as well as without."""
    server.sign_in()
    for path in ("/", "/sign-in", "/v1/models", "/static/x/page.css"):
        assert server.ask("GET", path, headers={"Host": host}).status == 421


def test_the_names_that_its_owner_gave_are_known(server: PageServer) -> None:
    """RUNNER_PAGE_HOSTS."""
    headers = {"Host": "box.office.example"}
    assert server.ask("GET", "/sign-in", headers=headers, signed_in=False).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://localhost"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "", "Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/sign-in", "/sign-out", "/drop", "/runs/a/b/cancel", "/v1/files"]
)
def test_a_write_from_another_sites_page_is_refused(
    server: PageServer, path: str, headers: dict[str, str]
) -> None:
    """CSRF: a form of another page cannot act with the cookie of whoever looks at it."""
    server.sign_in()
    assert server.ask("POST", path, body={"key": server.key}, headers=headers).status == 403


def test_a_cookie_without_an_origin_changes_nothing(server: PageServer) -> None:
    """No browser sends such a request."""
    server.sign_in()
    headers = {"Host": "localhost", "Cookie": f"box_session={server.cookie}"}
    with closing(server.connect()) as connection:
        connection.request("POST", "/sign-out", headers=headers)
        with closing(connection.getresponse()) as answer:
            assert answer.status == 403


def test_the_second_key_may_look_and_change_nothing(server: PageServer) -> None:
    """Whatever it is that is to be changed."""
    server.sign_in("only-for-reading-this-box")
    assert server.get("/nothing").status == 404
    for path in ("/drop", "/upload", "/runs/a/b/cancel", "/v1/files", "/nothing"):
        assert server.post(path).status == 403
    assert server.post("/sign-out").status == 303


def test_guessing_keys_is_stopped_for_the_one_who_guesses(server: PageServer) -> None:
    """After ten wrong ones even the right key has to wait; by form and by header alike."""
    guesser = {"X-Forwarded-For": "10.9.8.7"}
    tries: list[int] = []
    while 429 not in tries:  # one is forgiven every six seconds, and the machine may be slow
        tries.append(server.sign_in("not-the-key-of-this-box", **guesser).status)
        assert len(tries) < 100
    assert tries[:10] == [403] * 10
    assert server.sign_in(**guesser).status == 429
    bearer = {**guesser, "Authorization": f"Bearer {server.key}"}
    assert server.ask("GET", "/v1/x", headers=bearer, signed_in=False).status == 429
    assert server.sign_in(**{"X-Forwarded-For": "10.9.8.6"}).status == 303


def test_keys_sent_at_once_are_counted_one_by_one(server: PageServer) -> None:
    """Forms that are all begun before the first one ends: no more keys are looked at for that."""
    sent = b"key=not-the-key-of-this-box"
    held = []
    for _ in range(40):
        connection = server.connect()
        connection.putrequest("POST", "/sign-in", skip_host=True)
        for name, value in (
            ("Host", "localhost"),
            ("Origin", "http://localhost"),
            ("X-Forwarded-For", "10.9.8.5"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Length", str(len(sent))),
        ):
            connection.putheader(name, value)
        connection.endheaders(sent[:-1])
        held.append(connection)
    # A request that is answered after they came: each of them stands at its body now.
    assert server.ask("GET", "/healthz", signed_in=False).status == 200
    began = time.monotonic()
    for connection in held:
        connection.send(sent[-1:])
    found = []
    for connection in held:
        with closing(connection.getresponse()) as answer:
            found.append(answer.status)
        connection.close()
    forgiven = int((time.monotonic() - began) / WRONG_KEY_SECONDS) + 1
    assert set(found) == {403, 429}
    assert found.count(403) <= WRONG_KEYS + forgiven


def test_a_body_that_is_too_large_is_refused(server: PageServer) -> None:
    """By its length, and by what comes where that is not said."""
    for length in (("Content-Length", "2000000"), ("Transfer-Encoding", "chunked")):
        with closing(server.connect()) as connection:
            connection.putrequest("POST", "/sign-in", skip_host=True)
            for name, value in (("Host", "localhost"), ("Origin", "http://localhost"), length):
                connection.putheader(name, value)
            connection.putheader("Content-Type", "application/x-www-form-urlencoded")
            connection.endheaders()
            if length[0] == "Transfer-Encoding":
                for _ in range(17):
                    connection.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            with closing(connection.getresponse()) as answer:
                assert answer.status == 413


def test_every_answer_forbids_what_the_page_does_not_need(server: PageServer) -> None:
    """No inline script or style, no frame of others, nothing kept by the browser."""
    for path in ("/sign-in", "/nothing", "/v1/x", "/static/x/page.css", "/static/x/nothing"):
        headers = server.ask("GET", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_a_client_that_sends_nothing_more_keeps_nobody_out(server: PageServer) -> None:
    """Fifty bodies that never end, and others are answered."""
    server.sign_in()
    held = []
    for _ in range(50):
        connection = server.connect()
        connection.putrequest("POST", "/sign-in", skip_host=True)
        for name, value in (("Host", "localhost"), ("Origin", "http://localhost")):
            connection.putheader(name, value)
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"key=")
        held.append(connection)
    began = time.monotonic()
    assert server.get("/nothing").status == 404
    assert time.monotonic() - began < 20
    for connection in held:
        connection.close()


def test_the_containers_health_check_asks_the_page_itself(
    server: PageServer, tmp_path: Path
) -> None:
    """A socket that nobody answers on, or none, is no page."""

    def asked(path: Path) -> int:
        command = [sys.executable, "-IS", page_health.__file__, str(path)]
        return subprocess.run(command, check=False).returncode

    assert asked(server.socket_path) == 0
    assert asked(tmp_path / "none") == 1
    left = tmp_path / "left"
    with closing(socket.socket(socket.AF_UNIX)) as bound:
        bound.bind(str(left))  # as a page that was killed leaves it
        assert left.is_socket()
        assert asked(left) == 1


def test_a_deleted_key_ends_all_sessions_at_once(tmp_path: Path) -> None:
    """Nothing need be started again for that; the next start makes another key."""
    with serving(tmp_path) as served:
        served.sign_in()
        assert served.get("/nothing").status == 404
        old = served.key
        (tmp_path / "page" / "key").unlink()
        assert served.get("/nothing").status == 303
        assert served.sign_in(old).status == 403
    with serving(tmp_path) as served:
        assert served.key != old
        assert served.key in served.log.read_text()
