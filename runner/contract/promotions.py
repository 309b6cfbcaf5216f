"""Promotions: which run's adapter is a job's `current`, since when, why, and by whom.

`outputs/<job>/promotions.jsonl` is the truth, a durable line for each change; `current` beside it
is a relative link to the run's folder, replaced in one step, and healed from the last line. Whoever
serves `current` sees one run whole or another, never a part of one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.clock import now
from runner.contract.layout import RUN_ID, Outputs, RunFolder
from runner.contract.record_head import RecordHead, read_head
from runner.contract.record_time import Time
from runner.contract.states import State
from runner.errors import RunnerError
from runner.files.crash_points import reached
from runner.files.durable import (
    TEMPORARY_PREFIX,
    append_line,
    sync_file,
    sync_folder,
    write_text,
)
from runner.files.plain import read_plain
from runner.files.unreadable import require_storage

GATE = "the gate"
"""Who promotes a run by what its spec asks for."""
_BYTES = 16 * 1024 * 1024  # a line has 300 bytes, so it would be of 50,000 changes
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""How file systems say that they have no symbolic links: vfat and exFAT, SMB without them."""


class How(StrEnum):
    """What a change was."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    WITHDRAWN = "withdrawn"


class Change(BaseModel):
    """One change of what is current."""

    model_config = ConfigDict(frozen=True, extra="allow")

    time: Time
    how: How
    run_id: str
    """What is current from then on; empty: nothing is."""
    before: str | None = None
    """The run that was current until then."""
    why: str
    by: str
    """Who asked for it; `GATE` where nobody did."""
    request: str | None = None
    """The name of the request that it carried out, so that none is carried out twice."""


class NotPromotableError(RunnerError):
    """A run cannot become a job's current one."""

    kind = "not_promotable"


