"""`runner logs`: prints a run's log.jsonl or a stage's own log, and follows it if asked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from runner.commands.find_run import find_run
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, Run
from runner.contract.layout import Outputs, RunFolder, StageFolder
from runner.contract.record import read_record
from runner.contract.states import Stage
from runner.errors import DamagedError, RunnerError
from runner.words import visible

POLL_SECONDS = 0.5
_SHOWN_APART = {"event", "level", "time"}


def stage_log(run: RunFolder, stage: Stage) -> Path:
    """Give the newest log of a stage."""
    if stage is Stage.TRAIN:
        return StageFolder(_newest_attempt(run)).log(stage)
    if stage is Stage.RATES:
        trials = sorted(run.rates.glob("[0-9]*")) or [run.rate(1).root]
        return StageFolder(_newest_attempt(RunFolder(trials[-1]))).log(stage)
    folders = {
        Stage.PREPARE: run.prepared,
        Stage.EXPORT: run.export,
        Stage.EVALUATE: run.evaluation,
        Stage.HAND_OVER: run.hand_over,
    }
    return StageFolder(folders[stage]).log(stage)


def _newest_attempt(run: RunFolder) -> Path:
    return (run.attempt_folders() or [run.attempt(1)])[-1]


def human(line: str) -> str:
    """Say one structured event in words; what is no event is shown as it is."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        return visible(line)
    moment = str(event.get("time", ""))[:19].replace("T", " ")
    level = str(event.get("level", "info"))
    facts = " ".join(
        f"{key}={value if isinstance(value, str | int | float) else json.dumps(value)}"
        for key, value in event.items()
        if key not in _SHOWN_APART
    )
    mark = "" if level in ("info", "debug") else f"{level}: "
    return visible(f"{moment} {mark}{event.get('event', '')} {facts}".strip())


def _is_over(run: RunFolder) -> bool:
    try:
        return read_record(run.record).state.is_final
    except FileNotFoundError:
        return False
    except DamagedError:
        return True


def lines_of(path: Path, run: RunFolder, *, follow: bool) -> Iterator[str]:
    """Give the whole lines of a file, and of a run that is under way those to come."""
    position, rest = 0, b""
    while True:
        over = _is_over(run)  # asked before reading: nothing written before the end is missed
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                content = file.read()
            position += len(content)
            *whole, rest = (rest + content).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        if not follow or over:
            break
        time.sleep(POLL_SECONDS)
    if rest:
        yield rest.decode(errors="replace")


def print_logs(run: RunFolder, *, stage: Stage | None, follow: bool, as_json: bool) -> None:
    """Print a run's log.

    Raises:
        RunnerError: there is none (yet).
    """
    path = run.log if stage is None else stage_log(run, stage)
    if not follow and not path.exists():
        raise RunnerError(
            f"{run.job}/{run.run_id} has no such log yet: {path.name}",
            advice=f"`runner show {run.job}` shows how far the run is.",
        )
    for line in lines_of(path, run, follow=follow):
        if as_json:
            print(line, flush=True)
        else:
            print(human(line) if stage is None else visible(line), flush=True)


def command(
    name: Run,
    outputs_dir: OutputsDir = OUTPUTS,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    stage: Annotated[
        str | None,
        typer.Option(
            help="A stage's own log: prepare, rates, train, export, evaluate or hand-over."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a run's log, or a stage's own.

    With --json the events are printed as they are stored.

    \b
    Example:
        runner logs contracts -f
    """
    try:
        chosen = Stage(stage) if stage else None
    except ValueError as error:
        raise typer.BadParameter(f"one of {', '.join(Stage)}", param_hint="--stage") from error
    run = find_run(Outputs(outputs_dir), name)
    print_logs(run, stage=chosen, follow=follow, as_json=as_json)
