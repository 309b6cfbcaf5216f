"""Disk space: go on, remove old checkpoints, pause or wait.

What is the runner's to free can be made again, and nothing else: first base models in 4 bits, then
exports of runs that are not in use (`runner export` makes them again) and those checkpoints that no
run would go on from, then, oldest run first, those of runs whose adapter is there and whole.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from runner.contract.base_entries import drop_bases
from runner.contract.checkpoints import Sha256, everywhere, names, newest_verified
from runner.contract.layout import RunFolder
from runner.contract.promotions import read_promotions
from runner.contract.record import ErrorFacts, RunRecord, read_record
from runner.contract.salvage import DAMAGED
from runner.contract.states import TRAINS, Stage, State
from runner.daemon.book import Live
from runner.daemon.daemon import Daemon
from runner.daemon.hashes import StillHashing
from runner.daemon.stages.resume_point import torn_checkpoints
from runner.daemon.stages.retry import LOW_SPACE
from runner.errors import DamagedError, UnreadableError
from runner.files.sweep import discard_folder

_GIB = 1024**3
_DATA_FACTOR = 5  # bytes on disk for a byte of data: the copy, and tokens and labels as int32
_MAKE_ROOM_SECONDS = 30.0  # looking through all runs takes time: not in each round
_ROUND_SECONDS = 0.05  # of one round: a quarter of what a round may take


def free_bytes(daemon: Daemon) -> int:
    """Tell how much may still be written under outputs/."""
    facts = os.statvfs(daemon.settings.outputs_dir)
    return facts.f_bavail * facts.f_frsize


def tree_bytes(*folders: os.PathLike[str]) -> int:
    """Sum up what lies below folders; a file that goes meanwhile does not count."""
    total = 0
    for folder in folders:
        for root, _, files in os.walk(folder):
            for name in files:
                try:
                    total += os.lstat(os.path.join(root, name)).st_size
                except OSError:
                    continue
    return total


def checkpoint_bytes(run: RunFolder) -> int:
    """Tell the size of a run's newest checkpoint; 0 before the first."""
    found = everywhere(run)
    return tree_bytes(found[0]) if found else 0


def needed_bytes(daemon: Daemon, live: Live, *, forecast: int | None, data_bytes: int) -> int:
    """Forecast what must be free for the run's next stage, the box owner's reserve included."""
    reserve, which = daemon.settings.min_free_bytes, live.next_stage
    if which is Stage.PREPARE:
        return reserve + _DATA_FACTOR * data_bytes
    if which in TRAINS:
        return reserve + _for_training(live, forecast=forecast)
    # What is handed over forecasts for itself: where it does not fit, the run stands all the same.
    return reserve + (2 * checkpoint_bytes(live.run) if which is Stage.EXPORT else 0)


def still_to_write(daemon: Daemon, which: Stage) -> int:
    """Forecast what others at work will still write, for a stage that starts beside them.

    Who is prepared counts only those that are prepared beside it: a training that lacks room later
    leaves a checkpoint and waits.
    """
    if which not in (Stage.PREPARE, *TRAINS):
        return 0
    at_work = [live for live in daemon.book.runs.values() if live.child is not None]
    return sum(_for_rows(live) for live in at_work if live.stage is Stage.PREPARE) + sum(
        _for_training(live, forecast=live.record.forecast.get("disk_bytes"))
        for live in at_work
        if live.stage in TRAINS and which in TRAINS
    )


def _for_rows(live: Live) -> int:
    """Forecast what a run that is being prepared needs of the disk beside what it has there."""
    data = sum(look.size_bytes for look in live.data_looks if look is not None)
    return max(0, _DATA_FACTOR * data - tree_bytes(live.run.data, live.run.prepared))


def _trainings(daemon: Daemon) -> list[Live]:
    """List the runs of which a training is at work."""
    runs = daemon.book.runs.values()
    return [live for live in runs if live.child is not None and live.stage in TRAINS]


def _for_training(live: Live, *, forecast: int | None) -> int:
    """Forecast what a training needs of the disk beside what it has there."""
    least = 2 * checkpoint_bytes(live.run)
    if not forecast:
        return least
    run = live.run
    there = tree_bytes(run.checkpoints, run.attempts, run.prepared, run.data)
    return max(least, forecast - there)


def over_disk_limit(live: Live, *, forecast: int | None) -> ErrorFacts | None:
    """Refuse a run that would take more of the disk than its spec allows; None: it may go on."""
    limit = live.spec.limits.disk_gib
    needed = (forecast or 0) + tree_bytes(live.run.data)
    if limit is None or needed <= limit * _GIB:
        return None
    return ErrorFacts(
        kind="bad_spec",
        message=f"limits.disk_gib: the run needs {needed / _GIB:.2f} GiB of disk for its data, "
        f"checkpoints and adapter, and the spec allows {limit:g}",
        advice=f"Give limits.disk_gib at least {math.ceil(needed / _GIB * 10) / 10:g}, or a "
        "smaller lora.r.",
    )


def never_fits(daemon: Daemon, live: Live, needed: int) -> ErrorFacts | None:
    """Refuse a run that the empty disk could not hold; None: there may be room some day."""
    facts = os.statvfs(daemon.settings.outputs_dir)
    whole = facts.f_blocks * facts.f_frsize
    if needed <= whole:
        return None
    what = "its data" if live.next_stage is Stage.PREPARE else "its data, checkpoints and adapter"
    return ErrorFacts(
        kind="disk_too_small",
        message=f"The run needs {needed / _GIB:,.1f} GiB of disk for {what}; the whole disk of "
        f"outputs has {whole / _GIB:,.1f}.",
        advice="Look at the size of the data files that the spec names, or give outputs a larger "
        "disk.",
    )


