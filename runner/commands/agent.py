"""`runner agent`: makes this machine a further box, which trains what another one's queue has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from runner.agent.agent import run_agent
from runner.commands.options import MODELS, OUTPUTS, ModelsDir, OutputsDir
from runner.contract.cluster import BOX_NAME
from runner.contract.settings_table import SettingError, read_settings, with_folders
from runner.daemon.log import Log
from runner.words import visible


def command(
    outputs_dir: OutputsDir = OUTPUTS,
    models_dir: ModelsDir = MODELS,
    name: Annotated[
        str,
        typer.Option(envvar="RUNNER_BOX", help="Of this box, as people see it."),
    ] = "",
    cache_dir: Annotated[
        Path | None,
        typer.Option(envvar="RUNNER_CACHE_DIR", help="Home of the stages (default: in outputs)."),
    ] = None,
) -> None:
    """Be a further box: train what the one with the queue places here.

    Both see the same outputs/ and models/ (docs/cluster.md).

    \b
    Example:
        runner agent --name cellar --outputs-dir /srv/share/outputs --models-dir /srv/share/models
    """
    if not BOX_NAME.fullmatch(name):
        raise SettingError(
            f"RUNNER_BOX is {visible(name)!r}; it names this box: 1 to 63 letters (a to z, no ä), "
            "digits, dots, - and _, the first of them a letter or digit",
            advice="Set it in .env, such as RUNNER_BOX=cellar, then start the agent again.",
        )
    found = read_settings(os.environ)
    found |= {"cache_dir": cache_dir.absolute()} if cache_dir else {}
    settings = with_folders(outputs_dir, outputs_dir, models_dir, **found)
    # Nothing is written to the share but what the head reads: it may hold whoever does.
    log = Log(Path(os.devnull))
    raise typer.Exit(run_agent(settings, name, say_event=log.say))
