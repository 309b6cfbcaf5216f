"""What lies where a file of the box belongs is named in a sentence, not in a traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from made_runs import record

from runner.cli import main
from runner.commands.disk_trouble import disk_trouble
from runner.contract.layout import Outputs
from runner.contract.record import write_record
from runner.contract.states import State

ID = "20261121T020000Z-aaa1"


@pytest.mark.parametrize("command", ["promote", "rollback", "evaluate"])
@pytest.mark.parametrize("plant", ["folder", "pipe"])
def test_a_foreign_thing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, plant: str
) -> None:
    """A folder or a pipe where the history or the record belongs: which, and what to do."""
    outputs = Outputs(tmp_path)
    run = outputs.run("job", ID)
    run.adapter.mkdir(parents=True)
    outputs.lock.parent.mkdir(exist_ok=True)
    (run.adapter / "adapter_model.safetensors").touch()
    write_record(run.record, record(job="job", run_id=ID, state=State.SUCCEEDED))
    place = run.record if command == "evaluate" else outputs.promotions("job")
    place.unlink(missing_ok=True)
    place.mkdir() if plant == "folder" else os.mkfifo(place)
    with pytest.raises(SystemExit) as left:
        main([command, "job", "--outputs-dir", str(tmp_path)])
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert f"{place} cannot be used" in said
    assert "move away what lies in its place" in said


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "Make room"), (errno.EIO, "dmesg"), (errno.ELOOP, "runner doctor")],
)
def test_each_trouble_has_its_way(number: int, advice: str) -> None:
    """A full disk, a dying one, and anything else."""
    found = disk_trouble(OSError(number, os.strerror(number), "/box/a\u202etxt"))
    assert advice in str(found.advice)
    assert "\u202e" not in found.message
    assert os.strerror(number) in disk_trouble(OSError(number, os.strerror(number))).message
