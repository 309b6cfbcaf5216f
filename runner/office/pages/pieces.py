"""Upload in pieces: what the page's script asks for, in JSON.

POST /upload/pieces?name=rows.csv&size=1000   how much there is of it, and its address
PUT  ADDRESS with Upload-Offset: 0            a piece, from there on
GET  ADDRESS                                  how much has arrived
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from runner.errors import BusyError
from runner.office.box import Box
from runner.office.limits import PIECES
from runner.office.pieces import Coming, OtherOffsetError, Pieces
from runner.office.refusals import Json, refuse_saying


def routes(box: Box) -> list[BaseRoute]:  # noqa: ARG001 - each part is given it
    """Give the routes."""
    return [
        Route(PIECES, _begin, methods=["POST"]),
        Route(f"{PIECES}/{{id}}", _one, methods=["GET", "PUT"]),
    ]


def _pieces(request: Request) -> Pieces:
    pieces: Pieces = request.app.state.pieces
    return pieces


def _said(one: Coming, status: int = 200) -> Response:
    path = one.stored.path if one.stored else None
    said = {"way": f"{PIECES}/{one.id}", "has": one.has_bytes, "path": path}
    return Json(said, status)


async def _begin(request: Request) -> Response:
    asked = request.query_params
    one = await _pieces(request).begin(asked.get("name", ""), _number(asked.get("size", "")))
    return _said(one, 201)


async def _one(request: Request) -> Response:
    one = _pieces(request).find(request.path_params["id"])
    if one is None or not request.state.may_write:
        raise HTTPException(404)
    if request.method != "PUT":
        return _said(one)
    try:
        offset = _number(request.headers.get("upload-offset", ""))
        await _pieces(request).add(one, offset, request.stream())
    except OtherOffsetError:
        return _said(one, 409)
    except BusyError as error:  # the connection that was cut off may not be given up yet
        return refuse_saying(request.scope, 503, error.message, advice=error.advice or "")
    return _said(one)


def _number(text: str) -> int:
    """Read a number of bytes.

    Raises:
        HTTPException: 400, it is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise HTTPException(400)
    return int(text)
