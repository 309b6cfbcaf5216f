"""Cards: those that this daemon's stages work on, one stage at a time on each.

A card has a lease, a watch over its memory, a guard that knows whether it is lost, and a seat for
the process of its next stage. A box without a card has one as well: there the CPU computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from runner.card.answer import Answer
from runner.card.ask import ask_driver
from runner.card.find_cards import NamedCard
from runner.card.memory import GpuMemory, read_gpu
from runner.contract.cards_story import title_of
from runner.contract.record import CardUsed
from runner.contract.settings import Settings
from runner.daemon.gpu_guard import GpuGuard
from runner.daemon.gpu_watch import GpuWatch
from runner.daemon.stages.next_start import MOST_PREPARED
from runner.daemon.stages.stand_by import Seat
from runner.errors import BOX_WIDE, BusyError, UnsafePathError
from runner.files.lock import Lock
from runner.notices.leave import leave_lost_card


@dataclass(kw_only=True, eq=False)
class Card:
    """One card."""

    named: NamedCard | None
    """None: the one that a process of this daemon sees first, or the CPU."""
    settings: Settings
    watch: GpuWatch
    guard: GpuGuard
    seat: Seat = field(default_factory=Seat)
    """Of the next stage's process, that has its imports done."""
    described: GpuMemory | None = None
    """As it was last seen beside others; None: not yet. A card that is lost keeps its size."""

    @property
    def uuid(self) -> str | None:
        """What a stage finds in CUDA_VISIBLE_DEVICES; None: what the daemon itself finds there."""
        if self.named is None:
            return None
        seen = self.guard.card
        return self.named.uuid or (seen.uuid if seen else None)

    @property
    def name(self) -> str:
        """The model's name, as the driver says it; empty: not known."""
        seen = self.guard.card
        return seen.name if seen else self.named.model if self.named else ""

    @property
    def title(self) -> str:
        """What people call it: ``GPU 1 (NVIDIA GeForce RTX 4090)``."""
        return title_of(CardUsed(number=self.named.number if self.named else "0", name=self.name))

    @property
    def used(self) -> CardUsed | None:
        """As a record tells of it; None: there is no card, or it is not known."""
        if self.named is None and not self.guard.is_well:
            return None
        number = self.named.number if self.named else "0"
        seen = self.guard.card
        uuid = self.uuid or (seen.uuid if seen else "")
        return CardUsed(number=number, name=self.name, uuid=uuid)

    @property
    def lease(self) -> Path:
        """Held by who works on it: a stage, `runner try`, `runner doctor`."""
        outputs = self.settings.outputs
        return outputs.gpu_lease if self.named is None else self.named.lease(outputs, self.uuid)

    def take_lease(self, holder: str, *, what: str = "the GPU") -> Lock:
        """Take it; a child that inherits it holds it as long as it lives.

        Raises:
            BusyError: somebody else works on the card, or what lies there is no file to hold: that
                is the trouble of this card alone.
            OSError: the disk is full, or may not be written.
        """
        try:
            return Lock.take(self.lease, what=what, holder=holder)
        except UnsafePathError as error:
            raise _no_lease(self.lease, "is not a regular file") from error
        except OSError as error:
            if error.errno in BOX_WIDE:
                raise
            raise _no_lease(self.lease, error.strerror or str(error)) from error

    @property
    def problem(self) -> str:
        """Why nothing starts on it; empty: something may."""
        return self.guard.standing.problem


class Cards:
    """All of them, in the driver's order."""

    def __init__(
        self,
        settings: Settings,
        named: Sequence[NamedCard] = (),
        *,
        say: Callable[..., None],
        done: Callable[[], object],
    ) -> None:
        """Begin with no answer of any driver.

        Args:
            settings: the box owner's.
            named: the cards that the setting ``gpus`` names; none: the first card, or the CPU.
            say: the daemon's log.
            done: called from another thread when a driver has answered.
        """

        def make(one: NamedCard | None) -> Card:
            ask = one.asked_as if one else None
            say_of_card = say if len(named) < 2 or one is None else partial(_say_of, one, say)
            return Card(
                named=one,
                settings=settings,
                watch=GpuWatch(settings.device, done=done, ask=partial(read_gpu, ask)),
                guard=GpuGuard(
                    device=settings.device,
                    patience_seconds=settings.gpu_lost_seconds,
                    say=say_of_card,
                    done=done,
                    lost=partial(leave_lost_card, settings.outputs),
                    ask=partial(ask_driver, ask),
                    expected=one is not None,
                ),
            )

        self.all: tuple[Card, ...] = tuple(make(one) for one in named or (None,))
        self.preparers = tuple(Seat() for _ in self.all[:MOST_PREPARED])
        """Of the processes that prepare the next runs, for cards that have nothing to do."""

    @property
    def first(self) -> Card:
        """The first one: there is always one."""
        return self.all[0]

    @property
    def are_several(self) -> bool:
        """Whether people must be told which card is meant."""
        return len(self.all) > 1

    @property
    def served(self) -> int:
        """How many cards a job may ask for; 0: there is none, the processor trains."""
        return len(self.all) if self.are_several or self.first.guard.may_be_there else 0

    @property
    def problem(self) -> str:
        """Why nothing starts on any of them; empty: something may."""
        return "" if any(not card.problem for card in self.all) else self.first.problem

    @property
    def must_end(self) -> bool:
        """Whether only a new container can bring a card back: while one is well the daemon stays.

        A new container would be refused as long as a card that it is to be given is gone.
        """
        return all(card.guard.standing.must_end for card in self.all)

    def hear(self, answer: Answer, at: float) -> None:
        """Take an answer that somebody else heard just now, about the first card that is seen."""
        if self.first.named is None:
            self.first.guard.take(answer, at)

    def look(self, at: float) -> None:
        """Decide anew how each card is; drivers are asked where it is time to."""
        for card in self.all:
            card.guard.standing_at(at)
        if self.are_several and not self.must_end:  # the box is not started anew for one of them
            for card in self.all:
                card.guard.try_again(at)

    def problems(self) -> dict[str, str]:
        """Give what is wrong with each card that nothing starts on, by its title."""
        return {card.title: card.problem for card in self.all if card.problem}

    def well_first(self) -> list[Card]:
        """List all of them, those that something may start on first."""
        return sorted(self.all, key=lambda card: bool(card.problem))


def _no_lease(lease: Path, why: str) -> BusyError:
    where = f"outputs/{lease.parent.name}/{lease.name}"
    message = f"{where} cannot be held ({why}): remove or rename it"
    return BusyError(message, advice=f"Remove or rename {where}.")


def _say_of(named: NamedCard, say: Callable[..., None], event: str, **facts: object) -> None:
    say(f"GPU {named.number}: {event}", **facts)
