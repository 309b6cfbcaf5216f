"""Sign in: the key opens a session; sign out ends it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from runner.office.box import Box
from runner.office.render import page
from runner.office.who import COOKIE, SESSION_SECONDS, SIGN_IN, SIGN_OUT, client_of


def routes(box: Box) -> list[BaseRoute]:  # noqa: ARG001 - each part is given it
    """Give the routes."""
    return [
        Route(SIGN_IN, _sign_in, methods=["GET", "POST"]),
        Route(SIGN_OUT, _sign_out, methods=["POST"]),
    ]


def own_path(wanted: str) -> str:
    """Give a path of this page to go on to; anything else leads to the first page."""
    is_own = wanted.startswith("/") and not wanted.startswith(("//", "/\\", SIGN_IN))
    return wanted if is_own and wanted.isprintable() else "/"


async def _sign_in(request: Request) -> Response:
    to = own_path(request.query_params.get("to", "/"))
    if request.method != "POST":
        if request.state.signed_in:
            return RedirectResponse(to, 303)
        return page(request, "sign_in.html.j2", to=to, problem="")
    wrong, client = request.app.state.wrong_keys, client_of(request.scope)
    async with request.form(max_files=0, max_fields=5) as form:
        key = form.get("key", "")
    # Only now: of many forms that are sent at once, each is counted before the next is looked at.
    if wrong.is_barred(client):
        return page(request, "sign_in.html.j2", status=429, to=to, problem="office_too_many_keys")
    session = request.app.state.keys.open_session(str(key))
    if session is None:
        wrong.note(client)
        return page(request, "sign_in.html.j2", status=403, to=to, problem="office_wrong_key")
    answer = RedirectResponse(to, 303)
    # A new one each time: a cookie that somebody put there before is worth nothing.
    answer.set_cookie(
        COOKIE,
        session,
        max_age=SESSION_SECONDS,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


async def _sign_out(request: Request) -> Response:
    request.app.state.keys.close_session(request.cookies.get(COOKIE, ""))
    answer = RedirectResponse(SIGN_IN, 303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer
