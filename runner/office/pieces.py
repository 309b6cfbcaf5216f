"""Pieces: an upload that comes in several requests, and goes on where it ended.

The page's script sends a file so. Whatever has arrived of a piece is kept, however it ended, and
the script asks how much that was. Nothing of it has a name until all of it is there; what does not
go on for `IDLE_SECONDS`, and all of it when the page ends, is removed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from anyio import to_thread
from starlette.requests import ClientDisconnect

from runner.errors import BusyError, RunnerError
from runner.office.box import Box
from runner.office.limits import TooSlowError
from runner.office.upload import Stored, Upload, UploadError, too_large

IDLE_SECONDS = 15 * 60.0
"""So long what has arrived is kept for the rest to come."""
_MOST = 20  # uploads at once
_WRITE_BYTES = 4 * 1024 * 1024  # handed to the disk at a time


class OtherOffsetError(Exception):
    """A piece that does not begin where the last one ended: its sender asks where that is."""


@dataclass(kw_only=True)
class Coming:
    """An upload of which not all need have arrived."""

    id: str
    size_bytes: int
    """Of the whole file, as its sender says."""
    upload: Upload
    stored: Stored | None = None
    """Where it lies, once it is whole."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    timer: asyncio.TimerHandle | None = None

    @property
    def has_bytes(self) -> int:
        """How much has arrived."""
        return self.upload.size_bytes


class Pieces:
    """The uploads that come in pieces just now."""

    def __init__(self, box: Box) -> None:
        """Nothing comes yet."""
        self._box = box
        self._coming: dict[str, Coming] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def begin(self, name: str, size_bytes: int) -> Coming:
        """Begin an upload.

        Raises:
            UploadError: it is no data file's name, or the file is empty or too large.
            BusyError: too many come already.
        """
        if size_bytes > self._box.upload_bytes:
            raise too_large(self._box)
        if size_bytes <= 0:
            raise UploadError("the file is empty", advice="Choose the file again.")
        if sum(one.stored is None for one in self._coming.values()) >= _MOST:
            raise BusyError(
                "too many files are uploaded just now", advice="Wait a minute, then try again."
            )
        upload = await to_thread.run_sync(Upload, self._box, name)
        one = Coming(id=secrets.token_urlsafe(16), size_bytes=size_bytes, upload=upload)
        self._coming[one.id] = one
        self._wait_for(one)
        return one

    def find(self, upload_id: str) -> Coming | None:
        """Find one; None: there is none, or it was given up."""
        return self._coming.get(upload_id)

    async def add(self, one: Coming, offset: int, pieces: AsyncIterator[bytes]) -> None:
        """Add what comes; with the last byte the file is named.

        Raises:
            OtherOffsetError: it does not begin where the last one ended.
            UploadError: it cannot be taken; nothing of it is left.
            BusyError: another piece of it is being written.
            starlette.requests.ClientDisconnect: it was cut off; what had come is kept.
        """
        if one.lock.locked():
            raise BusyError("a piece of this file is being written", advice="Try again.")
        async with one.lock:
            if one.stored is not None:
                return
            if offset != one.has_bytes:
                raise OtherOffsetError
            if one.timer is not None:
                one.timer.cancel()
            try:
                await self._write(one, pieces)
                if one.has_bytes == one.size_bytes:
                    one.stored = await to_thread.run_sync(one.upload.finish)
                    await to_thread.run_sync(one.upload.close)
            except RunnerError:
                self._forget(one)
                await asyncio.gather(*self._leaving)
                raise
            finally:
                if one.id in self._coming:
                    self._wait_for(one)

    async def _write(self, one: Coming, pieces: AsyncIterator[bytes]) -> None:
        waiting = bytearray()
        try:
            async for piece in pieces:
                waiting += piece
                if one.has_bytes + len(waiting) > one.size_bytes:
                    raise UploadError(
                        "more of the file came than it was said to hold",
                        advice="Choose the file again.",
                    )
                if len(waiting) >= _WRITE_BYTES:
                    await to_thread.run_sync(one.upload.write, bytes(waiting))
                    waiting.clear()
        except (ClientDisconnect, TooSlowError):
            await to_thread.run_sync(one.upload.write, bytes(waiting))
            raise
        await to_thread.run_sync(one.upload.write, bytes(waiting))

    def _wait_for(self, one: Coming) -> None:
        """Give it up unless more of it comes in time."""
        if one.timer is not None:
            one.timer.cancel()
        one.timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._forget, one)

    def _forget(self, one: Coming) -> None:
        if self._coming.pop(one.id, None) is not None and one.stored is None:
            task = asyncio.ensure_future(to_thread.run_sync(one.upload.close))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Remove what has not arrived whole; the page ends."""
        for one in list(self._coming.values()):
            if one.timer is not None:
                one.timer.cancel()
            self._forget(one)
        await asyncio.gather(*self._leaving)
