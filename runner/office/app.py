"""App: all pages and the API behind one gate, from a box's folders.

Around every route, from outside in: safe headers, the host's name, the rate, the body, the origin,
and who may.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from runner.errors import RunnerError
from runner.language.speaker import ENGLISH
from runner.language.translate import in_words_of
from runner.office import api
from runner.office.box import Box
from runner.office.headers import SAFE, SafeHeaders
from runner.office.hosts import KnownHosts, OwnOrigin
from runner.office.language import speaker_of
from runner.office.limits import Bodies, Rate
from runner.office.live import Live
from runner.office.look import Looks
from runner.office.pages import (
    doctor,
    drop,
    job,
    jobs,
    models,
    pieces,
    run,
    schedules,
    sign_in,
)
from runner.office.pieces import Pieces
from runner.office.refusals import is_api, refuse, refuse_saying
from runner.office.render import static_files
from runner.office.who import Gate, Keys, WrongKeys
from runner.words import visible_lines

_SAID = {404: "office_not_found", 503: "office_too_often"}
NOT_IN_THE_API = {
    404: ("unknown_path", "The API has no such path."),
    405: ("not_supported", "The API cannot do this with it."),
}
"""Status → code and words, where a client asks for what only OpenAI has."""
_THREADS = 8
"""So many pages are made at once: each takes memory, and two cores make no more of them."""
_LOG = logging.getLogger("runner.office")


def make_app(box: Box) -> Starlette:
    """Put the page and the API together.

    Raises:
        OSError: the page's folder cannot be written, so that there can be no key.
    """
    keys, wrong = Keys(box.page_dir), WrongKeys()
    routes: list[BaseRoute] = [Route("/static/{digest}/{name}", _static)]
    for part in (sign_in, jobs, job, run, drop, pieces, schedules, models, doctor, api):
        routes += part.routes(box)
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(SafeHeaders),
            Middleware(KnownHosts, names=box.hosts),
            Middleware(Rate),
            Middleware(Bodies),
            Middleware(OwnOrigin),
            Middleware(Gate, keys=keys, wrong=wrong),
        ],
        lifespan=_lifespan,
        exception_handlers={
            HTTPException: _http_error,
            RunnerError: _runner_error,
            ClientDisconnect: _gone,
            OSError: _disk_error,
            Exception: _unexpected,
        },
    )
    app.state.box, app.state.keys, app.state.wrong_keys = box, keys, wrong
    app.state.live, app.state.looks, app.state.pieces = Live(), Looks(), Pieces(box)
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = _THREADS
    yield
    await app.state.pieces.close()


async def _static(request: Request) -> Response:
    found = static_files().get(request.path_params["name"])
    if found is None:
        raise HTTPException(404)
    content, kind = found
    # Its path changes with its content: it may be kept for ever.
    return Response(content, media_type=kind, headers={"cache-control": "public, max-age=31536000"})


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    if is_api(request.url.path) and status in NOT_IN_THE_API:
        code, said = NOT_IN_THE_API[status]
        advice = "docs/api.md lists what the API has."
        answer = refuse_saying(request.scope, status, said, advice=advice, code=code)
    else:
        answer = refuse(request.scope, status, _SAID.get(status, "office_not_so"))
    answer.headers.update(error.headers or {})
    return answer


async def _gone(_request: Request, _error: Exception) -> Response:
    """Answer one who has left: nobody hears it, and it is no defect."""
    return Response(status_code=400)


async def _runner_error(request: Request, error: Exception) -> Response:
    """Say what speaks against a request, as a command would; nothing was done."""
    assert isinstance(error, RunnerError)
    speak = ENGLISH if is_api(request.url.path) else speaker_of(request.scope)
    said = in_words_of(visible_lines(error.message), speak)
    advice = in_words_of(visible_lines(error.advice), speak) if error.advice else ""
    return refuse_saying(request.scope, 409, said, advice=advice, code=error.kind)


async def _disk_error(request: Request, error: Exception) -> Response:
    """Say that a folder cannot be read or written: its disk is full, locked or not mounted."""
    _LOG.warning("%s %s: %s", request.method, request.url.path, error)
    return refuse(request.scope, 503, "office_box_unwell")


async def _unexpected(request: Request, error: Exception) -> Response:
    """Answer what nobody foresaw; whoever called the app raises it again, into the log.

    It is made outside all else, so that it sets the safe headers itself.
    """
    if isinstance(error, OSError):  # at the gate, which reads the key
        answer = await _disk_error(request, error)
    else:
        answer = refuse(request.scope, 500, "office_unexpected")
    answer.headers.update(SAFE)
    return answer
