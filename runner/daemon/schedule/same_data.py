"""Same data: whether a job's data files are what its last run was trained on, by their hashes.

Asked aside, in a thread: gigabytes take seconds, and a share may hold whoever asks it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from runner.contract.layout import Outputs
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.spec.data_files import named_by
from runner.spec.spec import JobSpec

_RUNS = 50  # of a job, newest first: one that failed so often in a row is run again anyway


def run_with_the_same_data(
    jobs_dir: Path, outputs: Outputs, spec: JobSpec, spec_sha256: str
) -> str | None:
    """Give the job's last successful run, where spec and data are the same; None: they are not.

    Whatever is missing or cannot be read counts as changed: the run says what is wrong with it.
    """
    try:
        last = _last_success(outputs, spec.name)
        if last is None or last.spec_sha256 != spec_sha256:
            return None
        found = _hashes(jobs_dir, spec.data)
    except (OSError, RunnerError):
        return None
    before = {file.path: file.sha256 for file in last.data}
    return last.run_id if before and found == before else None


def _last_success(outputs: Outputs, job: str) -> RunRecord | None:
    found: RunRecord | None = None
    for run in reversed(outputs.runs_of(job)[-_RUNS:]):
        try:
            record = read_record(run.record)
        except (OSError, RunnerError):
            continue
        newer = found is None or record.sequence > found.sequence
        if record.state is State.SUCCEEDED and newer:
            found = record
    return found


def _hashes(jobs_dir: Path, paths: list[str]) -> dict[str, str]:
    hashes: dict[str, str] = {}
    with Folder.open(jobs_dir) as inbox:
        for path in paths:
            files = named_by(inbox, path)
            for name in [path] if files is None else files:
                with open(inbox.open_file(name), "rb") as file:
                    hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
