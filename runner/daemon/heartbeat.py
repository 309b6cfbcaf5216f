"""Heartbeat: a file that says that the daemon is well, and the end of a daemon that hangs.

`runner health` reads the file. Docker restarts what has ended, not what is unhealthy: so a loop
that stands still is ended from a thread of its own, after stages were asked for a checkpoint.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from dataclasses import asdict

from runner.clock import now, this_boot, uptime_seconds
from runner.contract.card_shown import CardShown
from runner.contract.states import Stage
from runner.daemon.daemon import Daemon
from runner.daemon.rounds import Rounds
from runner.daemon.stages.process import Child
from runner.files.durable import show_json
from runner.words import roughly

BEAT_SECONDS = 10.0
"""The file is rewritten so often; `runner health` takes three missed beats for a hang."""
_TICK_SECONDS = 1.0


def cards_now(daemon: Daemon) -> list[dict[str, str]]:
    """Say of each card which run is at work on it and what is wrong with it.

    Those of further boxes come last. Nothing is said of the one card of a box that has no other.
    """
    if not daemon.cards.are_several and daemon.cluster is None:
        return []
    at_work = {
        card: live.record
        for live in daemon.book.runs.values()
        if live.child is not None and live.stage is not Stage.PREPARE
        for card in live.cards
    }
    if daemon.again is not None and not daemon.again.is_over:
        for card in daemon.again.live.cards:
            at_work[card] = daemon.again.live.record
    shown = []
    for card in daemon.cards.all:
        run = at_work.get(card)
        is_card = card.named is not None or card.guard.is_well
        one = CardShown(
            title=card.title if is_card else "CPU",
            uuid=card.uuid or "",
            job=run.job if run else "",
            run_id=run.run_id if run else "",
            problem=card.problem,
        )
        shown.append(asdict(one))
    if daemon.cluster is not None:
        shown += [asdict(one) for one in daemon.cluster.shown(time.monotonic())]
    return shown


class Heartbeat:
    """Beats once a round; without rounds it ends the process."""

    def __init__(self, daemon: Daemon) -> None:
        """Nothing is watched before `watch` is called."""
        self._daemon = daemon
        self.rounds = Rounds(daemon.log.say)
        self._written_at = 0.0
        self._cards: list[dict[str, str]] = []
        """As the heartbeat last told of them."""
        self._rounds = 0

    def watch(self) -> None:
        """Begin to watch: from now on something must show that it goes on."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def goes_on(self) -> None:
        """Say that the start goes on: with thousands of runs it takes its time."""
        self._rounds += 1

    def beat(self, at: float) -> None:
        """Say that the loop goes round."""
        self._rounds += 1
        daemon, cards = self._daemon, cards_now(self._daemon)
        if at - self._written_at < BEAT_SECONDS and self._written_at and cards == self._cards:
            return
        self._written_at, self._cards = at, cards
        longest = self.rounds.longest
        running = [live.record.run_id for live in daemon.book.runs.values() if live.child]
        try:
            show_json(
                daemon.outputs.heartbeat,
                {
                    "time": now().isoformat(),
                    "uptime": uptime_seconds(),
                    "boot": this_boot(),
                    "pid": os.getpid(),
                    "running": running,
                    "waiting": len(daemon.book.runs) - len(running),
                    "inbox": daemon.inbox_problem or "available",
                    "held": daemon.hold[1] if daemon.hold else None,
                    "unwell": daemon.cards.problem or None,
                    "cards": cards,
                    "longest_round": longest and asdict(longest),
                },
            )
        except OSError as error:
            daemon.log.say("the heartbeat could not be written", level="warning", reason=str(error))

    def _watch(self) -> None:
        # Ticks of this thread are counted, not time: a process that was paused as a whole (a
        # machine asleep, a debugger) has not hung; as many ticks are missing here as rounds there.
        rounds, still_seconds = self._rounds, 0.0
        while still_seconds < self._daemon.settings.hang_seconds:
            time.sleep(_TICK_SECONDS)
            still_seconds = 0.0 if self._rounds != rounds else still_seconds + _TICK_SECONDS
            rounds = self._rounds
        self._end(still_seconds)

    def _end(self, still_seconds: float) -> None:
        # Only what cannot block: what the loop hangs on may be the very file system of the log.
        with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):  # closed
            print(
                f"the loop stood still for {roughly(still_seconds)}; this is where:",
                file=sys.stderr,
            )
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        lives = list(self._daemon.book.runs.values())
        # A further box ends its stages by itself once it does not hear of this one.
        children = [live.child for live in lives if isinstance(live.child, Child)]
        for child in children:
            child.ask_to_stop(at=0.0, grace_seconds=0.0)
        end = time.monotonic() + self._daemon.settings.grace_seconds
        for child in children:
            child.wait(max(0.0, end - time.monotonic()))
        os._exit(1)  # the loop's thread cannot be ended otherwise
