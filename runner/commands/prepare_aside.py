"""Prepare a spec that was not dropped, in a folder that is removed afterwards.

It runs the real prepare stage, so what `runner preview` and `runner plan` show is what a run would
train on, and the refusals are the ones that a run would get.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.commands.validate import data_folder, read_file
from runner.contract.findings import read_findings
from runner.contract.layout import Outputs, RunFolder, StageFolder, new_run_id
from runner.contract.promotions import current_run
from runner.contract.stage_io import PreparePlan, PrepareResult, read_message, write_message
from runner.contract.states import Stage
from runner.errors import RunnerError
from runner.spec.spec import JobSpec

LOG_LINES = 15  # of the stage's log, shown when it fell over without an answer


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

    Raises:
        RunnerError: the spec or data cannot be used; the message is the stage's own.
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
        )
        stage = StageFolder(run.prepared)
        write_message(stage.plan, plan)
        log = stage.log(Stage.PREPARE)
        with log.open("wb") as output:
            command = [sys.executable, "-m", "runner.training", Stage.PREPARE, str(run.prepared)]
            status = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
            ).returncode
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


def _replay_from(spec: JobSpec, outputs: Outputs | None) -> str | None:
    """Find the run whose rows a run of now would learn again."""
    if spec.replay is None or outputs is None:
        return None
    run_id = current_run(outputs, spec.name)
    return None if run_id is None else str(outputs.run(spec.name, run_id).root.absolute())
