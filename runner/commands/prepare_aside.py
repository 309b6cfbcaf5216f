"""Prepare a spec that was not dropped, in a folder that is removed afterwards.

It runs the real prepare stage, so what `runner preview` and `runner plan` show is what a run would
train on, and the refusals are the ones that a run would get.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.commands.validate import data_folder, read_file
from runner.contract.evaluation_tasks import VARIABLE
from runner.contract.findings import read_findings
from runner.contract.layout import Outputs, RunFolder, StageFolder, new_run_id
from runner.contract.promotions import current_run
from runner.contract.stage_io import PreparePlan, PrepareResult, read_message, write_message
from runner.contract.states import Stage
from runner.errors import RunnerError
from runner.spec.spec import JobSpec

LOG_LINES = 15  # of the stage's log, shown when it fell over without an answer
_LOOK_SECONDS = 1.0  # between two looks at whether a bound is reached


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much may be taken for somebody who asks from afar, and may ask again and again."""

    seconds: float
    min_free_bytes: int
    """So much stays free of the disk that the rows are copied to."""


@contextmanager
def prepared_from(
    spec_file: Path,
    models_dir: Path,
    jobs_dir: Path | None,
    *,
    try_model: bool = False,
    refused_too: bool = False,
    outputs: Outputs | None = None,
    source: Path | None = None,
    bounds: Bounds | None = None,
) -> Iterator[RunFolder]:
    """Run the prepare stage on a spec and give the run folder, which lives as long as the block.

    Args:
        spec_file: where the spec lies.
        models_dir: the box's models folder.
        jobs_dir: the inbox; None: the spec's own folder is taken for it.
        try_model: put the model together, too, to count what is trained: some seconds more.
        outputs: where the adapter in use lies, some of whose rows may be learned again.
        source: where its data paths start; None: where the spec lies.
        refused_too: data that cannot be used is no error where findings say what is wrong with it.
        bounds: of time and disk; None: it takes what it takes.

    Raises:
        RunnerError: the spec or data cannot be used, the message is the stage's own; or a bound
            was reached.
    """
    spec = read_file(spec_file, source)
    folder = source or data_folder(spec_file)
    root = (jobs_dir or folder).absolute()
    for needed in (models_dir, root):  # said here: the stage would only say that it fell over
        with contextlib.suppress(FileNotFoundError), os.scandir(needed):
            pass
    inside = folder == root or root in folder.parents
    with tempfile.TemporaryDirectory(prefix="runner-aside-") as temporary:
        run = RunFolder(Path(temporary) / spec.name / new_run_id())
        run.prepared.mkdir(parents=True)
        shutil.copyfile(spec_file, run.spec)
        plan = PreparePlan(
            models_dir=str(models_dir.absolute()),
            jobs_dir=str(root if inside else folder),
            try_model=try_model,
            replay_from=_replay_from(spec, outputs),
            spec_folder=str(folder.relative_to(root)) if inside else ".",
            evaluation_tasks=os.environ.get(VARIABLE, "").strip(),
        )
        stage = StageFolder(run.prepared)
        write_message(stage.plan, plan)
        log = stage.log(Stage.PREPARE)
        with log.open("wb") as output:
            command = [sys.executable, "-m", "runner.training", Stage.PREPARE, str(run.prepared)]
            status = _run(command, output, bounds)
        result = None
        if stage.result.exists():
            result = read_message(stage.result, PrepareResult)
        if result and result.error and refused_too and read_findings(run.findings):
            yield run
            return
        if result and result.error:
            raise RunnerError(result.error.message, advice=result.error.advice)
        if status != 0 or result is None:
            tail = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            raise RunnerError(
                "the rows could not be prepared:\n" + "\n".join(tail),
                advice="Check the spec and its data with `runner validate`.",
            )
        yield run


def _run(command: list[str], output: BinaryIO, bounds: Bounds | None) -> int:
    """Run the stage and give its exit status; none of its processes outlives a bound.

    Raises:
        RunnerError: a bound was reached.
    """
    if bounds is None:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
        return done.returncode
    end = time.monotonic() + bounds.seconds
    _require_room(output, bounds)
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(_LOOK_SECONDS)
            _require_room(output, bounds)
            if time.monotonic() > end:
                raise RunnerError(
                    f"to look at the rows took longer than {bounds.seconds / 60:.0f} minutes",
                    advice="Copy the spec into jobs/ on the share: a run checks its rows itself, "
                    "however long that takes.",
                )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # its workers, too
        child.wait()


def _require_room(output: BinaryIO, bounds: Bounds) -> None:
    disk = os.fstatvfs(output.fileno())
    if disk.f_bavail * disk.f_frsize < bounds.min_free_bytes:
        raise RunnerError(
            "the disk is nearly full: there is no room for a copy of the rows to look at",
            advice="Make room on the disk that holds the page's folder, then look again.",
        )


def _replay_from(spec: JobSpec, outputs: Outputs | None) -> str | None:
    """Find the run whose rows a run of now would learn again, or may."""
    if outputs is None or not (spec.leaves_start or spec.replay is not None):
        return None
    run_id = current_run(outputs, spec.name)
    return None if run_id is None else str(outputs.run(spec.name, run_id).root.absolute())
