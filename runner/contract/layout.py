"""Paths: every one of the inbox, the outputs folder and a run folder, in one place."""

from __future__ import annotations

import os
import re
import secrets
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from runner.clock import now

RUN_ID = re.compile(r"\d{8}T\d{6}Z-[a-z0-9]{4}")
"""A run id: the UTC second of the claim and a random suffix."""
JOB_NAME_BYTES = 80
"""A job name's length limit: it becomes part of folder and file names of at most 255 bytes."""
FILE_NAME_BYTES = 255  # bytes, the limit of ext4, XFS, NTFS and SMB names

_ATTEMPT = re.compile(r"\d{2,}(-[0-9a-f]+)?")

STATE_FOLDERS = ("queued", "running", "done", "failed", "rejected", "cancelled")
"""The folders under the inbox that the runner moves specs through."""
UNDER_WAY = ("queued", "running")
"""Those of runs that are not over."""
SCHEDULED = "scheduled"
"""The folder under the inbox in which specs with a schedule stay."""
RATE = "rate"
"""The folder under the inbox with tables of answers that experts mark."""
HAND_OVER_PAGE = "HANDOVER.md"
"""In a job's folder under outputs/: the command that serves what is in use."""
RESERVED_FOLDERS = (*STATE_FOLDERS, SCHEDULED, RATE, "examples")
"""Folders under the inbox that data may not be named in."""

_WINDOWS_RESERVED = {"con", "prn", "aux", "nul"} | {
    f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)
}


def new_run_id(at: datetime | None = None) -> str:
    """Make a run id such as ``20261123T221005Z-k3f9``."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    suffix = "".join(secrets.choice(alphabet) for _ in range(4))
    return f"{(at or now()):%Y%m%dT%H%M%SZ}-{suffix}"


def new_token() -> str:
    """Make an attempt's token: only who was given it knows the folder that counts."""
    return secrets.token_hex(4)


def checkpoint_name(step: int) -> str:
    """Name the checkpoint of one optimizer step.

    >>> checkpoint_name(12)
    'step-00000012'
    """
    return f"step-{step:08d}"


def cut_to_bytes(text: str, limit: int) -> str:
    """Cut ``text`` to at most ``limit`` UTF-8 bytes without splitting a character."""
    return text.encode()[:limit].decode(errors="ignore")


def job_name(text: str) -> str:
    """Turn any text into a job name: case-folded, safe as a folder name on Linux and Windows.

    The result holds letters, digits, ``-``, ``_`` and ``.``; it is never empty, never ``current``,
    never a Windows device name, and never begins or ends with a dot.
    """
    # Composed: a Mac names "ü" as u and two dots, and it must be the same job as everybody's.
    text = unicodedata.normalize("NFC", text.casefold())
    name = re.sub(r"[^\w.-]+", "-", text)
    name = cut_to_bytes(re.sub(r"-{2,}", "-", name), JOB_NAME_BYTES).strip("-. _")
    if not name:
        return "job"
    if name == "current" or is_device_name(name):
        return f"job-{name}"
    return name


def is_device_name(name: str) -> bool:
    """Whether Windows takes a name for a device, whatever its ending: ``con.csv`` opens no file."""
    return name.casefold().split(".")[0].rstrip() in _WINDOWS_RESERVED


@dataclass(frozen=True)
class Inbox:
    """The shared folder that specs are dropped into."""

    root: Path

    @property
    def marker(self) -> Path:
        """Written once; a missing or foreign one means that the share is not really there."""
        return self.root / ".runner-inbox"

    @property
    def lock(self) -> Path:
        """Held by the one daemon that works on the inbox; its content names the holder."""
        return self.root / ".runner-lock"

    @property
    def status(self) -> Path:
        """The whole inbox in words, for people who have only the share."""
        return self.root / "STATUS.txt"

    def state_folder(self, name: str) -> Path:
        """One of ``STATE_FOLDERS``."""
        return self.root / name


def claimed_name(file_name: str, run_id: str) -> str:
    """Give the name under which a claimed spec lives in the state folders, cut by bytes.

    >>> claimed_name("contracts.yaml", "20261123T221005Z-k3f9")
    'contracts--20261123T221005Z-k3f9.yaml'
    """
    stem, suffix = os.path.splitext(file_name)
    tail = f"--{run_id}{cut_to_bytes(suffix, 16)}"
    room = FILE_NAME_BYTES - len(tail.encode()) - len(".txt")
    return cut_to_bytes(stem, room) + tail


RATE_ENDINGS = ("csv", "xlsx", "ods")
"""Kinds of file in which a table of answers comes back: whoever opens one saves it as they like."""


