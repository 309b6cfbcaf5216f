"""How long a round of the daemon's loop took, and where."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from runner.contract.settings import Settings
from runner.daemon.conductor import Conductor
from runner.daemon.heartbeat import Heartbeat
from runner.daemon.rounds import LIMIT_SECONDS, Rounds
from runner.daemon.run_daemon import run_daemon
from runner.files.durable import write_bytes
from runner.files.patient_calls import PatientCalls
from runner.files.waits import waited_seconds
from runner.language.texts import table


class Watched:
    """Rounds on a clock that is set, with what they log."""

    def __init__(self) -> None:
        self.time, self.waited, self.said = 100.0, 5.0, list[str]()
        self.rounds = Rounds(self.say, clock=lambda: self.time, waited=lambda: self.waited)

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
        f"a round of the loop took {seconds} s, 0.0 s of it waiting for the disk or the share, "
        "most of its own time: inbox"
        for seconds in ("0.3", "0.7", "1.5", "3.1", "6.3")
    ]


def test_what_a_round_waits_for_the_disk_is_counted_apart() -> None:
    """A slow disk makes no step of the loop's own look slow; the log tells of both."""
    watched = Watched()
    watched.rounds.step("requests")
    watched.time += 0.1
    watched.rounds.step("answers")
    watched.time += 0.9
    watched.waited += 0.85
    watched.rounds.end()
    longest = watched.rounds.longest
    assert longest is not None
    assert (longest.seconds, longest.waited_seconds) == (0.15, 0.85)
    assert (longest.step, longest.step_seconds) == ("requests", 0.1)
    (said,) = watched.said
    assert said == (
        "a round of the loop took 1.0 s, 0.8 s of it waiting for the disk or the share, "
        "most of its own time: requests"
    )


def test_a_record_and_a_share_are_waited_for_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time in which the disk writes, and in which the share does not answer, is counted."""
    monkeypatch.setattr(os, "fsync", lambda _: time.sleep(0.05))
    before = waited_seconds()
    write_bytes(tmp_path / "run.json", b"{}")
    of_disk = waited_seconds() - before
    assert of_disk >= 0.1  # the file and its folder
    PatientCalls(60.0)(lambda: time.sleep(0.05))
    assert waited_seconds() - before - of_disk >= 0.045


def test_what_is_computed_in_the_shares_thread_is_the_loops_own_time() -> None:
    """A long list of names does not hide behind the share."""

    def compute() -> None:
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass

    before, began = waited_seconds(), time.monotonic()
    PatientCalls(60.0)(compute)
    assert waited_seconds() - before <= time.monotonic() - began - 0.19


def test_texts_are_read_before_the_first_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the table of texts takes longer than much else in a round, and is needed in all."""
    read: list[int] = []
    table.cache_clear()
    monkeypatch.setattr(Conductor, "begin", lambda _: True)
    monkeypatch.setattr(Conductor, "work", lambda _: read.append(table.cache_info().currsize) or 0)
    # Its thread would end this process, five minutes after the last round.
    monkeypatch.setattr(Heartbeat, "watch", lambda _: None)
    places = {f"{name}_dir": tmp_path / name for name in ("jobs", "outputs", "models")}
    assert run_daemon(Settings(**places, polling=True)) == 0
    assert read == [1]
