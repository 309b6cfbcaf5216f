"""Leftovers: what a killed process left half-written in a run, the box or the inbox is removed."""

from __future__ import annotations

import contextlib
import shutil
import stat

from runner.contract.base_entries import sweep_bases
from runner.contract.layout import (
    SCHEDULED,
    STATE_FOLDERS,
    UNDER_WAY,
    Outputs,
    RunFolder,
    StageFolder,
    run_id_of,
)
from runner.contract.token_entries import sweep_entries
from runner.errors import UnsafePathError
from runner.files.beneath import Folder
from runner.files.socket_folder import sweep_socket_folders
from runner.files.sweep import OURS, sweep_folder


def sweep_run(run: RunFolder) -> None:
    """Remove everything unfinished in a run that no child works on."""
    for folder in (
        run.root,
        run.data,
        run.prepared,
        run.export,
        run.evaluation,
    ):
        sweep_folder(folder)
    homes = [run]
    with contextlib.suppress(OSError):
        homes += [RunFolder(home) for home in run.rates.iterdir()]
    for home in homes:
        sweep_folder(home.checkpoints)
        for attempt in home.attempt_folders():
            sweep_folder(attempt)
            sweep_folder(StageFolder(attempt).checkpoints)
            # Trainer writes its checkpoints here; what was not moved away is torn.
            shutil.rmtree(attempt / "work", ignore_errors=True)
            with contextlib.suppress(OSError):
                for rank in StageFolder(attempt).ranks.iterdir():
                    sweep_folder(rank)


def sweep_box(outputs: Outputs) -> None:
    """Remove what the daemon itself and commands left half-written."""
    sweep_folder(outputs.private)
    sweep_folder(outputs.requests)
    sweep_folder(outputs.notices)  # what is in `sent` is another process's, at work or not
    for job in outputs.job_folders():  # `current` and HANDOVER.md lie beside the runs
        sweep_folder(job)
    sweep_socket_folders()
    sweep_entries(outputs.token_cache)
    sweep_bases(outputs.base_cache)


def sweep_inbox(inbox: Folder) -> None:
    """Remove half-written answers, and reports that a killed daemon left without their specs.

    A state folder that cannot be opened is left alone.
    """
    for name in UNDER_WAY:
        with contextlib.suppress(OSError, UnsafePathError), inbox.open_folder(name) as folder:
            names = set(folder.names())
            for report in names:
                spec = report.removesuffix(".html")
                if spec != report and run_id_of(spec) is not None and spec not in names:
                    with contextlib.suppress(OSError):
                        folder.remove_file(report)
    for name in (".", SCHEDULED, *STATE_FOLDERS):
        with contextlib.suppress(OSError, UnsafePathError), inbox.open_folder(name) as folder:
            for entry, status in folder.scan_status(lambda n: bool(OURS.fullmatch(n))):
                if stat.S_ISREG(status.st_mode):
                    with contextlib.suppress(OSError):
                        folder.remove_file(entry.name)
