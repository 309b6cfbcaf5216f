"""Language of a request: what the browser asks for, of the languages that the box speaks."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from runner.language.speaker import Language, Speaker

_PREFERENCES = 20  # read of a header: a browser sends five


def chosen(accepted: str, fallback: str = "") -> Language:
    """Choose by an ``Accept-Language`` header (RFC 9110, 12.5.4): the highest quality, then order.

    Args:
        accepted: the header; empty where there is none.
        fallback: the box's own language; what is none is English.
    """
    wanted: list[tuple[float, int, Language]] = []
    for place, part in enumerate(accepted.split(",")[:_PREFERENCES]):
        tag, _, parameter = part.partition(";")
        code = tag.strip().lower()[:2]
        try:
            quality = float(parameter.strip().removeprefix("q=")) if parameter.strip() else 1.0
        except ValueError:
            continue
        if code in list(Language) and quality > 0:
            wanted.append((-quality, place, Language(code)))
    if wanted:
        return min(wanted)[2]
    return Language(fallback) if fallback in list(Language) else Language.ENGLISH


def speaker_of(scope: Scope) -> Speaker:
    """Give the one who speaks the language of whoever asks."""
    box = scope["app"].state.box if "app" in scope else None
    accepted = Headers(scope=scope).get("accept-language", "")
    return Speaker(chosen(accepted, box.language if box else ""))
