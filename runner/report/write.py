"""Write reports: into the run's folder, and beside the spec for those who have only the share.

A report that cannot be written harms nothing: each run, each place and the index stand for
themselves, and what went wrong is given back in words without any user's data.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from runner.clock import now
from runner.contract.layout import Outputs, RunFolder, claimed_name, report_name
from runner.contract.record import RunRecord, read_record
from runner.errors import RunnerError, UnsafePathError
from runner.files.beneath import Folder
from runner.files.durable import TEMPORARY_PREFIX
from runner.files.replace import replace
from runner.language.speaker import Speaker
from runner.report.gather import gather
from runner.report.index import index_page
from runner.report.page import page

INDEX_FROM_RUN = "../../index.html"
"""Where the index lies as seen from a run's folder; beside a spec it cannot be reached."""


def write_report(
    outputs: Outputs, run: RunFolder, speak: Speaker, *, share_name: str, inbox: Folder | None
) -> list[str]:
    """Write one run's report; give what went wrong."""
    problems: list[str] = []
    with _noting(problems, f"{run.job}/{run.run_id}"):
        found = gather(run)
        at = now()
        text = page(found, speak, now=at, share_name=share_name, index=INDEX_FROM_RUN)
        with _noting(problems, f"outputs/{run.job}/{run.run_id}/{run.report.name}"):
            _replace(outputs, run.report, text)
        if inbox is not None:
            with _noting(problems, f"jobs/{found.record.state.folder}"):
                text = page(found, speak, now=at, share_name=share_name)
                _show(inbox, run, found.record, text)
    return problems


def write_index(outputs: Outputs, speak: Speaker) -> list[str]:
    """Write the index of all runs; give what went wrong."""
    problems: list[str] = []
    with _noting(problems, f"outputs/{outputs.index.name}"):
        _replace(outputs, outputs.index, index_page(outputs, speak, now=now()))
    return problems


@contextlib.contextmanager
def _noting(problems: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RunnerError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message
        problems.append(f"{what}: {why or type(error).__name__}")
    except Exception as error:  # a defect of ours, and its message may quote the user's data
        problems.append(f"{what}: {type(error).__name__}")


def _replace(outputs: Outputs, path: Path, text: str) -> None:
    """Replace a page in one step. Half of one lies in the runner's own folder, which is swept.

    It is not synced: a page lost in a power cut is written again at the next start.
    """
    beside = outputs.private / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(beside, flags, 0o640), "wb") as file:
            file.write(text.encode(errors="replace"))
        replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _show(inbox: Folder, run: RunFolder, record: RunRecord, text: str) -> None:
    """Leave the report beside the run's spec, if that is there.

    The daemon may move the spec at any moment. It takes the report away after it has moved the
    spec; so whoever comes second, here the look at the spec, finds that out.
    """
    spec = claimed_name(record.file_name, record.run_id)
    name = report_name(record.file_name, record.run_id)
    with inbox.open_folder(record.state.folder) as folder:
        if not _has(folder, spec):
            return
        folder.write_text(name, text)
        if not _has(folder, spec) or read_record(run.record).state.folder != record.state.folder:
            folder.remove_file(name)


def _has(folder: Folder, name: str) -> bool:
    try:
        folder.stat(name)
    except FileNotFoundError:
        return False
    except UnsafePathError:
        return True  # something is there under its name
    return True
