"""View: the place of a run's spec under the inbox, as its record says; healed where it is not."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection

from runner.contract.layout import RUN_ID, STATE_FOLDERS, RunFolder, claimed_name
from runner.contract.record import RunRecord
from runner.contract.states import State
from runner.daemon.inbox import answer
from runner.files.beneath import Folder
from runner.files.crash_points import reached

_RUN_ID_IN_NAME = re.compile(RUN_ID.pattern)
_NAMES_A_ROW = re.compile(r", (?:line|row) \d")
_BAD_ROWS_BYTES = 1024 * 1024  # some 20,000 rows; the whole list is in the run's folder
_UNDER_WAY = ("queued", "running")


def scan_view(
    inbox: Folder, *, wanted: Collection[str] | None = None
) -> dict[str, tuple[str, str]]:
    """List the claimed specs: run id → (state folder, file name). Answers are not listed.

    A person may rename a claimed file; the run id anywhere in its name still tells whose it is.
    With ``wanted`` the search ends once these runs are found: thousands may lie in done/.
    """
    found: dict[str, tuple[str, str]] = {}
    for state_folder in STATE_FOLDERS:
        under_way = state_folder in _UNDER_WAY
        if not under_way and wanted is not None and found.keys() >= set(wanted):
            break
        with inbox.open_folder(state_folder) as folder:
            for entry in folder.scan():
                match = _RUN_ID_IN_NAME.search(entry.name)
                if match and not entry.name.endswith(".txt"):
                    found[match[0]] = (state_folder, entry.name)
    return found


def scan_under_way(inbox: Folder) -> dict[str, tuple[str, str] | None]:
    """List the runs that show as under way: run id → its spec's place.

    None: deleted, to cancel the run; only the answer that lay beside it is left.
    """
    where = scan_view(inbox)
    found: dict[str, tuple[str, str] | None] = {
        run_id: place for run_id, place in where.items() if place[0] in _UNDER_WAY
    }
    for state_folder in _UNDER_WAY:
        with inbox.open_folder(state_folder) as folder:
            for entry in folder.scan():
                match = _RUN_ID_IN_NAME.search(entry.name)
                if match and entry.name.endswith(".txt") and match[0] not in where:
                    found[match[0]] = None
    return found


def show(inbox: Folder, record: RunRecord, where: tuple[str, str]) -> None:
    """Bring a run's spec to where its record says it belongs."""
    name = claimed_name(record.file_name, record.run_id)
    target_folder = record.state.folder
    if where == (target_folder, name):
        return
    with inbox.open_folder(where[0]) as source, inbox.open_folder(target_folder) as target:
        if where[0] != target_folder:  # first: an answer without its spec answers nobody
            source.remove_file(f"{name}.txt")
        reached("spec shown", target_folder)
        # Taken: somebody copied it there. Gone: deleted just now, the next scan sees it.
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            source.move(where[1], target, name)


def conclude(
    inbox: Folder,
    record: RunRecord,
    run: RunFolder,
    where: tuple[str, str] | None,
    *,
    share_name: str = "",
) -> None:
    """Show that a run has ended: its last answer first, and only then does its spec leave.

    As long as something of it lies in queued/ or running/, the next start does all of this again.
    So whatever ends the daemon in between, no spec is left without its answer.
    """
    if where is None:
        where = _restored(inbox, record, run)
    beside = answer.Beside(
        share_name=share_name,
        bad_rows=_copy_bad_rows(inbox, record, run),
        answers=f"outputs/{record.job}/{record.run_id}/evaluation/{run.answers.name}"
        if run.answers.is_file()
        else None,
    )
    write_answer(inbox, record, answer.answer(record, beside=beside))
    show(inbox, record, where)


def _copy_bad_rows(inbox: Folder, record: RunRecord, run: RunFolder) -> str | None:
    """Leave the list of rows that cannot be used beside the answer; give its name there."""
    if record.state not in (State.REJECTED, State.FAILED):
        return None
    try:
        with run.bad_rows.open("rb") as file:
            text = file.read(_BAD_ROWS_BYTES).decode(errors="ignore")
    except OSError:
        return None  # every row can be used, or they were not looked at
    if not _NAMES_A_ROW.search(text):
        return None  # a file is missing, or none of it can be read: the answer says so itself
    name = f"{claimed_name(record.file_name, record.run_id)}.bad_rows.txt"
    with inbox.open_folder(record.state.folder) as folder:
        folder.write_text(name, text)
    return name


def _restored(inbox: Folder, record: RunRecord, run: RunFolder) -> tuple[str, str]:
    """Write a spec again that whoever cancelled its run has deleted; then its old answer goes."""
    name = claimed_name(record.file_name, record.run_id)
    with inbox.open_folder("queued") as queued:
        queued.write_text(name, run.spec.read_bytes().decode(errors="replace"))
    for state_folder in _UNDER_WAY:
        with inbox.open_folder(state_folder) as folder:
            folder.remove_file(f"{name}.txt")
    return "queued", name


def write_answer(inbox: Folder, record: RunRecord, text: str) -> None:
    """Leave the answer beside the run's spec, or where that will lie."""
    with inbox.open_folder(record.state.folder) as folder:
        folder.write_text(f"{claimed_name(record.file_name, record.run_id)}.txt", text)
        if record.state.is_final:  # nobody writes it again: it is there before its spec is
            folder.sync()
