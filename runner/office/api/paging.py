"""Pages of a list, as OpenAI's: `after`, `limit`, `has_more`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.office.api.errors import ApiError

DEFAULT_LIMIT = 20  # OpenAI's, of jobs, events and checkpoints
MOST = 100


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which part of a list a client asks for."""

    after: str | None = None
    """The id of the last entry that it has."""
    limit: int = DEFAULT_LIMIT


def wanted(query: Mapping[str, str], *, default: int = DEFAULT_LIMIT, most: int = MOST) -> Wanted:
    """Read it from a query.

    Raises:
        ApiError: the limit is no number from 1 to ``most``.
    """
    written = query.get("limit", str(default))
    limit = int(written) if written.isascii() and written.isdigit() and len(written) < 7 else 0
    if not 1 <= limit <= most:
        raise ApiError(
            f"'limit' is {written[:20]!r}.",
            advice=f"Give a whole number from 1 to {most}.",
            code="invalid_limit",
            param="limit",
        )
    return Wanted(after=query.get("after") or None, limit=limit)


def page(
    entries: Iterable[Any],
    asked: Wanted,
    *,
    id_of: Callable[[Any], str],
    shown: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:
    """Give one page; entries after it are not looked at, but for the first.

    Args:
        entries: in their order.
        asked: which part.
        id_of: gives an entry's id without reading it.
        shown: makes what a client sees of it.

    Raises:
        ApiError: there is no entry of the id that the page is to begin after.
    """
    rest = iter(entries)
    if asked.after is not None and not any(id_of(one) == asked.after for one in rest):
        raise ApiError(
            f"'after' names {asked.after[:100]!r}, which is not in this list.",
            advice="Give the id of the last entry that you have, or leave it out.",
            code="unknown_after",
            param="after",
        )
    found = list(itertools.islice(rest, asked.limit + 1))
    data = [shown(one) for one in found[: asked.limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > asked.limit,
    }
