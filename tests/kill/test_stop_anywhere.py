"""Turns SIGTERMs at random moments into the proof that an orderly stop costs not one step."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from figures import Figures
from kill_box import KillBox

STOPS_WANTED = 60
STOPS_IN_A_BOX = 6
GRACE_SECONDS = 10.0  # of the daemon's children, in these tests
AFTERWARDS_SECONDS = 20.0  # a machine under load


def test_a_stop_anywhere_repeats_no_step(tmp_path: Path, share: float, figures: Figures) -> None:
    """The child checkpoints at the step it is in and leaves in time; the next start resumes."""
    source, stops = random.Random(1), 0
    while stops < STOPS_WANTED * share:
        box = KillBox(tmp_path / f"stopped{stops}")
        for _ in range(STOPS_IN_A_BOX):
            with box.daemon() as daemon:
                try:
                    daemon.wait(timeout=source.uniform(0.3, 2.0))
                    break  # it had come to its end
                except subprocess.TimeoutExpired:
                    daemon.terminate()
                    daemon.wait(timeout=GRACE_SECONDS + AFTERWARDS_SECONDS)
                    stops += 1
        box.live([])
        assert box.lost() == []
        assert box.steps_repeated == 0
        runs = box.records()
        assert {attempt.outcome for run in runs for attempt in run.attempts} <= {
            "interrupted",
            "succeeded",
        }
    figures.count("stops at random", stops)
