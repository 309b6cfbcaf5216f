"""In use: whether a run's adapter is its job's current one, since when, and what took its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from runner.contract.layout import Outputs, RunFolder
from runner.contract.promotions import Change, read_promotions
from runner.language.speaker import Speaker


@dataclass(frozen=True, kw_only=True)
class Use:
    """How a run stands to what its job uses."""

    current: str | None = None
    """The run in use; None: none is."""
    is_this: bool = False
    since: datetime | None = None
    """When the present one came into use."""
    until: datetime | None = None
    """Where this run was in use and is so no more: when that ended."""

    def said(self, speak: Speaker) -> str:
        """Say it in a language."""
        if self.current is None:
            return speak("use_none")
        since = speak.time(self.since, day=True) if self.since else "–"
        if self.is_this:
            return speak("use_this", since=since)
        if self.until is not None:
            until = speak.time(self.until, day=True)
            return speak("use_was", until=until, run=self.current)
        return speak("use_other", run=self.current, since=since)


def use_among(changes: Sequence[Change], run_id: str) -> Use:
    """Tell from a job's history how a run stands to it."""
    if not changes:
        return Use()
    last = changes[-1]
    if last.run_id == run_id:
        return Use(current=run_id, is_this=True, since=last.time)
    ended = [one.time for one in changes if one.before == run_id]
    return Use(current=last.run_id, since=last.time, until=ended[-1] if ended else None)


def use_of(run: RunFolder) -> Use | None:
    """Do the same from the run's folder; None: the history cannot be read."""
    try:
        changes = read_promotions(Outputs(run.root.parent.parent), run.job)
    except OSError:
        return None
    return use_among(changes, run.run_id)


def jobs_in_use(outputs: Outputs) -> dict[str, Use]:
    """Give what each job uses; jobs of which nothing was ever in use are left out.

    Raises:
        OSError: the outputs folder cannot be listed.
    """
    found: dict[str, Use] = {}
    for job in outputs.jobs_with_promotions():
        try:
            changes = read_promotions(outputs, job)
        except OSError:
            continue
        if changes:
            found[job] = use_among(changes, changes[-1].run_id)
    return found
