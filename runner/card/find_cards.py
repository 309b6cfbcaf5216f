"""Find cards: those that RUNNER_GPUS names, as the driver knows them; others are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.card.answer import Answer, Card, Gpu, meaning
from runner.card.ask import EVERY, ask_driver, cards_on_bus, expects_gpu
from runner.contract.gpus import ALL, ALLOWED, read_gpus
from runner.contract.layout import Outputs
from runner.contract.settings_table import SettingError
from runner.words import visible

_MEND = (
    "Set RUNNER_GPUS in .env to cards that `nvidia-smi -L` shows, or to nothing for one card, then "
    "start the box again: docker compose up -d"
)


@dataclass(frozen=True, kw_only=True)
class NamedCard:
    """A card that the setting names."""

    number: str
    """As people call it: its number on the host, or its UUID where it was named by that."""
    asked_as: str
    """How the driver is asked for it alone: by its UUID, or by its number until that is known."""
    uuid: str = ""
    """Empty: the driver has not told yet."""
    model: str = ""
    """The model's name; empty: not known."""
    is_first: bool = False
    """The driver's first one, which a program takes that chooses none."""

    def lease(self, outputs: Outputs, uuid: str | None) -> Path:
        """Give the file that is held by who works on it.

        The first card's is that of a box with one card: so a command that knows of no other card
        meets whoever works on the one that it would take.
        """
        return outputs.gpu_lease if self.is_first or not uuid else outputs.lease_of_card(uuid)

    def told_by(self, answer: Answer | None) -> NamedCard:
        """Give the same card with what the driver says of it, asked for it alone."""
        if self.uuid or answer is None or not answer.cards:
            return self
        card = answer.cards[0]
        return replace(self, asked_as=card.uuid or self.asked_as, uuid=card.uuid, model=card.name)


def find_cards(
    setting: str,
    environment: Mapping[str, str],
    *,
    ask: Callable[[str | None], Answer | None] = ask_driver,
) -> list[NamedCard]:
    """Find the cards of a setting, in the driver's order; a driver that is lost is waited for.

    Args:
        setting: what RUNNER_GPUS says.
        environment: this process's.
        ask: asks the driver.

    Raises:
        SettingError: it is nonsense, or a card is not there, or is named twice.
    """
    try:
        names = read_gpus(setting)
    except ValueError as error:
        said = f"RUNNER_GPUS is {visible(setting)!r}; allowed is {ALLOWED}"
        raise SettingError(said, advice=_MEND) from error
    if not names:
        return []
    answer = ask(EVERY)
    given = _given(environment)
    if answer is None or _tells_of_none(answer, environment):
        return _unknown(names, answer, given)
    if environment.get("NVIDIA_VISIBLE_DEVICES") == "void" and len(names) == len(answer.cards):
        # Devices that came by CDI: the container has what was reserved, and is not told numbers.
        given = sorted({int(name) for name in names}) if all(map(str.isdigit, names)) else given
    if not answer.cards:
        raise SettingError(
            f"RUNNER_GPUS is {visible(setting)!r}, and there is no card", advice=_MEND
        )
    return choose(names, answer.cards, given)


def _tells_of_none(answer: Answer, environment: Mapping[str, str]) -> bool:
    """Whether there are cards that the driver cannot tell of: lost, or until the machine's restart.

    Or it refuses a question about one of them, which says nothing about the others.
    """
    there = meaning(answer, expected=expects_gpu(environment)).gpu is not Gpu.NONE
    return there and not answer.cards


def choose(
    names: Sequence[str], cards: Sequence[Card], given: Sequence[int] = ()
) -> list[NamedCard]:
    """Decide which of the driver's cards are meant.

    Args:
        names: numbers, UUIDs or ``all``.
        cards: all that the driver shows, in its order.
        given: the numbers on the host of the cards that this container was given; none: the
            driver's order is the host's.

    Raises:
        SettingError: a card is not there, or is named twice.
    """
    numbers = [str(number) for number in given] or [str(place) for place in range(len(cards))]
    if len(numbers) != len(cards):  # the container was given others than it says
        numbers = [str(place) for place in range(len(cards))]
    if tuple(names) == (ALL,):
        names = numbers
    found: dict[int, NamedCard] = {}
    named_as: dict[int, str] = {}
    for name in names:
        place = _place(name, cards, numbers)
        if place is None and name.startswith("MIG-"):  # a part of a card, which no list shows
            found[len(cards) + len(found)] = NamedCard(number=name, asked_as=name, uuid=name)
            continue
        if place is None:
            there = ", ".join(
                f"{n} ({c.name}, {c.uuid})" for n, c in zip(numbers, cards, strict=True)
            )
            raise SettingError(
                f"RUNNER_GPUS names the card {visible(name)}, which is not there; the driver shows "
                f"{there}",
                advice=_MEND,
            )
        if place in found:
            raise SettingError(
                f"RUNNER_GPUS names the card {numbers[place]} twice: as {named_as[place]} and "
                f"as {visible(name)}",
                advice=_MEND,
            )
        named_as[place] = visible(name)
        found[place] = NamedCard(
            number=name if name.isdigit() else numbers[place],
            asked_as=cards[place].uuid or str(place),
            uuid=cards[place].uuid,
            model=cards[place].name,
            is_first=place == 0,
        )
    return [found[place] for place in sorted(found)]


def _place(name: str, cards: Sequence[Card], numbers: Sequence[str]) -> int | None:
    if name in numbers:
        return numbers.index(name)
    matching = [place for place, card in enumerate(cards) if _is_short_for(name, card.uuid)]
    return matching[0] if len(matching) == 1 else None


def _is_short_for(name: str, uuid: str) -> bool:
    return not name.isdigit() and uuid.casefold().startswith(name.casefold())


def _unknown(names: Sequence[str], answer: Answer | None, given: Sequence[int]) -> list[NamedCard]:
    """Name the cards of a driver that cannot tell of all of them: each is asked for by itself."""
    if tuple(names) == (ALL,):
        count = (answer.count if answer else 0) or len(given) or cards_on_bus() or 1
        names = [str(number) for number in given or range(count)]
    order = [str(number) for number in given]
    found = []
    for name in names:
        asked_as = str(order.index(name)) if name in order else name
        found.append(NamedCard(number=name, asked_as=asked_as, is_first=asked_as == "0"))
    return sorted(found, key=lambda one: (len(one.asked_as), one.asked_as))


def _given(environment: Mapping[str, str]) -> list[int]:
    """Give the host's numbers of the cards that the container toolkit gave this container.

    The toolkit keeps the host's order, and the driver counts from 0 within the container.
    """
    words = [word.strip() for word in environment.get("NVIDIA_VISIBLE_DEVICES", "").split(",")]
    return sorted({int(word) for word in words}) if all(map(str.isdigit, words)) else []
