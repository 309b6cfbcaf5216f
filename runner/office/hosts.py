"""Hosts and origins: only pages of this box, reached by its own name, may ask it for something.

A foreign name that leads to the box's address is refused (DNS rebinding): a plain address or
localhost cannot be such a name, and the others are listed in RUNNER_PAGE_HOSTS. A request that
changes something is refused when it comes from another site's page (CSRF): every browser names the
page's origin with it.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from runner.office.refusals import refuse
from runner.office.who import COOKIE, SAFE_METHODS


def name_of(host: str) -> str | None:
    """Give the name in a ``Host`` header, without its port; None: it is no such header."""
    if not host or any(sign in host for sign in "/\\@?# \t,"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
        name = parts.hostname
    except ValueError:
        return None
    return name.rstrip(".").lower() if name else None


def is_known(host: str, names: frozenset[str]) -> bool:
    """Whether the box may be reached by such a ``Host``."""
    name = name_of(host)
    if name is None:
        return False
    if name == "localhost" or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class KnownHosts:
    """Refuses a request that names the box by a name that is not its own."""

    def __init__(self, app: ASGIApp, *, names: tuple[str, ...]) -> None:
        """Take the names that are the box's own."""
        self._app, self._names = app, frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "http":
            hosts = Headers(scope=scope).getlist("host")
            # The health check of a container names no host that people would use.
            if scope["path"] != "/healthz" and (
                len(hosts) != 1 or not is_known(hosts[0], self._names)
            ):
                await refuse(scope, 421, "office_unknown_host")(scope, receive, send)
                return
        await self._app(scope, receive, send)


class OwnOrigin:
    """Refuses a request that changes something and comes from a page of another site."""

    def __init__(self, app: ASGIApp) -> None:
        """Take what is protected."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and not _is_own(scope):
            await refuse(scope, 403, "office_other_origin")(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_own(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None:
        return origin == f"{scope['scheme']}://{headers.get('host', '')}"
    if site is not None:
        return site == "same-origin"
    # No browser: a program with a key. A cookie without an origin is nothing that we sent.
    return COOKIE not in headers.get("cookie", "") and scope["path"] != "/sign-in"
