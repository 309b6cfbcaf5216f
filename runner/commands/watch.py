"""Watch: the daemon, with the doctor's light checks at its start."""

from __future__ import annotations

from runner.contract.settings import Settings
from runner.daemon.conductor import run_daemon
from runner.daemon.log import Log
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
                mend=finding.mend,
            )
    return AtStart(polling=light.events.polling, answer=light.answer)
