"""Find jobs of the API: an id names a run by the name under which its spec was dropped.

The API keeps no list of its own. The id of a job that it made stands in the spec's file name, which
the record keeps; every other run on the box is found under `ftjob-` and its run id.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.contract.layout import RUN_ID, Outputs, RunFolder
from runner.contract.record_head import RECORD_BYTES
from runner.errors import UnsafePathError
from runner.files.beneath import Folder
from runner.files.plain import read_plain

PREFIX = "ftjob-"
_MADE = re.compile(r"(?:[^/]*\.)?(ftjob-[0-9a-f]{24})(?:--(" + RUN_ID.pattern + r"))?\.yaml")
"""The name of a spec that the API dropped, as it was dropped or claimed."""
_FILE_NAME = re.compile(rb'"file_name": "((?:[^"\\]|\\.)*)"')
_ID = re.compile(rf"ftjob-(?:[0-9a-f]{{24}}|{RUN_ID.pattern})")
_PLACES = {
    ".": "validating_files",
    "queued": "validating_files",
    "running": "validating_files",
    "rejected": "failed",
    "cancelled": "cancelled",
}
"""Folder under jobs/ → the state of a job whose spec lies there and that has no record (yet)."""


def new_id(idempotency_key: str | None) -> str:
    """Make a job's id; the same key makes the same one, also after a restart."""
    if idempotency_key is None:
        return PREFIX + secrets.token_hex(12)
    return PREFIX + hashlib.sha256(b"job\0" + idempotency_key.encode()).hexdigest()[:24]


def spec_name(job: str, job_id: str) -> str:
    """Name the spec of a job: people who look into the share read whose it is."""
    return f"{job}.{job_id}.yaml"


@dataclass(frozen=True, kw_only=True)
class Unclaimed:
    """A job whose spec the daemon has not recorded."""

    id: str
    folder: str
    """Under jobs/; ``.`` is jobs/ itself."""
    name: str
    status: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """A job that is a run."""

    id: str
    run: RunFolder


class JobIndex:
    """Which run has which id; what was read once of a run never changes, and is remembered."""

    def __init__(self, inbox: Path, outputs: Outputs) -> None:
        """Begin with nothing read."""
        self._inbox = inbox
        self._outputs = outputs
        self._lock = threading.Lock()
        self._made: dict[str, str | None] = {}
        """Run id → the API's id of it, where the API dropped its spec."""
        self._known: dict[str, tuple[str, str]] = {}
        """Job's id → its run's job and id, as of the last look."""

    def all(self) -> Iterator[Found | Unclaimed]:
        """Give every job, the newest first: those that wait to be claimed, then all runs."""
        waiting = self._unclaimed()  # before the runs: what is claimed in between is a run then
        runs = self._runs()
        yield from (one for one in waiting if one.id not in runs)
        for job_id, (job, run_id) in reversed(runs.items()):
            yield Found(id=job_id, run=self._outputs.run(job, run_id))

    def find(self, job_id: str) -> Found | Unclaimed | None:
        """Find one; None: there is none."""
        if not _ID.fullmatch(job_id):
            return None
        waiting = {one.id: one for one in self._unclaimed()}
        names = self._known.get(job_id)
        if names is None or not self._outputs.run(*names).record.is_file():
            names = self._runs().get(job_id)
        if names is not None:
            return Found(id=job_id, run=self._outputs.run(*names))
        return waiting.get(job_id)

    def _runs(self) -> dict[str, tuple[str, str]]:
        """Give each run's job and id by the job's id, the oldest first.

        Text, not paths: of ten thousand of those the making alone takes half a second.
        """
        with self._lock:
            names = self._outputs.run_names()
            there = {run_id for _, run_id in names}
            self._made = {one: made for one, made in self._made.items() if one in there}
            found: dict[str, tuple[str, str]] = {}
            for job, run_id in names:
                if run_id not in self._made:
                    try:
                        self._made[run_id] = _made_id(self._outputs.run(job, run_id))
                    except OSError:  # it is being made
                        continue
                made = self._made[run_id]
                # A spec that somebody dragged back to be run again: the first run is the job's.
                is_first = made is not None and made not in found
                found[made if is_first and made else PREFIX + run_id] = (job, run_id)
            self._known = found
            return found

    def _unclaimed(self) -> list[Unclaimed]:
        found: dict[str, Unclaimed] = {}  # a copy in a later place is not what will be claimed
        with Folder.open(self._inbox) as inbox:
            for place, status in _PLACES.items():
                try:
                    with inbox.open_folder(place) as folder:
                        names = folder.names()
                except (OSError, UnsafePathError):
                    continue  # the daemon has not made it yet, or somebody else put it there
                for name in names:
                    if (match := _MADE.fullmatch(name)) and name.count("ftjob-") == 1:
                        one = Unclaimed(id=match[1], folder=place, name=name, status=status)
                        found.setdefault(one.id, one)
        return list(found.values())


def _made_id(run: RunFolder) -> str | None:
    content = read_plain(run.record, limit_bytes=RECORD_BYTES)
    match = _FILE_NAME.search(content)
    made = _MADE.fullmatch(match[1].decode(errors="replace")) if match else None
    return made[1] if made else None
