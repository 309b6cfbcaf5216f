"""Files: uploaded, listed, given back and deleted; each lies under jobs/data/api/ with its id."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from runner.contract.ended import sort_out
from runner.contract.layout import SCHEDULED, run_id_of
from runner.contract.record_head import read_head
from runner.contract.states import Stage
from runner.errors import RunnerError, UnsafePathError
from runner.files.beneath import Folder
from runner.files.plain import read_plain
from runner.office.api.errors import ApiError, not_found
from runner.office.api.file_ids import FILE_ID, NAME, new_file_id
from runner.office.api.paging import page, wanted
from runner.office.box import Box
from runner.office.upload import API_FOLDER, Form, Stored, Upload, receive_form
from runner.spec.data_files import matches
from runner.spec.file_kinds import ending
from runner.spec.names import is_spec_name
from runner.spec.read_spec import read_spec
from runner.spec.spec_text import SPEC_LIMIT_BYTES
from runner.words import visible

PURPOSE = "fine-tune"
_MOST = 10_000  # OpenAI's, of a page of files
_PAGE_ENDS = 1000  # clients that are in the midst of a list: some hundred bytes each
_KEY_CHARACTERS = 255
_LOOK_BYTES = 1024 * 1024
"""Of a JSON Lines file so much is looked at when it arrives; prepare looks at every row."""
_BLOCK_BYTES = 1024 * 1024
_ADVICE = "GET /v1/files lists the files that were uploaded here."


@dataclass(frozen=True, kw_only=True)
class OwnFile:
    """A file that was uploaded through the API."""

    id: str
    name: str
    """As it was uploaded."""
    stored_as: str
    """Its name under jobs/data/api/."""
    size_bytes: int
    changed_ns: int

    @property
    def place(self) -> tuple[int, str]:
        """Where it stands among the others; the newest comes first."""
        return self.changed_ns, self.id

    @property
    def path(self) -> str:
        """Its path from jobs/, as a spec names it."""
        return f"{API_FOLDER}/{self.stored_as}"

    def shown(self) -> dict[str, Any]:
        """Make what a client sees of it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": self.changed_ns // 10**9,
            "filename": self.name,
            "purpose": PURPOSE,
            "status": "processed",
        }


