"""Examine the box: light checks, which the daemon makes at its start, and the card's."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from runner.card.answer import NOBODY, Answer
from runner.card.ask import ask_driver, cards_on_bus, signs_of_a_card
from runner.card.find_cards import NamedCard
from runner.card.host_memory import read_host_memory
from runner.card.memory import GpuMemory, read_gpu
from runner.contract.settings import Settings
from runner.doctor.ask_card import NoCardFacts, ask_card, judge_no_card_facts
from runner.doctor.base_models import judge_base_models, read_base_models
from runner.doctor.cards import Cards, look_at_cards, titled
from runner.doctor.clock import judge_clock, read_clock
from runner.doctor.disk import judge_disk, read_disks
from runner.doctor.driver import Driver, judge_driver, read_cuda, read_module
from runner.doctor.evaluation_tasks import examine_tasks
from runner.doctor.events import Events, judge_events, try_events
from runner.doctor.finding import Finding, Level
from runner.doctor.folders import judge_folders, try_folder
from runner.doctor.gpu_memory import judge_gpu_memory
from runner.doctor.host_memory import judge_host_memory
from runner.doctor.judge_card import judge_card
from runner.doctor.llama_cpp import examine_llama_cpp
from runner.doctor.offline import judge_offline, read_offline
from runner.doctor.shared_memory import judge_shared_memory, read_shared_memory
from runner.doctor.surroundings import in_container


@dataclass(frozen=True, kw_only=True)
class Light:
    """What the light checks found, and what the daemon goes by."""

    findings: tuple[Finding, ...]
    events: Events
    answer: Answer | None
    """The driver's, for those who look further; None: it could not be asked."""
    cards: tuple[NamedCard, ...] = ()
    """Those that are well of the cards that the settings name; none: they name none."""

    @property
    def card_answers(self) -> bool:
        """Whether the driver shows a card that should be used."""
        return self.answer is not None and bool(self.answer.cards)


def examine_lightly(settings: Settings) -> Light:
    """Make every check that takes no more than a moment and no torch."""
    inside = in_container()
    wanted = settings.device != "cpu"
    asks = wanted and signs_of_a_card(os.environ)
    cards = look_at_cards(settings.gpus) if wanted and settings.gpus else Cards()
    answer = cards.answer or (ask_driver() if asks else NOBODY)
    driver = Driver(
        wanted=wanted,
        cards_on_bus=cards_on_bus(),
        module=read_module(),
        answer=answer or NOBODY,
        cuda=read_cuda(),
        in_container=inside,
    )
    card: GpuMemory | None = None
    if answer and answer.cards and not cards.findings:
        card = read_gpu()
    events = try_events(settings.jobs_dir)
    folders = (settings.jobs_dir, settings.outputs_dir, settings.models_dir)
    rights = [
        try_folder(path, name, writes=name != "models", in_container=inside)
        for path, name in zip(folders, ("jobs", "outputs", "models"), strict=True)
    ]
    checks: list[Callable[[], list[Finding]]] = [
        lambda: [judge_driver(driver)],
        lambda: [judge_gpu_memory(card)] if card else [*cards.findings],
        lambda: [judge_host_memory(read_host_memory())],
        lambda: [
            judge_disk(disk) for disk in read_disks(folders, needed_bytes=settings.min_free_bytes)
        ],
        lambda: [judge_shared_memory(read_shared_memory(in_container=inside))],
        lambda: judge_folders(rights),
        lambda: [judge_base_models(read_base_models(settings.models_dir, in_container=inside))],
        lambda: [examine_llama_cpp()],
        lambda: [examine_tasks(settings.evaluation_tasks, *folders[:2])],
        lambda: [judge_events(events)],
        lambda: [judge_clock(read_clock(settings.outputs))],
        lambda: [judge_offline(read_offline(os.environ, in_container=inside))],
    ]
    return Light(
        findings=tuple(finding for check in checks for finding in _made(check)),
        events=events,
        answer=answer,
        cards=cards.well,
    )


def _made(check: Callable[[], list[Finding]]) -> list[Finding]:
    """Make a check; one that this machine cannot answer must not keep the others from it."""
    try:
        return check()
    except (OSError, ValueError, KeyError, IndexError) as error:
        return [
            Finding(
                check="This machine",
                level=Level.SKIPPED,
                what=f"One check could not be made here: {error}.",
                why="Machines differ; the other checks stand.",
            )
        ]


def examine_cards(settings: Settings, light: Light) -> list[Finding]:
    """Let each card, or the CPU in their place, compute what training needs."""
    if not light.cards:
        return examine_card(settings, card_answers=light.card_answers)
    return [
        titled(card, finding)
        for card in light.cards
        for finding in examine_card(settings, card_answers=True, card=card)
    ]


def examine_card(
    settings: Settings, *, card_answers: bool, card: NamedCard | None = None
) -> list[Finding]:
    """Let the card, or the CPU in its place, compute what training needs."""
    wanted = settings.device != "cpu"
    on_card = wanted and card_answers
    facts = ask_card(
        settings.outputs,
        os.environ,
        device=settings.device,
        needs_lease=on_card,
        home=settings.stage_home,
        card=card,
    )
    if isinstance(facts, NoCardFacts):
        return [judge_no_card_facts(facts)]
    return judge_card(facts, card_answers=on_card)
