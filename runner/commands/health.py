"""Health: is the daemon well, by its heartbeat? The container asks the same of health.sh.

runner health
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import typer

from runner.clock import this_boot, uptime_seconds
from runner.commands.options import OUTPUTS, AsJson, OutputsDir, print_json
from runner.contract.card_shown import cards_in
from runner.contract.layout import Outputs
from runner.words import roughly

STALE_SECONDS = 35.0  # three beats of ten seconds missed, and a little for a busy disk


@dataclass(frozen=True, kw_only=True)
class Health:
    """Whether the daemon is well, and how one knows."""

    well: bool
    reason: str
    longest_round: dict[str, Any] | None = None
    """The longest round of the daemon's loop since its start: seconds, and the step it was in."""


def judge(heartbeat: dict[str, Any] | None, *, uptime: float, boot: str) -> Health:
    """Decide from what the daemon last wrote."""
    if heartbeat is None:
        return Health(well=False, reason="there is no heartbeat: no daemon has run here yet")
    try:
        age_seconds = uptime - float(heartbeat["uptime"])
    except (KeyError, TypeError, ValueError):
        return Health(well=False, reason="the heartbeat cannot be read")
    if heartbeat.get("boot") != boot:
        return Health(well=False, reason="the last heartbeat is from before this machine started")
    if age_seconds > STALE_SECONDS:
        return Health(well=False, reason=f"the last heartbeat is {roughly(age_seconds)} old")
    if heartbeat.get("unwell"):
        return Health(well=False, reason=str(heartbeat["unwell"]))
    running, waiting = heartbeat.get("running") or [], heartbeat.get("waiting", 0)
    inbox = heartbeat.get("inbox", "available")
    return Health(
        well=True,
        reason=f"running {len(running)}, waiting {waiting}"
        + (f", {inbox}" if inbox != "available" else "")
        + "".join(f"; {one.title}: {one.problem}" for one in cards_in(heartbeat) if one.problem),
        longest_round=heartbeat.get("longest_round"),
    )


def health(outputs: Outputs) -> Health:
    """Read the heartbeat and judge it."""
    try:
        content = json.loads(outputs.heartbeat.read_bytes())
    except FileNotFoundError:
        content = None
    except (OSError, ValueError):
        content = {}
    content = content if isinstance(content, dict) or content is None else {}
    return judge(content, uptime=uptime_seconds(), boot=this_boot())


def command(outputs_dir: OutputsDir = OUTPUTS, as_json: AsJson = False) -> None:
    """Tell whether the daemon is well: the container's health check.

    It exits with 1 when the daemon is not well.

    \b
    Example:
        runner health
    """
    found = health(Outputs(outputs_dir))
    if as_json:
        print_json(asdict(found))
    else:
        print(f"{'well' if found.well else 'not well'}: {found.reason}")
    raise typer.Exit(0 if found.well else 1)
