"""Turns the daemon's heartbeat into well or not well: the container's health check.

runner health
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import typer

from runner.clock import now
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, print_json
from runner.contract.layout import Outputs

STALE_SECONDS = 35.0  # three beats of ten seconds missed, and a little for a busy disk


@dataclass(frozen=True, kw_only=True)
class Health:
    """Whether the daemon is well, and how one knows."""

    well: bool
    reason: str


def judge(heartbeat: dict[str, Any] | None, at: datetime) -> Health:
    """Decide from what the daemon last wrote."""
    if heartbeat is None:
        return Health(well=False, reason="there is no heartbeat: no daemon has run here yet")
    try:
        age_seconds = abs((at - datetime.fromisoformat(heartbeat["time"])).total_seconds())
    except (KeyError, TypeError, ValueError):
        return Health(well=False, reason="the heartbeat cannot be read")
    if age_seconds > STALE_SECONDS:
        return Health(well=False, reason=f"the last heartbeat is {age_seconds:.0f} s old")
    if heartbeat.get("unwell"):
        return Health(well=False, reason=str(heartbeat["unwell"]))
    running, waiting = heartbeat.get("running") or [], heartbeat.get("waiting", 0)
    inbox = heartbeat.get("inbox", "available")
    return Health(
        well=True,
        reason=f"running {len(running)}, waiting {waiting}"
        + (f", {inbox}" if inbox != "available" else ""),
    )


def health(outputs: Outputs) -> Health:
    """Read the heartbeat and judge it."""
    try:
        content = json.loads(outputs.heartbeat.read_bytes())
    except FileNotFoundError:
        return judge(None, now())
    except (OSError, ValueError):
        content = {}
    return judge(content if isinstance(content, dict) else {}, now())


def command(outputs_dir: OutputsDir = OUTPUTS, as_json: AsJson = False) -> None:
    """Tell whether the daemon is well: the container's health check.

    It exits with 1 when the daemon is not well.

    \b
    Example:
        runner health
    """
    found = health(Outputs(outputs_dir))
    if as_json:
        print_json({"well": found.well, "reason": found.reason})
    else:
        print(f"{'well' if found.well else 'not well'}: {found.reason}")
    raise typer.Exit(0 if found.well else 1)
