"""Limits: how large, how often and how slowly one may ask, so that nobody keeps others out."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.office.refusals import refuse
from runner.office.who import SIGN_IN, client_of

BODY_BYTES = 1024 * 1024  # of a form; a spec is smaller
SIGN_IN_BYTES = 4 * 1024  # of the form with the key: whoever sends it need not be known
PIECES = "/upload/pieces"
UPLOAD_PATHS = ("/upload", "/v1/files")
"""What is sent there is written out as it comes, and measured by whoever writes it."""
BODY_SECONDS = 30.0
"""A body of which nothing came for so long is given up: a slow client holds a connection."""
WHOLE_BODY_SECONDS = 60.0
"""So long a body of limited size may take as a whole, however steadily it drips."""
REQUESTS = 200
"""So many requests a client may make at once, and `REQUESTS_A_SECOND` more each second."""
REQUESTS_A_SECOND = 40.0
CONNECTIONS = 400
"""Open at once, those that follow a run among them; more are told to come back."""
_CLIENTS = 10_000


class TooLargeError(Exception):
    """A body is larger than it may be."""


class TooSlowError(Exception):
    """Nothing came of a body for too long."""


class Rate:
    """A bucket of requests for each client, filled again with time."""

    def __init__(self, app: ASGIApp) -> None:
        """Take what answers."""
        self._app = app
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def may(self, client: str, at: float) -> bool:
        """Whether a client may ask at a time, in monotonic seconds; it has asked then."""
        left, before = self._left.pop(client, (float(REQUESTS), at))
        left = min(float(REQUESTS), left + (at - before) * REQUESTS_A_SECOND)
        may = left >= 1
        self._left[client] = (left - 1 if may else left, at)
        while len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        return may

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "http" and not self.may(client_of(scope), time.monotonic()):
            await refuse(scope, 429, "office_too_often")(scope, receive, send)
            return
        await self._app(scope, receive, send)


class Bodies:
    """Refuses bodies that are too large or come too slowly."""

    def __init__(self, app: ASGIApp) -> None:
        """Take what reads them."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        is_upload = path.rstrip("/") in UPLOAD_PATHS or path.startswith(f"{PIECES}/")
        is_sign_in = scope["path"] == SIGN_IN
        limit = None if is_upload else SIGN_IN_BYTES if is_sign_in else BODY_BYTES
        length = Headers(scope=scope).get("content-length", "0")
        if (
            not length.isascii()
            or not length.isdigit()
            or (limit is not None and int(length) > limit)
        ):
            await refuse(scope, 413, "office_too_large")(scope, receive, send)
            return
        seen, whole, begun = 0, False, False
        end: float | None = None

        async def measured() -> Message:
            nonlocal seen, whole, end
            if whole:  # what comes now is only that the client has gone
                return await receive()
            at = time.monotonic()
            end = at + WHOLE_BODY_SECONDS if end is None else end
            patience = BODY_SECONDS if limit is None else min(BODY_SECONDS, end - at)
            try:
                message = await asyncio.wait_for(receive(), patience)
            except TimeoutError:
                raise TooSlowError from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if limit is not None and seen > limit:
                raise TooLargeError
            return message

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, measured, noting)
        except (TooLargeError, TooSlowError) as error:
            if begun:
                raise
            large = isinstance(error, TooLargeError)
            status, key = (413, "office_too_large") if large else (408, "office_too_slow")
            await refuse(scope, status, key)(scope, receive, send)
