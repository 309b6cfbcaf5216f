"""Render: a template of the page, filled in for whoever asks; everything in it is escaped."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from runner.language.speaker import Speaker
from runner.office.language import speaker_of
from runner.report.page import with_code
from runner.words import visible

HERE = Path(__file__).parent
STYLES = (HERE.parent / "report" / "templates" / "report.css", HERE / "static" / "page.css")
"""The page looks as the report does; what only the page has stands in a file of its own."""
_UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that turn, hide or break text; each text is cleared of them, this misses none."""


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["with_code"] = with_code
    return made


@cache
def static_files() -> dict[str, tuple[bytes, str]]:
    """Read the style sheet and the script: path → content and type."""
    style = b"\n".join(path.read_bytes() for path in STYLES)
    script, icon = ((HERE / "static" / name).read_bytes() for name in ("page.js", "icon.svg"))
    return {
        "page.css": (style, "text/css"),
        "page.js": (script, "text/javascript"),
        "icon.svg": (icon, "image/svg+xml"),
    }


@cache
def static_path(name: str) -> str:
    """Give the path of a static file; it changes with the content, so that none is stale."""
    digest = hashlib.sha256(static_files()[name][0]).hexdigest()[:12]
    return f"/static/{digest}/{name}"


def render(template: str, scope: Scope, **values: Any) -> str:
    """Fill in a template for whoever asks."""
    state = scope.get("state", {})
    return render_for(
        Reader(speak=speaker_of(scope), may_write=state.get("may_write", False)),
        template,
        path=scope["path"],
        signed_in=state.get("signed_in", False),
        **values,
    )


def size(speak: Speaker, size_bytes: int) -> str:
    """Say how large a file is, as file managers do: 1 kB is 1,000 bytes."""
    for unit, each in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= each:
            return f"{speak.number(size_bytes / each, '.1f')} {unit}"
    return f"{size_bytes} B"


@dataclass(frozen=True)
class Reader:
    """Whom something is rendered for: all that it depends on beside its values."""

    speak: Speaker
    may_write: bool = False


def render_for(reader: Reader, template: str, **values: Any) -> str:
    """Fill in a template, or a part of a page."""
    found = _environment().get_template(template)
    text = found.render(
        t=reader.speak,
        may_write=reader.may_write,
        static=static_path,
        visible=visible,
        size=size,
        **values,
    )
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """Answer with a page."""
    return HTMLResponse(render(template, request.scope, **values), status)


def reader_of(request: Request) -> Reader:
    """Give whom a part of a page is rendered for."""
    return Reader(speak=speaker_of(request.scope), may_write=request.state.may_write)
