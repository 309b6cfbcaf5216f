"""Models: the base models on the box, and which of them a job can learn with."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from runner.contract.models import find_model, models_on_box, weight_files
from runner.errors import RunnerError
from runner.language.speaker import Speaker
from runner.language.translate import in_words_of
from runner.office.box import Box
from runner.office.render import page, reader_of
from runner.office.runs import box_of
from runner.words import visible, visible_lines

_SHOWN = 200


def routes(box: Box) -> list[BaseRoute]:  # noqa: ARG001 - each part is given it
    """Give the routes."""
    return [Route("/models", _models)]


def _models(request: Request) -> Response:
    box, speak = box_of(request), reader_of(request).speak
    names = models_on_box(box.models_dir)[:_SHOWN]
    return page(
        request, "models.html.j2", models=[_line(box.models_dir, name, speak) for name in names]
    )


def _line(models_dir: Path, name: str, speak: Speaker) -> dict[str, object]:
    """Say how large a model is, and why it cannot be used where that is so."""
    problem, size_bytes = "", 0
    try:
        folder = find_model(models_dir, name)
        size_bytes = sum(file.stat().st_size for file in weight_files(folder, name))
    except RunnerError as error:
        problem = in_words_of(visible_lines(error.message), speak)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    return {
        "name": visible(name),
        "size_bytes": size_bytes,
        "problem": problem,
        "way": f"/drop?{urlencode({'model': name}, errors='replace')}",
    }
