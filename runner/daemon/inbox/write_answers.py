"""Turns the runs' records into the answers beside their specs and into STATUS.txt."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from runner.contract.progress import read_progress
from runner.contract.states import State
from runner.daemon.book import ENDED_SHOWN
from runner.daemon.daemon import Daemon
from runner.daemon.inbox import answer, view
from runner.daemon.queue import in_order
from runner.files.beneath import Folder

_ANSWER_SECONDS = 5.0  # progress in answers is renewed so often
_WRITE_SECONDS = 2.0  # answers are written for so long before the loop looks at everything else


class Answers:
    """Remembers what was written, so that nothing is written twice."""

    def __init__(self, daemon: Daemon) -> None:
        """Begin with nothing written."""
        self.daemon = daemon
        self._status_text = ""
        self._renewed_at = 0.0

    def write(
        self,
        inbox: Folder,
        at: float,
        *,
        where: Mapping[str, tuple[str, str]],
        unclaimable: Collection[str],
    ) -> None:
        """Write what has changed; a run that has ended leaves the book with its last answer."""
        daemon = self.daemon
        renew = at - self._renewed_at >= _ANSWER_SECONDS
        if renew:
            self._renewed_at = at
        ordered = in_order(live.record for live in daemon.book.runs.values())
        place = 0
        until = time.monotonic() + _WRITE_SECONDS
        for record in ordered:
            if time.monotonic() >= until:
                daemon.next_look = at  # the rest in the next round, at once
                break
            live = daemon.book.runs[record.run_id]
            if record.state.is_final:
                view.conclude(inbox, record, live.run, where.get(record.run_id))
                del daemon.book.runs[record.run_id]
                daemon.book.ended = [*daemon.book.ended, record][-ENDED_SHOWN:]
                continue
            place += record.state is State.QUEUED
            key = live.answered[0]
            if not renew and key == f"{record.state}{record.waiting}":
                continue
            training = record.state is State.TRAINING
            progress = read_progress(live.run, record) if training else None
            text = answer.answer(record, place=place, progress=progress)
            if text != live.answered[1]:
                view.write_answer(inbox, record, text)
            live.answered = (f"{record.state}{record.waiting}", text)
        text = answer.status(
            needs_person=self._needs_person(unclaimable),
            live=in_order(live.record for live in daemon.book.runs.values()),
            ended=list(reversed(daemon.book.ended)),
        )
        if text != self._status_text:
            inbox.write_text(daemon.settings.inbox.status.name, text)
            self._status_text = text

    def _needs_person(self, unclaimable: Collection[str]) -> list[str]:
        daemon = self.daemon
        lines = []
        if daemon.hold is not None:
            lines.append(f"The queue is held: {daemon.hold[1]}.")
        if daemon.guard.standing.problem:
            lines.append(f"The queue is held: {daemon.guard.standing.problem}.")
        lines += sorted(unclaimable)
        lines += sorted(daemon.troubles)
        lines += daemon.book.damaged
        lines += [
            f"{record.job} ({record.run_id}) {record.state}: "
            + (record.error.message.splitlines()[0] if record.error else "see its answer")
            for record in reversed(daemon.book.ended)
            if record.state in (State.FAILED, State.REJECTED)
        ]
        lines += [
            f"{record.job} ({record.run_id}): {record.verdict.reason}"
            for record in reversed(daemon.book.ended)
            if record.state is State.SUCCEEDED and record.verdict and record.verdict.needs_person
        ]
        return lines
