"""The API for programs, under /v1, shaped like OpenAI's; and what monitors ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from runner.office import metrics
from runner.office.api import files, models
from runner.office.api.errors import answered
from runner.office.api.jobs import Jobs
from runner.office.box import Box


def routes(box: Box) -> list[BaseRoute]:
    """Give the API's routes."""
    lock = threading.Lock()
    own = files.Files(box, lock)
    jobs = Jobs(box, own, lock)

    def file(request: Request) -> dict[str, Any]:
        return own.find(request.path_params["file_id"]).shown()

    one, tuning = "/v1/files/{file_id}", "/v1/fine_tuning/jobs"
    return [
        _route("POST", "/v1/files", partial(files.upload, files=own, box=box), is_async=True),
        _route("GET", "/v1/files", partial(files.list_files, files=own)),
        _route("GET", one, file),
        _route("DELETE", one, partial(files.delete, files=own)),
        _route("GET", f"{one}/content", partial(files.content_of, files=own)),
        _route("POST", tuning, jobs.create, is_async=True),
        _route("GET", tuning, jobs.list),
        _route("GET", f"{tuning}/{{job_id}}", jobs.retrieve),
        _route("POST", f"{tuning}/{{job_id}}/cancel", jobs.cancel, is_async=True),
        _route("GET", f"{tuning}/{{job_id}}/events", jobs.events),
        _route("GET", f"{tuning}/{{job_id}}/checkpoints", jobs.checkpoints),
        _route("GET", "/v1/models", partial(models.list_models, box=box)),
        _route("GET", "/v1/models/{model:path}", partial(models.retrieve_model, box=box)),
        _route("DELETE", "/v1/models/{model:path}", partial(models.refuse_deletion, box=box)),
        _route("GET", "/healthz", partial(metrics.healthz, box=box)),
        _route("GET", "/metrics", partial(metrics.scrape, box=box)),
    ]


def _route(
    method: str, path: str, handler: Callable[[Request], Any], *, is_async: bool = False
) -> Route:
    return Route(path, answered(handler, is_async=is_async), methods=[method])
