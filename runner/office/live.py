"""Live: parts of a page that renew themselves while what they show changes, over SSE.

However many follow a run, it is read once for each change and rendered once for each language: all
followers are sent the same bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass, field

from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from runner.errors import RunnerError
from runner.office.render import Reader, reader_of

LOOK_SECONDS = 1.5  # between two looks at whether something has changed
_ALIVE_SECONDS = 15.0  # a line is sent so often, so that no proxy takes the silence for an end
_LONGEST_SECONDS = 3600.0  # a browser comes back by itself
FOLLOWERS = 300
"""More at once are sent away; their pages still renew when they are loaded again."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that changes: how to see that it has, and how to show it."""

    key: Hashable
    look: Callable[[], Hashable]
    """Cheap: gives another value when what is shown has changed."""
    render: Callable[[Reader], str]


@dataclass
class _Topic:
    """One part that somebody follows."""

    part: Part
    followers: int = 0
    version: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    rendered: dict[Reader, asyncio.Task[bytes]] = field(default_factory=dict)
    watcher: asyncio.Task[None] | None = None

    async def watch(self) -> None:
        """Look again and again, as long as somebody follows."""
        seen = await to_thread.run_sync(self.part.look)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            found = await to_thread.run_sync(self.part.look)
            if found != seen:
                seen = found
                self.version += 1
                self.rendered.clear()
                changed, self.changed = self.changed, asyncio.Event()
                changed.set()

    async def show(self, reader: Reader) -> bytes:
        """Render it once for all who read it alike."""
        if reader not in self.rendered:
            self.rendered[reader] = asyncio.create_task(self._render(reader))
        return await asyncio.shield(self.rendered[reader])

    async def _render(self, reader: Reader) -> bytes:
        text = await to_thread.run_sync(self.part.render, reader)
        return b"".join(b"data: " + line.encode() + b"\n" for line in text.splitlines()) + b"\n"


class Live:
    """All that is followed on this box."""

    def __init__(self) -> None:
        """Nobody follows anything yet."""
        self._topics: dict[Hashable, _Topic] = {}

    @property
    def followers(self) -> int:
        """How many follow something now."""
        return sum(topic.followers for topic in self._topics.values())

    def follow(self, request: Request, part: Part) -> Response:
        """Answer with a stream of events: the part as HTML, each time that it has changed.

        Raises:
            HTTPException: 503, too many follow something already.
        """
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        if request.method == "HEAD":  # has no body that would end it
            return Response(headers=headers, media_type="text/event-stream")
        if self.followers >= FOLLOWERS:
            raise HTTPException(503)
        return StreamingResponse(
            self._events(request, part), media_type="text/event-stream", headers=headers
        )

    async def _events(self, request: Request, part: Part) -> AsyncIterator[bytes]:
        topic = self._topics.setdefault(part.key, _Topic(part))
        topic.followers += 1
        if topic.watcher is None:
            topic.watcher = asyncio.create_task(topic.watch())
        reader, end = reader_of(request), time.monotonic() + _LONGEST_SECONDS
        try:
            yield b"retry: 3000\n\n" + await topic.show(reader)
            version = topic.version
            while time.monotonic() < end:
                is_silent = False
                try:
                    await asyncio.wait_for(topic.changed.wait(), _ALIVE_SECONDS)
                except TimeoutError:
                    is_silent = True
                # Done: it could not look any more, since the run is gone.
                if topic.watcher.done() or not _may_stay(request):
                    return
                if is_silent:
                    yield b": still here\n\n"
                if topic.version != version:
                    version = topic.version
                    yield await topic.show(reader)
        except (HTTPException, RunnerError, OSError):
            return  # it is gone or cannot be read any more; the browser asks again and is told why
        finally:
            topic.followers -= 1
            if not topic.followers:
                topic.watcher.cancel()
                if self._topics.get(part.key) is topic:
                    del self._topics[part.key]


def _may_stay(request: Request) -> bool:
    """Whether who began to follow may still: the key may have been deleted meanwhile."""
    return request.app.state.keys.allowed(request.headers) is request.state.may_write
