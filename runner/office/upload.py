"""Upload: a data file comes in pieces and lies below jobs/ when it is whole, and not before.

It is written beside its place under a name that nobody takes for data, synced, and then named,
never over another file. Whatever ends an upload early, nothing of it is named.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from anyio import CancelScope, to_thread
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from runner.commands.submit import FILE_MODE, FOLDER_MODE
from runner.contract.layout import cut_to_bytes, is_device_name
from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.files.durable import TEMPORARY_PREFIX
from runner.files.sweep import sweep_folder
from runner.office.box import Box
from runner.spec.file_kinds import READABLE, ROWS, SAVE_AS, ending
from runner.words import GIB

DATA_FOLDER = "data"
"""Where uploads lie below jobs/, as the README has it for everybody's data."""
API_FOLDER = f"{DATA_FOLDER}/api"
"""Where those of programs lie; the id of each stands before its name."""
_NAME_BYTES = 150  # leaves room for what tells files of one name apart
_WRITE_BYTES = 4 * 1024 * 1024  # handed to the disk at a time
_LOOK_BYTES = 64 * 1024 * 1024  # the free disk is looked at each time so much was written
_TRIES = 100  # names tried, when a file of that name is there already
_FIELD_BYTES = 64 * 1024
_FIELDS = 50


class UploadError(RunnerError):
    """The file could not be taken."""

    kind = "upload"


class TooLargeUploadError(UploadError):
    """The file is larger than the box takes."""

    kind = "upload_too_large"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file that lies below jobs/ now."""

    path: str
    """As a spec names it: ``data/contracts.jsonl``."""
    size_bytes: int
    sha256: str
    was_there: bool = False
    """The same bytes lay there before, under that name."""


def safe_name(name: str) -> str:
    """Make a data file's name of what a browser or a program calls it.

    Raises:
        UploadError: it is no data file's name.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    clean = re.sub(r"[^\w.() -]+", "-", last).rstrip(" .-")
    kind = ending(f"x{clean}")  # of ".csv", too: whose other signs cannot be kept has its ending
    if kind not in ROWS:
        shown = clean.strip(" .-")
        raise UploadError(
            f"{shown} is not read as rows"
            if shown
            else "a file without a name is not read as rows",
            advice=SAVE_AS.get(kind, READABLE),
        )
    stem = cut_to_bytes(clean[: len(clean) - len(kind)], _NAME_BYTES - len(kind)).strip(" .-")
    clean = (stem or "data") + kind
    return f"data-{clean}" if is_device_name(clean) else clean


