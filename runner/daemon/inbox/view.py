"""View: the place of a run's spec under the inbox, as its record says; healed where it is not."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from runner.contract.in_use import use_of
from runner.contract.layout import (
    RUN_ID,
    STATE_FOLDERS,
    UNDER_WAY,
    RunFolder,
    claimed_name,
    report_name,
)
from runner.contract.record import RunRecord
from runner.contract.states import State
from runner.daemon.inbox import answer
from runner.errors import UnsafePathError
from runner.files.beneath import Folder
from runner.files.crash_points import reached
from runner.files.plain import read_plain
from runner.language.speaker import ENGLISH, Speaker
from runner.spec.names import is_spec_name

_RUN_ID_IN_NAME = re.compile(RUN_ID.pattern)
_NAMES_A_ROW = re.compile(r", (?:line|row) \d")
_BAD_ROWS_BYTES = 1024 * 1024  # some 20,000 rows; the whole list is in the run's folder
OVER = tuple(name for name in STATE_FOLDERS if name not in UNDER_WAY)
"""The state folders of runs that are over."""
BESIDE = (".txt", ".html")
"""How the names of what the runner leaves beside a spec end: its answer and its report."""
SPEC_BYTES = 1024 * 1024  # read_spec refuses far less; this bounds what is read at all


@dataclass(frozen=True, kw_only=True)
class Says:
    """How the box speaks to its users."""

    speak: Speaker = ENGLISH
    share_name: str = ""
    reports: bool = False
    """Whether a report is written beside each answer."""


PLAIN = Says()


@dataclass(frozen=True, kw_only=True)
class Places:
    """What lies in the state folders."""

    where: dict[str, tuple[str, str]]
    """Run id → (state folder, file name); of runs that are over those that were wanted."""
    folders: dict[str, tuple[int, int]]
    """State folder → its identity."""
    unseen: dict[str, OSError | UnsafePathError]
    """State folders that could not be looked into, and why."""
    misplaced: tuple[tuple[str, str], ...]
    """(State folder, file name) of specs that belong to no run."""


def scan(
    inbox: Folder, *, wanted: Collection[str] | None = None, everywhere: bool = True
) -> Places:
    """List the claimed specs. Answers are not listed.

    A person may rename a claimed file; the run id anywhere in its name still tells whose it is.
    One folder that cannot be looked into does not hide the others.

    Args:
        inbox: the shared folder.
        wanted: of the specs in done/ and its like only those of these runs are listed: thousands
            may lie there. None: all of them.
        everywhere: also when those that are wanted are found already.

    Raises:
        OSError, UnsafePathError: none of them can be looked into.
    """
    where: dict[str, tuple[str, str]] = {}
    folders: dict[str, tuple[int, int]] = {}
    unseen: dict[str, OSError | UnsafePathError] = {}
    misplaced: list[tuple[str, str]] = []
    for state_folder in STATE_FOLDERS:
        under_way = state_folder in UNDER_WAY
        if not (under_way or everywhere or wanted is None) and where.keys() >= set(wanted):
            break
        try:
            with inbox.open_folder(state_folder) as folder:
                for name in folder.names():
                    if name.endswith(BESIDE):
                        continue
                    match = _RUN_ID_IN_NAME.search(name)
                    if match is None:
                        if is_spec_name(name):
                            misplaced.append((state_folder, name))
                    elif under_way or wanted is None or match[0] in wanted:
                        where[match[0]] = (state_folder, name)
                folders[state_folder] = folder.identity
        except (OSError, UnsafePathError) as error:
            unseen[state_folder] = error
    if len(unseen) == len(STATE_FOLDERS):
        raise unseen[STATE_FOLDERS[0]]
    return Places(where=where, folders=folders, unseen=unseen, misplaced=tuple(misplaced))


def scan_view(inbox: Folder) -> dict[str, tuple[str, str]]:
    """List the claimed specs: run id → (state folder, file name).

    Raises:
        OSError, UnsafePathError: as ``scan``.
    """
    return scan(inbox).where


def scan_under_way(inbox: Folder) -> dict[str, tuple[str, str] | None]:
    """List the runs that show as under way: run id → its spec's place.

    None: deleted, to cancel the run; only the answer that lay beside it is left.
    """
    places = scan(inbox, wanted=(), everywhere=False)
    alone: set[str] = set()
    for state_folder in UNDER_WAY:
        if state_folder not in places.unseen:
            with inbox.open_folder(state_folder) as folder:
                matches = [_RUN_ID_IN_NAME.search(n) for n in folder.names() if n.endswith(".txt")]
            alone |= {match[0] for match in matches if match and match[0] not in places.where}
    if alone:  # else nobody needs to know what lies in done/: it may be thousands
        alone -= scan(inbox, wanted=alone).where.keys()
    return {**places.where, **dict.fromkeys(alone)}


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
        if where[0] != target_folder:  # last: who writes one looks for the spec afterwards
            source.remove_file(report_name(record.file_name, record.run_id))


def conclude(
    inbox: Folder,
    record: RunRecord,
    run: RunFolder,
    where: tuple[str, str] | None,
    *,
    says: Says = PLAIN,
) -> None:
    """Show that a run has ended: its last answer first, and only then does its spec leave.

    As long as something of it lies in queued/ or running/, the next start does all of this again.
    So whatever ends the daemon in between, no spec is left without its answer.
    """
    if where is None:
        where = _restored(inbox, record, run)
    write_last_answer(inbox, record, run, says=says)
    if where is not None:
        show(inbox, record, where)


def write_last_answer(
    inbox: Folder, record: RunRecord, run: RunFolder, *, says: Says = PLAIN
) -> None:
    """Write the answer of a run that has ended, with what lies beside it."""
    beside = answer.Beside(
        share_name=says.share_name,
        report=report_name(record.file_name, record.run_id) if says.reports else None,
        bad_rows=_copy_bad_rows(inbox, record, run),
        answers=f"outputs/{record.job}/{record.run_id}/evaluation/{run.answers.name}"
        if run.answers.is_file()
        else None,
        use=use_of(run) if record.state is State.SUCCEEDED else None,
    )
    write_answer(inbox, record, answer.answer(record, beside=beside, speak=says.speak))


def _copy_bad_rows(inbox: Folder, record: RunRecord, run: RunFolder) -> str | None:
    """Leave the list of rows that cannot be used beside the answer; give its name there."""
    if record.state not in (State.REJECTED, State.FAILED):
        return None
    try:
        text = read_plain(run.bad_rows, limit_bytes=_BAD_ROWS_BYTES).decode(errors="ignore")
    except OSError:
        return None  # every row can be used, or they were not looked at
    if not _NAMES_A_ROW.search(text):
        return None  # a file is missing, or none of it can be read: the answer says so itself
    name = f"{claimed_name(record.file_name, record.run_id)}.bad_rows.txt"
    with inbox.open_folder(record.state.folder) as folder:
        folder.write_text(name, text)
    return name


def put_back(inbox: Folder, record: RunRecord, run: RunFolder) -> None:
    """Write the spec of a run under way again, where it belongs.

    Raises:
        OSError: there is no copy of it, or it cannot be written.
    """
    content = read_plain(run.spec, limit_bytes=SPEC_BYTES)
    with inbox.open_folder(record.state.folder) as folder:
        folder.write_bytes(claimed_name(record.file_name, record.run_id), content)


def _restored(inbox: Folder, record: RunRecord, run: RunFolder) -> tuple[str, str] | None:
    """Write a spec again that whoever cancelled its run has deleted; then its old answer goes.

    None: the copy in the run's own folder is gone as well.
    """
    name = claimed_name(record.file_name, record.run_id)
    try:
        content = read_plain(run.spec, limit_bytes=SPEC_BYTES)
    except FileNotFoundError:
        content = None
    if content is not None:
        with inbox.open_folder("queued") as queued:
            queued.write_bytes(name, content)
    for state_folder in UNDER_WAY:
        with inbox.open_folder(state_folder) as folder:
            folder.remove_file(f"{name}.txt")
            folder.remove_file(report_name(record.file_name, record.run_id))
    return None if content is None else ("queued", name)


def write_answer(inbox: Folder, record: RunRecord, text: str) -> None:
    """Leave the answer beside the run's spec, or where that will lie."""
    with inbox.open_folder(record.state.folder) as folder:
        folder.write_text(f"{claimed_name(record.file_name, record.run_id)}.txt", text)
        if record.state.is_final:  # nobody writes it again: it is there before its spec is
            folder.sync()
