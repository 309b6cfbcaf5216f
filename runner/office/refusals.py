"""Refusals: why a request was not carried out, for a person's browser and for a program."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Scope

from runner.language.speaker import ENGLISH
from runner.office.language import speaker_of
from runner.office.render import render

_API = ("/v1", "/metrics", "/healthz")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
RETRY_SECONDS = 10


class Json(JSONResponse):
    """JSON in ASCII: half a character, as a file's name may hold on a share, is escaped."""

    def render(self, content: Any) -> bytes:
        """Write the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def is_api(path: str) -> bool:
    """Whether a path is for programs: they are answered in JSON, in English."""
    return path in _API or path.startswith("/v1/")


def in_one(message: str, advice: str | None) -> str:
    """Join what is wrong and what to do for a program, whose errors have one text."""
    if not advice:
        return message
    if "\n" in message:
        return f"{message}\n{advice}"
    return f"{message}{'' if message.endswith(('.', '!', '?', ':')) else '.'} {advice}"


def error_body(
    status: int, message: str, *, code: str | None = None, param: str | None = None
) -> dict[str, dict[str, str | None]]:
    """Give an error as OpenAI's clients read it."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refuse(scope: Scope, status: int, key: str, *, advice: str = "") -> Response:
    """Make the answer to a request that is refused.

    Args:
        scope: the request's.
        status: of HTTP.
        key: the reason, in the table of texts.
        advice: what to do, said already.
    """
    said = ENGLISH(key) if is_api(scope["path"]) else speaker_of(scope)(key)
    return refuse_saying(scope, status, said, advice=advice, code=key.removeprefix("office_"))


def refuse_saying(
    scope: Scope, status: int, said: str, *, advice: str = "", code: str | None = None
) -> Response:
    """Do the same with a reason that is worded already; program's errors are in English."""
    headers = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else {}
    if is_api(scope["path"]):
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Json(error_body(status, in_one(said, advice), code=code), status, headers=headers)
    text = render(
        "refused.html.j2",
        scope,
        title=str(status),
        said=said,
        advice=advice,
    )
    return Response(text, status, headers, media_type="text/html")


def to_sign_in(scope: Scope) -> Response:
    """Send a browser to where the key is asked for, and back afterwards."""
    if scope["method"] not in ("GET", "HEAD") or "text/html" not in Headers(scope=scope).get(
        "accept", "text/html"
    ):
        return refuse(scope, HTTPStatus.UNAUTHORIZED, "office_signed_out")
    path = quote(scope["path"])
    return RedirectResponse(f"/sign-in?to={path}" if path != "/" else "/sign-in", 303)