class Upload:
    """One file on its way in. Its calls wait for the disk: make them in a thread."""

    def __init__(self, box: Box, name: str, *, folder: str = DATA_FOLDER, prefix: str = "") -> None:
        """Make the place that it is written to: ``prefix`` and its name, in a folder below jobs/.

        Raises:
            UploadError: it is no data file's name.
            UnsafePathError: a link is in the way.
        """
        self.name = prefix + safe_name(name)
        self.size_bytes = 0
        self._box, self._hash, self._looked = box, hashlib.sha256(), 0
        self._below = folder
        self._beside = f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
        with Folder.open(box.jobs_dir) as inbox:
            self._folder = inbox.make_folders(folder, mode=FOLDER_MODE)
        try:
            self._look()
            self._file = open(self._folder.create(self._beside, mode=FILE_MODE), "wb")  # noqa: SIM115
        except BaseException:
            self._folder.close()
            raise

    def write(self, content: bytes) -> None:
        """Add to it.

        Raises:
            UploadError: it becomes too large, or the disk too full.
        """
        self.size_bytes += len(content)
        if self.size_bytes > self._box.upload_bytes:
            raise too_large(self._box)
        if self.size_bytes - self._looked > _LOOK_BYTES:
            self._look()
        self._hash.update(content)
        try:
            self._file.write(content)
        except OSError as error:
            raise _no_room(error.strerror) from error

    def _look(self) -> None:
        self._looked = self.size_bytes
        disk = os.statvfs(self._folder.descriptor)
        if disk.f_bavail * disk.f_frsize < self._box.min_free_bytes:
            raise _no_room("the disk is nearly full")

    def finish(self) -> Stored:
        """Name it, durably, under the first name that is free.

        Raises:
            UploadError: it is empty, the disk is full, or a hundred files have that name.
        """
        self.seal()
        return self.name_it()

    def seal(self) -> None:
        """Bring it to the disk, whole; it has no name yet.

        Raises:
            UploadError: it is empty, or the disk is full.
        """
        if not self.size_bytes:
            raise UploadError(f"{self.name} is empty", advice="Choose the file again.")
        try:
            self._file.flush()
            os.fchmod(self._file.fileno(), FILE_MODE)
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise _no_room(error.strerror) from error

    def name_it(self) -> Stored:
        """Name what was sealed, under the first name that is free.

        Raises:
            UploadError: a hundred files have that name.
        """
        for name in _names(self.name):
            try:
                self._folder.move(self._beside, self._folder, name)
            except FileExistsError:  # looked at only now: it may have come this moment
                if self.is_there(name):
                    return self.stored(name, was_there=True)
                continue
            return self.stored(name)
        raise UploadError(
            f"{_TRIES} files are called {self.name} already", advice="Give the file another name."
        )

    def stored(self, name: str, *, was_there: bool = False) -> Stored:
        """Say what lies under a name now."""
        return Stored(
            path=f"{self._below}/{name}",
            size_bytes=self.size_bytes,
            sha256=self._hash.hexdigest(),
            was_there=was_there,
        )

    def is_there(self, name: str) -> bool:
        """Whether the very same bytes lie under a name."""
        try:
            if self._folder.stat(name).st_size != self.size_bytes:
                return False
            with open(self._folder.open_file(name), "rb") as file:
                return hashlib.file_digest(file, "sha256").digest() == self._hash.digest()
        except (OSError, RunnerError):
            return False

    def close(self) -> None:
        """Leave; what was not named is removed."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._folder.remove_file(self._beside)
        self._folder.close()


def too_large(box: Box) -> UploadError:
    """Make the refusal of a file that is too large."""
    return TooLargeUploadError(
        f"the file is larger than {box.upload_bytes / GIB:.1f} GiB, the most that is taken here",
        advice="Copy it into jobs/data/ on the share instead, or let the box's owner raise "
        "RUNNER_PAGE_UPLOAD_GIB.",
    )


def _no_room(why: str | None) -> UploadError:
    return UploadError(
        f"the file could not be stored: {why}",
        advice="Make room on the disk that holds jobs/, then upload it again.",
    )


def _names(name: str) -> Iterator[str]:
    kind = ending(name)
    stem = name[: len(name) - len(kind)]
    yield name
    for number in range(2, _TRIES + 1):
        yield f"{stem}-{number}{kind}"


def sweep_uploads(jobs_dir: Path) -> None:
    """Remove what uploads left that a power cut ended; the page does so when it starts."""
    for folder in (DATA_FOLDER, API_FOLDER):
        sweep_folder(jobs_dir / folder)


@asynccontextmanager
async def receiving(
    box: Box, name: str, *, folder: str = DATA_FOLDER, prefix: str = ""
) -> AsyncIterator[Upload]:
    """Take a file in; whatever ends the block before ``finish``, nothing of it is left."""
    upload = await to_thread.run_sync(partial(Upload, box, name, folder=folder, prefix=prefix))
    try:
        yield upload
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(upload.close)


@dataclass(kw_only=True)
class Form:
    """A form as it was sent: its fields, and its files as they lie now."""

    fields: dict[str, str] = field(default_factory=dict)
    files: list[Stored] = field(default_factory=list)


async def receive_form(
    request: Request,
    box: Box,
    *,
    folder: str = DATA_FOLDER,
    prefix: str = "",
    finish: Callable[[Form, list[Upload]], None] | None = None,
) -> Form:
    """Take a ``multipart/form-data`` body; its files go straight to where they belong.

    A field of a file without a name is a form in which none was chosen. ``folder`` and ``prefix``
    are where files lie below jobs/ and how their names begin; ``finish`` names them and
    notes them in the form.

    Raises:
        UploadError: a file cannot be taken, or it is no such form.
        starlette.requests.ClientDisconnect: it was cut off.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise _no_form()
    try:
        parts = _Parts(boundary)
    except ValueError as error:  # a boundary that is too long
        raise _no_form() from error
    form = Form()
    async with contextlib.AsyncExitStack() as stack:
        place = _Place(box=box, form=form, stack=stack, folder=folder, prefix=prefix)
        async for piece in request.stream():
            for event, content in parts.read(piece):
                await place.take(event, content)
        if not parts.is_whole:
            raise _no_form()
        # Only now is any file named: a form that was cut off leaves none of them.
        await to_thread.run_sync(finish or _finish, form, place.uploads)
    return form


