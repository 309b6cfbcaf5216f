"""Leave a notice: the daemon writes one when a run ends, and takes away those of last week."""

from __future__ import annotations

import contextlib
import os
import time

from runner.clock import now
from runner.contract.layout import Outputs
from runner.contract.record import RunRecord
from runner.files.durable import write_bytes
from runner.notices.notice import SUFFIX, file_name, is_old, notice_of

KEPT_SECONDS = 14 * 24 * 3600.0
"""Notices and the marks that they were sent go after so long: no longer than they are tried."""
MISSED_SECONDS = 24 * 3600.0
"""A run that ended so long ago without a notice gets none any more."""


def leave_notice(outputs: Outputs, record: RunRecord) -> None:
    """Leave the notice of a run that has ended; a run goes its way whether or not it can be.

    It is written after the record and before the index of ended runs: whoever was cut off in
    between finds the run out of the index at the next start, and leaves it then.
    """
    notice = notice_of(record)
    if notice is None:
        return
    # A full disk, or a folder that is not ours: nobody is told, and the record is right.
    with contextlib.suppress(OSError):
        outputs.notices_sent.mkdir(parents=True, exist_ok=True)
        content = notice.model_dump_json(indent=2).encode() + b"\n"
        write_bytes(outputs.notices / file_name(record.run_id), content)
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
