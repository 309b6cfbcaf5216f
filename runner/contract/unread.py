"""Unread: what a person reads of a file that cannot be read now, and what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

from runner.contract.checkpoints import step_of
from runner.contract.layout import RunFolder
from runner.contract.record import ErrorFacts
from runner.files.unreadable import storage_error
from runner.words import visible

UNREADABLE = "unreadable"
"""Kind of the error by which a stage says that it read nothing wrong: it could not read."""
TRIED_AGAIN = "nothing was changed, and it is tried again by itself"
_ADVICE = "Look at the disk or share on which it lies."


def unread(error: BaseException, *, outputs: Path) -> ErrorFacts:
    """Name the file, the error and the mend.

    Args:
        error: of the storage (`is_of_storage`), or caused by such a one.
        outputs: the outputs folder, from which a file is named.
    """
    found = storage_error(error)
    why = os.strerror(found.errno) if found is not None and found.errno else "Input/output error"
    path = Path(os.fsdecode(found.filename)) if found is not None and found.filename else None
    if path is None:
        what = f"the disk or share that holds outputs/, models/ or jobs/ failed ({why})"
        return ErrorFacts(kind=UNREADABLE, message=what, advice="Look at that disk or share.")
    shown = _from(path, outputs)
    what = f"{shown} cannot be read now ({why})"
    checkpoint = next((one for one in (path, *path.parents) if step_of(one.name)), None)
    advice = _ADVICE
    if checkpoint is not None:
        advice += (
            f" If it is lost for good, delete the folder {_from(checkpoint, outputs)}/: the run "
            "then goes on from the checkpoint before it."
        )
    return ErrorFacts(kind=UNREADABLE, message=what, advice=advice)


def outputs_above(folder: Path) -> Path:
    """Give the outputs folder that a stage's folder lies in."""
    return RunFolder.containing(folder).root.parents[1]


def _from(path: Path, outputs: Path) -> str:
    """Name a file as people find it: ``outputs/contracts/…``."""
    for root in (outputs, outputs.resolve()):
        if path.is_relative_to(root):
            return visible(f"outputs/{path.relative_to(root).as_posix()}")
    return visible(path.as_posix())
