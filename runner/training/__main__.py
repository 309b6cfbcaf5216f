"""One stage as a process: ``python -m runner.training STAGE FOLDER``.

Command: `python -m runner.training train outputs/contracts/20261123T221005Z-k3f9/attempts/01`.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import re
import signal
import sys
import traceback
from pathlib import Path

from runner.contract.layout import StageFolder
from runner.contract.record import ErrorFacts
from runner.contract.stage_io import (
    PARENT,
    STACK_SIGNAL,
    StageFailure,
    TrainPlan,
    read_message,
    write_message,
)
from runner.contract.standing_by import STAND_BY
from runner.contract.states import TRAINS, Stage
from runner.contract.unread import outputs_above, unread
from runner.errors import HOST_MEMORY_ADVICE, InputError, RunnerError, StageError
from runner.exit_codes import ExitCode
from runner.files.unreadable import is_of_storage
from runner.training.ranks.place import FLAG, Place, folder_of
from runner.words import visible

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SPEAKING = (RuntimeError, OSError, ImportError, MemoryError)
"""Errors whose text speaks of machines; that of others may quote a row of data."""

_WORDS_SHOWN = 300  # characters of a library's message; some print a whole config
_MAY_LIST_TOKENS = re.compile(r"\d+\D{1,3}\d+\D{1,3}\d+\D{1,3}\d+")
"""Four numbers in a row; a tensor's shape seldom has more than three."""


def main(arguments: list[str]) -> int:
    """Run one stage and give its exit status."""
    # When the daemon dies, so does what it started: nothing else would ever stop this process.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        return ExitCode.INTERRUPTED  # it had died before that line: nobody will be told
    # The stacks of all threads, even where the interpreter itself stands still.
    faulthandler.register(STACK_SIGNAL, all_threads=True)
    # Threads that spin while they wait steal the cores from whatever else runs on an office box: a
    # step took 5 to 10 times as long beside one busy program. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Nothing leaves the box: no hub, no usage reports, whatever the environment says.
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRANSFORMERS_OFFLINE="1")
    if arguments == [STAND_BY]:
        from runner.training.stand_by import stand_by

        arguments = stand_by()
    place = None
    if arguments and arguments[0].startswith(FLAG):
        place, arguments = Place.read(arguments[0]), arguments[1:]
    if len(arguments) != 2 or arguments[0] not in list(Stage):
        print(f"usage: python -m runner.training {{{'|'.join(Stage)}}} FOLDER", file=sys.stderr)
        return ExitCode.UNEXPECTED
    stage, folder = Stage(arguments[0]), Path(arguments[1]).resolve()
    result = folder_of(folder, place.rank if place else 0).result
    result.unlink(missing_ok=True)
    try:
        if place is None and (size := _ranks_of(stage, folder)) > 1:
            return _launch(stage, folder, size)
        _run(stage, folder, place)
    except RunnerError as error:
        print(f"{stage} ended: {error.message}", file=sys.stderr)
        if _may_be_of_storage(error) and is_of_storage(error):
            # What a file holds is judged by nobody who could not read it.
            _answer(result, unread(error, outputs=outputs_above(folder)))
            return ExitCode.UNREADABLE
        _answer(result, ErrorFacts(kind=error.kind, message=error.message, advice=error.advice))
        if isinstance(error, StageError):
            return error.exit_code
        return ExitCode.BAD_INPUT if isinstance(error, InputError) else ExitCode.UNEXPECTED
    except Exception as error:  # the top of the process: everything becomes a status
        _print_without_rows(error)
        code, facts = _machine_trouble(error, stage, folder)
        _answer(result, facts)
        return code
    return ExitCode.OK


def _ranks_of(stage: Stage, folder: Path) -> int:
    """Count the processes that a stage's plan asks for."""
    return read_message(StageFolder(folder).plan, TrainPlan).ranks if stage in TRAINS else 1


def _launch(stage: Stage, folder: Path, size: int) -> int:
    from runner.training.ranks.launch import launch

    status = launch(stage.value, folder, size)
    if status < 0:  # a rank was ended by a signal: so is the stage, for whoever looks at it
        sys.stdout.flush()
        with contextlib.suppress(OSError):  # nobody listens to SIGKILL
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _run(stage: Stage, folder: Path, place: Place | None) -> None:
    if stage is Stage.PREPARE:
        from runner.training.data.prepare import prepare

        prepare(folder)
    elif stage in TRAINS:
        from runner.training.fit.train import train

        train(folder, place)
    elif stage is Stage.EXPORT:
        from runner.training.export.export import export

        export(folder)
    elif stage is Stage.HAND_OVER:
        from runner.training.export.hand_over import hand_over

        hand_over(folder)
    else:
        from runner.training.evaluate.evaluate import evaluate

        evaluate(folder)


def _may_be_of_storage(error: RunnerError) -> bool:
    """Whether an error may have another reason than it says: those that are sure have a code."""
    return not isinstance(error, StageError) or error.exit_code == ExitCode.UNEXPECTED


def _machine_trouble(
    error: BaseException, stage: Stage, folder: Path
) -> tuple[ExitCode, ErrorFacts]:
    from runner.training.fit.memory import Lost, classify

    lost = classify(error)
    if lost is Lost.GPU_MEMORY:
        return ExitCode.OUT_OF_GPU_MEMORY, ErrorFacts(
            kind="out_of_gpu_memory",
            message=f"The card's memory ran out in the {stage} stage.",
            advice="Close other programs that use the card, or use a smaller model; `runner plan` "
            "shows what a job needs.",
        )
    if lost is Lost.HOST_MEMORY:
        return ExitCode.OUT_OF_HOST_MEMORY, ErrorFacts(
            kind="out_of_host_memory",
            message=f"The machine's own memory ran out in the {stage} stage.",
            advice=HOST_MEMORY_ADVICE,
        )
    if lost is Lost.GPU:
        return ExitCode.GPU_LOST, ErrorFacts(
            kind="gpu_lost", message="The graphics card went away.", advice="Run `runner doctor`."
        )
    if lost is Lost.DISK:
        return ExitCode.DISK_FULL, ErrorFacts(
            kind="disk_full", message="No space was left on the disk.", advice="Make some room."
        )
    if lost is Lost.STORAGE:
        return ExitCode.UNREADABLE, unread(error, outputs=outputs_above(folder))
    return ExitCode.UNEXPECTED, ErrorFacts(
        kind="unexpected",
        message=f"The {stage} stage ended with {type(error).__name__}{_said(error, stage)}.",
        advice=f"The traceback is in {stage}.log.",
    )


def _said(error: BaseException, stage: Stage) -> str:
    """Give an error's own words where they hold no row: train has token ids and no text.

    Whatever lists numbers may list those ids, so it stays unsaid.
    """
    words = visible(" ".join(str(error).split())).rstrip(".")[:_WORDS_SHOWN]
    shown = stage in TRAINS and words and not _MAY_LIST_TOKENS.search(words)
    return f": {words}" if shown else ""


def _answer(result: Path, error: ErrorFacts) -> None:
    """Write the reason, unless the stage has written a fuller result itself."""
    try:
        if not result.exists():
            write_message(result, StageFailure(error=error))
    except OSError as trouble:  # a full disk must not hide the exit status
        print(f"the result could not be written: {trouble}", file=sys.stderr)


def _print_without_rows(error: BaseException | None) -> None:
    while error is not None:
        traceback.print_tb(error.__traceback__)
        said = f": {error}" if isinstance(error, _SPEAKING) else ""
        print(f"{type(error).__name__}{said}", file=sys.stderr, flush=True)
        error = error.__cause__ or error.__context__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
