"""Turns a run's state into the place of its spec under the inbox: a view of the record, healed."""

from __future__ import annotations

import contextlib
import re

from runner.contract.beneath import Folder
from runner.contract.crash_points import reached
from runner.contract.layout import RUN_ID, STATE_FOLDERS, RunFolder, claimed_name
from runner.contract.record import RunRecord

_RUN_ID_IN_NAME = re.compile(RUN_ID.pattern)


def scan_view(inbox: Folder) -> dict[str, tuple[str, str]]:
    """List the claimed specs: run id → (state folder, file name). Answers are not listed.

    A person may rename a claimed file; the run id anywhere in its name still tells whose it is.
    """
    found: dict[str, tuple[str, str]] = {}
    for state_folder in STATE_FOLDERS:
        with inbox.open_folder(state_folder) as folder:
            for entry in folder.scan():
                match = _RUN_ID_IN_NAME.search(entry.name)
                if match and not entry.name.endswith(".txt"):
                    found[match[0]] = (state_folder, entry.name)
    return found


def show(inbox: Folder, record: RunRecord, run: RunFolder, where: tuple[str, str] | None) -> None:
    """Bring a run's spec to where its record says it belongs.

    A cancelled run's spec may be gone, deleted by whoever cancelled: it is written again.
    """
    name = claimed_name(record.file_name, record.run_id)
    target_folder = record.state.folder
    if where == (target_folder, name):
        return
    with inbox.open_folder(target_folder) as target:
        if where is not None:
            with inbox.open_folder(where[0]) as source:
                if where[0] != target_folder:  # first: an answer without its spec answers nobody
                    source.remove_file(f"{name}.txt")
                reached("spec shown", target_folder)
                # Taken: somebody copied it there. Gone: deleted just now, the next scan sees it.
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    source.move(where[1], target, name)
        elif record.state.is_final:
            content = run.spec.read_bytes().decode(errors="replace")
            target.write_text(name, content)
    if where is None and record.state.is_final:
        for state_folder in ("queued", "running"):
            with inbox.open_folder(state_folder) as source:
                source.remove_file(f"{name}.txt")


def write_answer(inbox: Folder, record: RunRecord, text: str) -> None:
    """Leave the answer beside the run's spec."""
    with inbox.open_folder(record.state.folder) as folder:
        folder.write_text(f"{claimed_name(record.file_name, record.run_id)}.txt", text)
