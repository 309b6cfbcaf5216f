"""Reports of a real daemon: written beside its work, never in its way."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from daemon_box import Box, wait_until

from runner.contract.layout import STATE_FOLDERS
from runner.contract.record import RunRecord, write_record
from runner.contract.settings import Settings
from runner.contract.states import State
from runner.daemon import reports
from runner.daemon.reports import Reports

HERE = Path(__file__).parent


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    return Box(tmp_path)


def pages(box: Box) -> list[str]:
    """List the reports beside the specs."""
    found = [p for name in STATE_FOLDERS for p in (box.jobs / name).glob("*.html")]
    return sorted(f"{path.parent.name}/{path.name.partition('--')[0]}" for path in found)


def left_over(box: Box) -> list[str]:
    """List what is half-written."""
    return [path.name for path in box.root.rglob(".tmp-*")]


def test_each_ended_run_has_its_page_in_both_places(box: Box) -> None:
    """The run's folder and the inbox hold the report when the daemon leaves; the index lists it."""
    box.drop("good")
    box.drop(
        "bad", prepare=[{"error": {"kind": "bad_data", "message": "Row 3 is empty."}, "exit": 2}]
    )
    done = box.once(reports=True, language="de")
    assert done.stdout.strip().endswith("False"), "the daemon has imported torch"
    states = {record.job: record.state for record in box.records()}
    assert states["good"] is State.SUCCEEDED
    assert pages(box) == sorted(f"{state.folder}/{job}" for job, state in states.items())
    for record in box.records():
        text = box.outputs.run(record.job, record.run_id).report.read_text()
        assert 'lang="de"' in text
        assert "../../index.html" in text
        (beside,) = (box.jobs / record.state.folder).glob(f"{record.job}--*.html")
        assert "index.html" not in beside.read_text()
    index = box.outputs.index.read_text()
    assert all(f"{r.job}/{r.run_id}/report.html" in index for r in box.records())
    assert left_over(box) == []


def test_a_page_lies_beside_a_spec_while_the_run_goes_on_and_moves_with_it(box: Box) -> None:
    """While it trains the report is in running/; deleting the spec cancels the run all the same."""
    box.drop("slow", train=["train 3 then hang"])
    with box.watching(reports=True):
        wait_until(lambda: pages(box) == ["running/slow"], seconds=60)
        (page,) = (box.jobs / "running").glob("*.html")
        wait_until(lambda: "The model is being trained" in page.read_text(), seconds=60)
        (spec,) = (box.jobs / "running").glob("*.yaml")
        spec.unlink()
        wait_until(lambda: pages(box) == ["cancelled/slow"], seconds=60)
    assert box.in_state(State.CANCELLED)


def test_what_lies_in_the_way_of_a_page_harms_nothing(box: Box) -> None:
    """Folders under the names of a report and of the index stay, and the log tells."""
    box.drop("good")
    box.once()
    (run,) = box.outputs.runs()
    for path in (run.report, box.outputs.index):
        path.mkdir()
        os.utime(path, (1, 1))
    box.once(reports=True)
    assert b"reports could not be written" in box.outputs.daemon_log.read_bytes()
    assert pages(box) == ["done/good"]
    assert run.report.is_dir()
    assert left_over(box) == []


def test_a_link_under_a_page_s_name_is_replaced_and_not_followed(box: Box) -> None:
    """Whoever may write in the share cannot have another file overwritten by it."""
    box.drop("good")
    box.once()
    (run,) = box.outputs.runs()
    victim = box.root / "victim"
    victim.write_text("mine")
    (spec,) = (box.jobs / "done").glob("*.yaml")
    beside = spec.with_name(f"{spec.name}.html")
    for path in (run.report, beside, box.outputs.index):
        path.symlink_to(victim)
    os.utime(victim, (1, 1))
    written = Reports(settings_of(box), say=lambda *_, **__: None)
    written.want(box.record(), 0.0)
    with open_inbox(box) as inbox:
        written.finish(inbox)
    assert victim.read_text() == "mine"
    assert "Fine-tuning report" in run.report.read_text()
    assert "Fine-tuning report" in beside.read_text()


