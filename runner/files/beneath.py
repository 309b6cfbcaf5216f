"""Safe paths: opens a path from the share so that it surely lies beneath one folder.

Everything under the inbox is reached through folder descriptors, with links refused at every
component, so that a link swapped in while we look leads nowhere. Linux 5.6 and newer does it in one
call (openat2); elsewhere, or where a container's filter forbids the call, it is done step by step.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, Protocol, TypeVar

from runner.errors import UnsafePathError
from runner.files.crash_points import reached
from runner.files.durable import TEMPORARY_PREFIX
from runner.files.replace import replace as replace_file

_SYS_OPENAT2 = 437  # the same number on every architecture: linux/arch/*/syscall tables
_RESOLVE_NO_MAGICLINKS = 0x02  # linux/openat2.h
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RENAME_NOREPLACE = 1  # linux/fs.h
_FRESH = 0x1000 | 0x2000  # linux/fcntl.h: AT_EMPTY_PATH, AT_STATX_FORCE_SYNC
_STATX_BASIC_STATS, _STATX_BYTES = 0x7FF, 256  # linux/stat.h
_BLOCK_BYTES = 1024 * 1024  # copied at a time
_AT_ONCE = 500
"""Entries listed in one call: a large folder takes long to list, and that is no silence."""
_libc = ctypes.CDLL(None, use_errno=True)
_T = TypeVar("_T")


class Calls(Protocol):
    """How calls are made into a file system; the daemon's give up one that is not answered."""

    def __call__(self, call: Callable[[], _T], *, undo: Callable[[_T], object] | None = None) -> _T:
        """Make a call; ``undo`` is for what one gives that comes back when nobody waits for it."""
        ...


def at_once(call: Callable[[], _T], *, undo: Callable[[_T], object] | None = None) -> _T:  # noqa: ARG001 - nobody leaves here
    """Make a call where it stands, however long it takes."""
    return call()


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def split_relative(path: str) -> tuple[str, ...]:
    """Split a path of the share into names.

    Raises:
        UnsafePathError: it is empty, absolute, climbs with ``..`` or holds a NUL or backslash.
    """
    if not path or "\0" in path or path.startswith("/") or "\\" in path:
        raise UnsafePathError(
            path,
            "is not a path inside the shared folder",
            advice="Write it relative to the spec's folder, with forward slashes: data/file.jsonl",
        )
    names = PurePosixPath(path).parts
    if ".." in names:
        raise UnsafePathError(
            path, "leaves the shared folder", advice="Copy the file into the shared folder."
        )
    return names


def _open_step_by_step(folder: int, names: tuple[str, ...], flags: int) -> int:
    """Open names[-1] below ``folder``, refusing a link at each component."""
    current = os.dup(folder)
    try:
        for name in names[:-1]:
            step = os.open(
                name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current
            )
            os.close(current)
            current = step
        return os.open(names[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
    finally:
        os.close(current)


def _open_beneath(folder: int, names: tuple[str, ...], flags: int) -> int:
    how = _OpenHow(
        flags=flags | os.O_CLOEXEC,
        mode=0,
        resolve=_RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS,
    )
    for _ in range(16):  # EAGAIN: something was renamed while the kernel looked
        result = int(
            _libc.syscall(
                _SYS_OPENAT2,
                folder,
                os.fsencode("/".join(names)),
                ctypes.byref(how),
                ctypes.sizeof(how),
            )
        )
        if result >= 0:
            return result
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.EPERM):
            return _open_step_by_step(folder, names, flags)
        if code != errno.EAGAIN:
            raise OSError(code, os.strerror(code), "/".join(names))
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), "/".join(names))


def _open_named(folder: int, names: tuple[str, ...], flags: int) -> int:
    """Open what was named, or what is named the same but for how its letters are composed.

    A Mac writes "ü" as u and two dots; whoever names the file in a spec cannot see a difference.
    """
    try:
        return _open_beneath(folder, names, flags)
    except FileNotFoundError:
        for form in ("NFC", "NFD"):
            other = tuple(unicodedata.normalize(form, name) for name in names)
            if other != names:
                with contextlib.suppress(FileNotFoundError):
                    return _open_beneath(folder, other, flags)
        raise


def fresh_stat(descriptor: int) -> os.stat_result:
    """Describe an open file as its server knows it: shares remember sizes for up to a minute."""
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    # Where this is not possible, what is remembered must do.
    _libc.statx(descriptor, b"", _FRESH, _STATX_BASIC_STATS, answer)
    return os.fstat(descriptor)


