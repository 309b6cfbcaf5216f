"""Unresolved: the specs in rejected/ and failed/ that somebody still has to do something about.

A job that later succeeds clears its own line; so does whoever deletes the spec, or its answer. All
of that is read from the folders, so it holds over restarts and for specs that became no run. Which
of two runs is the later one is told by the order of their claims, where records tell it: a run id
tells the time of day, and a clock may be put back.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from runner.contract.layout import RUN_ID, job_name, run_id_of
from runner.contract.states import State
from runner.daemon.inbox.claim import dropped_name
from runner.errors import UnsafePathError
from runner.files.beneath import Folder
from runner.words import visible

FOLDERS = ("failed", "rejected")
"""The more important first: a run that failed cost a night, a rejected spec a minute."""
_ANSWER_BYTES = 16 * 1024  # its beginning says what is needed
_LINE = 300  # characters of a sentence in STATUS.txt
TICK_NS = 2_000_000_000  # FAT's times have 2 s, the coarsest of all
_MOST = 100  # answers read; a person reads no more
_DONE = re.compile(rf"(?P<stem>.*)--(?P<run_id>{RUN_ID.pattern})(?P<end>\.[^.]*)?$", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Open:
    """One spec that was rejected, or whose run failed."""

    folder: str
    name: str
    run_id: str
    job: str
    """From the answer, which knows the spec's ``name``; else from the file's name."""
    job_by_name: str
    """From the file's name."""
    reason: str
    """The first sentence of its answer."""
    sentence: str
    """It as a line of STATUS.txt."""


