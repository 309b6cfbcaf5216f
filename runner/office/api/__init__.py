"""The API for programs, under /v1, shaped like OpenAI's; and what monitors ask."""

from __future__ import annotations

from starlette.routing import BaseRoute

from runner.office.box import Box


def routes(box: Box) -> list[BaseRoute]:  # noqa: ARG001 - built by what comes next
    """Give the API's routes."""
    return []
