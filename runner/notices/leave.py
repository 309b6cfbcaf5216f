"""Leave a notice: when a run ends, what is in use changes by hand, or the card is lost."""

from __future__ import annotations

import contextlib
import os
import time

from runner.clock import now
from runner.contract.layout import Outputs
from runner.contract.promotions import read_promotions
from runner.contract.record import RunRecord
from runner.errors import DamagedError
from runner.files.durable import write_bytes
from runner.notices.notice import (
    SUFFIX,
    Notice,
    file_name,
    is_old,
    notice_of,
    notice_of_change,
    notice_of_lost_card,
    read_notice,
)

KEPT_SECONDS = 14 * 24 * 3600.0
"""Notices and the marks that they were sent go after so long: no longer than they are tried."""
CARD_AGAIN_SECONDS = 6 * 3600.0
"""So long a lost card is told of once."""
MISSED_SECONDS = 24 * 3600.0
"""A run that ended so long ago without a notice gets none any more."""


def leave_notice(outputs: Outputs, record: RunRecord) -> None:
    """Leave the notice of a run that has ended; a run goes its way whether or not it can be.

    It is written after the record and before the index of ended runs: whoever was cut off in
    between finds the run out of the index at the next start, and leaves it then.
    """
    if (notice := notice_of(record)) is not None:
        _leave(outputs, notice)


def leave_change(outputs: Outputs, job: str, *, request: str | None = None) -> None:
    """Leave the notice that somebody has changed what is in use, by the last line of its history.

    Args:
        outputs: the box's.
        job: the job.
        request: the request that the change carried out; None: the last one is meant.
    """
    with contextlib.suppress(OSError):
        for change in reversed(read_promotions(outputs, job)):
            if request is not None and change.request != request:
                continue
            notice = notice_of_change(job, change)
            # A request that is carried out again after a power cut says nothing new.
            if notice and not os.path.lexists(outputs.notices / file_name(notice.id)):
                _leave(outputs, notice)
            return


def leave_lost_card(outputs: Outputs) -> None:
    """Leave the notice that the card is away, unless one of the last hours says so.

    A daemon whose card stays away is started again and again, and finds it lost each time.
    """
    at = now()
    with contextlib.suppress(OSError):
        for path in outputs.notices.glob(f"*-card{SUFFIX}") if outputs.notices.is_dir() else ():
            with contextlib.suppress(DamagedError):
                if not is_old(read_notice(path).happened_at, at, seconds=CARD_AGAIN_SECONDS):
                    return
        _leave(outputs, notice_of_lost_card(at))


def _leave(outputs: Outputs, notice: Notice) -> None:
    # A full disk, or a folder that is not ours: nobody is told, and the record is right.
    with contextlib.suppress(OSError):
        outputs.notices_sent.mkdir(parents=True, exist_ok=True)
        content = notice.model_dump_json(indent=2, exclude_none=True).encode() + b"\n"
        write_bytes(outputs.notices / file_name(notice.id), content)
        _sweep(outputs)


def leave_missed(outputs: Outputs, record: RunRecord) -> None:
    """Leave the one that a daemon which was cut off did not come to."""
    if is_old(record.ended_at or record.created_at, now(), seconds=MISSED_SECONDS):
        return
    if not os.path.lexists(outputs.notices / file_name(record.run_id)):
        leave_notice(outputs, record)


def _sweep(outputs: Outputs) -> None:
    for folder in (outputs.notices, outputs.notices_sent):
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            continue
        for entry in entries:
            if not entry.name.endswith(SUFFIX):
                continue
            with contextlib.suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > KEPT_SECONDS:
                    os.unlink(entry.path)
