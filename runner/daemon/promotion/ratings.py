"""Ratings: tables with experts' marks in jobs/rate/ are read when they are saved, and answered."""

from __future__ import annotations

import contextlib
import json
import re
import stat

from pydantic import ValidationError

from runner.clock import now
from runner.contract.gate import Promotion, approved_by_marks, promotion_in, unknown_current
from runner.contract.layout import RATE, RATE_ENDINGS, RUN_ID, Outputs, RunFolder
from runner.contract.promotions import known_current, read_promotions
from runner.contract.rating import (
    TABLE_BYTES,
    Key,
    Marks,
    Rating,
    count_marks,
    foreign_rows,
    missing_pairs,
    named,
    rating_in,
    read_marks,
)
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.daemon.ask_aside import Aside
from runner.daemon.book import Live
from runner.daemon.change_run import change
from runner.daemon.daemon import Daemon
from runner.daemon.promotion.sheet_marks import SHEETS, read_sheet_marks
from runner.daemon.show_again import show_again
from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.files.plain import read_plain
from runner.files.settle import Look, Seen, is_settled, look_again
from runner.language.translate import in_words_of
from runner.spec.read_spec import read_spec
from runner.words import visible

_TABLE = re.compile(rf"rate-.*--({RUN_ID.pattern})\.(?:{'|'.join(RATE_ENDINGS)})")
_MOST = 100  # tables at once: an expert marks one after the other
_KEY_BYTES = 1024 * 1024


