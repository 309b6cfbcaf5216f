"""Promote and roll back: `current` is moved because somebody asked for it."""

from __future__ import annotations

import errno
from collections.abc import Callable

from runner.contract.layout import Outputs
from runner.contract.promotions import check_promotable, promote, roll_back
from runner.contract.requests import Request
from runner.daemon.daemon import Daemon
from runner.daemon.promotion.show import not_in_use, show_use
from runner.errors import RunnerError
from runner.notices.leave import leave_change
from runner.words import visible

_OF_THE_FILE = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EINVAL)
"""What is the matter with one file, and stays so until somebody sees to it."""


def carry_out_promote(daemon: Daemon, request: Request) -> bool | None:
    """Make the run current that was asked for: True once it is; None: it cannot be."""
    return _say(daemon, request, *_of_one_job(_promoted, daemon.outputs, request))


def carry_out_rollback(daemon: Daemon, request: Request) -> bool | None:
    """Make current what was so before: True once it is; None: there is nothing."""
    return _say(daemon, request, *_of_one_job(_rolled_back, daemon.outputs, request))


def _of_one_job(
    do: Callable[[Outputs, Request], tuple[str | None, str]], outputs: Outputs, request: Request
) -> tuple[str | None, str]:
    """Do it; a history that cannot be read or written holds up no other job's request.

    Raises:
        OSError: something that may pass, as a full disk: it is tried again.
    """
    try:
        return do(outputs, request)
    except OSError as error:
        if error.errno not in _OF_THE_FILE:
            raise
        return None, f"what is in use cannot be read or written ({error.strerror})"


def _promoted(outputs: Outputs, request: Request) -> tuple[str | None, str]:
    run = outputs.run(str(request.args.get("job")), str(request.args.get("run_id")))
    if (run.job, run.run_id) not in outputs.run_names():
        return None, "there is no such run"
    try:
        check_promotable(run)
    except RunnerError as error:
        return None, error.message
    by = str(request.args.get("by") or "somebody")
    promote(outputs, run, why=f"{by} asked for it", by=by, request=request.path.name)
    return f"{run.job}: current is {run.run_id}", f"{by} asked for it"


def _rolled_back(outputs: Outputs, request: Request) -> tuple[str | None, str]:
    job, by = str(request.args.get("job")), str(request.args.get("by") or "somebody")
    if job not in outputs.jobs_with_promotions():
        return None, "no run of that job was ever current"
    try:
        target = roll_back(outputs, job, by=by, request=request.path.name)
    except RunnerError as error:
        return None, error.message
    return f"{job}: current is {target or 'as it was'}, rolled back", f"{by} asked for it"


def _say(daemon: Daemon, request: Request, done: str | None, why: str) -> bool | None:
    if done is None:
        name = visible(str(request.args.get("run_id") or request.args.get("job")))
        daemon.log.say(f"{request.verb} {name}: cannot be done", level="warning", reason=why)
        return True  # taken away: whoever asked was told why when asking, or reads the log
    daemon.log.say(done, reason=why)
    daemon.note(not_in_use(str(request.args.get("job"))), None)
    leave_change(daemon.outputs, str(request.args.get("job")), request=request.path.name)
    show_use(daemon, str(request.args.get("job")))
    return True
