"""Turns a file that another machine writes on a share into what the cluster hears of it, soon."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from daemon_box import wait_until
from served import Served

from runner.contract.cluster import Head, hear
from runner.files.durable import write_bytes, write_json

READ_SECONDS = 0.5
SOON_SECONDS = 5.0
"""A client's cache may keep a name that was missing for 30 to 60 s by NFS."""


def _head(counter: int) -> Head:
    return Head(head="x", counter=counter, version="1", lease_seconds=60, grace_seconds=120)


def say(path: Path, head: Head) -> None:
    """Speak as a head does, so that the server's user may read it."""
    write_json(path, head.model_dump(mode="json"), mode=0o644)


def test_each_counter_is_heard_and_no_file_stays_open(served: Served) -> None:
    """A head that is looked at right after it spoke is no stale file, and none is kept."""
    there, here = served.people / "head.json", served.here / "head.json"
    say(there, _head(0))
    hear(here, Head)
    before = len(os.listdir("/proc/self/fd"))
    for counter in range(1, 9):
        say(there, _head(counter))
        # As an agent looks, time and again: by then the server lets it keep what it reads.
        wait_until(lambda n=counter: hear(here, Head) == _head(n), seconds=SOON_SECONDS)
        end = time.monotonic() + 1.0
        wait_until(lambda until=end: hear(here, Head) and time.monotonic() > until, every=0.05)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_was_looked_for_in_vain_is_heard_soon(served: Served) -> None:
    """A box says that it took a ticket; the head had looked for that before."""
    (served.people / "seen").mkdir()
    there, here = served.people / "seen" / "x.json", served.here / "seen" / "x.json"
    wait_until(here.parent.is_dir, seconds=60)
    assert hear(here, Head) is None
    began = time.monotonic()
    say(there, _head(1))
    wait_until(lambda: hear(here, Head) == _head(1), seconds=SOON_SECONDS)
    assert time.monotonic() - began < SOON_SECONDS


def test_what_a_program_here_reads_is_replaced(served: Served) -> None:
    """A record stays a record while a page reads it: an SMB server refuses to replace what is open.

    Left at that, the old one would be gone with its last reader, and the new one with the failure.
    """
    path = served.here / "run.json"
    write_bytes(path, b"old")
    with path.open("rb") as reader:
        threading.Timer(READ_SECONDS, reader.close).start()
        write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [one.name for one in served.here.iterdir()] == [path.name]