def _finish(form: Form, uploads: list[Upload]) -> None:
    for upload in uploads:  # one that cannot be taken leaves none of them
        upload.seal()
    form.files += [upload.name_it() for upload in uploads]


def _no_form() -> UploadError:
    return UploadError(
        "this is not a form with a file", advice="Send it as multipart/form-data, whole."
    )


class _Parts:
    """The parser's callbacks as events: ``begin`` with headers, ``data``, ``end``."""

    def __init__(self, boundary: bytes) -> None:
        self.is_whole = False
        self._events: list[tuple[str, Any]] = []
        self._headers: dict[str, bytes] = {}
        self._name = self._value = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_part_data": lambda data, start, end: self._note("data", data[start:end]),
                "on_part_end": lambda: self._note("end", None),
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": lambda: self._note("begin", dict(self._headers)),
                "on_end": self._end,
            },
        )

    def read(self, piece: bytes) -> list[tuple[str, Any]]:
        """Give what a piece of the body says."""
        try:
            self._parser.write(piece)
        except ValueError as error:  # the parser's own errors derive from it
            raise _no_form() from error
        found, self._events = self._events, []
        return found

    def _note(self, event: str, content: Any) -> None:
        self._events.append((event, content))

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower().decode("latin-1")] = self._value
        self._name = self._value = b""

    def _end(self) -> None:
        self.is_whole = True


@dataclass(kw_only=True)
class _Place:
    """Where the parts of a form go: a field's text into the form, a file's to the disk."""

    box: Box
    form: Form
    stack: contextlib.AsyncExitStack
    folder: str
    prefix: str
    uploads: list[Upload] = field(default_factory=list)
    _field: str = ""
    _text: bytearray = field(default_factory=bytearray)
    _upload: Upload | None = None

    async def take(self, event: str, content: Any) -> None:
        """Follow one event."""
        if event == "begin":
            await self._begin(content)
        elif event == "data":
            self._text += content
            if self._upload is not None and len(self._text) >= _WRITE_BYTES:
                await self._write()
            elif self._upload is None and len(self._text) > _FIELD_BYTES:
                raise _no_form()
        elif self._upload is not None:
            await self._write()
        elif self._field:
            self.form.fields[self._field] = self._text.decode(errors="replace")

    async def _begin(self, headers: dict[str, bytes]) -> None:
        _, options = parse_options_header(headers.get("content-disposition", b""))
        self._field = options.get(b"name", b"").decode(errors="replace")
        self._text.clear()
        self._upload = None
        name = options.get(b"filename", b"").decode(errors="replace")
        if len(self.form.fields) + len(self.uploads) >= _FIELDS:
            raise _no_form()
        if b"filename" in options and not name:
            self._field = ""  # no file was chosen
        elif name:
            coming = receiving(self.box, name, folder=self.folder, prefix=self.prefix)
            self._upload = await self.stack.enter_async_context(coming)
            self.uploads.append(self._upload)

    async def _write(self) -> None:
        assert self._upload is not None
        await to_thread.run_sync(self._upload.write, bytes(self._text))
        self._text.clear()
