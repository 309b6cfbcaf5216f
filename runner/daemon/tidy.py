"""Tidy: large files of old runs go by themselves, as the settings say (``RUNNER_KEEP_…``).

A job is looked through when one of its runs has ended, another has come into use, or the daemon
starts: an idle box reads nothing. Each round does a part of it. What goes is renamed within the
round, into the box's own folder, and deleted by a thread; what a kill leaves of it there is deleted
after the next start. A run at work again, or being erased, has the files to itself: then all waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from runner.clock import now
from runner.contract.ended import note_ended
from runner.contract.gate import Decision
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.promotions import known_current, read_promotions, target_of_rollback
from runner.contract.rates import MOST_RATES
from runner.contract.record import Cleared, read_record, write_record
from runner.contract.retention import JobFacts, Part, Rule, RunFacts, may_go
from runner.contract.salvage import DAMAGED
from runner.contract.stage_io import HandOverPlan, read_message
from runner.contract.states import State
from runner.daemon.ask_aside import Aside
from runner.daemon.daemon import Daemon
from runner.daemon.hashes import StillHashing
from runner.daemon.stages.space import adapter_is_whole
from runner.errors import RunnerError, UnreadableError
from runner.files.crash_points import reached
from runner.files.durable import TEMPORARY_PREFIX, sync_folder
from runner.files.unreadable import reading
from runner.words import visible

_ROUND_SECONDS = 0.05  # of one round: a quarter of what a round may take
_FOLDERS = {
    # Those of the small runs of learning rates go when each is done; a run that was cancelled
    # between two, or a kill, leaves one.
    Part.CHECKPOINTS: (
        "checkpoints",
        *(f"rates/{number:02d}/checkpoints" for number in range(1, MOST_RATES + 1)),
    ),
    # What is left of prepared/ is small: figures, findings, the few rows that the report shows.
    Part.ROWS: ("data", "prepared/train", "prepared/eval", "prepared/rows.arrow"),
    Part.EXPORTS: ("merged", "gguf"),
}
"""Within a run's folder."""
_Looks = tuple[int, int, int] | None


