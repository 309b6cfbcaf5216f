"""How long a round of the daemon's loop took, and where."""

from __future__ import annotations

from typing import Any

from runner.daemon.rounds import LIMIT_SECONDS, Rounds


class Watched:
    """Rounds on a clock that is set, with what they log."""

    def __init__(self) -> None:
        self.time, self.said = 100.0, list[str]()
        self.rounds = Rounds(self.say, clock=lambda: self.time)

    def say(self, event: str, **_facts: Any) -> None:
        """Keep what is logged."""
        self.said.append(event)

    def round(self, **steps: float) -> None:
        """Go round: step → seconds."""
        for name, seconds in steps.items():
            self.rounds.step(name)
            self.time += seconds
        self.rounds.end()
        self.time += 30.0  # the loop waits


def test_the_longest_round_is_shown_with_its_step() -> None:
    """Its seconds, the step that took most of them, and nothing of the time the loop waits."""
    watched = Watched()
    watched.round(requests=0.01, inbox=0.12, starting=0.02)
    watched.round(requests=0.05, inbox=0.03)
    longest = watched.rounds.longest
    assert longest is not None
    assert (longest.seconds, longest.step, longest.step_seconds) == (0.15, "inbox", 0.12)
    assert watched.said == []


def test_a_round_over_the_limit_is_logged_and_a_slow_box_fills_no_log() -> None:
    """Each line tells of a round twice as long as the one before, so there are few."""
    watched = Watched()
    for tenths in range(1, 100):
        watched.round(inbox=tenths * 0.1)
    assert LIMIT_SECONDS == 0.2
    assert watched.said == [
        f"a round of the loop took {seconds} s, most of it: inbox"
        for seconds in ("0.3", "0.7", "1.5", "3.1", "6.3")
    ]