class Ratings:
    """Remembers how the tables looked when they were last read."""

    def __init__(self, daemon: Daemon) -> None:
        """Begin with none."""
        self.daemon = daemon
        self._seen: dict[str, Seen] = {}
        self._read: dict[str, Look] = {}
        self._listed_at: float | None = None
        self._sheet: tuple[str, Aside[Marks]] | None = None
        """A spreadsheet that is being read."""
        self._counted: dict[str, str] = {}
        """Run id → the table whose marks count: two experts, or one with .csv and .xlsx."""

    def look(self, inbox: Folder, at: float) -> None:
        """Read what was saved since the last look."""
        settle = self.daemon.settings.settle_seconds
        if self._sheet is not None:
            self._take_sheet(inbox)
            return
        if self._listed_at is not None and at - self._listed_at < settle:
            return
        self._listed_at = at
        try:
            folder = inbox.open_folder(RATE)
        except FileNotFoundError:
            return
        with self.daemon.noting(f"jobs/{RATE}", f"jobs/{RATE}/"), folder:
            there: dict[str, Look] = {}
            for entry, status in folder.scan_status(lambda name: bool(_TABLE.fullmatch(name))):
                if stat.S_ISREG(status.st_mode) and len(there) < _MOST:
                    there[entry.name] = Look.of(status)
            self._seen = {
                name: look_again(self._seen.get(name), look, at) for name, look in there.items()
            }
            newest_first = sorted(self._seen.items(), key=lambda one: -one[1].look.mtime_ns)
            for name, seen in newest_first:
                changed = self._read.get(name) != seen.look
                if not (changed and is_settled(seen, at=at, settle_seconds=settle)):
                    continue
                if self._is_at_work(self._run_id(name)):
                    continue  # later
                self._read[name] = seen.look
                self._take(folder, name, at)
                return  # one a round: a table is read within milliseconds

    def _take(self, folder: Folder, name: str, at: float) -> None:
        """Read a table; a spreadsheet in a thread, which asks a process of its own."""
        content = folder.read_file(name, limit_bytes=TABLE_BYTES)
        if name.endswith(SHEETS):
            aside = Aside(lambda: read_sheet_marks(content), done=self.daemon.wakeup.set)
            self._sheet = name, aside
            aside.ask(at)
            return
        self._answer(folder, name, read_marks(content))

    def _take_sheet(self, inbox: Folder) -> None:
        assert self._sheet is not None
        name, aside = self._sheet
        answered = aside.take()
        if answered is None:
            return
        self._sheet = None
        with (
            self.daemon.noting(f"jobs/{RATE}", f"jobs/{RATE}/"),
            inbox.open_folder(RATE) as folder,
        ):
            if self._is_at_work(self._run_id(name)) or not self._is_as_it_was(folder, name):
                self._read.pop(name, None)  # since it was begun; what is still there is read later
                return
            self._answer(folder, name, answered.value)

    def _is_as_it_was(self, folder: Folder, name: str) -> bool:
        """Whether a table is still the one that was read; those of an erased run are gone."""
        with contextlib.suppress(FileNotFoundError):
            return self._read.get(name) == Look.of(folder.stat(name))
        return False

    def _answer(self, folder: Folder, name: str, marks: Marks) -> None:
        live, key = self._find(name)
        if live is None or key is None:
            text = self.daemon.says.speak("rate_no_run")
        else:
            text = self._judge(name, live, key, marks)
        folder.write_text(f"{name}.txt", f"{visible(name)}\n\n{text}\n")

    def _is_at_work(self, run_id: str) -> bool:
        """Whether a run is shown, measured again or erased: its record would be written over."""
        again = self.daemon.again
        if self.daemon.erasing is not None:
            return True
        is_measured = again is not None and again.live.record.run_id == run_id
        return is_measured or run_id in self.daemon.book.runs

    @staticmethod
    def _run_id(name: str) -> str:
        match = _TABLE.fullmatch(name)
        assert match is not None
        return str(match[1])

    def _find(self, name: str) -> tuple[Live | None, Key | None]:
        outputs, wanted = self.daemon.outputs, self._run_id(name)
        for job, run_id in outputs.run_names():
            if run_id == wanted and run_id not in self.daemon.book.runs:
                run = outputs.run(job, run_id)
                try:
                    record = read_record(run.record)
                    spec = read_spec(run.spec.read_bytes(), file_name=record.file_name)
                except (OSError, RunnerError):
                    return None, None
                return Live(run=run, record=record, asked=spec), _key_of(run)
        return None, None

    def _judge(self, name: str, live: Live, key: Key, marks: Marks) -> str:
        """Say what the marks mean, and keep it once all are there."""
        speak = self.daemon.says.speak
        if problem := marks.problem or foreign_rows(key, marks):
            return speak("rate_problem", problem=in_words_of(problem, speak))
        if marks.twice:
            return speak("rate_twice", pairs=named(marks.twice))
        missing = missing_pairs(key, marks)
        if marks.unreadable or missing:
            whole = len(key.new_first)
            said = speak("rate_missing", count=len(missing), of=whole, pairs=named(missing))
            if marks.unreadable:
                said += " " + speak("rate_unreadable", pairs=named(marks.unreadable))
            return said
        if later := self._saved_later(name):
            return speak("rate_later", name=visible(later))
        self._counted[live.run.run_id] = name
        rating = count_marks(key, marks, now())
        known = live.record.rating
        if known is None or known.model_copy(update={"at": rating.at}) != rating:
            self._keep(live, live.record.but(rating=rating))
        said = rating_in(rating, speak)
        promotion = live.record.promotion
        return f"{said}\n{promotion_in(promotion, speak)}" if promotion is not None else said

    def _saved_later(self, name: str) -> str | None:
        """Give another whole table of the same run that was saved after this one."""
        counted = self._counted.get(self._run_id(name))
        if counted in (None, name) or counted not in self._seen or name not in self._seen:
            return None
        is_later = self._seen[counted].look.mtime_ns >= self._seen[name].look.mtime_ns
        return counted if is_later else None

    def _keep(self, live: Live, after: RunRecord) -> None:
        daemon, rating = self.daemon, after.rating
        assert rating is not None
        changes: dict[str, object] = {"rating": rating}
        if live.spec.promote.when == "approved" and after.state is State.SUCCEEDED:
            changes["promotion"] = _decide(daemon.outputs, after, rating)
        change(daemon, live, **changes)
        daemon.say(live, f"{after.job}: experts have marked its answers", said=rating_in(rating))
        daemon.to_promote.append(live.record)
        show_again(daemon, live.run, live.record)


def _decide(outputs: Outputs, record: RunRecord, rating: Rating) -> Promotion | None:
    """Decide by marks; of a run that is in use they change nothing, whatever they say now."""
    try:
        current = known_current(outputs, record.job)
        changes = read_promotions(outputs, record.job)
    except OSError:
        return unknown_current(record.job)
    if current == record.run_id:
        return record.promotion
    return approved_by_marks(
        rating,
        is_against_current=rating.against_run == current,
        was_in_use=any(one.run_id == record.run_id for one in changes),
    )


def _key_of(run: RunFolder) -> Key | None:
    try:
        return Key.model_validate(json.loads(read_plain(run.rating_key, limit_bytes=_KEY_BYTES)))
    except (OSError, ValueError, ValidationError):
        return None
