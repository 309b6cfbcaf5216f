"""Turns the light checks at the daemon's start into lines of its log, and into how it watches."""

from __future__ import annotations

from runner.daemon.log import Log
from runner.daemon.settings import Settings
from runner.doctor.examine import Light, examine_lightly
from runner.doctor.finding import Level

_LEVELS = {Level.TROUBLE: "warning", Level.UNKNOWN: "warning", Level.ADVICE: "info"}


def look_at_start(settings: Settings, log: Log) -> Light | None:
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
                mend=finding.mend,
            )
    return light
