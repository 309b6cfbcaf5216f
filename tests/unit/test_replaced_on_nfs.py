"""What NFS shows late or stale is read again: here the kernel's answers are stood in for.

No kernel that runs these tests can mount NFS; docs/measurements.md has what one did.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.contract import cluster
from runner.contract.cluster import Head, hear, say
from runner.files.mounts import is_nfs, kind_of
from runner.files.plain import read_plain
from runner.files.refresh import refresh

HEAD = Head(head="x", counter=7, version="1", lease_seconds=60, grace_seconds=120)


def _failing(times: int, number: int) -> Callable[[int], os.stat_result]:
    real, left = os.fstat, [times]

    def fstat(descriptor: int) -> os.stat_result:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(number, os.strerror(number))
        return real(descriptor)

    return fstat


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_file_that_was_just_replaced_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale file handle is the file of before: the new one is opened a moment later."""
    (tmp_path / "head.json").write_bytes(b"new")
    monkeypatch.setattr(os, "fstat", _failing(2, errno.ESTALE))
    assert read_plain(tmp_path / "head.json", limit_bytes=10) == b"new"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_what_cannot_be_read_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Kept open, a stale file would be found again by every later look."""
    (tmp_path / "head.json").write_bytes(b"new")
    before = _open_files()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", _failing(99, number))
        with pytest.raises(OSError) as raised:  # noqa: PT011 - which one is asked below
            read_plain(tmp_path / "head.json", limit_bytes=10)
    assert raised.value.errno == number
    assert _open_files() == before


def test_a_name_that_was_missing_is_looked_up_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that still takes a file to be missing is asked again once a listing shows it."""
    path = tmp_path / "seen.json"
    say(path, HEAD)
    real, remembers = os.open, [True]

    def opened(name: str, *more: int, dir_fd: int | None = None) -> int:
        if str(name) == str(path) and remembers[0]:
            raise FileNotFoundError(errno.ENOENT, "remembered", str(path))
        return real(name, *more, dir_fd=dir_fd)

    def listed(folder: str) -> list[str]:
        remembers[0] = False
        return [entry.name for entry in os.scandir(folder)]

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "listdir", listed)
    assert hear(path, Head) == HEAD
    assert hear(tmp_path / "other.json", Head) is None
    with pytest.raises(FileNotFoundError):
        hear(tmp_path / "nowhere" / "other.json", Head)


def test_on_nfs_nothing_is_kept_that_must_be_asked_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened by O_DIRECT, head.json can be replaced while one of its readers is cut off."""
    say(tmp_path / "head.json", HEAD)
    flags = []
    real = os.open

    def opened(name: str, flag: int, *more: int, dir_fd: int | None = None) -> int:
        flags.append(flag)
        return real(name, flag & ~os.O_DIRECT, *more, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", opened)
    assert hear(tmp_path / "head.json", Head) == HEAD
    monkeypatch.setattr(cluster, "is_nfs", lambda _: True)
    assert hear(tmp_path / "head.json", Head) == HEAD
    assert [bool(flag & os.O_DIRECT) for flag in flags] == [False, True]


def test_which_folders_lie_on_nfs(tmp_path: Path) -> None:
    """The kernel's list of mounts says it; a local disk is none."""
    mounts = "/dev/vda / ext4 rw 0 0\nbox:/ /srv/box nfs4 rw 0 0\nbox:/x /srv/boxes nfs rw 0 0\n"
    assert [
        kind_of(Path(p), mounts=mounts) for p in ("/srv", "/srv/box/outputs", "/srv/boxes")
    ] == [
        "ext4",
        "nfs4",
        "nfs",
    ]
    assert not is_nfs(tmp_path)


def test_every_folder_on_the_way_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is missing on the way hides all that lies below it."""
    folder = tmp_path / "run" / "attempts" / "01-ab"
    folder.mkdir(parents=True)
    listed: list[Path] = []
    monkeypatch.setattr(os, "listdir", listed.append)
    refresh(folder, below=tmp_path)
    assert listed == [tmp_path, tmp_path / "run", tmp_path / "run" / "attempts", folder]
