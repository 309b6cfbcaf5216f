"""Look again: runs whose records could not be read at the start are taken up once they can be.

A share that was not there for a moment must not cost a run the time until the daemon's next start.
"""

from __future__ import annotations

from runner.contract.layout import RunFolder
from runner.daemon.daemon import Daemon
from runner.daemon.start.recover import recover_again
from runner.daemon.start.take_up import Specless, take_up

_APART_SECONDS = 30.0


class LookAgain:
    """Runs that were left alone, and when they are looked at."""

    def __init__(self, daemon: Daemon, runs: list[RunFolder], *, at: float) -> None:
        """Take the runs; they were looked at just now."""
        self._daemon, self.runs, self._looked_at = daemon, runs, at

    def look(self, at: float) -> list[Specless]:
        """Take up those that can be read now; give those whose spec is still to be found.

        Raises:
            OSError: the disk is full; they are looked at again.
        """
        if not self.runs or at - self._looked_at < _APART_SECONDS:
            return []
        self._looked_at = at
        daemon, book = self._daemon, self._daemon.book
        found = recover_again(daemon.outputs, self.runs)
        for run in self.runs:
            about = f"({run.run_id}): "
            book.damaged = [said for said in book.damaged if about not in said]
        book.damaged += found.damaged
        book.damaged_now += found.damaged_now
        book.left_alone -= {run.run_id for run in self.runs} - set(found.unreadable)
        book.sequence = max(book.sequence, found.highest_sequence)
        for one in found.ended:
            book.ends.note(job=one.job, run_id=one.run_id, state=one.state, sequence=one.sequence)
        for run, _ in found.live:
            daemon.log.say("a record can be read again: its run goes on", run=run.run_id)
        self.runs = found.again
        taken_up = [take_up(daemon, run, record) for run, record in found.live]
        return [one for one in taken_up if one is not None]
