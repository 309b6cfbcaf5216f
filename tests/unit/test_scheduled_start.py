"""A scheduled spec that is being saved at its very time starts nothing from half of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

from runner.daemon.schedule.folder import SpecFile
from runner.daemon.schedule.schedules import Schedules
from runner.files.beneath import Folder
from runner.files.settle import Look, Seen
from runner.spec.read_spec import read_spec

SPEC = b'model: m\ndata: contracts.jsonl\nschedule: "0 2 * * sun"\n'


def test_half_a_file_is_not_copied(tmp_path: Path) -> None:
    """What lies there is no more what was read and checked: it is read again, and no run is made.

    The daemon is left out: its folder is listed every two seconds, and the editor saves between.
    """
    scheduled, queued = tmp_path / "scheduled", tmp_path / "queued"
    scheduled.mkdir()
    queued.mkdir()
    spec = scheduled / "contracts.yaml"
    spec.write_bytes(SPEC)
    look = Look.of(spec.stat())
    file = SpecFile(
        seen=Seen(look=look, since=0.0),
        read=look,
        spec=read_spec(SPEC, file_name=spec.name),
        sha256=hashlib.sha256(SPEC).hexdigest(),
    )
    found = Schedules.__new__(Schedules)
    found.daemon = SimpleNamespace()  # type: ignore[assignment]
    found.folder = SimpleNamespace(files={spec.name: file})  # type: ignore[assignment]
    spec.write_bytes(SPEC[:20])
    with Folder.open(tmp_path) as inbox, inbox.open_folder("scheduled") as folder:
        made = found._make_run(inbox, folder, spec.name, "20261129T010000Z-aaa1")
    assert not made
    assert not list(queued.iterdir())
    assert not file.is_current