@dataclass(kw_only=True)
class Ends:
    """What the records tell of the runs that have ended, as far as it clears a line."""

    noted: int = 0
    """How many ends were noted: it changes when anything here does."""
    succeeded: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Job → sequence and id of its run that succeeded and was claimed last."""
    unsuccessful: dict[str, int] = field(default_factory=dict)
    """Id of a run that failed or was rejected → its sequence."""

    def note(self, *, job: str, run_id: str, state: str, sequence: int) -> None:
        """Take note of a run that has ended."""
        self.noted += 1
        if state == State.SUCCEEDED:
            self.succeeded[job] = max(self.succeeded.get(job, (0, "")), (sequence, run_id))
        elif state in (State.FAILED, State.REJECTED):
            self.unsuccessful[run_id] = sequence

    def succeeded_after(self, job: str, run_id: str, sequence: int | None = None) -> bool:
        """Whether a job has succeeded since; by the ids where no record tells of the run."""
        last_sequence, last_id = self.succeeded.get(job, (0, ""))
        if sequence is None:
            sequence = self.unsuccessful.get(run_id)
        return last_sequence > sequence if sequence is not None else last_id > run_id


def _sentence(folder: str, name: str, reason: str) -> str:
    verb = "failed" if folder == "failed" else "was rejected"
    where = f"jobs/{folder}/{visible(name)}.txt"
    return f"{visible(dropped_name(name))} {verb}: {reason} (more: {where})"


class Unresolved:
    """Remembers what was read, so that a folder that has not changed is not read again."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self._looks: tuple[int, ...] = ()
        self._asked: frozenset[str] = frozenset()
        self._reads = 0
        self._lines_of: tuple[int, int, str] = (0, 0, "")
        self._lines: list[str] = []
        self._answers: dict[str, tuple[str, str]] = {}
        """Run id → job and reason, from its answer."""
        self._open: list[Open] = []
        self._done: dict[str, str] = {}
        """Job → its newest run in done/, for each job that has something open."""
        self.answered_done: frozenset[str] = frozenset()
        """Those of the runs asked for whose answers still lie in done/."""

    def read(self, inbox: Folder, *, asked: frozenset[str] = frozenset()) -> None:
        """Look at the folders, where one has changed.

        A folder that cannot be listed is left out: it must not keep STATUS.txt from being written.

        Args:
            inbox: the shared folder.
            asked: ids of runs of which `answered_done` is to tell.
        """
        try:
            looks = tuple(inbox.stat(name).st_mtime_ns for name in (*FOLDERS, "done"))
        except (OSError, UnsafePathError):
            looks = ()
        if looks and looks == self._looks and asked == self._asked:
            return
        self._reads += 1
        self._open = [one for name in FOLDERS for one in self._open_in(inbox, name)]
        self._answers = {
            one.run_id: (one.job, one.reason) for one in self._open if one.run_id in self._answers
        }
        self._look_at_done(inbox, asked)
        # A change within the same tick of the file system's clock would not show in its time.
        settled = bool(looks) and time.time_ns() - max(looks) > TICK_NS
        self._looks = looks if settled else ()

    def _look_at_done(self, inbox: Folder, asked: frozenset[str]) -> None:
        """Find what clears a line; thousands may lie there, so nothing more is kept."""
        self._asked, answered = asked, set()
        wanted = {job for one in self._open for job in (one.job, one.job_by_name)}
        newest: dict[str, str] = {}
        jobs: dict[str, str] = {}  # many runs of few jobs: a name is turned into a job's once
        for name in _names_in(inbox, "done"):
            if name.endswith(".txt"):
                # By the bare text: half of the thousands are answers, and a pattern costs more.
                run_id = name.rpartition("--")[2].partition(".")[0]
                if run_id in asked:
                    answered.add(run_id)
                continue
            found = _DONE.match(name)
            if found is None:
                continue
            dropped, run_id = found["stem"] + (found["end"] or ""), found["run_id"]
            job = jobs.get(dropped)
            if job is None:
                job = jobs[dropped] = _job_of(name)
            if job in wanted and run_id > newest.get(job, ""):
                newest[job] = run_id
        self._done, self.answered_done = newest, frozenset(answered)

    def lines(self, ends: Ends, *, said: str) -> list[str]:
        """Give a line for each that is still open.

        Args:
            ends: what the records tell of the runs that have ended.
            said: what STATUS.txt says already: a run that it names gets no second line.
        """
        asked = (self._reads, ends.noted, said)
        if asked != self._lines_of:
            self._lines_of, self._lines = asked, self._still_open(ends, said)
        return list(self._lines)

    def _still_open(self, ends: Ends, said: str) -> list[str]:
        def is_done(one: Open) -> bool:
            jobs = {one.job, one.job_by_name}
            if any(ends.succeeded_after(job, one.run_id) for job in jobs):
                return True
            if one.run_id in ends.unsuccessful and jobs & ends.succeeded.keys():
                return False  # both are known by their order: done/ knows no better
            return any(self._done.get(job, "") > one.run_id for job in jobs)

        return [one.sentence for one in self._open if not is_done(one) and one.run_id not in said]

    def _open_in(self, inbox: Folder, state_folder: str) -> list[Open]:
        names = _names_in(inbox, state_folder)
        answered = {
            run_id: name
            for name in names
            if f"{name}.txt" in names and (run_id := run_id_of(name)) is not None
        }
        return [
            self._read(inbox, state_folder, answered[run_id], run_id)
            for run_id in sorted(answered, reverse=True)[:_MOST]
        ]

    def _read(self, inbox: Folder, state_folder: str, name: str, run_id: str) -> Open:
        if run_id not in self._answers:
            try:
                text = inbox.read_file(
                    f"{state_folder}/{name}.txt", limit_bytes=_ANSWER_BYTES
                ).decode(errors="replace")
            except (OSError, UnsafePathError):
                text = ""
            self._answers[run_id] = _said(text, name)
        job, reason = self._answers[run_id]
        return Open(
            folder=state_folder,
            name=name,
            run_id=run_id,
            job=job,
            job_by_name=_job_of(name),
            reason=reason,
            sentence=_sentence(state_folder, name, reason),
        )


def _names_in(inbox: Folder, state_folder: str) -> set[str]:
    try:
        with inbox.open_folder(state_folder) as folder:
            return set(folder.names())
    except (OSError, UnsafePathError):
        return set()


def _job_of(name: str) -> str:
    return job_name(dropped_name(name).rpartition(".")[0])


def _said(text: str, name: str) -> tuple[str, str]:
    """Read the job and the reason from an answer: ``JOB: state``, an empty line, the reason."""
    head, _, rest = text.partition("\n\n")
    subject = head.partition("\n")[0].rpartition(": ")[0]
    job = _job_of(name) if not subject or subject == dropped_name(name) else subject
    reason = rest.strip().partition("\n")[0].strip() or "see its answer"
    reason = re.sub(rf"^{re.escape(dropped_name(name))}(?:, |: )", "", reason)
    return job, reason if len(reason) <= _LINE else reason[: _LINE - 1] + "…"
