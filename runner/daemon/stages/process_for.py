"""Process for a stage: one that stands by, or a new one; and which card it sees."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from runner.contract import stage_environment as stage
from runner.contract.layout import StageFolder
from runner.contract.states import Stage
from runner.daemon.book import Live
from runner.daemon.cards import Card
from runner.daemon.daemon import Daemon
from runner.daemon.stages.ask_card import Together
from runner.daemon.stages.plans import ON_CARD
from runner.daemon.stages.process import start_stage
from runner.daemon.stages.retry import spares_host_memory
from runner.daemon.stages.stand_by import Seat


def process_for(daemon: Daemon, live: Live, folder: Path, on: Together) -> subprocess.Popen[bytes]:
    """Give the stage that begins a process: one that stands by, or a new one.

    Raises:
        OSError: it could not be started, or its log not be written.
    """
    which, record = live.next_stage, live.record
    held = tuple(one.lease.descriptor for one in on.asked if one.lease)
    environment = stage.environment(
        os.environ,
        home=daemon.settings.stage_home.resolve(),
        card=_seen(which, on.cards),
        spare_host_memory=spares_host_memory(record.attempts)
        if which is Stage.TRAIN
        else record.tries[which.value] > 1 or record.falls is not None,
    )
    log, folder = StageFolder(folder).log(which.value), folder.resolve()
    for seat in _seats(daemon, which, on.cards):
        if (ready := seat.take()) is not None:
            process = ready.become(which, folder, environment=environment, log=log, inherited=held)
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
