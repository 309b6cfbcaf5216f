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


def start(ticket: Ticket, settings: Settings, *, on_exit: Callable[[], None]) -> Work:
    """Start a ticket's stage.

    Raises:
        OSError: its folder is not seen here, or its process cannot be started.
        ValueError: the ticket names no folder.
    """
    folder = ticket.folder(settings.outputs)
    refresh(folder, below=settings.outputs.root)
    os.stat(StageFolder(folder).plan, follow_symlinks=False)
    environment = stage.environment(
        os.environ,
        home=settings.stage_home.resolve(),
        card=ticket.card or None,
        spare_host_memory=ticket.spare_host_memory,
        box=ticket.box,
    )
    command = stage.command(settings.stage_command, Stage.TRAIN, folder.resolve())
    before = kernel_kills()
    process = start_stage(
        command, environment=environment, log=StageFolder(folder).log(Stage.TRAIN.value)
    )
    child = Child(process, folder=folder, on_exit=on_exit)
    return Work(ticket=ticket, child=child, kernel_kills=before)
