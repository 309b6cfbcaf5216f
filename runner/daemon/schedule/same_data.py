"""Same data: whether all that a job is made from is what its last run had, by hashes.

That is the spec, its data, its held-out files, the schema of its answers and its base model.

Asked aside, in a thread: gigabytes take seconds, and a share may hold whoever asks it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from runner.contract.layout import Outputs
from runner.contract.models import describe_model, find_model
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.errors import RunnerError
from runner.files.beneath import Folder
from runner.spec.data_files import named_by
from runner.spec.spec import JobSpec

_RUNS = 50  # of a job, newest first: one that failed so often in a row is run again anyway


def run_with_the_same_data(
    jobs_dir: Path, outputs: Outputs, spec: JobSpec, spec_sha256: str, *, models_dir: Path
) -> str | None:
    """Give the job's last successful run, where all files are the same; None: they are not.

    Whatever is missing or cannot be read counts as changed: the run says what is wrong with it.
    """
    try:
        last = _last_success(outputs, spec.name)
        if last is None or last.spec_sha256 != spec_sha256:
            return None
        found = _hashes(jobs_dir, [*spec.data, *(spec.eval_data or ())])
        before = {file.path: file.sha256 for file in last.data}
        if not before or found != before:
            return None
        same = _same_schema(jobs_dir, outputs, spec, last) and _same_model(models_dir, spec, last)
    except (OSError, RunnerError, ValueError, KeyError, TypeError):
        return None
    return last.run_id if same else None


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


def _same_schema(jobs_dir: Path, outputs: Outputs, spec: JobSpec, last: RunRecord) -> bool:
    """Whether what the evaluation needs is what the run copied beside its data."""
    named = [one for one in (spec.evaluation.schema_file, spec.evaluation.general) if one]
    copied = outputs.run(last.job, last.run_id).data
    return all(
        any(
            hashlib.sha256(copy.read_bytes()).hexdigest() == sha256
            for copy in copied.glob(f"{sha256[:16]}-*")
        )
        for sha256 in _hashes(jobs_dir, named).values()
    )


def _same_model(models_dir: Path, spec: JobSpec, last: RunRecord) -> bool:
    """Whether the base model is the run's; where a record does not say, it is taken to be."""
    if last.model is None or last.model.sha256 is None:
        return True
    return (
        describe_model(find_model(models_dir, spec.model), spec.model).sha256 == last.model.sha256
    )


def _hashes(jobs_dir: Path, paths: list[str]) -> dict[str, str]:
    hashes: dict[str, str] = {}
    with Folder.open(jobs_dir) as inbox:
        for path in paths:
            files = named_by(inbox, path)
            for name in [path] if files is None else files:
                with open(inbox.open_file(name), "rb") as file:
                    hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
