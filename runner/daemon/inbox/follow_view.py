"""Specs that people moved or deleted: adopted, put back in their place, or cancelled."""

from __future__ import annotations

import errno
import time
from collections.abc import Collection

from runner.contract.layout import run_id_of
from runner.daemon.book import Live
from runner.daemon.daemon import Daemon
from runner.daemon.inbox import claim, view
from runner.daemon.inbox.absence import SCANS_APART_SECONDS, Absence, meaning
from runner.daemon.inbox.enter import enter
from runner.daemon.inbox.unresolved import TICK_NS
from runner.daemon.requests.cancel import cancel
from runner.errors import UnsafePathError
from runner.files.beneath import Folder
from runner.words import visible

_FULL_LOOKS_APART_SECONDS = 30.0  # between looks at the folders of runs that are over
_LONGEST_WITHOUT_FULL_LOOK_SECONDS = 600.0
"""A folder that looks unchanged is listed this often: a share's server may not tell its times."""


def follow_view(daemon: Daemon, inbox: Folder, at: float, *, made: Collection[str]) -> view.Places:
    """Adopt claimed files without a record, heal places, and notice specs that were deleted.

    ``made`` are the state folders that were missing and have just been made. Gives where the specs
    lay: that of a run that has ended stays there until it is answered.
    """
    is_full = at >= daemon.full_look_at and _may_have_changed(daemon, inbox, at)
    if at >= daemon.full_look_at:
        daemon.full_look_at = at + _FULL_LOOKS_APART_SECONDS
    places = view.scan(inbox, wanted=daemon.book.runs, everywhere=is_full)
    _set_aside_what_is_no_folder(daemon, inbox, places, at)
    _adopt(daemon, inbox, places)
    going_on = [live for live in daemon.book.runs.values() if not live.record.state.is_final]
    absent = [live for live in going_on if live.record.run_id not in places.where]
    for live in going_on:
        place = places.where.get(live.record.run_id)
        if place is not None:
            live.absent_since = None
            live.seen_in = (place[0], places.folders[place[0]])
            what = f"{_of(live)}: its spec in jobs/{place[0]}/"
            with daemon.noting(f"place {live.record.run_id}", what):
                view.show(inbox, live.record, place)
        elif not live.cancel:
            seconds = None if live.absent_since is None else at - live.absent_since
            absence = meaning(
                any_unseen=bool(places.unseen),
                folder_replaced=_was_replaced(live, places, made),
                all_at_once=len(absent) > 1 and len(absent) == len(going_on),
                seconds=seconds,
            )
            _act(daemon, inbox, live, absence, at)
    return places


def _may_have_changed(daemon: Daemon, inbox: Folder, at: float) -> bool:
    """Whether something may lie in done/ and its like that did not at the last full look.

    Thousands may lie there: listing them all every time is most of what an idle daemon would do.
    """
    looks = daemon.looked_fully
    try:
        now = tuple(inbox.stat(name).st_mtime_ns for name in view.OVER)
    except (OSError, UnsafePathError):
        now = ()
    unchanged = bool(now) and looks is not None and looks[1] == now
    if unchanged and looks is not None and at - looks[0] < _LONGEST_WITHOUT_FULL_LOOK_SECONDS:
        return False
    # A change within the same tick of the file system's clock would not show in its time.
    settled = bool(now) and time.time_ns() - max(now) > TICK_NS
    daemon.looked_fully = (at, now) if settled else None
    return True


def _of(live: Live) -> str:
    return f"{visible(live.record.job)} ({live.record.run_id})"


def _was_replaced(live: Live, places: view.Places, made: Collection[str]) -> bool:
    """Whether the folder in which a spec should lie is not the one in which it was last seen."""
    folder, identity = live.seen_in or (live.record.state.folder, None)
    if folder in made:
        return True
    others_there = any(place[0] == folder for place in places.where.values())
    now = places.folders.get(folder, identity)
    return identity is not None and now != identity and not others_there


def _act(daemon: Daemon, inbox: Folder, live: Live, absence: Absence, at: float) -> None:
    if absence is Absence.DELETED:
        cancel(daemon, live, "its spec was deleted from the inbox")
    elif absence is Absence.OUT_OF_SIGHT:
        live.absent_since = None
    elif absence is Absence.WAIT:
        live.absent_since = at if live.absent_since is None else live.absent_since
        daemon.look_by(at + SCANS_APART_SECONDS)
    else:
        folder = live.record.state.folder
        with daemon.noting(f"place {live.record.run_id}", f"{_of(live)}: its spec"):
            view.put_back(inbox, live.record, live.run)
            live.absent_since, live.seen_in, live.answered = None, None, ("", "")
            daemon.say(
                live,
                f"jobs/{folder}/ was moved, renamed or deleted: the job goes on, and its spec was "
                "put back. To cancel a job, delete its spec alone",
                level="warning",
            )


def _set_aside_what_is_no_folder(
    daemon: Daemon, inbox: Folder, places: view.Places, at: float
) -> None:
    """Move a file or a link that lies under a state folder's name out of the way."""
    for name, error in places.unseen.items():
        if isinstance(error, UnsafePathError) or error.errno == errno.ENOTDIR:
            with daemon.noting(f"jobs/{name}", f"jobs/{name}"):
                aside = inbox.set_aside(name)
                what = (
                    f"jobs/{name} was no folder and is now called {aside}; a folder takes its place"
                )
                daemon.log.say(what, level="warning")
                daemon.look_by(at)
        else:
            why = error.strerror or str(error)
            daemon.note(
                f"jobs/{name}",
                f"jobs/{name}/ cannot be opened ({why}): let the runner's user read and change it.",
            )
    for name in places.folders:
        daemon.note(f"jobs/{name}", None)


def _adopt(daemon: Daemon, inbox: Folder, places: view.Places) -> None:
    """Make the runs of claimed files that have no record: the daemon was killed in between."""
    for run_id, (state_folder, name) in places.where.items():
        orphan = state_folder == "queued" and run_id_of(name) == run_id and name.isprintable()
        if not orphan or daemon.stopping or daemon.book.knows(run_id):
            continue
        # A full outputs folder is no trouble of the inbox's: answers are written all the same.
        what = f"jobs/queued/{visible(name)}"
        with daemon.noting_trouble(), daemon.noting(f"adopt {run_id}", what):
            taken = claim.adopt(
                inbox,
                daemon.outputs,
                name,
                file_name=claim.dropped_name(name),
                run_id=run_id,
                sequence=daemon.book.sequence + 1,
                cards=daemon.cards.served,
                speak=daemon.says.speak,
            )
            daemon.book.met(run_id)
            enter(daemon, taken)
