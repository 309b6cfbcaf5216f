"""By SMB a file that is open here is replaced, and one that was replaced is read.

The server's refusals and the kernel's memory are stood in for;
tests/kill/shares/test_what_others_write.py holds the same against a real server.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runner.contract import cluster
from runner.contract.cluster import Head, hear, say
from runner.files import replace as replacing
from runner.files.beneath import Folder
from runner.files.durable import write_bytes


class _Server:
    """Refuses to replace an open file, and takes the old one away when its reader closes."""

    def __init__(self, refusals: int, number: int) -> None:
        self.left, self.number, self.real = refusals, number, os.rename

    def rename(self, source: str, target: str, **folders: int | None) -> None:
        self.left -= 1
        if self.left >= 0:
            if self.left == 0:
                os.unlink(target, dir_fd=folders.get("dst_dir_fd"))
            raise OSError(self.number, os.strerror(self.number), str(source))
        self.real(source, target, **folders)


def _lies_on(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(replacing, "is_smb", lambda _: kind == "cifs")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EBUSY, errno.ETXTBSY])
def test_the_new_file_waits_until_the_reader_has_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Neither the old nor the new one is lost, by the one way of writing or the other."""
    _lies_on(monkeypatch, "cifs")
    path = tmp_path / "run.json"
    with Folder.open(tmp_path) as folder:
        for write in (
            lambda: write_bytes(path, b"new"),
            lambda: folder.write_bytes(path.name, b"new"),
        ):
            path.write_bytes(b"old")
            with monkeypatch.context() as patch:
                patch.setattr(os, "rename", _Server(3, number).rename)
                write()
            assert path.read_bytes() == b"new"
            assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("kind", "number"), [("ext4", errno.EACCES), ("nfs4", errno.EACCES), ("cifs", errno.ENOSPC)]
)
def test_what_does_not_pass_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    """A folder that is somebody else's, or a full share, is no reader that will close."""
    _lies_on(monkeypatch, kind)
    server = _Server(99, number)
    monkeypatch.setattr(os, "rename", server.rename)
    with pytest.raises(OSError) as raised:  # noqa: PT011 - which one is asked below
        write_bytes(tmp_path / "run.json", b"new")
    assert (raised.value.errno, server.left) == (number, 98)
    assert os.listdir(tmp_path) == []


def test_a_reader_that_stays_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who pages through a record keeps the daemon for ten seconds, not for good."""
    _lies_on(monkeypatch, "cifs")
    monkeypatch.setattr(replacing, "_PATIENCE_SECONDS", 0.1)
    (tmp_path / "run.json").write_bytes(b"old")
    monkeypatch.setattr(os, "rename", _Server(9999, errno.EACCES).rename)
    with pytest.raises(PermissionError):
        write_bytes(tmp_path / "run.json", b"new")


def test_what_was_replaced_is_not_read_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that holds on to what a name was is asked for a listing, which tells it anew."""
    head = Head(head="x", counter=7, version="1", lease_seconds=60, grace_seconds=120)
    say(tmp_path / "old.json", head)
    say(tmp_path / "head.json", head.model_copy(update={"counter": 8}))
    real, listed = os.open, list[str]()

    def opened(name: Path, *more: int, dir_fd: int | None = None) -> int:
        known = name if listed else name.with_name("old.json")
        return real(known, *more, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "listdir", listed.append)
    assert hear(tmp_path / "head.json", Head) == head
    monkeypatch.setattr(cluster, "is_smb", lambda _: True)
    assert hear(tmp_path / "head.json", Head) == head.model_copy(update={"counter": 8})