def open_inbox(box: Box) -> Any:
    """Open the inbox as the daemon does."""
    from runner.files.beneath import Folder

    return Folder.open(box.jobs)


def settings_of(box: Box, **more: Any) -> Settings:
    """Give the settings of a box."""
    return Settings(
        jobs_dir=box.jobs,
        outputs_dir=box.outputs.root,
        models_dir=box.root,
        **{"once": True, **more},
    )


def test_pages_that_a_killed_daemon_did_not_come_to_are_written_at_the_next_start(box: Box) -> None:
    """A run that ended without its page gets it later; one in queued/ without its spec goes."""
    box.drop("good")
    box.once()
    assert pages(box) == []
    run_id = box.record().run_id
    orphan = box.jobs / "running" / f"good--{run_id}.yaml.html"
    orphan.write_text("x")
    mine = box.jobs / "running" / "my-notes.html"
    mine.write_text("x")
    box.once(reports=True)
    assert pages(box) == ["done/good", "running/my-notes.html"]


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "-c", "import time; time.sleep(600)"),
        (sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"),
        ("/nowhere/at/all",),
    ],
    ids=["hangs", "crashes", "is missing"],
)
def test_a_writer_that_fails_keeps_nobody(
    box: Box, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that writes pages may hang, crash or be missing: it is logged, once."""
    box.drop("good")
    box.once()
    said: list[str] = []
    monkeypatch.setattr(reports, "LIMIT_SECONDS", 0.5)
    monkeypatch.setattr(reports, "_KILL_SECONDS", 5.0)  # on a busy machine what was killed lingers
    writer = Reports(
        settings_of(box, report_command=command), say=lambda what, **_: said.append(what)
    )
    for _ in range(2):
        writer.want(box.record(), 0.0)
        began = time.monotonic()
        writer.finish(None)
        assert time.monotonic() - began < 10
    assert len(said) == 1
    assert "reports could not be written" in said[0]


def test_a_page_is_due_at_each_change_and_once_a_minute_while_it_trains(box: Box) -> None:
    """A queue of thousands that only waits costs nothing; a training run a page a minute."""
    record = RunRecord.model_validate(
        {
            "job": "good",
            "run_id": "20261126T110000Z-k3f9",
            "state": State.QUEUED,
            "file_name": "good.yaml",
            "created_at": "2026-11-26T11:00:00Z",
            "spec_sha256": "",
        }
    )
    writer = Reports(settings_of(box, report_command=("/bin/true",)), say=lambda *_, **__: None)

    def due(state: State, at: float) -> bool:
        writer.want(record.but(state=state, total_steps=5), at)
        was = bool(writer._due)
        writer._due.clear()
        return was

    writer.want(record, 0.0)
    assert not writer._due
    assert due(State.PREPARING, 1.0)
    assert not due(State.PREPARING, 500.0)
    assert due(State.TRAINING, 501.0)
    assert not due(State.TRAINING, 560.0)
    assert due(State.TRAINING, 561.5)
    assert due(State.EXPORTING, 562.0)
    assert due(State.SUCCEEDED, 563.0)


def test_a_spec_that_has_moved_meanwhile_leaves_no_page_behind(box: Box) -> None:
    """A page written just as the daemon moves the spec is taken away by whoever comes second."""
    box.drop("good")
    box.once()
    record = box.record()
    run = box.outputs.run("good", record.run_id)
    write_record(run.record, record.but(state=State.TRAINING, ended_at=None))
    writer = Reports(settings_of(box), say=lambda *_, **__: None)
    writer.want(record, 0.0)
    with open_inbox(box) as inbox:
        writer.finish(inbox)  # its spec lies in done/, not in running/
    assert pages(box) == []
    assert run.report.is_file()
