"""`runner notify`: sends the notices of ended runs by mail, Teams, Slack or a webhook."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Annotated

import typer

from runner.commands.options import speaker
from runner.errors import RunnerError
from runner.notices.send import Sender, read_places, send_notices

_FOLDER = Path("outputs/.runner/notices")


def command(
    folder: Annotated[
        Path,
        typer.Option(envvar="NOTIFY_FOLDER", help="Where the daemon leaves notices."),
    ] = _FOLDER,
    urls: Annotated[
        Path,
        typer.Option(envvar="NOTIFY_URLS_FILE", help="A file with the places, a URL a line."),
    ] = Path("notify.urls"),
    once: Annotated[
        bool, typer.Option("--once", help="Send what is there and leave; 0 if all arrived.")
    ] = False,
) -> None:
    """Send notices of ended runs by mail, Teams, Slack or a webhook.

    It sees job names and verdicts, and never a row.

    \b
    Example:
        runner notify --urls notify.urls
    """
    if importlib.util.find_spec("apprise") is None:
        raise RunnerError(
            "apprise is not installed: nothing can be sent",
            advice="docker compose --profile notify up -d has it; elsewhere: pip install "
            "'finetuning-box[notify]'.",
        )
    # Why something could not be sent is said by the library alone, without what is secret.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    places = read_places(urls)
    speak = speaker()
    sender = Sender(folder=folder, places=places, speak=speak)
    sender.say(f"notices go to {', '.join(place.name for place in places)}")
    raise typer.Exit(0 if send_notices(sender, once=once) else 1)
