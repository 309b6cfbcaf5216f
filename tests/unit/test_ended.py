"""The index of ended runs: quick, never the truth, and made again when it is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.clock import now
from runner.commands import status
from runner.contract.ended import note_ended, read_ended, sort_out
from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import RunRecord, read_record, write_record
from runner.contract.record_head import RecordHead, read_head
from runner.contract.states import State
from runner.daemon.start import recover as recovery
from runner.daemon.start.recover import recover
from runner.files.durable import Kept, append_line
from runner.forecast.lessons import KEPT as LESSONS_READ


def make_run(outputs: Outputs, number: int, state: State = State.SUCCEEDED) -> RunFolder:
    """Leave a run with a record."""
    run = outputs.run("job", f"20261123T22{number // 60:02d}{number % 60:02d}Z-k3f9")
    run.root.mkdir(parents=True)
    outputs.private.mkdir(exist_ok=True)
    record = RunRecord(
        job="job",
        run_id=run.run_id,
        state=state,
        file_name="job.yaml",
        sequence=number,
        created_at=now(),
        ended_at=now() if state.is_final else None,
        spec_sha256="0" * 64,
    )
    write_record(run.record, record)
    return run


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note every record that a start or `status` reads."""
    read: list[Path] = []

    def whole(path: Path) -> RunRecord:
        read.append(path)
        return read_record(path)

    def head(path: Path) -> RecordHead:
        read.append(path)
        return read_head(path)

    monkeypatch.setattr(recovery, "read_record", whole)
    monkeypatch.setattr(status, "read_head", head)
    return read


def test_records_of_ended_runs_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second start and `status` read only what has not ended, and the newest few."""
    outputs = Outputs(tmp_path)
    runs = [make_run(outputs, number) for number in range(40)]
    waiting = make_run(outputs, 41, State.QUEUED)
    first = recover(outputs)
    assert [one.run_id for one in first.ended] == [run.run_id for run in runs]
    read = count_reads(monkeypatch)
    again = recover(outputs)
    assert again.ended == first.ended
    assert again.highest_sequence == 41
    assert read == [waiting.record]
    read.clear()
    shown = status.read_overview(outputs)
    assert len(read) == 1 + status.LATEST
    assert {one.run.run_id for one in shown.finished} == {run.run_id for run in runs[-5:]}
    assert len(status.read_overview(outputs, every=True).finished) == 40


def test_the_record_is_the_truth(tmp_path: Path) -> None:
    """A record that changed after its line was written, or is gone, is never told from the line."""
    outputs = Outputs(tmp_path)
    runs = [make_run(outputs, number) for number in range(3)]
    recover(outputs)
    write_record(runs[0].record, read_record(runs[0].record).but(state=State.FAILED, priority=7))
    runs[1].record.unlink()
    assert [run.run_id for run in sort_out(outputs).to_read] == [run.run_id for run in runs[:2]]
    found = {one.run_id: one.state for one in recover(outputs).ended}
    assert found == {runs[0].run_id: "failed", runs[2].run_id: "succeeded"}
    assert read_ended(outputs).keys() == found.keys()


@pytest.mark.parametrize(
    "damage", [b"", b"\xff\xfe", b"[]\n7\nnull\n", b'["job"]\n', b'{"a": 1}\n[', None]
)
def test_a_damaged_index_costs_time_and_nothing_else(tmp_path: Path, damage: bytes | None) -> None:
    """Whatever becomes of the file, the next start finds every run and writes it anew."""
    outputs = Outputs(tmp_path)
    for number in range(3):
        make_run(outputs, number)
    whole = recover(outputs).ended
    if damage is None:
        outputs.ended.unlink()
    else:
        outputs.ended.write_bytes(damage + outputs.ended.read_bytes()[:150])
    assert recover(outputs).ended == whole
    assert list(read_ended(outputs).values()) == whole


def test_a_run_that_ends_is_noted_in_the_order_of_ends(tmp_path: Path) -> None:
    """Whatever the clock says, the run that ended last stands last; a torn line hides no other."""
    outputs = Outputs(tmp_path)
    later, earlier = make_run(outputs, 9), make_run(outputs, 3)
    note_ended(outputs, later, read_record(later.record))
    with outputs.ended.open("ab") as file:
        file.write(b'["job", "2026')  # the power went
    note_ended(outputs, earlier, read_record(earlier.record))
    assert [one.run_id for one in recover(outputs).ended] == [later.run_id, earlier.run_id]


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_a_log_is_bounded(tmp_path: Path) -> None:
    """A file that grows by lines is set aside when full; the newest lines are always there."""
    path, kept = tmp_path / "log.jsonl", Kept(bytes=1000, files=3)
    for number in range(500):
        append_line(path, json.dumps({"number": number}).encode() + b"\n", kept=kept)
    files = [path.with_name(f"log.jsonl{end}") for end in (".2", ".1", "")]
    assert sorted(tmp_path.iterdir()) == sorted(file for file in files if file.exists())
    lines = [json.loads(line) for file in files if file.exists() for line in _lines(file)]
    numbers = [line["number"] for line in lines]
    assert numbers == list(range(numbers[0], 500))
    assert sum(file.stat().st_size for file in files if file.exists()) < 3100
    assert LESSONS_READ < 1000