def rate_name(job: str, run_id: str, ending: str = "csv") -> str:
    """Give the name of a run's table of answers under jobs/rate/."""
    return f"rate-{job}--{run_id}.{ending}"


def rate_names(job: str, run_id: str) -> list[str]:
    """Give all names that a run's table of answers may have."""
    return [rate_name(job, run_id, ending) for ending in RATE_ENDINGS]


def report_name(file_name: str, run_id: str) -> str:
    """Give the name of a run's report beside its spec, cut by bytes like that.

    >>> report_name("contracts.yaml", "20261123T221005Z-k3f9")
    'contracts--20261123T221005Z-k3f9.yaml.html'
    """
    end = f"--{run_id}{cut_to_bytes(os.path.splitext(file_name)[1], 16)}.html"
    stem = claimed_name(file_name, run_id).partition(f"--{run_id}")[0]
    return cut_to_bytes(stem, FILE_NAME_BYTES - len(end.encode())) + end


def run_id_of(claimed: str) -> str | None:
    """Find the run id in a claimed spec's name, or None."""
    match = re.search(rf"--({RUN_ID.pattern})(\.[^.]*)?$", claimed)
    return match[1] if match else None


@dataclass(frozen=True)
class Outputs:
    """The folder that runs leave their results in."""

    root: Path

    @property
    def private(self) -> Path:
        """What belongs to the runner itself: lock, requests, heartbeat, caches."""
        return self.root / ".runner"

    @property
    def lock(self) -> Path:
        """Held by the one daemon; its content names the holder."""
        return self.private / "lock"

    @property
    def gpu_lease(self) -> Path:
        """Held by whoever uses the GPU; its content names the holder."""
        return self.private / "gpu.lease"

    @property
    def known_inbox(self) -> Path:
        """The marker of the inbox that the runs were dropped into, as it was read there."""
        return self.private / "inbox"

    @property
    def requests(self) -> Path:
        """Where commands leave what they want the daemon to do."""
        return self.private / "requests"

    @property
    def notices(self) -> Path:
        """What is told of runs that have ended: names and verdicts, for who sends them out."""
        return self.private / "notices"

    @property
    def notices_sent(self) -> Path:
        """Marks of whoever sends notices: which were sent, and where to."""
        return self.notices / "sent"

    @property
    def heartbeat(self) -> Path:
        """Rewritten by the daemon while it is well."""
        return self.private / "heartbeat.json"

    @property
    def daemon_log(self) -> Path:
        """Structured events of the daemon itself."""
        return self.private / "daemon.jsonl"

    @property
    def ended(self) -> Path:
        """A line for each run that has ended; it may be deleted at any time."""
        return self.private / "ended.jsonl"

    @property
    def schedules(self) -> Path:
        """What is known of each spec in jobs/scheduled/: up to when its times are dealt with."""
        return self.private / "schedules.json"

    @property
    def index(self) -> Path:
        """Every job and run as a page for people."""
        return self.root / "index.html"

    @property
    def lessons(self) -> Path:
        """What past runs took, beside what was forecast: later forecasts learn from it."""
        return self.private / "forecasts.jsonl"

    def lease_of_card(self, uuid: str) -> Path:
        """Held by who works on another card than the driver's first."""
        return self.private / f"gpu-{uuid.replace('/', '_')}.lease"

    @property
    def known_card(self) -> Path:
        """The card that a run was last planned for; whoever has no driver forecasts by it."""
        return self.private / "card.json"

    @property
    def cache(self) -> Path:
        """HOME of the stages: library caches that may be deleted at any time."""
        return self.private / "cache"

    @property
    def token_cache(self) -> Path:
        """Tokens of earlier runs as hard links of their files; it may be deleted at any time."""
        return self.private / "tokens"

    @property
    def going(self) -> Path:
        """Old files of runs on their way out: renamed into it, then deleted."""
        return self.private / "going"

    @property
    def base_cache(self) -> Path:
        """Base models in 4 bits, quantised once; it may be deleted at any time."""
        return self.private / "bases"

    def promotions(self, job: str) -> Path:
        """What was a job's current run, since when and why: a line for each change."""
        return self.root / job / "promotions.jsonl"

    def current(self, job: str) -> Path:
        """A link to the run whose adapter is in use."""
        return self.root / job / "current"

    def current_text(self, job: str) -> Path:
        """That run's id, where the file system has no links."""
        return self.root / job / "current.txt"

    def job_folders(self) -> list[Path]:
        """List the folders of all jobs; never follows links."""
        return [Path(entry.path) for entry in self._jobs()]

    def jobs_with_promotions(self) -> list[str]:
        """List the jobs that have, or had, a current run."""
        return sorted(
            entry.name for entry in self._jobs() if os.path.lexists(self.promotions(entry.name))
        )

    @property
    def noise(self) -> Path:
        """Noise of what is measured of a base's abilities; it may be deleted at any time."""
        return self.private / "noise"

    def run(self, job: str, run_id: str) -> RunFolder:
        """Give the folder of one run."""
        return RunFolder(self.root / job / run_id)

    def run_ids(self, job: str) -> list[str]:
        """List the run ids of one job, oldest first: text alone, for there may be thousands."""
        try:
            with os.scandir(self.root / job) as found:
                return sorted(
                    run.name
                    for run in found
                    if RUN_ID.fullmatch(run.name) and run.is_dir(follow_symlinks=False)
                )
        except (FileNotFoundError, NotADirectoryError):
            return []

    def runs_of(self, job: str) -> list[RunFolder]:
        """List the run folders of one job, oldest run id first."""
        try:
            found = [
                RunFolder(Path(run.path))
                for run in os.scandir(self.root / job)
                if RUN_ID.fullmatch(run.name) and run.is_dir(follow_symlinks=False)
            ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found, key=lambda run: run.root.name)

    def has_record(self, run_id: str) -> bool:
        """Whether any job has a run of this id with a record."""
        try:
            with os.scandir(self.root) as jobs:
                return any(os.path.lexists(f"{job.path}/{run_id}/run.json") for job in jobs)
        except FileNotFoundError:
            return False

    def run_names(self) -> list[tuple[str, str]]:
        """List the job and id of every run, oldest run id first; never follows links.

        What is no job's folder, or cannot be listed, is passed over: see ``look_through``.
        """
        return self.look_through()[0]

    def runs(self) -> list[RunFolder]:
        """List every run folder, oldest run id first; never follows links."""
        return [self.run(*names) for names in self.run_names()]

    def tell_apart(
        self, known: Collection[str]
    ) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
        """List the runs of known ids by job, and the job and id of all others.

        Of what is known nothing is asked but its name: of ten thousand runs that saves half.
        """
        there: dict[str, list[str]] = {}
        others: list[tuple[str, str]] = []
        for job in self._jobs():
            try:
                ids = os.listdir(job.path)
            except OSError:
                continue
            there[job.name] = [run_id for run_id in ids if run_id in known]
            if len(there[job.name]) != len(ids):
                others += [
                    (job.name, run_id)
                    for run_id in ids
                    if run_id not in known
                    and RUN_ID.fullmatch(run_id)
                    and not os.path.islink(f"{job.path}/{run_id}")
                    and os.path.isdir(f"{job.path}/{run_id}")
                ]
        return there, sorted(others, key=lambda names: names[1])

    def _jobs(self) -> list[os.DirEntry[str]]:
        """List what may be a job's folder; nothing where there is no outputs folder.

        Raises:
            OSError: the outputs folder itself cannot be listed.
        """
        try:
            found = [entry for entry in os.scandir(self.root) if not entry.name.startswith(".")]
        except FileNotFoundError:
            return []
        return [entry for entry in found if _is_folder(entry)]

    def look_through(self) -> tuple[list[tuple[str, str]], dict[str, str]]:
        """List every run, and the folders that cannot be looked into: name → why.

        Raises:
            OSError: the outputs folder itself cannot be listed.
        """
        found: list[tuple[str, str]] = []
        unreadable: dict[str, str] = {}
        for job in self._jobs():
            try:
                with os.scandir(job.path) as runs:
                    found += [
                        (job.name, run.name)
                        for run in runs
                        if RUN_ID.fullmatch(run.name) and run.is_dir(follow_symlinks=False)
                    ]
            except OSError as error:
                unreadable[job.name] = error.strerror or str(error)
        return sorted(found, key=lambda names: names[1]), unreadable


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # it is listed with what cannot be looked into
        return True


