"""Runs as pages name them: job and run id of an address become a folder, or nothing."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request

from runner.contract.layout import RUN_ID, Outputs, RunFolder, StageFolder
from runner.contract.record import RunRecord, read_record
from runner.contract.salvage import salvage
from runner.errors import DamagedError, NewerRecordError, RunnerError
from runner.files.beneath import Folder
from runner.files.unreadable import says_what_lies_there
from runner.office.box import Box


def box_of(request: Request) -> Box:
    """Give the box that is asked."""
    box: Box = request.app.state.box
    return box


def job_of(request: Request) -> str:
    """Find the job that an address names.

    Raises:
        HTTPException: 404, there is no such folder of runs; a link is none.
    """
    box, job = box_of(request), request.path_params["job"]
    if job.startswith(".") or not _is_folder(box.outputs, job):
        raise HTTPException(404)
    return str(job)


def run_of(request: Request) -> RunFolder:
    """Find the run that an address names.

    Raises:
        HTTPException: 404, there is no such run; links lead nowhere.
    """
    box, job, run_id = box_of(request), request.path_params["job"], request.path_params["run"]
    return run_named(box, job, run_id)


def run_named(box: Box, job: str, run_id: str) -> RunFolder:
    """Find a run by its names, as ``run_of``."""
    is_named = RUN_ID.fullmatch(run_id) and not job.startswith(".") and "/" not in job
    if not is_named or not _is_folder(box.outputs, f"{job}/{run_id}"):
        raise HTTPException(404)
    return box.outputs.run(job, run_id)


def _is_folder(outputs: Outputs, path: str) -> bool:
    try:
        with Folder.open(outputs.root) as root, root.open_folder(path):
            return True
    except (OSError, RunnerError, ValueError):
        return False


def record_of(run: RunFolder) -> RunRecord:
    """Read a run's record, or what can be recovered of it.

    Raises:
        HTTPException: 404, there is none yet.
        NewerRecordError: a newer runner wrote it.
        OSError: it cannot be read now.
    """
    try:
        return read_record(run.record)
    except NewerRecordError:
        raise
    except DamagedError:
        return salvage(run, sha256=lambda _path: "")  # checkpoints are not hashed for a look
    except OSError as error:
        if not says_what_lies_there(error):
            raise
        raise HTTPException(404) from error


def newest_metrics(run: RunFolder) -> Path:
    """Give where the newest attempt's steps are written, without reading the record."""
    return StageFolder((run.attempt_folders() or [run.attempt(1)])[-1]).metrics


def way_to(job: str, run_id: str = "") -> str:
    """Give the address of a job's page, or of a run's."""
    job = quote(job, safe="", errors="replace")  # a folder's name may be no text
    return f"/runs/{job}/{quote(run_id, safe='', errors='replace')}" if run_id else f"/jobs/{job}"
