"""Who may: the key, the sessions that it opens, and the one gate that every request passes.

A browser signs in with the key once and gets a signed cookie; a program sends the key as
``Authorization: Bearer KEY``. A cookie is signed with the key that opened it: when that key's file
goes or changes, it is worth nothing. ``request.state.may_write`` says which key it was.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from itsdangerous import BadSignature, TimestampSigner
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from runner.contract.page_key import KEY, READ_KEY, KeyFileError, make_key, read_key
from runner.office.refusals import is_api, refuse, to_sign_in

COOKIE = "box_session"
SESSION_SECONDS = 12 * 3600  # a working day
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
OPEN_PATHS = frozenset({SIGN_IN, "/healthz"})
OPEN_FOLDERS = ("/static/",)
WRONG_KEYS = 10
"""So many wrong keys a client may send at once, and one more each `WRONG_KEY_SECONDS`."""
WRONG_KEY_SECONDS = 6.0
_CLIENTS = 10_000  # remembered
_SIGNED_OUT = 10_000  # sessions' ids remembered that were ended before their time


@dataclass
class Keys:
    """The keys of a box as they are now: a deleted or changed file counts at once."""

    folder: Path
    _signed_out: OrderedDict[bytes, float] = field(default_factory=OrderedDict)

    def make(self) -> str | None:
        """Make the key where there is none, and give it; None: there is one."""
        return make_key(self.folder)

    def _known(self) -> list[tuple[str, bool]]:
        """Give each key and whether it may write; a file that is no key opens nothing."""
        found = []
        for name, may_write in ((KEY, True), (READ_KEY, False)):
            try:
                key = read_key(self.folder, name)
            except KeyFileError:
                continue
            if key is not None:
                found.append((key, may_write))
        return found

    def problems(self) -> list[str]:
        """Say which file is there and opens nothing: nobody could sign in, or not as meant."""
        found = []
        for name in (KEY, READ_KEY):
            try:
                read_key(self.folder, name)
            except KeyFileError as error:
                found.append(f"{error.message}. {error.advice}")
        return found

    def may_write(self, key: str) -> bool | None:
        """Tell what a key may: True: write; False: read; None: nothing, it is none."""
        sent = key.strip().lower().encode(errors="replace")
        answer: bool | None = None
        for known, may_write in self._known():  # all of them: the time tells nothing
            if hmac.compare_digest(known.encode(), sent) and answer is None:
                answer = may_write
        return answer

    def allowed(self, headers: Headers) -> bool | None:
        """Tell what whoever sends these headers may, as ``may_write``: by key, or by session."""
        if (bearer := _bearer(headers)) is not None:
            return self.may_write(bearer)
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        return self.session_may_write(cookie) if cookie else None

    def open_session(self, key: str) -> str | None:
        """Give the cookie of a new session; None: the key is none."""
        if self.may_write(key) is None:
            return None
        return _signer(key.strip().lower()).sign(secrets.token_urlsafe(16)).decode()

    def session_may_write(self, cookie: str) -> bool | None:
        """Tell what a session's cookie may, as ``may_write``."""
        found = self._session(cookie)
        return found[1] if found else None

    def _session(self, cookie: str) -> tuple[bytes, bool] | None:
        """Give a session's id and what it may; the cookie's text is no id: base64 has several."""
        if len(cookie) > 200:
            return None
        for known, may_write in self._known():
            try:
                session = _signer(known).unsign(cookie, max_age=SESSION_SECONDS)
            except BadSignature:
                continue
            return None if session in self._signed_out else (session, may_write)
        return None

    def close_session(self, cookie: str) -> None:
        """End a session before its time."""
        if (found := self._session(cookie)) is not None:
            self._signed_out[found[0]] = time.time()
            while len(self._signed_out) > _SIGNED_OUT:
                self._signed_out.popitem(last=False)


def _signer(key: str) -> TimestampSigner:
    return TimestampSigner(
        key, salt="box-session", key_derivation="hmac", digest_method=hashlib.sha256
    )


@dataclass
class WrongKeys:
    """How many wrong keys each client has sent lately: a bucket that empties with time."""

    _counts: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def _count(self, client: str) -> float:
        count, at = self._counts.get(client, (0.0, 0.0))
        return max(0.0, count - (time.monotonic() - at) / WRONG_KEY_SECONDS)

    def is_barred(self, client: str) -> bool:
        """Whether a client has to wait before it may send another key."""
        return self._count(client) > WRONG_KEYS - 1

    def note(self, client: str) -> None:
        """Count a wrong key."""
        self._counts[client] = (self._count(client) + 1, time.monotonic())
        self._counts.move_to_end(client)
        while len(self._counts) > _CLIENTS:
            self._counts.popitem(last=False)


def client_of(scope: Scope) -> str:
    """Name who asks: the address that the door saw."""
    client = scope.get("client")
    return str(client[0]) if client else ""


class Gate:
    """Lets through whoever has a session or a key; writing takes a key that may write."""

    def __init__(self, app: ASGIApp, *, keys: Keys, wrong: WrongKeys) -> None:
        """Take what stands behind the gate, and the keys."""
        self._app, self._keys, self._wrong = app, keys, wrong

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state, path = scope.setdefault("state", {}), scope["path"]
        headers = Headers(scope=scope)
        bearer = _bearer(headers)
        if bearer is not None and self._wrong.is_barred(client_of(scope)):
            await refuse(scope, 429, "office_too_many_keys")(scope, receive, send)
            return
        may_write = self._keys.allowed(headers)
        if bearer is not None and may_write is None:
            self._wrong.note(client_of(scope))
        state["may_write"] = bool(may_write)
        state["signed_in"] = may_write is not None
        is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)
        if may_write is None and not is_open:
            answer = refuse(scope, 401, "office_no_key") if is_api(path) else to_sign_in(scope)
        elif not may_write and scope["method"] not in SAFE_METHODS | _open_to_all(path):
            answer = refuse(scope, 403, "office_may_only_read")
        else:
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)


def _open_to_all(path: str) -> frozenset[str]:
    return frozenset({"POST"} if path in (SIGN_IN, SIGN_OUT) else ())


def _bearer(headers: Headers) -> str | None:
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key if kind.lower() == "bearer" else None
