"""Options that several commands share, and how a command prints JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.language.speaker import Speaker, language_of

# readable=False: a folder without rights is spoken of by the command, with how to fix it.
JobsDir = Annotated[
    Path,
    typer.Option(
        "--jobs-dir", envvar="RUNNER_JOBS_DIR", readable=False, help="The inbox that people share."
    ),
]
OutputsDir = Annotated[
    Path,
    typer.Option(
        "--outputs-dir", envvar="RUNNER_OUTPUTS_DIR", readable=False, help="Where results go."
    ),
]
ModelsDir = Annotated[
    Path,
    typer.Option(
        "--models-dir", envvar="RUNNER_MODELS_DIR", readable=False, help="The base models."
    ),
]
PageDir = Annotated[
    Path,
    typer.Option(
        "--page-dir", envvar="RUNNER_PAGE_DIR", readable=False, help="Where the page's key lies."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A job's name (its newest run), a run id, or its end.")
]
Device = Annotated[
    str, typer.Option(help="auto takes the GPU where there is one; cpu does not look.")
]

JOBS, OUTPUTS, MODELS, PAGE = Path("jobs"), Path("outputs"), Path("models"), Path("page")
"""Where the folders lie when nothing else is said: in the working directory."""


def speaker() -> Speaker:
    """Give the language of whoever calls: RUNNER_LANGUAGE, else the machine's."""
    return Speaker(language_of(os.environ.get("RUNNER_LANGUAGE", ""), os.environ))


def print_json(value: Any) -> None:
    """Print for a script."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
