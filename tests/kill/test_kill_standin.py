"""Turns SIGKILLs at every named step and at random into the proof that nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kill_box import AtPoint, Kill, KillBox, draw

from runner.contract.crash_points import POINTS

POINTS_WANTED = 200
AT_ONCE = max(2, os.cpu_count() or 1)

_PRELUDES: dict[str, list[Kill]] = {
    # Only reached when an earlier life ended in a certain place.
    "adapter set aside": [AtPoint(side="child", point="adapter named", victims="both")],
    "attempts closed": [AtPoint(side="child", point="checkpoint named", victims="both")],
}


def _all(lives: Iterable[Callable[[], list[str]]]) -> list[str]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = [future.result() for future in [pool.submit(life) for life in lives]]
    return [line for lines in found for line in lines]


class _Tally:
    def __init__(self) -> None:
        self.kills = self.repeated = self.lives = 0
        self.hits: list[str] = []

    def life(self, root: Path, kills: list[Kill], *, must_hit: bool = False) -> list[str]:
        box = KillBox(root)
        try:
            box.live(kills)
            lost = box.lost()
        except AssertionError as error:
            lost = [str(error)]
        self.lives += 1
        self.kills += box.kills
        self.repeated += box.steps_repeated
        self.hits += box.hits()
        if must_hit and len(box.hits()) < len(kills):
            lost.append("the point was not reached")
        said = ", then ".join(str(one) for one in kills)
        return [f"{root.name} ({said}): {what}" for what in lost]


@pytest.fixture(scope="module")
def census(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """Every point that an undisturbed box visits: the daemon's, the children's."""
    box = KillBox(tmp_path_factory.mktemp("census") / "box")
    box.live([])
    assert box.lost() == []
    return box.visits("daemon"), box.visits("child")


@pytest.mark.timeout(3600)
def test_a_kill_at_every_named_step_loses_nothing(
    tmp_path: Path, census: tuple[list[str], list[str]], figures: dict[str, str]
) -> None:
    """Each step of the flow that has a name is killed once, and all drops end as they should."""
    sides = {"daemon": sorted(set(census[0])), "child": sorted(set(census[1]))}
    kills: list[list[Kill]] = []
    for side, visits in sides.items():
        for visit in visits:
            point, what = visit.split("\t")
            one = AtPoint(side=side, point=point, what=what, victims="both")  # type: ignore[arg-type]
            kills.append([one])
    seen = {visit.split("\t")[0] for visits in sides.values() for visit in visits}
    for point, prelude in _PRELUDES.items():
        side = "child" if point.startswith("adapter") else "daemon"
        kills.append([*prelude, AtPoint(side=side, point=point, victims="both")])  # type: ignore[arg-type]
        seen.add(point)
    assert seen == POINTS, "a named step is never reached"
    tally = _Tally()
    lost = _all(
        lambda number=number, one=one: tally.life(tmp_path / f"{number:03d}", one, must_hit=True)
        for number, one in enumerate(kills)
    )
    assert not lost, "\n".join(lost)
    figures["stand-in: named steps killed"] = f"{len(kills)} ({len(POINTS)} names), lost: 0"
    figures["stand-in: kills at named steps"] = str(tally.kills)


@pytest.mark.timeout(3600)
def test_a_kill_anywhere_loses_nothing(
    tmp_path: Path, census: tuple[list[str], list[str]], share: float, figures: dict[str, str]
) -> None:
    """Kills of daemon, child or both at random points and times: no drop lost, no step doubled."""
    tally, wanted, seed = _Tally(), max(6, round(POINTS_WANTED * share)), 0
    while tally.kills < wanted:
        lives = []
        for _ in range(max(AT_ONCE, (wanted - tally.kills) // 2)):
            seed += 1
            kills = draw(
                seed, daemon_points=len(census[0]), child_points=len(census[1]), seconds=4.0
            )
            lives.append(lambda seed=seed, kills=kills: tally.life(tmp_path / f"r{seed}", kills))
        lost = _all(lives)
        assert not lost, "\n".join(lost)
    figures["stand-in: random kills"] = f"{tally.kills} in {tally.lives} boxes, lost: 0"
    figures["stand-in: steps repeated, none behind a checkpoint"] = str(tally.repeated)
