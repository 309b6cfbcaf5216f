"""Salvage: what can be recovered of a run whose record cannot be read.

Nothing here writes: the daemon keeps the unreadable record beside the new one, `runner show` only
tells.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime

from runner.clock import now
from runner.contract.checkpoints import Sha256, everywhere, sha256_of, step_of, verified
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.record import RECORD_BYTES, ErrorFacts, RunRecord
from runner.contract.stage_io import ExportResult, read_message
from runner.contract.states import State
from runner.errors import DamagedError, UnreadableError
from runner.files.unreadable import reading

DAMAGED = "damaged"
"""Kind of the error in a record that was made anew."""
_FILE_NAME = re.compile(r'"file_name":\s*("(?:[^"\\]|\\.)*")')


def salvage(run: RunFolder, sha256: Sha256 = sha256_of) -> RunRecord:
    """Make a record that says the run is damaged, and what of it is whole."""
    try:
        spec_sha256 = hashlib.sha256(run.spec.read_bytes()).hexdigest()
    except OSError:
        spec_sha256 = ""
    return RunRecord(
        job=run.job,
        run_id=run.run_id,
        state=State.FAILED,
        file_name=_file_name(run),
        created_at=datetime.strptime(run.run_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
        ended_at=now(),
        spec_sha256=spec_sha256,
        error=ErrorFacts(
            kind=DAMAGED,
            message=f"The record of this run could not be read. {what_is_whole(run, sha256)}",
            advice="Check the disk under outputs/. To run the job again, drop its spec "
            f"again (a copy: outputs/{run.job}/{run.run_id}/spec.yaml).",
        ),
    )


def what_is_whole(run: RunFolder, sha256: Sha256 = sha256_of) -> str:
    """Say in a sentence what can be recovered of a run."""
    where = f"outputs/{run.job}/{run.run_id}"
    unread: UnreadableError | None = None
    try:
        with reading(run.adapter):
            files = read_message(StageFolder(run.export).result, ExportResult).files
            if files and all(sha256(run.adapter / name) == sha for name, sha in files.items()):
                return f"Its adapter is whole, every file as it was exported: {where}/adapter/"
    except UnreadableError as error:
        unread = error
    except (OSError, DamagedError):
        pass
    for kept in everywhere(run):
        try:
            is_whole = verified(kept, sha256)
        except UnreadableError as error:
            unread, is_whole = unread or error, False
        if is_whole:
            path = f"{where}/{kept.relative_to(run.root).as_posix()}/"
            return f"The adapter of its step {step_of(kept.name)} is whole: {path}"
    if unread is not None:
        return f"What it had trained could not be read ({unread.strerror}); it is left as it is."
    return "No adapter of it can be recovered."


def _file_name(run: RunFolder) -> str:
    """Find the name that the spec was dropped under: it stands near the top of the record."""
    try:
        with run.record.open("rb") as file:
            text = file.read(RECORD_BYTES).decode(errors="replace")
        match = _FILE_NAME.search(text)
        name = json.loads(match[1]) if match else ""
    except (OSError, ValueError):
        name = ""
    return name if name and "/" not in name and "\0" not in name else f"{run.job}.yaml"
