"""Schedules: which jobs start by themselves, when they come next, how their last run ended."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from runner.clock import now
from runner.commands.schedule import upcoming
from runner.contract.schedules import Schedule, read_schedules
from runner.daemon.schedule.answer import last_time
from runner.language.speaker import Speaker
from runner.language.translate import in_words_of
from runner.office.box import Box
from runner.office.render import page, reader_of
from runner.office.runs import box_of, way_to
from runner.words import visible

_TIMES = 3


def routes(box: Box) -> list[BaseRoute]:  # noqa: ARG001 - each part is given it
    """Give the routes."""
    return [Route("/schedules", _schedules)]


def _schedules(request: Request) -> Response:
    speak = reader_of(request).speak
    found = read_schedules(box_of(request).outputs)
    lines = [_line(name, known, speak) for name, known in sorted(found.items())]
    return page(request, "schedules.html.j2", schedules=lines)


def _line(name: str, known: Schedule, speak: Speaker) -> dict[str, object]:
    times = [speak.time(one, day=True) for one in upcoming(known, now(), _TIMES)]
    problem = (known.problem or "").strip().partition("\n")[0]
    return {
        "job": visible(known.job),
        "way": way_to(known.job),
        "file": visible(name),
        "line": visible(known.line),
        "times": times,
        "problem": in_words_of(visible(problem), speak),
        "last": last_time(known.last, speak) if known.last else "–",
    }