class Tidy:
    """Looks through jobs, a part in each round, and removes what may go."""

    def __init__(self, daemon: Daemon) -> None:
        """Begin with nothing to do; ``daemon.to_tidy`` names the jobs."""
        self._daemon = daemon
        settings = daemon.settings
        self._rule = Rule(
            keep_runs=settings.keep_runs,
            keep_checkpoints=settings.keep_checkpoints,
            keep_exports=settings.keep_exports,
        )
        self._job: str | None = None
        self._search: Iterator[bool] | None = None
        self._doomed = _left_over(daemon.outputs.going)
        self._deleting: Aside[None] | None = None
        self._is_first_round = True

    @property
    def is_busy(self) -> bool:
        """Whether something is still to be looked at or deleted."""
        return bool(self._daemon.to_tidy or self._search or self._doomed or self._deleting)

    def go_on(self) -> None:
        """Do a part of it.

        Raises:
            OSError: something cannot be read or removed; that job is left until its next run ends.
        """
        daemon = self._daemon
        if self._is_first_round:  # it has the most to do, and is the longest, without this already
            self._is_first_round = False
            daemon.wakeup.set()
            return
        self._delete()
        if self._job in daemon.to_tidy:
            self._search = None  # something has changed: what was decided may not hold any more
        if daemon.again is not None or daemon.erasing is not None:
            self._put_off()
            return
        until = time.monotonic() + _ROUND_SECONDS
        while (search := self._next_search()) is not None:
            try:
                for is_hashing in search:
                    if is_hashing:
                        return  # the thread wakes the loop
                    if time.monotonic() >= until:
                        daemon.wakeup.set()
                        return
            except OSError:
                self._search = None
                raise
            self._search = None
        self._delete()

    def _next_search(self) -> Iterator[bool] | None:
        if self._search is None:
            if not self._daemon.to_tidy:
                self._job = None
                return None
            self._job = self._daemon.to_tidy.pop()
            self._search = self._look_through(self._job)
        return self._search

    def _put_off(self) -> None:
        if self._search is not None and self._job is not None:
            self._daemon.to_tidy.add(self._job)
        self._search = None

    def _look_through(self, job: str) -> Iterator[bool]:
        """Go through a job's runs; True: a file of one is being hashed, try again."""
        daemon = self._daemon
        history = daemon.outputs.promotions(job)
        looks = _looks(history)
        facts = None
        for run_id in daemon.outputs.run_ids(job):
            yield False
            root = f"{daemon.outputs.root}/{job}/{run_id}"
            there = {part for part in Part if next(_large(root, part), None)}
            if not there or run_id in daemon.book.runs:
                continue
            facts = facts or self._facts_of(job)
            while True:
                try:
                    gone = self._decide(daemon.outputs.run(job, run_id), facts, there)
                    break
                except StillHashing:
                    yield True
            if _looks(history) != looks:
                daemon.to_tidy.add(job)  # another run has come into use meanwhile
                return
            if gone:
                self._remove(daemon.outputs.run(job, run_id), gone)

    def _facts_of(self, job: str) -> JobFacts:
        outputs, book = self._daemon.outputs, self._daemon.book
        ended = [one for one in outputs.run_ids(job) if one not in book.runs]
        newest = frozenset(ended[-self._rule.keep_runs :] if self._rule.keep_runs else ended)
        _, last_good = book.ends.succeeded.get(job, (0, None))
        current = known_current(outputs, job)
        changes = read_promotions(outputs, job)
        rollback = {one.before for one in changes[-1:] if one.before}
        try:
            rollback.add(target_of_rollback(outputs, job))
        except RunnerError:
            pass  # nothing can be brought back
        facts = JobFacts(
            newest=newest, current=current, rollback=frozenset(rollback), last_good=last_good
        )
        live = {one for one, run in book.runs.items() if run.record.job == job}
        learned_from = self._learned_from(job, facts.newest | facts.needed | live)
        return JobFacts(
            newest=newest,
            current=current,
            rollback=facts.rollback,
            last_good=last_good,
            learned_from=frozenset(learned_from),
        )

    def _learned_from(self, job: str, kept: frozenset[str]) -> set[str]:
        found: set[str] = set()
        for run_id in kept:
            source = _started_from(self._daemon.outputs.run(job, run_id))
            while source is not None and source not in found:
                found.add(source)
                source = _started_from(self._daemon.outputs.run(job, source))
        return found

    def _decide(self, run: RunFolder, job: JobFacts, there: set[Part]) -> frozenset[Part]:
        try:
            record = read_record(run.record)
        except (OSError, RunnerError):
            return frozenset()  # what can be recovered of it, a person decides
        if not record.state.is_final or (record.error and record.error.kind == DAMAGED):
            return frozenset()
        of_adapter = there & {Part.CHECKPOINTS, Part.EXPORTS}
        whole = bool(of_adapter) and adapter_is_whole(run, record, self._daemon.hashes.of)
        awaits = record.promotion is not None and record.promotion.decision is Decision.AWAITS
        facts = RunFacts(
            run_id=run.run_id,
            has_succeeded=record.state is State.SUCCEEDED,
            adapter_is_whole=whole,
            awaits_approval=awaits,
            # Where the rows were erased, nobody can make them again, nor tell who asked for them.
            exported_by_hand=Part.EXPORTS in there
            and (record.erased is not None or _exported_by_hand(run)),
        )
        return may_go(facts, job, self._rule) & there

    def _remove(self, run: RunFolder, gone: frozenset[Part]) -> None:
        if Part.ROWS in gone:
            self._note_cleared(run)  # first: nobody is to measure it on rows that are half gone
            reached("rows cleared")
        names = [name for part in sorted(gone) for name in _large(run.root, part)]
        for name in names:
            self._doomed.append(self._take_away(run.root / name))
            reached("files taken away", name)
        for folder in {(run.root / name).parent for name in names}:
            sync_folder(folder)
        self._daemon.log.say(
            f"{visible(run.job)}: large files of a run were removed, as RUNNER_KEEP_… says",
            run_log=run.log,
            run=run.run_id,
            removed=names,
        )

    def _note_cleared(self, run: RunFolder) -> None:
        daemon = self._daemon
        record = read_record(run.record)
        if record.cleared is not None or record.erased is not None:
            return
        after = record.but(cleared=Cleared(at=now()))
        write_record(run.record, after)
        note_ended(daemon.outputs, run, after)
        daemon.book.ended = [
            after if one.run_id == run.run_id else one for one in daemon.book.ended
        ]

    def _take_away(self, path: Path) -> Path:
        """Rename it into the box's own folder."""
        going = self._daemon.outputs.going
        going.mkdir(exist_ok=True)
        name = secrets.token_hex(6)
        doomed = going / name
        try:
            os.rename(path, doomed)
        except OSError as error:
            if error.errno != errno.EXDEV:  # somebody gave the job's folder a disk of its own
                raise
            doomed = path.parent / f"{TEMPORARY_PREFIX}{name}"  # so swept, should it be left
            os.rename(path, doomed)
        return doomed

    def _delete(self) -> None:
        """Delete what was renamed, in a thread: gigabytes take seconds."""
        if self._deleting is not None and self._deleting.take() is not None:
            self._deleting = None
        if self._deleting is None and self._doomed:
            doomed, self._doomed = self._doomed, []
            self._deleting = Aside(lambda: _delete_all(doomed), done=self._daemon.wakeup.set)
            self._deleting.ask(time.monotonic())


def _left_over(going: Path) -> list[Path]:
    """List what an earlier daemon did not come to delete."""
    try:
        return list(going.iterdir())
    except OSError:
        return []


def _delete_all(doomed: list[Path]) -> None:
    for path in doomed:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # the next start tries again
                path.unlink()
        reached("files deleted")


def _exists(root: os.PathLike[str] | str, name: str) -> bool:
    """Whether a run has it; a folder above it that is a link is not the run's."""
    above, _, last = name.rpartition("/")
    folder = f"{os.fspath(root)}/{above}" if above else os.fspath(root)
    return not (above and os.path.islink(folder)) and os.path.lexists(f"{folder}/{last}")


def _large(root: os.PathLike[str] | str, part: Part) -> Iterator[str]:
    """Give the names of a part that a run has, within its folder."""
    yield from (name for name in _FOLDERS[part] if _exists(root, name))
    if part is Part.CHECKPOINTS:  # sealed by a process that outlived its attempt: adopted by nobody
        attempts = RunFolder(Path(root)).attempt_folders()
        sealed = (f"attempts/{one.name}/checkpoints" for one in attempts)
        yield from (name for name in sealed if _exists(root, name))


def _started_from(run: RunFolder) -> str | None:
    """Give the run that another one goes on from.

    Raises:
        UnreadableError: it cannot be known now: nothing goes because of that.
    """
    try:
        with reading(run.record):
            return read_record(run.record).started_from
    except UnreadableError:
        raise
    except (OSError, RunnerError):
        return None


def _exported_by_hand(run: RunFolder) -> bool:
    """Whether somebody asked for what was exported.

    Raises:
        UnreadableError: as `_started_from`.
    """
    plan = StageFolder(run.hand_over).plan
    try:
        with reading(plan):
            return read_message(plan, HandOverPlan).alone
    except UnreadableError:
        raise
    except (OSError, RunnerError):
        return False


def _looks(path: Path) -> _Looks:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
