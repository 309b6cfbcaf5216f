"""The head's side of the cluster: what boxes say is heard, and what holds is said to them."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from runner.card.memory import GpuMemory
from runner.contract.card_shown import CardShown
from runner.contract.cards_story import title_of
from runner.contract.cluster import (
    BOX_NAME,
    OF_ONE_FILE,
    BoxCard,
    BoxSaid,
    ClusterFolder,
    Head,
    Held,
    M,
    Seen,
    Ticket,
    Why,
    fence_seconds,
    hear,
    say,
)
from runner.contract.image_version import image_version
from runner.contract.record import CardUsed
from runner.contract.settings import Settings
from runner.daemon.cluster.far_child import FarChild
from runner.daemon.cluster.judge_box import House, Watched, is_away, problem_of
from runner.words import visible

_REST_SECONDS = 60.0  # for a box that could not do what it was given
_LOOKS_A_BEAT = 2
_SHOWN = 300  # characters of what a box says, in each beat and on each page
_GPU_MEMORY = TypeAdapter(GpuMemory)


@dataclass(frozen=True, kw_only=True)
class FarCard:
    """A card of a further box."""

    box: str
    said: BoxCard
    memory: GpuMemory | None

    @property
    def used(self) -> CardUsed:
        """As a record tells of it."""
        return CardUsed(number=self.said.number, name=self.said.name, uuid=self.said.uuid)

    @property
    def title(self) -> str:
        """As people read it: ``cellar, GPU 0 (NVIDIA GeForce RTX 4090)``."""
        what = title_of(self.used) if self.said.uuid else "CPU"
        return f"{self.box}, {visible(what)}"


class Cluster:
    """All further boxes, and the tickets that they have."""

    def __init__(self, settings: Settings, *, say_event: Callable[..., None]) -> None:
        """Begin with no box known, and with whatever lies where its folders are to be.

        Raises:
            OSError: the outputs folder cannot be written.
        """
        self.folder = ClusterFolder.of(settings.outputs)
        self.folder.root.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # `look` says so: it keeps no daemon from work
            self._make_folders()
        self.house = House(
            version=image_version(),
            outputs_dir=str(settings.outputs_dir),
            models_dir=str(settings.models_dir),
            lease_seconds=settings.lease_seconds,
        )
        self._grace_seconds = settings.grace_seconds
        self._say_event = say_event
        self._id, self._counter = secrets.token_hex(8), 0
        self._beat_at, self._looked_at = 0.0, 0.0
        self._is_new = True
        """Something is to be said before the next beat."""
        self.boxes: dict[str, Watched] = {}
        self.children: dict[str, FarChild] = {}
        self._problems: dict[str, str] = {}
        self._freed_at: dict[tuple[str, str], float] = {}
        """When a ticket of a card was closed: monotonic, by box and card."""
        self._unread: dict[str, str] = {}
        """Files of boxes that cannot be read, and why: said once."""

    @property
    def beat_seconds(self) -> float:
        """How often the head shows that it lives."""
        return self.house.lease_seconds / 6

    @property
    def fence_seconds(self) -> float:
        """How long after its box was given up a stage may still run."""
        return fence_seconds(self.house.lease_seconds, self._grace_seconds)

    def attach(self, ticket: Ticket) -> FarChild:
        """Follow a ticket; where an earlier daemon has not come to hand it over, that is done.

        Where it cannot be written, its box takes none, and is given up after a while.
        """
        with contextlib.suppress(OSError):
            if not self.folder.ticket(ticket.name).exists():
                say(self.folder.ticket(ticket.name), ticket)
        child = FarChild(ticket, changed=self._changed)
        self.children[ticket.name] = child
        self._is_new = True
        return child

    def place(self, ticket: Ticket) -> FarChild:
        """Hand a ticket to its box.

        Raises:
            OSError: it cannot be written.
        """
        for path in (self.folder.seen_of(ticket.name), self.folder.ticket(ticket.name)):
            path.unlink(missing_ok=True)
        say(self.folder.ticket(ticket.name), ticket)
        return self.attach(ticket)

    def close(self, child: FarChild) -> None:
        """Forget a ticket: the record says how its attempt ended."""
        name = child.ticket.name
        self._freed_at[child.ticket.box, child.ticket.card] = time.monotonic()
        if child.seen is not None and child.seen.why is Why.NOT_SEEN:
            self._rest(child.ticket.box, child.seen.reason)
        self.children.pop(name, None)
        self._is_new = True
        for path in (self.folder.ticket(name), self.folder.seen_of(name)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove, at the start, tickets that no record knows any more."""
        for folder in (self.folder.tickets, self.folder.seen):
            with contextlib.suppress(OSError):
                for entry in list(os.scandir(folder)):
                    if entry.name.removesuffix(".json") not in self.children:
                        with contextlib.suppress(OSError):
                            os.unlink(entry.path)

    def look(self, at: float) -> None:
        """Hear what the boxes say.

        Raises:
            OSError: the folder cannot be read.
        """
        apart = self.beat_seconds / _LOOKS_A_BEAT
        is_time = not self._looked_at or at - self._looked_at >= apart
        if is_time:
            self._make_folders()
        for name, child in self.children.items():
            was_over = child.has_ended
            if not was_over:
                child.hear(self._hear(self.folder.seen_of(name), Seen)[0])
            # What is free now was said before that.
            is_time = is_time or child.has_ended is not was_over
        if not is_time:
            return
        found = set()
        for entry in list(os.scandir(self.folder.boxes)):
            name = entry.name.removesuffix(".json")
            if BOX_NAME.fullmatch(name) and name != entry.name:
                found.add(name)
                self._look_at_box(name, at)
        for name in self.boxes.keys() - found:
            if not any(child.ticket.box == name for child in self.children.values()):
                del self.boxes[name]  # it has left, or a person has removed its file
        for child in self.children.values():
            watched = self.boxes.get(child.ticket.box)
            if watched is None:
                box = child.ticket.box
                watched = self.boxes[box] = Watched(said=_nothing(box), since=at)
            not_taken = child.seen is None and at - child.since > self.fence_seconds
            child.lost = child.is_fenced or not_taken or is_away(watched, self.house, at)
        self._looked_at = at  # last: where it cannot be looked, the next round tries again
        self._tell_problems(at)

    def _look_at_box(self, name: str, at: float) -> None:
        said, why = self._hear(self.folder.box(name), BoxSaid)
        if said is not None and said.box != name:
            why, said = f"it is of a box named {said.box}", None
        known = self.boxes.get(name)
        if known is None or (said is not None and not known.said.agent):
            known = self.boxes[name] = Watched(said=said or _nothing(name), since=at)
        known.unread = why
        if said is not None:
            known.hear(said, at)

    def _hear(self, path: Path, kind: type[M]) -> tuple[M | None, str]:
        """Hear what one file says; where that cannot be read, why: the others are heard.

        Raises:
            OSError: the share itself cannot be read.
        """
        why = ""
        try:
            said = hear(path, kind)
            if said is None and path.exists():
                said = hear(path, kind)  # it may have come between these two looks
                why = "" if said is not None else "its content is damaged"
        except OSError as error:
            if error.errno not in OF_ONE_FILE:
                raise
            said, why = None, error.strerror or str(error)
        if why and self._unread.get(path.name) != why:
            what = path.relative_to(self.folder.root)
            self._say_event(f"cluster/{what} cannot be read ({why})", level="warning")
        self._unread[path.name] = why
        return said, why

    def _make_folders(self) -> None:
        """Make what a person has removed; never where the share is not mounted."""
        for folder in (self.folder.root, self.folder.boxes, self.folder.tickets, self.folder.seen):
            folder.mkdir(exist_ok=True)

    def beat(self, at: float) -> None:
        """Say which tickets hold, and that the head is there.

        Raises:
            OSError: it cannot be written; boxes end their stages when that lasts.
        """
        if not self._is_new and at - self._beat_at < self.beat_seconds:
            return
        tickets = {
            name: Held(box=child.ticket.box, order=child.order)
            for name, child in self.children.items()
        }
        head = Head(
            head=self._id,
            counter=self._counter + 1,
            version=self.house.version,
            lease_seconds=self.house.lease_seconds,
            grace_seconds=self._grace_seconds,
            tickets=tickets,
        )
        say(self.folder.head, head)
        self._counter += 1
        self._is_new, self._beat_at = False, at

    def problem(self, box: str, at: float) -> str:
        """Say why nothing is placed on a box; empty: something may be."""
        watched = self.boxes.get(box)
        return problem_of(watched, self.house, at) if watched else "it is not known"

    def well_cards(self, at: float) -> list[FarCard]:
        """List the cards that work, busy ones as well."""
        return [
            card
            for name in sorted(self.boxes)
            if not self.problem(name, at)
            for card in self._cards(name)
            if not card.said.problem
        ]

    def free_cards(self, at: float) -> list[FarCard]:
        """List the cards on which something may be placed now."""
        taken = {(child.ticket.box, child.ticket.card) for child in self.children.values()}
        return [card for card in self.well_cards(at) if (card.box, card.said.uuid) not in taken]

    def free_since(self, card: FarCard) -> float:
        """Give the monotonic time from which on nothing was placed on a card; 0: nothing was."""
        return self._freed_at.get((card.box, card.said.uuid), 0.0)

    def sees_model(self, box: str, model: str) -> bool:
        """Whether a box has the model."""
        return model in self.boxes[box].said.models

    def memory_of(self, ticket: Ticket) -> GpuMemory | None:
        """Give a card as its box last told of it."""
        cards = self._cards(ticket.box) if ticket.box in self.boxes else []
        return next((card.memory for card in cards if card.said.uuid == ticket.card), None)

    def give_rest(self, box: str, why: str, at: float) -> None:
        """Place nothing on a box for a while."""
        watched = self.boxes.get(box)
        if watched is not None:
            watched.rests_until, watched.rests_because = at + _REST_SECONDS, why

    def shown(self, at: float) -> Iterable[CardShown]:
        """Tell of every card of every further box, for status and page."""
        at_work = {
            (child.ticket.box, child.ticket.card): child.ticket for child in self.children.values()
        }
        for name in sorted(self.boxes):
            problem = self.problem(name, at)
            for card in self._cards(name) or [_no_card(name)]:
                ticket = at_work.get((name, card.said.uuid))
                yield CardShown(
                    title=card.title,
                    uuid=card.said.uuid,
                    job=ticket.job if ticket else "",
                    run_id=ticket.run_id if ticket else "",
                    problem=visible((problem or card.said.problem)[:_SHOWN]),
                )

    def _cards(self, box: str) -> list[FarCard]:
        return [
            FarCard(box=box, said=card, memory=_memory(card)) for card in self.boxes[box].said.cards
        ]

    def _rest(self, box: str, reason: str) -> None:
        watched = self.boxes.get(box)
        if watched is not None:
            why = f"it does not see what it is to train in ({visible(reason)})"
            self.give_rest(box, why, self._looked_at)

    def _changed(self) -> None:
        self._is_new = True

    def _tell_problems(self, at: float) -> None:
        now = {name: self.problem(name, at) for name in self.boxes}
        for name, problem in now.items():
            if problem != self._problems.get(name):
                what = f"box {name}: {visible(problem)}" if problem else f"box {name} is there"
                self._say_event(what, level="warning" if problem else "info")
        self._problems = now


def _memory(card: BoxCard) -> GpuMemory | None:
    try:
        return _GPU_MEMORY.validate_python(card.memory) if card.memory else None
    except ValidationError:  # of another version, which is refused anyway, or damaged
        return None


def _nothing(box: str) -> BoxSaid:
    return BoxSaid(box=box, agent="", version="", counter=0, outputs_dir="", models_dir="")


def _no_card(box: str) -> FarCard:
    return FarCard(box=box, said=BoxCard(), memory=None)