@dataclass(frozen=True)
class RunFolder:
    """Everything that one run leaves behind."""

    root: Path

    @classmethod
    def containing(cls, folder: Path) -> RunFolder:
        """Find the run folder that a stage's own folder lies in."""
        for parent in (folder, *folder.parents):
            if RUN_ID.fullmatch(parent.name):
                return cls(parent)
        raise ValueError(f"{folder} does not lie in a run folder")

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.root.name

    @property
    def job(self) -> str:
        """The name of the job that this is a run of."""
        return self.root.parent.name

    @property
    def spec(self) -> Path:
        """The bytes that were read at the claim."""
        return self.root / "spec.yaml"

    @property
    def record(self) -> Path:
        """The truth about the run; the daemon is its only writer."""
        return self.root / "run.json"

    @property
    def log(self) -> Path:
        """Structured events of the run, one JSON object a line."""
        return self.root / "log.jsonl"

    @property
    def data(self) -> Path:
        """The snapshot: the data files as they were copied from the share."""
        return self.root / "data"

    @property
    def prepared(self) -> Path:
        """The prepare stage's folder: tokenised data, findings, samples."""
        return self.root / "prepared"

    @property
    def lengths(self) -> Path:
        """How many rows have which length: what the daemon plans from."""
        return self.prepared / "lengths.json"

    @property
    def bad_rows(self) -> Path:
        """Every row that cannot be used, with its line and the reason; absent where all can be."""
        return self.prepared / "bad_rows.txt"

    @property
    def findings(self) -> Path:
        """What the checks say of the data."""
        return self.prepared / "findings.json"

    @property
    def preview(self) -> Path:
        """Some rows as the model sees them, token by token."""
        return self.prepared / "preview.json"

    @property
    def report(self) -> Path:
        """The run as a page for people."""
        return self.root / "report.html"

    @property
    def answers(self) -> Path:
        """The held-out questions with the answers before and after, for people."""
        return self.evaluation / "answers.txt"

    @property
    def row_scores(self) -> Path:
        """Scores of each held-out row, without its text: two runs are compared by it."""
        return self.evaluation / "scores.jsonl"

    @property
    def extremes(self) -> Path:
        """The held-out rows whose answers became most and least likely, with their texts."""
        return self.evaluation / "extremes.json"

    @property
    def measured_rows(self) -> Path:
        """The learned rows that the base found hardest and easiest, with their texts."""
        return self.evaluation / "measured_rows.json"

    @property
    def attempts(self) -> Path:
        """Parent of the train stage's folders."""
        return self.root / "attempts"

    def attempt(self, number: int, token: str = "") -> Path:
        """The folder of one attempt, numbered from 1; those of older runners have no token.

        It is the attempt's fence: its process writes nowhere else, and from what lies here the
        daemon adopts nothing once the record says how the attempt ended.
        """
        return self.attempts / (f"{number:02d}-{token}" if token else f"{number:02d}")

    def attempt_folders(self) -> list[Path]:
        """List the attempts' folders by number; also one that the record does not know (yet)."""
        try:
            names = [e.name for e in os.scandir(self.attempts) if e.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        numbered = [name for name in names if _ATTEMPT.fullmatch(name)]
        numbered.sort(key=lambda name: (int(name.partition("-")[0]), name))
        return [self.attempts / name for name in numbered]

    @property
    def rates(self) -> Path:
        """Parent of the small runs of learning rates."""
        return self.root / "rates"

    def rate(self, number: int) -> RunFolder:
        """The folder of a learning rate's small run, numbered from 1, laid out like a run's."""
        return RunFolder(self.rates / f"{number:02d}")

    @property
    def checkpoints(self) -> Path:
        """What the daemon has adopted, named ``step-00000012``; no attempt writes here."""
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of one optimizer step."""
        return self.checkpoints / checkpoint_name(step)

    @property
    def export(self) -> Path:
        """The export stage's own folder (plan, log, result)."""
        return self.root / "export"

    @property
    def adapter(self) -> Path:
        """The product."""
        return self.root / "adapter"

    @property
    def hand_over(self) -> Path:
        """The hand-over stage's own folder (plan, log, result)."""
        return self.root / "hand-over"

    @property
    def merged(self) -> Path:
        """Base model and adapter as one model, where that was asked for."""
        return self.root / "merged"

    @property
    def gguf(self) -> Path:
        """Files for llama.cpp and Ollama, where they were asked for."""
        return self.root / "gguf"

    @property
    def evaluation(self) -> Path:
        """The evaluate stage's folder: losses and answers before and after."""
        return self.root / "evaluation"

    @property
    def rating(self) -> Path:
        """What belongs to its answers' being marked by experts."""
        return self.root / "rating"

    @property
    def rating_key(self) -> Path:
        """Whose answer is whose in the table that lies on the share."""
        return self.rating / "key.json"


@dataclass(frozen=True)
class StageFolder:
    """The files that every stage's own folder has."""

    root: Path

    @property
    def plan(self) -> Path:
        """What the daemon asks of the stage."""
        return self.root / "plan.json"

    @property
    def result(self) -> Path:
        """What the stage answers; absent when it died before it could."""
        return self.root / "result.json"

    @property
    def smaller_plan(self) -> Path:
        """The batch plan in force, where the attempt chose a smaller one than it was given."""
        return self.root / "smaller_plan.json"

    @property
    def checkpoints(self) -> Path:
        """What an attempt has sealed and the daemon has not adopted yet."""
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Progress, one JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def ranks(self) -> Path:
        """Folders of the ranks beside the first, by number, where several train together."""
        return self.root / "ranks"

    def log(self, stage: str) -> Path:
        """The stage's standard output and error."""
        return self.root / f"{stage}.log"
