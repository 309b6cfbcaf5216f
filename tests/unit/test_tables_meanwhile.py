"""A spreadsheet of marks is read aside; what happens to its run meanwhile is not overlooked."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.contract.layout import Outputs
from runner.daemon.promotion.ratings import Ratings
from runner.files.beneath import Folder
from runner.language.speaker import ENGLISH

NAME = "rate-letters--20261123T221005Z-k3f9.xlsx"


def a_daemon(root: Path) -> Any:
    """What `Ratings` asks of it: nothing else is at work, and it has no run."""
    return SimpleNamespace(
        settings=SimpleNamespace(settle_seconds=0.0),
        erasing=None,
        again=None,
        book=SimpleNamespace(runs={}),
        outputs=Outputs(root / "outputs"),
        noting=lambda *_: contextlib.nullcontext(),
        says=SimpleNamespace(speak=ENGLISH),
        wakeup=threading.Event(),
    )


def read_aside(ratings: Ratings, inbox: Folder) -> float:
    """Let the table be read, up to its answer; give the loop's time."""
    at = 0.0
    while ratings._sheet is None:
        at += 1.0
        assert at < 100
        ratings.look(inbox, at)
    assert ratings.daemon.wakeup.wait(60)
    return at


@pytest.mark.parametrize("meanwhile", ["nothing", "erasing", "erased", "saved anew"])
def test_a_table_is_answered_where_nothing_happened_meanwhile(
    tmp_path: Path, meanwhile: str
) -> None:
    """No record is written beside an erasure, and no answer lies where its table is gone."""
    (tmp_path / "outputs").mkdir()
    (tmp_path / "rate").mkdir()
    table, answer = tmp_path / "rate" / NAME, tmp_path / "rate" / f"{NAME}.txt"
    table.write_bytes(b"no workbook")
    daemon = a_daemon(tmp_path)
    ratings = Ratings(daemon)
    with Folder.open(tmp_path) as inbox:
        at = read_aside(ratings, inbox)
        if meanwhile == "erasing":
            daemon.erasing = object()
        elif meanwhile == "erased":
            table.unlink()
        elif meanwhile == "saved anew":
            table.write_bytes(b"another one, no workbook either")
        ratings.look(inbox, at + 1)
        assert answer.exists() is (meanwhile == "nothing")
        daemon.erasing = None
        daemon.wakeup.clear()
        end = time.monotonic() + 60
        while meanwhile in ("erasing", "saved anew") and not answer.exists():
            assert time.monotonic() < end
            at += 1.0
            ratings.look(inbox, at)
            daemon.wakeup.wait(0.05)
        ratings.look(inbox, at + 2)
        assert answer.exists() is (meanwhile != "erased")
