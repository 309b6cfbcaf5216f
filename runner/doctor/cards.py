"""Doctor: each of the cards that RUNNER_GPUS names, and whether one is left to work with."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from runner.card.answer import Answer, Gpu, meaning
from runner.card.ask import ask_driver
from runner.card.find_cards import NamedCard, find_cards
from runner.card.memory import read_gpu
from runner.doctor.finding import Finding, Level
from runner.doctor.gpu_memory import judge_gpu_memory
from runner.errors import RunnerError

_WHY_LOST = "Jobs go on with the other cards; what this one could do is missing."
_WHY_SETTING = "The runner does not start with a card that is not there."


@dataclass(frozen=True, kw_only=True)
class Cards:
    """What was found of them."""

    findings: tuple[Finding, ...] = ()
    well: tuple[NamedCard, ...] = ()
    answer: Answer | None = None
    """The driver's about the first that is well, or else the first; None: no card is named."""


def look_at_cards(setting: str) -> Cards:
    """Ask the driver for each named card by itself."""
    try:
        named = find_cards(setting, os.environ)
    except RunnerError as error:
        wrong = Finding(
            check="RUNNER_GPUS",
            level=Level.TROUBLE,
            what=f"{error.message}.",
            why=_WHY_SETTING,
            fix="nvidia-smi -L    # on the host",
        )
        return Cards(findings=(wrong,))
    asked = [(one, ask_driver(one.asked_as)) for one in named]
    # Where one is lost the others are known by their numbers alone, which name no lease.
    answers = [(one.told_by(found), found) for one, found in asked]
    well = [(one, found) for one, found in answers if found and _is_well(found)]
    findings = [_judge(one, found, stops=not well) for one, found in answers]
    first = (well or answers or [(None, None)])[0][1]
    return Cards(findings=tuple(findings), well=tuple(one for one, _ in well), answer=first)


def titled(card: NamedCard, finding: Finding, *, stops: bool = True) -> Finding:
    """Say which card a finding is about; ``stops``: trouble with it stops jobs."""
    lowered = finding.level is Level.TROUBLE and not stops
    return replace(
        finding, check=f"GPU {card.number}", level=Level.ADVICE if lowered else finding.level
    )


def _is_well(answer: Answer) -> bool:
    return meaning(answer, expected=True).gpu is Gpu.WELL


def _judge(card: NamedCard, answer: Answer | None, *, stops: bool) -> Finding:
    verdict = meaning(answer, expected=True) if answer else None
    if verdict is None or verdict.gpu is not Gpu.WELL:
        lost = Finding(
            check="",
            level=Level.TROUBLE,
            what=f"{verdict.message}." if verdict else "The NVIDIA driver does not answer.",
            why=_WHY_LOST,
            fix=verdict.fix if verdict else "sudo reboot",
        )
        return titled(card, lost, stops=stops)
    memory = read_gpu(card.asked_as)
    if memory is None:
        return titled(card, Finding(check="", level=Level.OK, what=f"{card.model}.", why=""))
    return titled(card, judge_gpu_memory(memory), stops=stops)
