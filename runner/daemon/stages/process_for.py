"""Process for a stage: one that stands by, or a new one; and which card it sees."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from runner.contract import stage_environment as stage
from runner.contract.layout import StageFolder
from runner.contract.states import Stage
from runner.daemon.cards import Card
from runner.daemon.daemon import Daemon
from runner.daemon.stages.plans import ON_CARD
from runner.daemon.stages.process import start_stage
from runner.daemon.stages.stand_by import Seat


def process_for(
    daemon: Daemon,
    which: Stage,
    folder: Path,
    cards: Sequence[Card],
    *,
    held: tuple[int, ...],
    spare_host_memory: bool = False,
) -> subprocess.Popen[bytes]:
    """Give a stage that begins a process: one that stands by, or a new one.

    Args:
        daemon: whose child it is.
        which: the stage.
        folder: the stage's own, where its plan lies.
        cards: on which it works, or beside whose stages it prepares or exports.
        held: descriptors of locks that it holds as long as it lives.
        spare_host_memory: the machine's own memory ran out before.

    Raises:
        OSError: it could not be started, or its log not be written.
    """
    environment = stage.environment(
        os.environ,
        home=daemon.settings.stage_home.resolve(),
        card=_seen(which, cards),
        spare_host_memory=spare_host_memory,
    )
    log, folder = StageFolder(folder).log(which.value), folder.resolve()
    for seat in _seats(daemon, which, cards):
        if (ready := seat.take(environment)) is not None:
            process = ready.become(which, folder, log=log, inherited=held)
            if process is not None:
                return process
    command = stage.command(daemon.settings.stage_command, which, folder)
    return start_stage(command, environment=environment, log=log, inherited=held)


def _seen(which: Stage, cards: Sequence[Card]) -> str | None:
    """Say what a stage finds in CUDA_VISIBLE_DEVICES; None: what the daemon itself finds there."""
    if which not in ON_CARD:
        return stage.NO_CARD
    return cards[0].uuid if len(cards) == 1 else ",".join(card.uuid or "" for card in cards)


def _seats(daemon: Daemon, which: Stage, cards: Sequence[Card]) -> Sequence[Seat]:
    """List where a process may stand by for a stage.

    What stands by for a card sees no other: for several, a new one is started. So it is for an
    export, which imports nothing that takes long.
    """
    if which is Stage.PREPARE:
        return daemon.cards.preparers
    return [cards[0].seat] if which in ON_CARD and len(cards) == 1 else []
