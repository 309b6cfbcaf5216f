"""The page's decisions: language, host names, file names, keys and sessions."""

from __future__ import annotations

import asyncio
import os
import string
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.commands import prepare_aside
from runner.commands.prepare_aside import Bounds
from runner.contract.card_shown import CardShown
from runner.contract.page_key import KEY, READ_KEY, KeyFileError, make_key, read_key
from runner.contract.settings_table import with_folders
from runner.errors import RunnerError
from runner.files import crash_points
from runner.office import look, pieces
from runner.office.box import Box
from runner.office.hosts import is_known, name_of
from runner.office.language import chosen
from runner.office.limits import REQUESTS, REQUESTS_A_SECOND, Rate
from runner.office.pages.jobs import starts_in
from runner.office.pages.sign_in import own_path
from runner.office.upload import UploadError, safe_name
from runner.office.who import WRONG_KEYS, Keys, WrongKeys

NAMES = frozenset({"box.office.example"})


@pytest.mark.parametrize(
    ("accepted", "fallback", "language"),
    [
        ("", "", "en"),
        ("", "de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "", "de"),
        ("en-GB,en;q=0.9,de;q=0.8", "de", "en"),
        ("en;q=0.3, de;q=0.7", "", "de"),
        ("fr,de;q=0.5", "", "de"),
        ("fr", "de", "de"),
        ("de;q=0", "", "en"),
        ("de;q=none", "", "en"),
        (",,;;q=", "", "en"),
    ],
)
def test_the_page_speaks_the_browsers_language(accepted: str, fallback: str, language: str) -> None:
    """RFC 9110: the highest quality wins, then the order; none that we speak: the box's own."""
    assert chosen(accepted, fallback) == language


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "127.0.0.1:8080",
        "192.168.4.7",
        "[::1]:8080",
        "box.office.example",
        "BOX.office.example:443",
        "box.office.example.",
    ],
)
def test_the_box_is_reached_by_its_own_names_and_by_addresses(host: str) -> None:
    """A plain address cannot be a foreign name that was turned round to lead here."""
    assert is_known(host, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "box.office.example.evil.example",
        "a b",
        "localhost:x",
        "[::1",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "localhost/",
        "evil.example#localhost",
        "localhost,evil.example",
    ],
)
def test_any_other_name_is_refused(host: str) -> None:
    """DNS rebinding: a page of evil.example whose name leads to the box gets nothing."""
    assert not is_known(host, NAMES)


def test_a_host_is_read_as_browsers_write_it() -> None:
    """Without its port, in small letters."""
    assert (name_of("Box:1"), name_of("[::1]:80"), name_of("x:99999")) == ("box", "::1", None)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("contracts.csv", "contracts.csv"),
        (r"C:\Users\me\Verträge 2026.xlsx", "Verträge 2026.xlsx"),
        ("../../etc/rows.jsonl", "rows.jsonl"),
        ("a/b/../c.JSON", "c.json"),
        ("rows.jsonl.gz", "rows.jsonl.gz"),
        ("<img src=x onerror=alert(1)>.csv", "img src-x onerror-alert(1).csv"),
        (".hidden.csv", "hidden.csv"),
        ("u\u0308ber.csv", "über.csv"),
        ("ro\u202etsv.csv", "ro-tsv.csv"),
        ("a\x00b\n.csv", "a-b.csv"),
        ("x" * 300 + ".jsonl", "x" * 144 + ".jsonl"),
        ("~lock.csv", "lock.csv"),
        ("plan.old.csv", "plan.old.csv"),
        ("😀.jsonl", "data.jsonl"),
        (".csv", "data.csv"),
        ("CON.csv", "data-CON.csv"),
        ("lpt1.old.xlsx", "data-lpt1.old.xlsx"),
        ("console.csv", "console.csv"),
    ],
)
def test_an_uploads_name_is_made_safe(sent: str, kept: str) -> None:
    """Of a path the last part; letters of any language stay, its ending is in small ones."""
    assert safe_name(sent) == kept


@pytest.mark.parametrize("sent", ["", "..", "rows", "rows.docx", "x.html", "run.sh", "/", "a.csv/"])
def test_what_is_no_data_file_is_refused_with_advice(sent: str) -> None:
    """The advice is the one that a spec of such a file would get."""
    with pytest.raises(UploadError) as caught:
        safe_name(sent)
    assert caught.value.advice


@pytest.mark.parametrize("to", ["/", "/runs/a/b", "/drop?x=1"])
def test_after_signing_in_one_goes_on_where_one_wanted_to(to: str) -> None:
    """Paths of the page itself."""
    assert own_path(to) == to


