"""Turns a full disk at the worst moments into a pause: nothing lost, and on by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from daemon_box import wait_until
from fast_stage import SLOW
from figures import Figures
from kill_box import AtPoint, KillBox, Side
from killing import make_room
from small_disk import small_disk

from runner.contract.states import State

MEGABYTE = 1024**2


def _said(box: KillBox, text: str) -> bool:
    return text in (box.root / "daemon.out").read_text()


def _all_over(box: KillBox) -> bool:
    over = [record.state.is_final for record in box.records()]
    return len(over) == 2 and all(over) and not list((box.jobs / "running").glob("*.txt"))


@pytest.mark.parametrize(
    ("side", "point", "what"),
    [
        ("daemon", "spec moved", None),
        ("daemon", "run folder made", None),
        ("daemon", "stage recorded", None),
        ("daemon", "stage ended", "prepare"),
        ("daemon", "stage ended", "train"),
        ("daemon", "stage ended", "evaluate"),
        ("child", "data copied", None),
        ("child", "checkpoint begun", None),
        ("child", "adapter begun", None),
        ("child", "adapter synced", None),
    ],
)
def test_a_disk_full_at_any_step_loses_nothing(
    tmp_path: Path, side: Side, point: str, what: str | None, figures: Figures
) -> None:
    """Full while claiming, recording, checkpointing or exporting: it waits and then goes on."""
    box = KillBox(tmp_path / "box")
    with small_disk(box.outputs.root, megabytes=8) as disk:
        box.arm([AtPoint(side=side, point=point, what=what, victims="disk", disk=str(disk))])
        with box.watching(hold_seconds=0.5) as daemon:
            wait_until(box.hits)
            wait_until(lambda: _said(box, "o space left") or _said(box, "o space was left"))
            assert daemon.poll() is None
            make_room(disk)
            wait_until(lambda: _all_over(box), seconds=60)
            assert daemon.poll() is None
        assert box.lost() == []
    figures.count("disk: steps at which it was filled")


def test_specs_taken_on_a_full_disk_leave_people_their_answers(tmp_path: Path) -> None:
    """Full outputs are no full inbox: STATUS.txt says so, though a claimed spec waits for room."""
    box = KillBox(tmp_path / "box")
    with small_disk(box.outputs.root, megabytes=8) as disk:
        box.arm([AtPoint(side="daemon", point="spec moved", victims="disk", disk=str(disk))])
        with box.watching(hold_seconds=0.5):
            wait_until(box.hits)
            status, full = box.jobs / "STATUS.txt", "outputs folder cannot be written (No space"
            wait_until(lambda: status.exists() and full in status.read_text())
            assert not _said(box, "the inbox's disk is full")
            make_room(disk)
            wait_until(lambda: _all_over(box), seconds=60)
        assert box.lost() == []


def test_a_full_inbox_stops_no_run(tmp_path: Path) -> None:
    """Answers that cannot be written are written later; the runs go on meanwhile."""
    box = KillBox(tmp_path / "box")
    away = box.root / "away"
    box.jobs.rename(away)
    box.jobs.mkdir()
    with small_disk(box.jobs, megabytes=2) as disk:
        for path in sorted(away.rglob("*")):
            target = disk / path.relative_to(away)
            if path.is_dir():
                target.mkdir()
            else:
                target.write_bytes(path.read_bytes())
        box.arm([AtPoint(side="daemon", point="claim recorded", victims="disk", disk=str(disk))])
        with box.watching() as daemon:
            wait_until(
                lambda: [record.state for record in box.records()] == [State.SUCCEEDED] * 2,
                seconds=60,
            )
            assert _said(box, "the inbox's disk is full")
            assert daemon.poll() is None
            make_room(disk)
            wait_until(lambda: len(list((box.jobs / "done").glob("*.txt"))) == 2)
            wait_until(lambda: _all_over(box))
        assert box.lost() == []


def test_low_space_frees_old_checkpoints_pauses_and_goes_on(tmp_path: Path) -> None:
    """Old checkpoints go, adapters and files of people stay; the run pauses and goes on."""
    box = KillBox(tmp_path / "box")
    box.keep_checkpoints = True
    with small_disk(box.outputs.root, megabytes=32) as disk:
        box.live([])
        old = [run for run in box.outputs.runs() for _ in run.checkpoints.iterdir()]
        assert old
        sizes = {path: path.stat().st_size for path in disk.rglob("adapter/*")}
        (box.jobs / "job2.jsonl").write_text("rows of job2")
        (box.root / SLOW).touch()
        box.drop_bytes("job2", "model: m\ndata: job2.jsonl\n", State.SUCCEEDED)
        settings: dict[str, Any] = {"min_free_bytes": 16 * MEGABYTE, "grace_seconds": 10}
        box.arm(
            [
                AtPoint(
                    side="child", point="checkpoint named", victims="disk", disk=str(disk), room=2
                )
            ]
        )
        with box.watching(**settings) as daemon:
            wait_until(box.hits)
            wait_until(lambda: any("nearly full" in str(r.waiting) for r in box.records()))
            run = box.outputs.runs()[-1]
            assert not [p for old_run in old for p in old_run.checkpoints.glob("step-*")]
            assert list(run.checkpoints.glob("step-*"))
            assert sizes == {p: p.stat().st_size for p in disk.rglob("adapter/*")}
            # The record first; people are told in the loop's next round.
            wait_until(lambda: "nearly full" in (box.jobs / "STATUS.txt").read_text())
            assert daemon.poll() is None
            (box.root / SLOW).unlink()
            make_room(disk)
            wait_until(lambda: box.records()[-1].state is State.SUCCEEDED, seconds=60)
            wait_until(lambda: not list((box.jobs / "running").glob("*.txt")))
        assert box.lost() == []
        assert len(box.records()[-1].attempts) == 2
    assert os.path.ismount(box.outputs.root) is False