def read_promotions(outputs: Outputs, job: str) -> list[Change]:
    """Read a job's changes, oldest first; a line that a power cut tore is passed over.

    Raises:
        OSError: there is a history, and it cannot be read.
    """
    try:
        content = read_plain(outputs.promotions(job), limit_bytes=_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = map(_change_of, content.splitlines())
    return [change for change in found if change is not None]


def _change_of(line: bytes) -> Change | None:
    try:
        return Change.model_validate(json.loads(line))
    except (ValueError, ValidationError, RecursionError):
        return None


def current_run(outputs: Outputs, job: str) -> str | None:
    """Give the run that is current; None: there is none, or it cannot be known.

    The truth is the history's last line: a link may be behind it for a moment.

    Raises:
        UnreadableError: its disk or share does not answer: that is no "none".
    """
    try:
        return known_current(outputs, job)
    except OSError as error:
        require_storage(error, outputs.promotions(job))
        return None


def known_current(outputs: Outputs, job: str) -> str | None:
    """Do the same; None: there is none.

    Where the history is gone, the link still says what is used.

    Raises:
        OSError: there is a history, and it cannot be read, or its last line names no run.
    """
    try:
        content = read_plain(outputs.promotions(job), limit_bytes=_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        content = b""
    for line in reversed(content.splitlines()):  # ten thousand lines would take a tenth of a second
        if (change := _change_of(line)) is not None:
            if change.run_id and not RUN_ID.fullmatch(change.run_id):  # a hand's; never a path
                raise OSError(errno.EINVAL, "its last line names no run")
            return change.run_id or None
    leads_to = _leads_to(outputs.current(job))
    return leads_to if leads_to and RUN_ID.fullmatch(leads_to) else None


def check_promotable(run: RunFolder) -> RecordHead:
    """Read a run that is to become current.

    Raises:
        NotPromotableError: it has not succeeded, or its adapter is not there whole.
        RunnerError, OSError: its record cannot be read.
    """
    record = read_head(run.record)
    name = f"{record.job}/{record.run_id}"
    if record.state is not State.SUCCEEDED:
        raise NotPromotableError(
            f"{name} has not succeeded: it is {record.state.value}",
            advice="`runner status --all` lists the runs that succeeded.",
        )
    files = record.metrics.get("adapter_files")
    names = files if isinstance(files, dict) and files else {"adapter_model.safetensors": ""}
    missing = [file for file in names if not (run.adapter / str(file)).is_file()]
    if missing:
        raise NotPromotableError(
            f"outputs/{name}/adapter/ lacks {missing[0]}",
            advice="Take a backup of that folder back, or promote another run.",
        )
    return record


def promote(
    outputs: Outputs, run: RunFolder, *, why: str, by: str, request: str | None = None
) -> bool:
    """Make a run its job's current one; False: it is that already, or the request is done.

    Raises:
        OSError: it cannot be written; what was current stays.
    """
    return _change(outputs, run.job, How.PROMOTED, run.run_id, why=why, by=by, request=request)


def roll_back(outputs: Outputs, job: str, *, by: str, request: str | None = None) -> str | None:
    """Make current what was so before; give it, or None where the request is done already.

    Raises:
        NotPromotableError: nothing was current before, or its adapter is gone.
        OSError: it cannot be written; what was current stays.
    """
    changes = read_promotions(outputs, job)
    if request is not None and any(one.request == request for one in changes):
        heal(outputs, job)
        return None
    target = target_of_rollback(outputs, job)
    why = f"instead of {changes[-1].run_id or 'none'}"
    _change(outputs, job, How.ROLLED_BACK, target, why=why, by=by, request=request)
    return target


def withdraw(outputs: Outputs, job: str, *, why: str, by: str) -> None:
    """Let nothing be current any more.

    Raises:
        OSError: it cannot be written; what was current stays.
    """
    _change(outputs, job, How.WITHDRAWN, "", why=why, by=by, request=None)


def target_of_rollback(outputs: Outputs, job: str) -> str:
    """Find the run that was current before the present one and can be so again.

    Raises:
        NotPromotableError: there is none.
        OSError: the history cannot be read.
    """
    changes = read_promotions(outputs, job)
    earlier = _stack(changes)[:-1]
    for run_id in reversed(earlier):
        if not RUN_ID.fullmatch(run_id):  # nothing was in use, or a hand's; never a path
            continue
        with contextlib.suppress(RunnerError, OSError):
            check_promotable(outputs.run(job, run_id))
            return run_id
    if not changes:
        raise NotPromotableError(
            f"No adapter of {job} has been promoted yet, so there is no earlier one",
            advice=f"`runner show {job}` shows its newest run; `runner promote RUN` puts a run's "
            "adapter into use.",
        )
    raise NotPromotableError(
        f"{job} has no earlier run that was current and whose adapter is still there",
        advice=f"`runner promote RUN` chooses another one; outputs/{job}/promotions.jsonl is its "
        "history.",
    )


def _stack(changes: list[Change]) -> list[str]:
    """Give what was current, the present one last; what was rolled back is left out."""
    # In order, and found by name: there may be ten thousand. Before the first line something may
    # have been in use already: where a history was lost, the link still said what.
    found: dict[str, None] = {one.before: None for one in changes[:1] if one.before}
    for one in changes:
        if one.how is How.ROLLED_BACK and one.run_id in found:
            while next(reversed(found)) != one.run_id:
                found.popitem()
        else:
            found.pop(one.run_id, None)
            found[one.run_id] = None
    return list(found)


def _change(
    outputs: Outputs, job: str, how: How, run_id: str, *, why: str, by: str, request: str | None
) -> bool:
    changes = read_promotions(outputs, job)
    before = (changes[-1].run_id or None) if changes else known_current(outputs, job)
    done = request is not None and any(one.request == request for one in changes)
    if done or (before or "") == run_id:
        heal(outputs, job)
        return False
    change = Change(
        time=now(), how=how, run_id=run_id, before=before, why=why, by=by, request=request
    )
    path = outputs.promotions(job)
    append_line(path, change.model_dump_json().encode() + b"\n")
    sync_file(path)
    reached("promotion noted")
    if run_id:
        point(outputs, job, run_id)
    else:
        _point_nowhere(outputs, job)
    reached("current moved")
    return True


def point(outputs: Outputs, job: str, run_id: str) -> None:
    """Let `current` lead to a run, in one step.

    Where the file system has no links, `current.txt` holds the run's id instead.

    Raises:
        OSError: it cannot be written.
    """
    if not RUN_ID.fullmatch(run_id):
        raise ValueError(run_id)
    link, folder = outputs.current(job), outputs.root / job
    if _leads_to(link) == run_id:
        return
    _clear_the_way(link)
    beside = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    try:
        os.symlink(run_id, beside, target_is_directory=True)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        write_text(outputs.current_text(job), f"{run_id}\n")
        return
    try:
        os.rename(beside, link)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    outputs.current_text(job).unlink(missing_ok=True)  # of when it lay on a disk without links
    sync_folder(folder)


def _point_nowhere(outputs: Outputs, job: str) -> None:
    if _leads_to(outputs.current(job)) is not None:
        outputs.current(job).unlink()
    outputs.current_text(job).unlink(missing_ok=True)
    sync_folder(outputs.root / job)


def _leads_to(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except OSError as error:
        require_storage(error, link)
        return None


def _clear_the_way(link: Path) -> None:
    """Rename a file or folder that somebody put under the name; its content is kept."""
    try:
        mode = os.lstat(link).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISLNK(mode):
        os.rename(link, link.with_name(f"{link.name}.set-aside-{secrets.token_hex(3)}"))


def heal(outputs: Outputs, job: str) -> str | None:
    """Bring `current` to what the history says; give what a person must know, if anything.

    Raises:
        OSError: it cannot be read or written.
    """
    changes = read_promotions(outputs, job)
    if not changes:
        return None
    run_id = changes[-1].run_id
    if not run_id:
        _point_nowhere(outputs, job)
        return None
    if not RUN_ID.fullmatch(run_id):
        return f"outputs/{job}/promotions.jsonl names no run in its last line: `runner promote RUN`"
    point(outputs, job, run_id)
    return adapter_gone(outputs, job, run_id)


def adapter_gone(outputs: Outputs, job: str, run_id: str) -> str | None:
    """Say that the adapter in use is not there any more; None: it is."""
    if outputs.run(job, run_id).adapter.is_dir():
        return None
    return (
        f"outputs/{job}/current leads to {run_id}, whose adapter is gone: take it back from a "
        "backup, or put another run into use with `runner promote RUN`"
    )
