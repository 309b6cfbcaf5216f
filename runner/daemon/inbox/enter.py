"""Enter: what a claim made becomes a run of the book, or a refusal in the log."""

from __future__ import annotations

from runner.daemon.book import Live
from runner.daemon.daemon import Daemon
from runner.daemon.inbox import claim
from runner.words import visible, visible_lines


def enter(daemon: Daemon, taken: claim.Claimed | claim.Refused) -> None:
    """Take up what a claim made."""
    if isinstance(taken, claim.Refused):
        note_refusal(daemon, taken)
        return
    daemon.book.sequence = taken.record.sequence
    live = Live(run=taken.run, record=taken.record, asked=taken.spec)
    daemon.book.runs[taken.record.run_id] = live
    daemon.say(live, f"{taken.record.job}: claimed", file=taken.record.file_name)


def note_refusal(daemon: Daemon, refused: claim.Refused) -> None:
    """Note that a spec became no run."""
    daemon.book.all_succeeded = False
    daemon.log.say(
        f"{visible(refused.file_name)}: rejected",
        level="warning",
        reason=visible_lines(refused.message),
    )
