"""Specs that people moved or deleted: adopted, put back in their place, or cancelled."""

from __future__ import annotations

from runner.contract.layout import run_id_of
from runner.daemon.daemon import Daemon
from runner.daemon.inbox import claim, view
from runner.daemon.inbox.enter import enter
from runner.daemon.requests.cancel import cancel
from runner.files.beneath import Folder

_SCANS_APART_SECONDS = 1.0  # an absence must hold in two scans at least so far apart


def follow_view(daemon: Daemon, inbox: Folder, at: float) -> dict[str, tuple[str, str]]:
    """Adopt claimed files without a record, heal places, and notice specs that were deleted.

    Gives where the specs lay: that of a run that has ended stays there until it is answered.
    """
    where = view.scan_view(inbox, wanted=daemon.book.runs)
    for run_id, (state_folder, name) in where.items():
        orphan = state_folder == "queued" and run_id_of(name) == run_id and name.isprintable()
        if orphan and run_id not in daemon.book.known_ids and not daemon.stopping:
            with daemon.noting_trouble():
                taken = claim.adopt(
                    inbox,
                    daemon.outputs,
                    name,
                    file_name=claim.dropped_name(name),
                    run_id=run_id,
                    sequence=daemon.book.sequence + 1,
                )
                daemon.book.known_ids.add(run_id)
                enter(daemon, taken)
    for run_id, live in list(daemon.book.runs.items()):
        if live.record.state.is_final:
            continue
        place = where.get(run_id)
        if place is not None:
            live.absent_since = None
            view.show(inbox, live.record, place)
        elif live.cancel:
            continue
        elif live.absent_since is None:
            live.absent_since = at
            daemon.next_look = at + _SCANS_APART_SECONDS
        elif at - live.absent_since >= _SCANS_APART_SECONDS:
            cancel(daemon, live, "its spec was deleted from the inbox")
    return where