def short_of(daemon: Daemon, needed: int, at: float) -> str | None:
    """Say that space is missing, after old checkpoints have gone; None when there is enough."""
    if free_bytes(daemon) >= needed:
        return None
    _make_room(daemon, needed, at)
    free = free_bytes(daemon)
    if free >= needed:
        return None
    return (
        f"the disk is nearly full ({free / _GIB:.1f} GiB free, {needed / _GIB:.1f} GiB needed): "
        "it goes on by itself when there is room"
    )


def watch_space(daemon: Daemon, at: float) -> None:
    """Pause a training run while there is still room for its checkpoint."""
    trainings = _trainings(daemon)
    low = daemon.settings.min_free_bytes // 2
    low += sum(checkpoint_bytes(live.run) for live in trainings)
    for live in trainings:
        if live.child is None or live.child.is_stopping:
            continue
        if free_bytes(daemon) >= low or short_of(daemon, low, at) is None:
            continue
        if daemon.room_search is not None:  # room may be found yet; a full disk costs no checkpoint
            continue
        live.pause = LOW_SPACE
        daemon.say(live, f"{live.record.job}: paused, {LOW_SPACE}", level="warning")
        live.child.ask_to_stop(at=at, grace_seconds=daemon.settings.grace_seconds)


def may_go(
    there: Sequence[str], *, newest_good: str | None, best: str | None, adapter_is_whole: bool
) -> list[str]:
    """Decide which checkpoints of a run that has ended may go, oldest first."""
    keep = set() if adapter_is_whole else {newest_good, best}
    if newest_good is None and not adapter_is_whole:
        return []  # not one of them can be trusted: a person may still want to look
    return [name for name in sorted(there) if name not in keep]


def _make_room(daemon: Daemon, needed: int, at: float) -> None:
    """Remove old checkpoints until there is room, for a part of a round; the rest comes later."""
    if daemon.room_search is None:
        if at - daemon.room_made_at < _MAKE_ROOM_SECONDS and daemon.room_made_at:
            return
        daemon.room_made_at = at
        if gone := drop_bases(daemon.outputs.base_cache):
            daemon.log.say("base models kept in 4 bits were removed to make room", removed=gone)
        daemon.room_search = _search(daemon)
    until = time.monotonic() + _ROUND_SECONDS
    for is_hashing in daemon.room_search:
        if free_bytes(daemon) >= needed:
            break
        if is_hashing:
            return  # the thread wakes the loop
        if time.monotonic() >= until:
            daemon.wakeup.set()
            return
    daemon.room_search = None


def _search(daemon: Daemon) -> Iterator[bool]:
    """Go through all runs that have ended; True: a file of one is being hashed, try again."""
    yield False
    for last_resort in (False, True):
        for run in daemon.outputs.runs():
            if run.run_id in daemon.book.runs:
                continue
            while True:
                try:
                    _free(daemon, run, last_resort=last_resort)
                    break
                except StillHashing:
                    yield True
            yield False


def _free(daemon: Daemon, run: RunFolder, *, last_resort: bool) -> None:
    there, torn = names(run.checkpoints), torn_checkpoints(run)
    forms = [folder for folder in (run.merged, run.gguf) if folder.is_dir()]
    if not there and not torn and not forms:
        return
    try:
        record = read_record(run.record)
    except (OSError, DamagedError):
        return  # what can be recovered of it, a person decides
    if not record.state.is_final or (record.error and record.error.kind == DAMAGED):
        return
    if record.erased is None:  # else they could not be made again
        _free_forms(daemon, run, forms)
    try:
        newest_good = newest_verified(run.checkpoints, daemon.hashes.of)
    except UnreadableError:
        return  # perhaps it is the one that is to stay
    gone = torn + may_go(
        there,
        newest_good=newest_good,
        best=record.metrics.get("best_checkpoint"),
        adapter_is_whole=last_resort and adapter_is_whole(run, record, daemon.hashes.of),
    )
    _remove(run, gone)
    if gone:
        daemon.log.say("old checkpoints were removed to make room", run=run.run_id, removed=gone)


def _free_forms(daemon: Daemon, run: RunFolder, forms: Sequence[Path]) -> None:
    """Remove what was made for serving a run that is not in use, and can be made again."""
    if not forms or _is_used(daemon, run):
        return
    for folder in forms:
        discard_folder(folder)
    gone = [folder.name for folder in forms]
    daemon.log.say("exports were removed to make room", run=run.run_id, removed=gone)


def _is_used(daemon: Daemon, run: RunFolder) -> bool:
    """Whether a run's exports may be served, or made, at this moment; in doubt they are."""
    again = daemon.again
    if again is not None and again.live.record.run_id == run.run_id:
        return True
    try:
        changes = read_promotions(daemon.outputs, run.job)
    except OSError:
        return True
    # The one before the last change is what a rollback brings back.
    kept = {one for change in changes[-1:] for one in (change.run_id, change.before) if one}
    adapter_is_there = (run.adapter / "adapter_model.safetensors").is_file()
    return not changes or run.run_id in kept or not adapter_is_there


def _remove(run: RunFolder, gone: Collection[str]) -> None:
    for name in gone:
        discard_folder(run.checkpoints / name)


def adapter_is_whole(run: RunFolder, record: RunRecord, sha256: Sha256) -> bool:
    """Whether a run's product stands without its checkpoints."""
    files = record.metrics.get("adapter_files")
    if record.state is not State.SUCCEEDED or not isinstance(files, dict) or not files:
        return False
    try:
        return all(sha256(run.adapter / name) == wanted for name, wanted in files.items())
    except OSError:
        return False
