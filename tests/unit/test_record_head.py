"""The head of a record: it says the same as the whole, and costs less."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runner.contract.record import read_record
from runner.contract.record_head import RecordHead, read_head
from runner.errors import DamagedError

RECORDS = sorted((Path(__file__).parents[1] / "data" / "records").rglob("*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_head_says_the_same_as_the_whole(path: Path, tmp_path: Path) -> None:
    """Every field that lists show is the same in records of every version."""
    copy = tmp_path / "run.json"
    shutil.copy(path, copy)
    head, whole = read_head(copy), read_record(copy)
    for name in set(RecordHead.model_fields) - {"schema_version", "verdict"}:
        assert getattr(head, name) == getattr(whole, name), name
    assert (head.verdict is None) == (whole.verdict is None)
    if head.verdict is not None and whole.verdict is not None:
        for name in (*type(head.verdict).model_fields, "needs_person"):
            assert getattr(head.verdict, name) == getattr(whole.verdict, name), name


def test_a_damaged_head_is_damaged(tmp_path: Path) -> None:
    """What is no record is none for a list either."""
    path = tmp_path / "run.json"
    path.write_text('{"job": "contracts", "state": "no such state"}')
    with pytest.raises(DamagedError):
        read_head(path)


def test_status_never_builds_a_whole_record() -> None:
    """The models of a whole record take longer than all else that `runner status` does."""
    names = "import sys, runner.commands.status; print('runner.contract.record' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
