"""Watch: the daemon, with the doctor's light checks at its start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from runner.commands.options import JOBS, MODELS, OUTPUTS, JobsDir, ModelsDir, OutputsDir
from runner.contract.settings import Settings
from runner.contract.settings_table import read_settings, with_folders
from runner.daemon.log import Log
from runner.daemon.run_daemon import run_daemon
from runner.daemon.start.at_start import AtStart
from runner.doctor.examine import examine_lightly
from runner.doctor.finding import Level

_LEVELS = {Level.TROUBLE: "warning", Level.UNKNOWN: "warning", Level.ADVICE: "info"}


def watch(settings: Settings) -> int:
    """Run the daemon; give its exit status.

    Raises:
        BusyError: another daemon has the outputs folder or the inbox.
    """
    return run_daemon(settings, examine=_examine)


def _examine(settings: Settings, log: Log) -> AtStart | None:
    """Make the light checks and log what is not well; None: a check failed, and that is logged."""
    try:
        light = examine_lightly(settings)
    except Exception as error:  # advice: a defect in it must not keep the box from its work
        log.say("the doctor could not look", level="warning", reason=str(error))
        return None
    for finding in light.findings:
        if finding.level in _LEVELS:
            log.say(
                f"doctor: {finding.check}: {finding.what}",
                level=_LEVELS[finding.level],
                fix=finding.fix,
            )
    return AtStart(polling=light.events.polling, answer=light.answer)


def command(
    jobs_dir: JobsDir = JOBS,
    outputs_dir: OutputsDir = OUTPUTS,
    models_dir: ModelsDir = MODELS,
    once: Annotated[
        bool, typer.Option("--once", help="Work off what is there and leave; 0 if all succeeded.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="auto takes the GPU where there is one; cpu does not look.")
    ] = None,
    polling: Annotated[
        bool | None,
        typer.Option(
            "--polling/--no-polling",
            help="Look at the inbox instead of listening (default: where events do not travel).",
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="RUNNER_CACHE_DIR",
            help="Home of the stages: what Triton compiles, for one (default: in outputs).",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any setting of .env.example, without RUNNER_: --set stall_seconds=900.",
        ),
    ] = None,
) -> None:
    """Watch the inbox and run what is dropped there: the daemon.

    \b
    Example:
        runner watch --jobs-dir /srv/share/jobs
    """
    found = read_settings(os.environ, set_ or ())
    found |= {"device": device} if device else {}
    found |= {"polling": polling} if polling is not None else {}
    cache = cache_dir.absolute() if cache_dir else None
    settings = with_folders(jobs_dir, outputs_dir, models_dir, once=once, cache_dir=cache, **found)
    raise typer.Exit(watch(settings))
