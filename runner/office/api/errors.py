"""Error bodies of the API, in OpenAI's shape: what a client's library shows of a refusal."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from runner.errors import DataError, ModelError, RunnerError, SpecError, UnsafePathError
from runner.office.limits import TooLargeError, TooSlowError
from runner.office.refusals import Json, error_body, in_one
from runner.office.upload import TooLargeUploadError, UploadError

_STATUS = {DataError: 400, UnsafePathError: 400, UploadError: 400, TooLargeUploadError: 413}
"""Errors of the rest of the product; what is not here speaks against it as things stand: 409."""
_LOG = logging.getLogger("runner.office.api")


class ApiError(RunnerError):
    """The request cannot be carried out as it stands."""

    kind = "api"

    def __init__(
        self,
        message: str,
        *,
        advice: str,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        """Take the message, what to do, and the body's fields; docs/api.md lists the codes."""
        self.status = status
        self.code = code
        self.param = param
        super().__init__(message, advice=advice)


def not_found(what: str, name: str, *, advice: str) -> ApiError:
    """Refuse an id that names nothing; ``what``: file, job, model."""
    return ApiError(
        f"No {what} is called {name[:100]!r}.",
        advice=advice,
        status=404,
        code=f"{what}_not_found",
        param="id",
    )


def body_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """Give the status and the body that tell a client of a failure."""
    if isinstance(error, ApiError):
        return error.status, error_body(
            error.status, _said(error), code=error.code, param=error.param
        )
    if isinstance(error, SpecError):
        fields = [one.field for one in error.problems if one.field]
        return 400, error_body(
            400, _said(error), code="invalid_spec", param=fields[0] if fields else None
        )
    if isinstance(error, ModelError):
        return 400, error_body(400, _said(error), code="model_not_found", param="model")
    if isinstance(error, RunnerError):
        status = _STATUS.get(type(error), 409)
        return status, error_body(status, _said(error), code=error.kind)
    if isinstance(error, OSError):
        said = f"The box cannot read or write its folders: {error.strerror or 'no reason given'}."
        said += " `runner doctor` on the box says more."
        return 503, error_body(503, said, code="box_unwell")
    said = "Something unexpected happened on the box. The page's log has the details."
    return 500, error_body(500, said, code="unexpected")


def answered(
    handler: Callable[[Request], Any | Awaitable[Any]], *, is_async: bool = False
) -> Callable[[Request], Awaitable[Response]]:
    """Make an endpoint of a function that gives JSON, or a response, or raises."""

    @functools.wraps(handler)
    async def endpoint(request: Request) -> Response:
        try:
            found = await (handler(request) if is_async else run_in_threadpool(handler, request))
        except (TooLargeError, TooSlowError, ClientDisconnect):
            raise  # the body's: they are answered where it is measured
        except Exception as error:  # each becomes a body that the client's library understands
            status, body = body_of(error)
            if status == 500:
                _LOG.exception("%s %s", request.method, request.url.path)
            return Json(body, status_code=status)
        return found if isinstance(found, Response) else Json(found)

    return endpoint


def _said(error: RunnerError) -> str:
    return in_one(error.message, error.advice)