@pytest.mark.parametrize(
    "to", ["", "//evil.example", "/\\evil.example", "https://evil.example", "/sign-in", "/a\r\nb"]
)
def test_signing_in_leads_nowhere_else(to: str) -> None:
    """No open redirect, and no line of a header that somebody else wrote."""
    assert own_path(to) == "/"


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """125 bits, mode 0600; a second start makes none."""
    folder = tmp_path / "page"
    key = make_key(folder)
    assert key is not None
    assert len(key.replace("-", "")) == 25
    assert os.stat(folder / KEY).st_mode & 0o777 == 0o600
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert make_key(folder) is None
    assert read_key(folder) == key


@pytest.mark.parametrize("content", ["", "short", "\n", "x" * 1025, f"{'x' * 20}\n{'y' * 20}"])
def test_a_file_that_is_no_key_opens_nothing(tmp_path: Path, content: str) -> None:
    """Neither an empty key nor one that could be guessed, and whoever starts the page is told."""
    (tmp_path / KEY).write_text(content)
    with pytest.raises(KeyFileError):
        read_key(tmp_path)
    assert Keys(tmp_path).may_write(content.strip()) is None
    assert Keys(tmp_path).open_session(content.strip()) is None
    (said,) = Keys(tmp_path).problems()
    assert str(tmp_path / KEY) in said
    assert "Delete the file" in said


def test_a_key_that_windows_wrote_is_the_one_that_was_typed(tmp_path: Path) -> None:
    """Notepad's mark before UTF-8 is no part of it; UTF-16 is no key, for nobody could type it."""
    typed = "Only for reading this box"
    (tmp_path / READ_KEY).write_bytes(b"\xef\xbb\xbf" + typed.encode() + b"\r\n")
    assert Keys(tmp_path).may_write(typed) is False
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / READ_KEY).write_bytes(f"{typed}\r\n".encode(encoding))
        with pytest.raises(KeyFileError):
            read_key(tmp_path, READ_KEY)
        assert Keys(tmp_path).may_write(typed) is None


def test_a_power_cut_while_the_key_is_made_leaves_none(tmp_path: Path) -> None:
    """An empty key would open to nobody, and the next start would make no other."""

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    crash_points.install(power_cut)
    try:
        with pytest.raises(KeyboardInterrupt):
            make_key(tmp_path)
    finally:
        crash_points.install(None)
    assert read_key(tmp_path) is None
    key = make_key(tmp_path)
    assert key is not None
    assert read_key(tmp_path) == key


def test_a_link_is_no_key(tmp_path: Path) -> None:
    """Whoever may write there could have any file taken for the key."""
    (tmp_path / "other").write_text("x" * 30)
    (tmp_path / KEY).symlink_to(tmp_path / "other")
    assert Keys(tmp_path).may_write("x" * 30) is None


def test_two_keys_and_what_they_may(tmp_path: Path) -> None:
    """The second key, where there is one, may only read; sessions are as their keys."""
    keys = Keys(tmp_path)
    assert keys.may_write("") is None
    key = keys.make()
    assert key is not None
    (tmp_path / READ_KEY).write_text("r" * 30 + "\n")
    assert (keys.may_write(key.upper()), keys.may_write("r" * 30)) == (True, False)
    session, reading = keys.open_session(key), keys.open_session("r" * 30)
    assert session is not None
    assert reading is not None
    assert (keys.session_may_write(session), keys.session_may_write(reading)) == (True, False)
    assert session != keys.open_session(key)  # a new one each time
    forged = session.replace(session[0], "A" if session[0] != "A" else "B", 1)
    assert keys.session_may_write(forged) is None
    keys.close_session(session)
    assert keys.session_may_write(session) is None
    (tmp_path / READ_KEY).unlink()
    assert keys.session_may_write(reading) is None


def test_a_session_that_ended_is_known_however_its_cookie_is_written(tmp_path: Path) -> None:
    """The last sign of a signature has two bits that mean nothing: four texts are one cookie."""
    keys = Keys(tmp_path)
    session = keys.open_session(keys.make() or "")
    assert session is not None
    signs = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    alike = session[:-1] + signs[signs.index(session[-1]) ^ 1]
    assert keys.session_may_write(alike)
    keys.close_session(session)
    assert keys.session_may_write(alike) is None


def test_the_key_is_kept_out_of_the_repository() -> None:
    """Whoever runs the box in a clone of it does not publish the key."""
    ignored = (Path(__file__).parents[2] / ".gitignore").read_text().splitlines()
    assert "/page/" in ignored


def test_deleting_the_key_ends_every_session(tmp_path: Path) -> None:
    """And the key that is made then is another."""
    keys = Keys(tmp_path)
    old = keys.make()
    assert old is not None
    session = keys.open_session(old)
    assert session is not None
    (tmp_path / KEY).unlink()
    assert keys.session_may_write(session) is None
    assert keys.make() != old
    assert keys.session_may_write(session) is None


def test_a_client_that_guesses_is_barred_and_others_are_not() -> None:
    """Ten wrong keys, then it has to wait; whoever else asks does not."""
    wrong = WrongKeys()
    for _ in range(WRONG_KEYS):
        assert not wrong.is_barred("10.0.0.7")
        wrong.note("10.0.0.7")
    assert wrong.is_barred("10.0.0.7")
    assert not wrong.is_barred("10.0.0.8")


