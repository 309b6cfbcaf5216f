"""`runner submit`: copies a spec and its data into the inbox."""

from __future__ import annotations

import itertools
import os
import stat
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
from runner.errors import DamagedError, RunnerError, UnsafePathError
from runner.files.beneath import Folder
from runner.spec.data_files import named_by

POLL_SECONDS = 0.5
FILE_MODE, FOLDER_MODE = 0o664, 0o775
"""The share's group may replace and remove what was brought; the daemon may be another user."""
_BLOCK_BYTES = 1 << 20
_NAMED = 5  # files in one sentence


class SubmitError(RunnerError):
    """The job could not be submitted."""

    kind = "submit"


def _is_same_file(inbox: Folder, path: str, here: Path) -> bool:
    """Whether what lies in the inbox is the very file that is to be brought."""
    there, wanted = inbox.stat(path), here.stat()
    return (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino)


def _has_same_bytes(inbox: Folder, path: str, here: Path) -> bool:
    with open(inbox.open_file(path), "rb") as there, here.open("rb") as wanted:
        if os.fstat(there.fileno()).st_size != os.fstat(wanted.fileno()).st_size:
            return False
        while block := wanted.read(_BLOCK_BYTES):
            if block != there.read(_BLOCK_BYTES):
                return False
    return True


def _kind(inbox: Folder, path: str) -> int | None:
    """Tell what lies in the inbox under a name; None: nothing.

    Raises:
        UnsafePathError: it is a link, or one lies on the way: whoever may write to the share could
            have the copy written anywhere.
    """
    try:
        mode = inbox.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(mode):
        raise UnsafePathError(
            path, "is a link", advice="Remove it from the shared folder; links are not followed."
        )
    return stat.S_IFMT(mode)


def _named(path: str, source: Path, inbox: Folder) -> list[str] | None:
    """List the files here that a pattern or a folder names; None: the path is a file's own.

    Raises:
        SubmitError: there are none, or the job would also learn others that lie in the inbox.
    """
    try:
        with Folder.open(source) as root:
            here = named_by(root, path)
        there = named_by(inbox, path)
    except OSError:  # a file of the inbox where the path has a folder: it is in the way
        return None
    if not here:
        return here if here is None and there is None else there or _names_nothing(path)
    if others := sorted(set(there or ()) - set(here)):
        raise SubmitError(
            f"the inbox has other files that {path!r} names: {', '.join(others[:_NAMED])}",
            advice="Name the files one by one, or copy yours into a folder of their own.",
        )
    return here


def _names_nothing(path: str) -> list[str]:
    raise SubmitError(
        f"{path!r} names no file beside the spec or in the inbox",
        advice="Paths are relative to the spec's folder.",
    )


def bring_data(paths: list[str], source: Path, inbox: Folder, *, replace: bool) -> list[str]:
    """Copy the data that is not in the inbox yet, under the same relative paths.

    Raises:
        SubmitError: a file is nowhere, leaves the folder, or differs from one that is there; a
            pattern or a folder would name others in the inbox as well.
        UnsafePathError: a link in the inbox is in the way.
    """
    for path in paths:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise SubmitError(
                f"{path!r} leaves the spec's folder",
                advice="Copy the file beside the spec and name it from there.",
            )
    named = [_named(path, source, inbox) or [path] for path in paths]
    brought = []
    for path in dict.fromkeys(itertools.chain(*named)):
        here, kind = source / path, _kind(inbox, path)
        there = kind == stat.S_IFREG
        if not here.is_file():
            if there:
                continue
            raise SubmitError(
                f"there is no {path!r} beside the spec or in the inbox",
                advice="Paths are relative to the spec's folder.",
            )
        if there and (_is_same_file(inbox, path, here) or _has_same_bytes(inbox, path, here)):
            continue
        if kind is not None and not replace:
            raise SubmitError(
                f"the inbox has another {path!r} already",
                advice="Give the file another name, or submit with --replace-data.",
            )
        folder, _, name = path.rpartition("/")
        with inbox.make_folders(folder or ".", mode=FOLDER_MODE) as target, here.open("rb") as file:
            target.write_copy(name, file, mode=FILE_MODE)
            target.sync()
        brought.append(path)
    return brought


def submit(
    spec_file: Path, inbox: Path, *, replace: bool = False, source: Path | None = None
) -> tuple[Path, list[str]]:
    """Check a spec, bring its data and drop it; give where it was dropped and the data copied.

    Its data lies in ``source``, or beside it.

    Raises:
        SpecError: the spec cannot be used.
        SubmitError: data is missing or differs, or a spec of that name still waits.
        UnsafePathError: a link in the inbox is in the way.
    """
    spec = read_file(spec_file, source)
    if not inbox.is_dir():
        raise SubmitError(
            f"there is no inbox at {inbox}",
            advice="Start `runner watch` first, or name the inbox with --jobs-dir.",
        )
    with Folder.open(inbox) as folder:
        name = spec_file.name
        waits = _kind(folder, name) is not None
        if waits and not _is_same_file(folder, name, spec_file):
            raise _waits_already(name)
        wanted = spec.named_files
        brought = bring_data(wanted, source or data_folder(spec_file), folder, replace=replace)
        if not waits:
            try:
                content = spec_file.read_bytes()
                folder.write_bytes(name, content, mode=FILE_MODE, replace=False)
            except FileExistsError:  # somebody dropped one of that name this moment
                raise _waits_already(name) from None
            folder.sync()
    return inbox / name, brought


def _waits_already(name: str) -> SubmitError:
    return SubmitError(
        f"{name} waits in the inbox already",
        advice="Is `runner watch` running? Otherwise rename the spec and submit it again.",
    )


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
    scheduled = read_file(spec).schedule
    if wait and scheduled:
        raise RunnerError(
            f"{spec.name} has a schedule: it starts no run at once that could be waited for",
            advice="Leave --wait out, or leave its schedule out to run it once.",
        )
    before = {run_id for _, run_id in Outputs(outputs_dir).run_names()} if wait else set()
    target, brought = submit(spec, jobs_dir, replace=replace_data)
    answer: dict[str, Any] = {"file": str(target), "data_copied": brought}
    if scheduled:
        answer["schedule"] = scheduled
    if not as_json:
        print(f"Dropped {target}" + (f" with {', '.join(brought)}" if brought else ""))
        if scheduled:
            print(f"It runs on schedule ({scheduled}): `runner schedule` shows when.")
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
