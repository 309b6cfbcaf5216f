"""Work: a ticket becomes a stage's process on this box, with the daemon's care."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from runner.contract import stage_environment as stage
from runner.contract.cluster import Order, Ticket, Why
from runner.contract.layout import StageFolder
from runner.contract.settings import Settings
from runner.contract.states import Stage
from runner.daemon.stages.host_memory import Blame, blame, kernel_kills
from runner.daemon.stages.process import Child, start_stage
from runner.daemon.stages.stand_by import Seat
from runner.exit_codes import ExitCode
from runner.files.refresh import refresh


@dataclass(kw_only=True)
class Work:
    """A stage at work."""

    ticket: Ticket
    child: Child
    kernel_kills: int | None
    """As `host_memory` counted them when it began."""
    why: Why = Why.ITSELF
    """Why it was asked to end; ITSELF: it was not."""

    def obey(self, order: Order, why: Why, *, at: float, grace_seconds: float) -> None:
        """Do what was ordered; a stage that was asked to stop is killed when its grace is over."""
        if order is not Order.GO:
            if not self.child.is_stopping:
                self.why = why
            self.child.ask_to_stop(at=at, grace_seconds=grace_seconds)
        if order is Order.KILL:
            self.child.kill()
        self.child.enforce(at)

    def ended(self) -> int | None:
        """Give what its end means; None: it is at work."""
        code = self.child.poll()
        if code is None or self.child.is_stopping:
            return code
        found = blame(code, before=self.kernel_kills, after=kernel_kills())
        return ExitCode.OUT_OF_HOST_MEMORY if found is Blame.YES else code


def start(ticket: Ticket, settings: Settings, *, seat: Seat, on_exit: Callable[[], None]) -> Work:
    """Start a ticket's stage, in the process that stands by for its card where there is one.

    Raises:
        OSError: its folder is not seen here, or its process cannot be started.
        ValueError: the ticket names no folder.
    """
    folder = ticket.folder(settings.outputs)
    refresh(folder, below=settings.outputs.root)
    os.stat(StageFolder(folder).plan, follow_symlinks=False)
    environment = environment_on(
        ticket.card, settings, box=ticket.box, spare_host_memory=ticket.spare_host_memory
    )
    log, folder = StageFolder(folder).log(Stage.TRAIN.value), folder.resolve()
    before, process, ready = kernel_kills(), None, seat.take(environment)
    if ready is not None:
        process = ready.become(Stage.TRAIN, folder, log=log)
    if process is None:
        command = stage.command(settings.stage_command, Stage.TRAIN, folder)
        process = start_stage(command, environment=environment, log=log)
    child = Child(process, folder=folder, on_exit=on_exit)
    return Work(ticket=ticket, child=child, kernel_kills=before)


def environment_on(
    card: str, settings: Settings, *, box: str, spare_host_memory: bool = False
) -> dict[str, str]:
    """Build the environment of a stage on a card of this box; an empty name: on the processor."""
    return stage.environment(
        os.environ,
        home=settings.stage_home.resolve(),
        card=card or None,
        spare_host_memory=spare_host_memory,
        box=box,
    )
