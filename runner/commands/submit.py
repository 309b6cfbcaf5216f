"""`runner submit`: copies a spec and its data into the inbox."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.commands.options import JOBS, OUTPUTS, AsJson, JobsDir, OutputsDir, print_json
from runner.commands.validate import data_folder, read_file
from runner.commands.which_box import hint
from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.errors import DamagedError, RunnerError
from runner.files.durable import sync_folder, write_bytes

POLL_SECONDS = 0.5


class SubmitError(RunnerError):
    """The job could not be submitted."""

    kind = "submit"


def _same(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while block := a.read(1 << 20):
            if block != b.read(1 << 20):
                return False
    return True


def _copy(source: Path, target: Path) -> None:
    """Copy beside and rename: the daemon never sees half a data file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
    try:
        shutil.copyfile(source, beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.rename(target)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(target.parent)


def bring_data(paths: list[str], source: Path, inbox: Path, *, replace: bool) -> list[str]:
    """Copy the data that is not in the inbox yet, under the same relative paths.

    Raises:
        SubmitError: a file is nowhere, leaves the folder, or differs from one that is there.
    """
    brought = []
    for path in paths:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise SubmitError(
                f"{path!r} leaves the spec's folder",
                advice="Copy the file beside the spec and name it from there.",
            )
        here, there = source / path, inbox / path
        if not here.is_file():
            if there.is_file():
                continue
            raise SubmitError(
                f"there is no {path!r} beside the spec or in the inbox",
                advice="Paths are relative to the spec's folder.",
            )
        if there.is_file() and (here.samefile(there) or _same(here, there)):
            continue
        if there.exists() and not replace:
            raise SubmitError(
                f"the inbox has another {path!r} already",
                advice="Give the file another name, or submit with --replace-data.",
            )
        _copy(here, there)
        brought.append(path)
    return brought


def submit(spec_file: Path, inbox: Path, *, replace: bool = False) -> tuple[Path, list[str]]:
    """Check a spec, bring its data and drop it; give where it was dropped and the data copied.

    Raises:
        SpecError: the spec cannot be used.
        SubmitError: data is missing or differs, or a spec of that name still waits.
    """
    spec = read_file(spec_file)
    if not inbox.is_dir():
        raise SubmitError(
            f"there is no inbox at {inbox}",
            advice="Start `runner watch` first, or name the inbox with --jobs-dir.",
        )
    target = inbox / spec_file.name
    if target.exists() and not target.samefile(spec_file):
        raise SubmitError(
            f"{spec_file.name} waits in the inbox already",
            advice="Is `runner watch` running? Otherwise rename the spec and submit it again.",
        )
    wanted = [*spec.data, *(spec.eval_data or [])]
    brought = bring_data(wanted, data_folder(spec_file), inbox, replace=replace)
    if not target.exists():
        write_bytes(target, spec_file.read_bytes(), mode=0o664)
    return target, brought


def newest_run_of(outputs: Outputs, file_name: str, before: Collection[str]) -> RunFolder | None:
    """Find the run that a spec became; ``before`` are the ids of the runs before it was dropped."""
    for job, run_id in reversed(outputs.run_names()):
        if run_id in before:
            continue
        run = outputs.run(job, run_id)
        try:
            record = read_record(run.record)
        except (OSError, DamagedError):
            continue
        if record.file_name == file_name:
            return run
    return None


def wait_until_over(
    outputs: Outputs, file_name: str, before: Collection[str]
) -> tuple[RunFolder, RunRecord]:
    """Wait for a dropped spec's run to be claimed and to end."""
    run = None
    while True:
        run = run or newest_run_of(outputs, file_name, before)
        if run:
            record = read_record(run.record)
            if record.state.is_final:
                return run, record
        time.sleep(POLL_SECONDS)


def command(
    spec: Annotated[Path, typer.Argument(help="The spec, anywhere on this machine.")],
    jobs_dir: JobsDir = JOBS,
    outputs_dir: OutputsDir = OUTPUTS,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; 0 if succeeded.")] = False,
    replace_data: Annotated[
        bool, typer.Option("--replace-data", help="Replace data of the same name in the inbox.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a spec, copy it and its data into the inbox.

    \b
    Example:
        runner submit contracts.yaml --wait
    """
    # Whoever only drops a spec need not be allowed to see the results.
    before = {run_id for _, run_id in Outputs(outputs_dir).run_names()} if wait else set()
    target, brought = submit(spec, jobs_dir, replace=replace_data)
    answer: dict[str, Any] = {"file": str(target), "data_copied": brought}
    if not as_json:
        print(f"Dropped {target}" + (f" with {', '.join(brought)}" if brought else ""))
        if said := hint(Outputs(outputs_dir)):
            print(said)
    succeeded = True
    if wait:
        run, record = wait_until_over(Outputs(outputs_dir), target.name, before)
        succeeded = record.state is State.SUCCEEDED
        answer |= {"job": record.job, "run_id": record.run_id, "state": record.state.value}
        answer |= {"folder": str(run.root)}
        if not as_json:
            print(f"{record.state.value}: {run.root}")
    if as_json:
        print_json(answer)
    raise typer.Exit(0 if succeeded else 1)