class Folder:
    """An open folder; every path given to its methods is relative and stays beneath it."""

    def __init__(self, descriptor: int, *, shown_as: str = ".", calls: Calls = at_once) -> None:
        """Take ownership of an open folder descriptor."""
        self.descriptor = descriptor
        self.shown_as = shown_as
        self._calls = calls

    @classmethod
    def open(cls, root: Path, *, calls: Calls = at_once) -> Folder:
        """Open a root folder; the root itself is the box owner's and may be a link."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = calls(lambda: os.open(root, flags), undo=os.close)
        return cls(descriptor, shown_as=str(root), calls=calls)

    @property
    def name(self) -> str:
        """Its own name, without the folders above it."""
        return self.shown_as.rpartition("/")[2]

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; safe to call twice. No server is asked to close a folder."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _open(self, path: str, flags: int) -> int:
        names = split_relative(path)
        if not names:  # "." : the folder itself
            return os.open(".", flags | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            return _open_named(self.descriptor, names, flags)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EXDEV):
                raise UnsafePathError(
                    path,
                    "is a link or leads through one",
                    advice="Copy the file itself into the shared folder; links are not followed.",
                ) from error
            raise

    def _open_file(self, path: str) -> int:
        # O_NONBLOCK: opening a pipe must not wait for a writer; a plain file ignores it.
        descriptor = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UnsafePathError(
                path,
                "is not a regular file",
                advice="Only plain files are read: no folder, pipe, device or socket.",
            )
        return descriptor

    def open_file(self, path: str) -> int:
        """Open a regular file for reading and give its descriptor.

        Raises:
            UnsafePathError: a link at any component, or a pipe, device, socket or folder.
            OSError: missing or unreadable.
        """
        return self._calls(lambda: self._open_file(path), undo=os.close)

    def try_file(self, path: str) -> None:
        """Open a regular file and close it again.

        Raises:
            UnsafePathError, OSError: as ``open_file``.
        """
        self._calls(lambda: os.close(self._open_file(path)))

    def read_file(self, path: str, *, limit_bytes: int) -> bytes:
        """Read at most ``limit_bytes`` + 1 bytes of a regular file (one more tells "too large")."""

        def read() -> bytes:
            with open(self._open_file(path), "rb") as file:
                return file.read(limit_bytes + 1)

        return self._calls(read)

    def open_folder(self, path: str) -> Folder:
        """Open a folder beneath this one."""
        flags = os.O_RDONLY | os.O_DIRECTORY
        descriptor = self._calls(lambda: self._open(path, flags), undo=os.close)
        return Folder(descriptor, shown_as=f"{self.shown_as}/{path}", calls=self._calls)

    def stat(self, path: str) -> os.stat_result:
        """Describe what lies at ``path`` without opening it; links are refused on the way."""

        def status() -> os.stat_result:
            descriptor = self._open(path, os.O_PATH | os.O_NOFOLLOW)
            try:
                return fresh_stat(descriptor)
            finally:
                os.close(descriptor)

        return self._calls(status)

    def scan(self) -> Iterator[os.DirEntry[str]]:
        """List this folder."""
        return self._list(lambda entry: entry)

    def names(self) -> list[str]:
        """List the names in this folder."""
        return [name for part in self._parts(lambda entry: entry.name) for name in part]

    def scan_status(
        self, wanted: Callable[[str], bool]
    ) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        """List what has a name that is wanted, with what its server says of it; links as such."""

        def status_of(entry: os.DirEntry[str]) -> tuple[os.DirEntry[str], os.stat_result] | None:
            if not wanted(entry.name):
                return None
            try:
                # At once: a share's client forgets within a second what came with the listing.
                return entry, entry.stat(follow_symlinks=False)
            except OSError:  # gone meanwhile, or a server that knows nothing of this one
                return None

        return self._list(status_of)

    def _list(self, pick: Callable[[os.DirEntry[str]], _T | None]) -> Iterator[_T]:
        """Give what ``pick`` makes of the entries, one by one; None is left out."""
        for part in self._parts(pick):
            for one in part:
                if one is not None:
                    yield one

    def _parts(self, pick: Callable[[os.DirEntry[str]], _T]) -> Iterator[list[_T]]:
        """Give what ``pick`` makes of the entries, in calls that are each short."""
        opened: list[Any] = []  # the listing, once the first call has begun it

        def some() -> tuple[bool, list[_T]]:
            if not opened:
                opened.append(os.scandir(self.descriptor))
            part = list(itertools.islice(opened[0], _AT_ONCE))
            return len(part) == _AT_ONCE, [pick(entry) for entry in part]

        more = True
        while more:  # a small folder is listed in one call: each costs a change of thread
            more, found = self._calls(some)
            try:
                yield found
            except GeneratorExit:  # only here is it sure that nobody is reading on
                opened[0].close()
                raise

    def make_folder(self, name: str, *, mode: int = 0o750) -> bool:
        """Make a folder directly in this one; False: there is something of that name already."""
        return bool(self.make_each([name], mode=mode))

    def make_each(self, names: Iterable[str], *, mode: int = 0o750) -> set[str]:
        """Make folders directly in this one, in one call; give those that were missing."""
        return self._calls(lambda: {name for name in names if self._make_folder(name, mode)})

    def _make_folder(self, name: str, mode: int) -> bool:
        try:
            os.mkdir(name, mode, dir_fd=self.descriptor)
        except FileExistsError:
            return False
        made = self._open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # The process's mask must not take from the share's group what it is meant to have.
            os.fchmod(made, mode | os.fstat(made).st_mode & stat.S_ISGID)
        finally:
            os.close(made)
        return True

    @property
    def identity(self) -> tuple[int, int]:
        """Tell this folder from another that may come to lie under its name."""
        status = os.fstat(self.descriptor)
        return status.st_dev, status.st_ino

    def set_aside(self, name: str) -> str:
        """Rename what stands in the way, its content kept; give its new name."""
        aside = f"{name}.set-aside-{secrets.token_hex(3)}"
        self._calls(lambda: self._move(name, self, aside))
        return aside

    def write_text(self, name: str, content: str, *, mode: int = 0o640) -> None:
        """Replace a file directly in this folder by UTF-8 text in one step."""
        self.write_bytes(name, content.encode(errors="backslashreplace"), mode=mode)

    def write_bytes(
        self, name: str, content: bytes, *, mode: int = 0o640, replace: bool = True
    ) -> None:
        """Replace a file directly in this folder in one step; what a link points to is not.

        Raises:
            FileExistsError: there is something of that name, and it is not to be replaced.
        """
        self._write(name, lambda file: file.write(content), mode, replace=replace)

    def write_copy(self, name: str, source: BinaryIO, *, mode: int = 0o640) -> None:
        """Replace a file directly in this folder by a copy of another, however large, in one step.

        Nobody sees half of it.
        """
        self._write(name, lambda file: shutil.copyfileobj(source, file, _BLOCK_BYTES), mode)

    def make_folders(self, path: str, *, mode: int = 0o750) -> Folder:
        """Open a folder beneath this one; what is missing on the way is made.

        Raises:
            UnsafePathError: a link lies on the way, or the path leaves this folder.
        """
        names = split_relative(path)
        current = self.open_folder(".")
        for name in names:
            with current:
                current.make_folder(name, mode=mode)
                inner = current.open_folder(name)
            current = inner
        return current

    def create(self, name: str, *, mode: int = 0o640) -> int:
        """Make a new file directly in this folder and give its descriptor, to be written to.

        Raises:
            FileExistsError: there is something of that name.
        """
        return self._calls(lambda: self._create(name, mode), undo=os.close)

    def _create(self, name: str, mode: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, mode, dir_fd=self.descriptor)

    def _write(
        self, name: str, fill: Callable[[BinaryIO], object], mode: int, *, replace: bool = True
    ) -> None:
        beside = f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"

        def write() -> None:
            with open(self._create(beside, mode), "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())

        def name_it() -> None:
            if replace:
                replace_file(beside, name, folder=self.descriptor)
            else:
                self._move(beside, self, name)

        try:
            self._calls(write, undo=lambda _: self._discard(beside))
            reached("answer written", self.name)
            self._calls(name_it)
        except OSError:
            self._calls(lambda: self._discard(beside))
            raise

    def _discard(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Make this folder's entries durable, where the file system can."""
        with contextlib.suppress(OSError):
            self._calls(lambda: os.fsync(self.descriptor))

    def remove_file(self, name: str) -> None:
        """Remove a file directly in this folder; a missing one is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._calls(lambda: os.unlink(name, dir_fd=self.descriptor))

    def move(self, name: str, target: Folder, new_name: str) -> None:
        """Move a file into ``target`` without ever replacing what is there, durably.

        Raises:
            FileExistsError: ``new_name`` is taken.
            FileNotFoundError: ``name`` is gone.
        """
        self._calls(lambda: self._move(name, target, new_name))
        target.sync()
        self.sync()

    def _move(self, name: str, target: Folder, new_name: str) -> None:
        result = int(
            _libc.renameat2(
                self.descriptor,
                os.fsencode(name),
                target.descriptor,
                os.fsencode(new_name),
                _RENAME_NOREPLACE,
            )
        )
        if result != 0:
            code = ctypes.get_errno()
            if code not in (errno.EINVAL, errno.ENOSYS):
                raise OSError(code, os.strerror(code), name)
            # This file system (FUSE, some SMB servers) has no atomic "do not replace": look first.
            try:
                os.stat(new_name, dir_fd=target.descriptor, follow_symlinks=False)
            except FileNotFoundError:
                os.rename(name, new_name, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor)
            else:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