class Files:
    """The uploaded files of a box, found by looking into their folder."""

    def __init__(self, box: Box, lock: threading.Lock) -> None:
        """Take the box; the lock keeps a file from going while a job that names it is made."""
        self._box, self._lock = box, lock
        self._naming = threading.Lock()
        self._page_ends: dict[str, OwnFile] = {}
        """The last files of pages that were given, by id: the next page begins after one of them,
        also where it has been deleted since."""

    def all(self) -> list[OwnFile]:
        """List them, the newest first."""
        try:
            with Folder.open(self._box.jobs_dir) as inbox, inbox.open_folder(API_FOLDER) as folder:
                found = [
                    OwnFile(
                        id=match[1],
                        name=match[2],
                        stored_as=entry.name,
                        size_bytes=status.st_size,
                        changed_ns=status.st_mtime_ns,
                    )
                    for entry, status in folder.scan_status(lambda n: bool(NAME.fullmatch(n)))
                    if entry.is_file(follow_symlinks=False)
                    and (match := NAME.fullmatch(entry.name))
                ]
        except FileNotFoundError:
            return []
        return sorted(found, key=lambda one: one.place, reverse=True)

    def note_page_end(self, one: OwnFile) -> None:
        """Remember where the next page begins."""
        self._page_ends.pop(one.id, None)
        self._page_ends[one.id] = one
        while len(self._page_ends) > _PAGE_ENDS:
            self._page_ends.pop(next(iter(self._page_ends)), None)

    def page_end(self, file_id: str) -> OwnFile | None:
        """Give the last file of a page that was given, as it was then."""
        return self._page_ends.get(file_id)

    def find(self, file_id: str) -> OwnFile:
        """Find one.

        Raises:
            ApiError: there is none.
        """
        if FILE_ID.fullmatch(file_id):
            for one in self.all():
                if one.id == file_id:
                    return one
        raise not_found("file", file_id, advice=_ADVICE)

    def remove(self, one: OwnFile) -> None:
        """Remove one.

        Raises:
            ApiError: a job needs it.
        """
        with self._lock:
            if job := self._needed_by(one.path):
                raise ApiError(
                    f"The job {job} needs this file and has not copied its rows yet.",
                    advice="Cancel the job, or wait until it runs: then it has its own copy.",
                    status=409,
                    code="file_in_use",
                    param="id",
                )
            self._unlink(one.stored_as)

    def _unlink(self, stored_as: str) -> None:
        with Folder.open(self._box.jobs_dir) as inbox, inbox.open_folder(API_FOLDER) as folder:
            folder.remove_file(stored_as)
            folder.sync()

    def _needed_by(self, path: str) -> str | None:
        """Name a job whose rows are still to be copied from a file."""
        for run in sort_out(self._box.outputs).to_read:
            try:
                record = read_head(run.record)
                content = read_plain(run.spec, limit_bytes=SPEC_LIMIT_BYTES)
            except (OSError, RunnerError):
                continue
            copied = (record.model_extra or {}).get("next_stage") not in (None, Stage.PREPARE)
            if not record.state.is_final and not copied and _names(content, path):
                return record.job
        with Folder.open(self._box.jobs_dir) as inbox:
            for place in (".", "queued", SCHEDULED):
                for name, content in _specs(inbox, place):
                    if run_id_of(name) is None and _names(content, path):
                        return visible(name)
        return None

    def name(self, upload: Upload, file_id: str) -> Stored:
        """Name a file that has arrived; an id means one file, however often and at once it comes.

        Raises:
            ApiError: another file came with the same idempotency key.
            UploadError: it is empty, or the disk is full.
        """
        upload.seal()
        with self._naming:
            for one in self.all():
                if one.id != file_id:
                    continue
                if one.stored_as == upload.name and upload.is_there(one.stored_as):
                    return upload.stored(one.stored_as, was_there=True)
                raise ApiError(
                    "This Idempotency-Key came with another file before.",
                    advice="Send a new key with each new file.",
                    status=409,
                    code="idempotency_key_reused",
                    param="Idempotency-Key",
                )
            return upload.name_it()

    def open(self, one: OwnFile) -> BinaryIO:
        """Open one to be read."""
        with Folder.open(self._box.jobs_dir) as inbox, inbox.open_folder(API_FOLDER) as folder:
            return open(folder.open_file(one.stored_as), "rb")

    def require_json_lines(self, one: OwnFile) -> None:
        """Look at the beginning of a JSON Lines file; one that is none is removed again.

        Raises:
            ApiError: a line is no JSON object.
        """
        if ending(one.name) not in (".jsonl", ".ndjson"):
            return
        with self.open(one) as file:
            content = file.read(_LOOK_BYTES)
        if wrong := first_wrong_line(content, is_whole=len(content) == one.size_bytes):
            self._unlink(one.stored_as)
            raise ApiError(
                f"{one.name} is not JSON Lines: line {wrong} is no JSON object.",
                advice='Write one object a line, such as {"messages": [...]}; a table is uploaded '
                "as .csv or .xlsx.",
                code="invalid_file_format",
                param="file",
            )


def first_wrong_line(content: bytes, *, is_whole: bool) -> int | None:
    """Give the first line that is no JSON object; None: all are.

    Args:
        content: the beginning of the file.
        is_whole: it is all of it: its last line is not cut off.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None  # UTF-16 of a Windows editor: prepare reads it
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines if is_whole else lines[:-1], start=1):
        if not line.strip():
            continue
        try:
            is_object = isinstance(json.loads(line), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            return number
    return None


def idempotency_key(request: Request) -> str | None:
    """Read the header by which a request that is sent again is known.

    Raises:
        ApiError: it is no such key.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= _KEY_CHARACTERS and key.isprintable()):
        raise ApiError(
            "The Idempotency-Key cannot be used.",
            advice=f"Send 1 to {_KEY_CHARACTERS} printable characters.",
            code="invalid_idempotency_key",
            param="Idempotency-Key",
        )
    return key


