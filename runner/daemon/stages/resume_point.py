"""Resume: the checkpoint that a run continues from; torn ones are set aside.

Only called while no child works on the run.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from runner.contract.checkpoints import (
    Sha256,
    names_there,
    sha256_of,
    step_of,
    verified,
)
from runner.contract.layout import RunFolder
from runner.contract.record import Attempt
from runner.files.durable import sync_folder

TORN_PREFIX = "torn-"
TORN_KEPT = 2
"""So many of a run's torn checkpoints stay for a person to look at; they are large."""


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where a run goes on."""

    checkpoint: str | None
    """Name of the newest checkpoint that can be trusted; None: from the start."""
    torn: tuple[str, ...] = ()
    """Checkpoints that were set aside to get there, newest first."""

    @property
    def step(self) -> int:
        """The last step that need not be done again."""
        return (step_of(self.checkpoint) if self.checkpoint else None) or 0

    @property
    def notes(self) -> tuple[str, ...]:
        """Tell a person about each one set aside."""
        on = f"step {self.step}" if self.step else "the beginning"
        return tuple(
            f"Checkpoint {name} was not as it was written and was set aside; the run goes on from "
            f"{on}. If this happens again, the disk needs a look."
            for name in self.torn
        )


def resume_point(run: RunFolder, sha256: Sha256 = sha256_of) -> ResumePoint:
    """Find the newest checkpoint that can be trusted; newer ones that cannot are set aside.

    What ``sha256`` raises leaves all as it was.

    Raises:
        OSError: the checkpoints cannot be listed, or one of them cannot be read now: the run must
            not begin anew for that, nor go on from an older one. Nothing was set aside.
    """
    torn: list[str] = []
    newest = None
    for name in names_there(run.checkpoints):
        if verified(run.checkpoints / name, sha256):
            newest = name
            break
        torn.append(name)
    for name in torn:
        _set_aside(run, name)
    return ResumePoint(checkpoint=newest, torn=tuple(torn))


def _set_aside(run: RunFolder, name: str) -> None:
    aside = f"{TORN_PREFIX}{name}-{secrets.token_hex(3)}"
    os.rename(run.checkpoints / name, run.checkpoints / aside)
    _drop_older_torn(run)


def export_point(run: RunFolder, best: str, sha256: Sha256 = sha256_of) -> ResumePoint:
    """Find the checkpoint to export: the best, or where that is torn, the newest good one.

    Raises:
        OSError: as `resume_point`.
    """
    if verified(run.checkpoints / best, sha256):
        return ResumePoint(checkpoint=best)
    found = resume_point(run, sha256)
    if best in names_there(run.checkpoints):  # older than the newest good one
        _set_aside(run, best)
    return ResumePoint(checkpoint=found.checkpoint, torn=tuple({*found.torn, best}))


def torn_checkpoints(run: RunFolder) -> list[str]:
    """List what was set aside, newest first."""
    try:
        there = [e for e in os.scandir(run.checkpoints) if e.name.startswith(TORN_PREFIX)]
    except OSError:
        return []
    there.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_ctime_ns, reverse=True)
    return [entry.name for entry in there]


def _drop_older_torn(run: RunFolder) -> None:
    for name in torn_checkpoints(run)[TORN_KEPT:]:
        shutil.rmtree(run.checkpoints / name, ignore_errors=True)
    sync_folder(run.checkpoints)


def count_up_to(attempts: Sequence[Attempt], step: int) -> tuple[Attempt, ...]:
    """Let earlier attempts count for no step that is done again after ``step``."""
    return tuple(
        attempt
        if attempt.last_step is None or attempt.last_step <= step
        else attempt.model_copy(update={"last_step": step})
        for attempt in attempts
    )
