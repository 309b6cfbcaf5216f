"""Send notices: each to every place that the box's owner named, by the library apprise.

At least once: the mark that a notice was sent is written after it was. Whoever is cut off in
between sends it again at the next start; whoever is not sends it once, however often he starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.clock import now
from runner.errors import DamagedError, RunnerError, UnreadableError
from runner.files.durable import write_json
from runner.files.plain import read_plain
from runner.files.sweep import sweep_folder
from runner.language.speaker import ENGLISH, Speaker
from runner.notices.due import Do, Tried, decide
from runner.notices.notice import SUFFIX, Kind, Notice, read_notice
from runner.notices.tell import services_in, tell
from runner.notices.word import text_of, title_of
from runner.words import roughly, visible

LOOK_SECONDS = 5.0
_MARK_BYTES = 64 * 1024
_URLS_BYTES = 64 * 1024
_MOST = 1000
"""So many notices are looked at, the newest: a box makes some tens in two weeks."""


_TYPES = {
    Kind.SUCCEEDED: "success",
    Kind.FAILED: "failure",
    Kind.NEEDS_PERSON: "warning",
    Kind.IN_USE: "info",
    Kind.CARD_LOST: "failure",
}
"""As apprise calls them: services choose a colour or a sign by it."""


class NoPlaceError(RunnerError):
    """There is no place to send notices to."""

    kind = "no_place"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where notices go."""

    id: str
    """Tells it from the others in marks; nothing secret can be read from it."""
    name: str
    """For the log: its line in the file and the kind of service; an address may hold a secret."""
    tags: frozenset[str]
    """The kinds that go there; empty: all."""
    tell: Callable[[str, str, Kind], bool]
    """Sends a title and a text; False: it did not arrive."""


@dataclass(kw_only=True)
class Sender:
    """Sends what is due, and remembers what failed."""

    folder: Path
    places: list[Place]
    speak: Speaker = ENGLISH
    say: Callable[[str], None] = field(default=lambda line: print(line, flush=True))
    _tried: dict[tuple[str, str], Tried] = field(default_factory=dict)
    _sent: dict[str, dict[str, str]] = field(default_factory=dict)
    """As marks have it: name of the mark → place → when; a full disk may keep them from there."""
    _unreadable: set[str] = field(default_factory=set)

    def round(self, at: float) -> bool:
        """Send what is due; give whether something waits to be tried again.

        Raises:
            OSError: the folder, or a mark, cannot be read or written; what could be sent was.
        """
        waits = False
        trouble: OSError | None = None
        names = [name for name in _names(self.folder) if name not in self._unreadable]
        for name in names:
            try:
                notice = read_notice(self.folder / name)
            except DamagedError as error:
                self._unreadable.add(name)
                self.say(f"{visible(name)}: {error.message}. {error.advice}")
                continue
            except UnreadableError as error:  # it is sent once it can be read
                trouble = error
                continue
            try:
                waits = self._one(notice, self.folder / "sent" / name, at) or waits
            except OSError as error:  # the others are sent
                trouble = error
        self._tried = {key: one for key, one in self._tried.items() if key[0] in names}
        self._sent = {name: one for name, one in self._sent.items() if name in names}
        if trouble is not None:
            raise trouble
        return waits

    def _one(self, notice: Notice, mark: Path, at: float) -> bool:
        marked = read_mark(mark)
        sent = self._sent.setdefault(mark.name, {})
        waits = False
        for place in self.places:
            key = (mark.name, place.id)
            tried = self._tried.get(key, Tried())
            what = decide(
                notice,
                tags=place.tags,
                is_sent=place.id in marked or place.id in sent,
                tried=tried,
                at=at,
                clock=now(),
            )
            waits = waits or what is Do.WAIT
            if what is not Do.SEND:
                continue
            title, text = title_of(notice, self.speak), text_of(notice, self.speak)
            if place.tell(title, text, notice.kind):
                sent[place.id] = now().isoformat(timespec="seconds")
                self._tried.pop(key, None)
                self.say(f"{notice.id}: sent to {place.name}")
                with contextlib.suppress(OSError):  # tried again below, and in each round
                    write_json(mark, {**marked, **sent})
                    marked = {**marked, **sent}
            else:
                self._tried[key] = after = tried.failed(at)
                self.say(
                    f"{notice.id}: could not be sent to {place.name}; it is tried again in "
                    f"{roughly(after.again_at - at)}"
                )
                waits = True
        if sent.keys() - marked.keys():
            write_json(mark, {**marked, **sent})
        return waits


def send_notices(sender: Sender, *, once: bool) -> bool:
    """Send until the process is ended; ``once``: what is there; give whether all arrived."""
    trouble = ""
    sweep_folder(sender.folder / "sent")
    while True:
        try:
            waits = sender.round(time.monotonic())
            trouble = ""
        except OSError as error:  # a full disk, a folder that is not mounted: it may come back
            waits = True
            if (said := f"the folder of notices: {error.strerror}") != trouble:
                trouble = said
                sender.say(trouble)
        if once:
            return not waits
        time.sleep(LOOK_SECONDS)


def read_mark(path: Path) -> dict[str, str]:
    """Read to which places a notice was sent, and when; what is no mark says nothing.

    Raises:
        OSError: there is one, and it cannot be read: nothing is sent twice for that.
    """
    try:
        found = json.loads(read_plain(path, limit_bytes=_MARK_BYTES))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _names(folder: Path) -> list[str]:
    """List notices, the oldest first: their names begin with a time."""
    found = sorted(path.name for path in folder.iterdir() if path.suffix == SUFFIX)
    return found[-_MOST:]


def read_places(urls: Path) -> list[Place]:
    """Read the places from a file in apprise's own text format.

    Raises:
        NoPlaceError: it names none, or one that apprise does not know.
    """
    try:
        text = read_plain(urls, limit_bytes=_URLS_BYTES)[:_URLS_BYTES].decode()
    except (OSError, ValueError) as error:
        raise _unusable("the file of places cannot be read") from error
    places: list[Place] = []
    alike: Counter[str] = Counter()
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith(("#", ";")):
            continue
        services = services_in(line)
        if len(services) != 1:
            raise _unusable(f"line {number} of the file of places cannot be used")
        place = _place(number, line, services[0])
        alike[place.id] += 1
        if (which := alike[place.id]) > 1:
            place = replace(place, id=f"{place.id}-{which}")
        places.append(place)
    if not places:
        raise _unusable("the file of places names none")
    return places


def _unusable(message: str) -> NoPlaceError:
    return NoPlaceError(
        message,
        advice="Write an address a line into the file that NOTIFY_URLS_FILE names; docs/notify.md "
        "has examples.",
    )


def _place(number: int, line: str, server: Any) -> Place:
    shown = server.url(privacy=True).partition("?")[0]
    known = {kind.value for kind in Kind}
    tags = frozenset(str(tag) for tag in server.tags)
    if wrong := tags - known:
        raise NoPlaceError(
            f"line {number} of the file of places: {', '.join(sorted(wrong))} is no kind of notice",
            advice=f"Before an address may stand {', '.join(sorted(known))}, and =.",
        )

    def tell_it(title: str, text: str, kind: Kind) -> bool:
        return tell(line, title=title, text=text, kind=_TYPES[kind])

    # Of the address without its secrets: `read_places` numbers those that look alike then.
    id_ = hashlib.sha256(f"{shown} {sorted(tags)}".encode()).hexdigest()[:16]
    name = f"line {number} ({visible(server.service_name)})"
    return Place(id=id_, name=name, tags=tags, tell=tell_it)
