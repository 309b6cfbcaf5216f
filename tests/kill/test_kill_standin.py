"""Turns SIGKILLs at every named step and at random into the proof that nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from figures import Figures
from kill_box import AtPoint, Kill, KillBox, Side, draw

from runner.files.crash_points import POINTS

POINTS_WANTED = 200
KILLS_IN_A_CHAIN = 3
AT_ONCE = max(2, os.cpu_count() or 1)

_PRELUDES: dict[str, tuple[list[Kill], AtPoint]] = {
    # Only reached when an earlier life ended in a certain place.
    "adapter set aside": (
        [AtPoint(side="child", point="adapter named", victims="both")],
        AtPoint(side="child", point="adapter set aside", victims="both"),
    ),
    "attempts closed": (
        [AtPoint(side="child", point="checkpoint named", victims="both")],
        AtPoint(side="daemon", point="attempts closed", victims="both"),
    ),
}

_ELSEWHERE = {
    *("schedule noted", "scheduled copy written", "promotion noted", "current moved"),
    *("form begun", "form synced", "form set aside", "form named"),
    *("checkpoints dropped", "rows cleared", "files taken away", "files deleted"),
}
"""Steps that these boxes need not come to: test_kill_schedule, test_kill_promotion,
test_kill_hand_over, test_kill_method and tests/integration/test_put_in_place.py kill there."""


def _as_hit(kill: AtPoint) -> str:
    return f"{kill.side}\t{kill.victims}\t{kill.point}\t{kill.what}"


Census = list[tuple[Side, str, str]]


def _all(lives: Iterable[Callable[[], list[str]]]) -> list[str]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = [future.result() for future in [pool.submit(life) for life in lives]]
    return [line for lines in found for line in lines]


class _Tally:
    def __init__(self) -> None:
        self.kills = self.repeated = self.lives = 0
        self.hits: list[str] = []

    def life(self, root: Path, kills: list[Kill], *, reports: bool = False) -> list[str]:
        box = KillBox(root)
        box.reports = reports
        try:
            box.live(kills)
            lost = box.lost()
        except AssertionError as error:
            lost = [str(error)]
        self.lives += 1
        self.kills += box.kills
        self.repeated += box.steps_repeated
        self.hits += box.hits()
        said = ", then ".join(str(one) for one in kills)
        return [f"{root.name} ({said}): {what}" for what in lost]


@pytest.fixture(scope="module")
def census(tmp_path_factory: pytest.TempPathFactory) -> Census:
    """Every point that an undisturbed box visits, in order: side, point, what."""
    box = KillBox(tmp_path_factory.mktemp("census") / "box")
    box.live([])
    assert box.lost() == []
    return box.all_visits()


def _named_steps(census: Census) -> list[AtPoint]:
    """Give one kill for each named step of each side, in the order of the flow."""
    steps = [
        AtPoint(side=side, point=point, what=what, victims="both")
        for side, point, what in dict.fromkeys(census)
    ]
    reached = {step.point for step in steps} | _PRELUDES.keys() | _ELSEWHERE
    assert reached == POINTS, "a step is never reached"
    return steps


@pytest.mark.timeout(3600)
def test_a_kill_at_every_named_step_loses_nothing(
    tmp_path: Path, census: Census, figures: Figures
) -> None:
    """Each step of the flow that has a name is killed once, and all drops end as they should."""
    steps = _named_steps(census)
    # A box lives through several: far apart, so that a stage is never cut off three times in a row.
    chains = max(1, -(-len(steps) // KILLS_IN_A_CHAIN))
    kills: list[list[Kill]] = [list(steps[first::chains]) for first in range(chains)]
    kills += [[*before, kill] for before, kill in _PRELUDES.values()]
    tally = _Tally()
    lost = _all(
        lambda number=number, chain=chain: tally.life(tmp_path / f"chain{number}", chain)
        for number, chain in enumerate(kills)
    )
    # Two runs go side by side: a step that was over when the one before it was hit is killed alone.
    missed = [step for step in steps if _as_hit(step) not in tally.hits]
    lost += _all(
        lambda number=number, step=step: tally.life(tmp_path / f"alone{number}", [step])
        for number, step in enumerate(missed)
    )
    lost += [f"{step}: not reached" for step in steps if _as_hit(step) not in tally.hits]
    assert not lost, "\n".join(lost)
    for kill in [kill for _, kill in _PRELUDES.values()]:
        assert any(f"\t{kill.point}\t" in hit for hit in tally.hits), f"{kill} was not reached"
    figures.tell("stand-in: named steps killed", f"{len(steps) + len(_PRELUDES)}: all")
    figures.count("kills of the stand-in at named steps", tally.kills)


@pytest.mark.timeout(3600)
def test_a_kill_anywhere_loses_nothing(
    tmp_path: Path, census: Census, share: float, figures: Figures
) -> None:
    """Kills of daemon, child or both at random points and times: no drop lost, no step doubled."""
    tally, wanted, seed = _Tally(), max(6, round(POINTS_WANTED * share)), 0
    daemon_points = sum(side == "daemon" for side, _, _ in census)
    while tally.kills < wanted:
        lives = []
        for _ in range(max(AT_ONCE, (wanted - tally.kills) // 2)):
            seed += 1
            kills = draw(
                seed,
                daemon_points=daemon_points,
                child_points=len(census) - daemon_points,
                seconds=4.0,
            )
            lives.append(
                lambda seed=seed, kills=kills: tally.life(
                    tmp_path / f"r{seed}", kills, reports=seed % 3 == 0
                )
            )
        lost = _all(lives)
        assert not lost, "\n".join(lost)
    figures.count("kills of the stand-in at random", tally.kills)
    figures.count("stand-in: boxes killed at random", tally.lives)
    figures.count("stand-in: steps repeated, none behind a checkpoint", tally.repeated)