async def upload(request: Request, files: Files, box: Box) -> dict[str, Any]:
    """POST /v1/files.

    Raises:
        ApiError, UploadError: it cannot be taken; nothing of it is left.
    """
    file_id = new_file_id(idempotency_key(request))
    await receive_form(
        request,
        box,
        folder=API_FOLDER,
        prefix=f"{file_id}-",
        finish=partial(_name, files, file_id),
    )
    return await to_thread.run_sync(_taken, files, file_id)


def _name(files: Files, file_id: str, form: Form, uploads: list[Upload]) -> None:
    """Name the one file of a form, unless it cannot be taken."""
    purpose = form.fields.get("purpose", PURPOSE)
    for field in sorted(form.fields.keys() - {"purpose"}):
        raise ApiError(
            f"A file has no parameter {field[:60]!r} here.",
            advice="Leave it out: files stay until they are deleted."
            if field.startswith("expires_after")
            else "Send 'file' and 'purpose'.",
            code="invalid_parameter",
            param=field[:60],
        )
    if len(uploads) != 1 or purpose != PURPOSE:
        is_purpose = len(uploads) == 1
        raise ApiError(
            f"Files of the purpose {purpose[:40]!r} are not taken."
            if is_purpose
            else "The form has no file, or several.",
            advice="Send 'purpose' as fine-tune." if is_purpose else "Send one, as 'file'.",
            code="invalid_purpose" if is_purpose else "missing_file",
            param="purpose" if is_purpose else "file",
        )
    form.files.append(files.name(uploads[0], file_id))


def _taken(files: Files, file_id: str) -> dict[str, Any]:
    one = files.find(file_id)
    files.require_json_lines(one)
    return one.shown()


def list_files(request: Request, files: Files) -> dict[str, Any]:
    """GET /v1/files."""
    asked = wanted(request.query_params, default=_MOST, most=_MOST)
    found = files.all()
    is_rising = request.query_params.get("order") == "asc"
    if is_rising:
        found.reverse()
    if request.query_params.get("purpose", PURPOSE) != PURPOSE:
        found = []
    if asked.after is not None and all(one.id != asked.after for one in found):
        gone = files.page_end(asked.after)
        if gone is not None:  # deleted since that page: the next one that is there follows
            found = [one for one in found if (one.place > gone.place) is is_rising]
            asked = replace(asked, after=None)
    given = page(found, asked, id_of=lambda one: one.id, shown=OwnFile.shown)
    if given["data"]:
        files.note_page_end(next(one for one in found if one.id == given["last_id"]))
    return given


def content_of(request: Request, files: Files) -> Response:
    """GET /v1/files/ID/content: of files that were uploaded here, and of no other."""
    file = files.open(files.find(request.path_params["file_id"]))
    size_bytes = os.fstat(file.fileno()).st_size
    headers = {"content-length": str(size_bytes), "content-disposition": "attachment"}
    if request.method == "HEAD":
        file.close()
        return Response(headers=headers, media_type="application/octet-stream")

    def blocks() -> Iterator[bytes]:
        left = size_bytes  # whoever has the share may make it longer meanwhile
        with file:
            while block := file.read(min(left, _BLOCK_BYTES)):
                left -= len(block)
                yield block

    return StreamingResponse(blocks(), media_type="application/octet-stream", headers=headers)


def delete(request: Request, files: Files) -> dict[str, Any]:
    """DELETE /v1/files/ID."""
    one = files.find(request.path_params["file_id"])
    files.remove(one)
    return {"id": one.id, "object": "file", "deleted": True}


def _names(spec: bytes, path: str) -> bool:
    """Whether a spec names a file, by itself, its folder or a pattern."""
    try:
        named = read_spec(spec, file_name="spec.yaml").named_files
    except RunnerError:
        return False
    return any(matches(path, one) for one in named)


def _specs(inbox: Folder, place: str) -> Iterator[tuple[str, bytes]]:
    try:
        with inbox.open_folder(place) as folder:
            for name in folder.names():
                if not is_spec_name(name):
                    continue
                try:
                    yield name, folder.read_file(name, limit_bytes=SPEC_LIMIT_BYTES)
                except (OSError, UnsafePathError):
                    continue  # claimed meanwhile
    except (OSError, UnsafePathError):
        return