def test_a_flood_is_held_back_and_others_are_not() -> None:
    """So many at once, then so many a second; what was not used comes back, and no more."""

    async def nobody(*_: object) -> None:
        """Answer nothing."""

    rate = Rate(nobody)
    assert sum(rate.may("10.0.0.7", 100.0) for _ in range(2 * REQUESTS)) == REQUESTS
    assert rate.may("10.0.0.8", 100.0)
    assert sum(rate.may("10.0.0.7", 101.0) for _ in range(REQUESTS)) == REQUESTS_A_SECOND
    assert sum(rate.may("10.0.0.7", 9999.0) for _ in range(2 * REQUESTS)) == REQUESTS


def test_a_look_that_says_nothing_is_none_that_can_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that falls over without a word: there is a reason, and it is not usable."""
    monkeypatch.setattr(look, "look_at_rows", lambda *_: look.Seen())
    looks = look.Looks()
    one = looks.begin(Box.of(with_folders(*[tmp_path] * 3), page_dir=tmp_path), "x.yaml", b"")
    while one.seen is None:
        time.sleep(0.01)
    assert not one.seen.is_usable
    assert one.seen.message


def test_a_look_ends_at_its_bound_with_all_its_processes(tmp_path: Path) -> None:
    """The stage and what it started: none goes on and takes memory and disk."""
    program = (
        "import subprocess, sys, time\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(other.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    bounds = Bounds(seconds=2, min_free_bytes=0)
    command = [sys.executable, "-c", program]
    with (tmp_path / "log").open("wb") as output, pytest.raises(RunnerError, match="took longer"):
        prepare_aside._run(command, output, bounds)
    other = int((tmp_path / "log").read_text())

    def has_ended() -> bool:
        try:
            return "State:\tZ" in Path(f"/proc/{other}/status").read_text()
        except FileNotFoundError:
            return True

    end = time.monotonic() + 30
    while not has_ended():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_does_not_go_on_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser that was closed leaves nothing on the disk for longer than it may come back."""
    monkeypatch.setattr(pieces, "IDLE_SECONDS", 0.5)
    box = Box(jobs_dir=tmp_path, outputs_dir=tmp_path, models_dir=tmp_path, page_dir=tmp_path)

    async def some() -> AsyncIterator[bytes]:
        yield b"half"

    async def leave() -> None:
        coming = pieces.Pieces(box)
        one = await coming.begin("rows.csv", 8)
        await coming.add(one, 0, some())
        assert coming.find(one.id) is one
        assert [file.stat().st_size for file in (tmp_path / "data").iterdir()] in ([0], [4])
        for _ in range(600):
            if coming.find(one.id) is None:
                break
            await asyncio.sleep(0.05)
        await coming.close()

    asyncio.run(leave())
    assert not list((tmp_path / "data").iterdir())


def run_of_seconds(seconds: float | None, eta: float | None = None, ranks: int = 1) -> Any:
    """Give a run as the list of jobs has it, as far as its time is asked for."""
    forecast = {} if seconds is None else {"seconds": seconds, "ranks": ranks}
    attempts = [SimpleNamespace(ranks=ranks)] if eta is not None else []
    return SimpleNamespace(
        progress=SimpleNamespace(eta_seconds=eta),
        record=SimpleNamespace(forecast=forecast, attempts=attempts),
    )


@pytest.mark.parametrize(
    ("cards", "running", "queue", "starts"),
    [
        ("", [(None, 100.0)], [50.0, 20.0], [100, 150]),
        ("", [], [50.0, None, 20.0], [0, 50, None]),
        ("ww", [(None, 100.0)], [50.0, 20.0, 80.0], [0, 50, 70]),
        ("ww", [(None, 100.0), (None, 30.0)], [500.0, 20.0, 1.0], [30, 100, 120]),
        ("ww", [(None, None), (None, 30.0)], [500.0, 20.0], [30, 530]),  # one has no end
        ("wl", [(None, 100.0)], [50.0], [100]),  # nothing starts on a lost one
        ("ww", [(None, 100.0, 2)], [50.0, 20.0, 1.0], [100, 100, 120]),  # it trains on both
        ("www", [(None, 100.0), (None, 30.0)], [(50.0, None, 2), 20.0], [30, 80]),
    ],
)
def test_when_a_waiting_job_starts_on_several_cards(
    cards: str,
    running: list[tuple[Any, ...]],
    queue: list[Any],
    starts: list[float | None],
) -> None:
    """Each takes the card that is free first, or the two that it trains on."""
    overview: Any = SimpleNamespace(
        cards=[CardShown(title=one, problem="lost" if one == "l" else "") for one in cards],
        running=[run_of_seconds(*one) for one in running],
        queue=[run_of_seconds(*(one if isinstance(one, tuple) else (one,))) for one in queue],
    )
    assert starts_in(overview) == starts
