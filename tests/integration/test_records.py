"""Turns records of every age and in any state of decay into runs that a person can still read."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from daemon_box import Box, attempt_of, wait_until

from runner.commands.show import show_run
from runner.contract.batch import BatchPlan
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.record import (
    SCHEMA_VERSION,
    Attempt,
    RunRecord,
    read_record,
    write_record,
)
from runner.contract.salvage import salvage, what_is_whole
from runner.contract.stage_io import ExportResult, write_message
from runner.contract.states import Stage, State
from runner.errors import DamagedError, NewerRecordError

RECORDS = Path(__file__).parents[1] / "data" / "records"
FIXTURES = sorted(RECORDS.glob("*.json"), key=lambda path: path.name)
"""One for each shape that a record ever had on main, oldest first; written by the code of then."""


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    return Box(tmp_path)


def test_every_schema_version_has_a_record_to_read() -> None:
    """No version that ever wrote records is forgotten."""
    versions = {json.loads(path.read_bytes())["schema_version"] for path in FIXTURES}
    assert versions == set(range(1, SCHEMA_VERSION + 1))


def test_the_newest_record_has_every_field() -> None:
    """Whoever gives the record a new field adds a fixture of the shape that it has from then on."""
    fields = json.loads(FIXTURES[-1].read_bytes())
    assert set(fields) == set(RunRecord.model_fields)
    assert set(fields["attempts"][0]) == set(Attempt.model_fields)
    assert set(fields["batch_plan"]) == set(BatchPlan.model_fields)


def holds(after: object, before: object) -> bool:
    """Whether all that was there before still is; a newer runner adds fields of its own."""
    if isinstance(before, dict) and isinstance(after, dict):
        return all(name in after and holds(after[name], value) for name, value in before.items())
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(holds, after, before))
    return after == before


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_old_records_stay_readable_and_lose_nothing(tmp_path: Path, path: Path) -> None:
    """A record of an earlier runner is read, and rewritten with all that it held."""
    record = read_record(path)
    assert record.state is State.SUCCEEDED
    assert [attempt.last_step for attempt in record.attempts] == [37, 150]
    write_record(tmp_path / "run.json", record)
    before, after = (json.loads(p.read_bytes()) for p in (path, tmp_path / "run.json"))
    assert after.pop("schema_version") == SCHEMA_VERSION
    assert before.pop("schema_version") <= SCHEMA_VERSION
    assert holds(after, before)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"state": "queued"}, Stage.PREPARE),
        ({"state": "interrupted", "total_steps": 9}, Stage.TRAIN),
        ({"state": "exporting", "total_steps": 9, "outcome": "succeeded"}, Stage.EXPORT),
        (
            {
                "state": "evaluating",
                "total_steps": 9,
                "outcome": "succeeded",
                "metrics": {"adapter_files": {"a": "b"}},
            },
            Stage.EVALUATE,
        ),
        ({"state": "failed", "total_steps": 9}, None),
    ],
)
def test_a_record_of_version_1_learns_its_next_stage(
    tmp_path: Path, fields: dict, wanted: Stage | None
) -> None:
    """A run that an older runner left under way goes on with the stage that it was at."""
    old = json.loads(FIXTURES[0].read_bytes()) | {"total_steps": None, "metrics": {}} | fields
    for attempt in old["attempts"]:
        attempt["outcome"] = fields.get("outcome", "killed")
    (tmp_path / "run.json").write_text(json.dumps(old))
    read = read_record(tmp_path / "run.json")
    assert read.next_stage == wanted
    assert read.schema_version == SCHEMA_VERSION


def test_fields_of_a_newer_runner_are_kept(tmp_path: Path) -> None:
    """Going back a version loses nothing that the newer one wrote."""
    fields = json.loads(FIXTURES[-1].read_bytes())
    fields |= {"schema_version": SCHEMA_VERSION + 1, "colour": "blue"}
    (tmp_path / "run.json").write_text(json.dumps(fields))
    record = read_record(tmp_path / "run.json").but(priority=3)
    write_record(tmp_path / "run.json", record)
    kept = json.loads((tmp_path / "run.json").read_bytes())
    assert holds(kept, {**fields, "priority": 3})


def _lay_out(box: Box, path: Path) -> RunFolder:
    fields = json.loads(path.read_bytes())
    run = box.outputs.run(fields["job"], fields["run_id"])
    run.root.mkdir(parents=True)
    run.record.write_bytes(path.read_bytes())
    return run


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_box_full_of_old_records_starts(box: Box, path: Path, capsys) -> None:
    """The daemon takes them up, STATUS.txt and `runner show` tell of them."""
    run = _lay_out(box, path)
    assert box.once().returncode == 0
    assert f"contracts ({run.run_id}): succeeded" in (box.jobs / "STATUS.txt").read_text()
    show_run(run, samples=False)
    assert "succeeded" in capsys.readouterr().out


def test_a_record_of_a_newer_version_is_left_for_it(box: Box) -> None:
    """What an older runner cannot read because it is too new is not taken for damaged."""
    run = _lay_out(box, FIXTURES[-1])
    newer = {**json.loads(FIXTURES[-1].read_bytes()), "schema_version": 99, "state": "levitating"}
    run.record.write_text(json.dumps(newer))
    with pytest.raises(NewerRecordError):
        read_record(run.record)
    assert box.once().returncode == 0
    assert json.loads(run.record.read_bytes()) == newer
    assert "newer version" in (box.jobs / "STATUS.txt").read_text().split("\n\n")[0]


DECAYED = [
    pytest.param(lambda content: content[: len(content) // 2], id="torn"),
    pytest.param(lambda content: b"", id="empty"),
    pytest.param(lambda content: b"\0" * len(content), id="zeros"),
    pytest.param(lambda content: content.replace(b'"state"', b'"stale"'), id="a field is gone"),
    pytest.param(lambda content: b"[" * 100_000, id="nested without end"),
]


@pytest.mark.parametrize("decay", DECAYED)
def test_however_a_record_decays_it_is_told(tmp_path: Path, decay) -> None:
    """No decay crashes the reader, and the name of the dropped spec is still found."""
    run = RunFolder(tmp_path / "contracts" / "20261123T221005Z-k3f9")
    run.root.mkdir(parents=True)
    run.record.write_bytes(decay(FIXTURES[-1].read_bytes()))
    with pytest.raises(DamagedError):
        read_record(run.record)
    record = salvage(run)
    assert (record.state, record.file_name) == (State.FAILED, "contracts.yaml")
    assert record.error is not None
    assert "No adapter of it can be recovered" in record.error.message


def test_a_whole_adapter_is_recovered_without_its_record(tmp_path: Path) -> None:
    """The export left a hash of each file: the adapter is proved whole, or is not promised."""
    run = RunFolder(tmp_path / "contracts" / "20261123T221005Z-k3f9")
    for folder in (run.adapter, run.export):
        folder.mkdir(parents=True)
    (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    files = {"adapter_model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    write_message(StageFolder(run.export).result, ExportResult(files=files))
    run.record.write_bytes(b"")
    assert f"contracts/{run.run_id}/adapter/" in what_is_whole(run)
    (run.adapter / "adapter_model.safetensors").write_bytes(b"other weights")
    assert "No adapter" in what_is_whole(run)


@pytest.mark.parametrize("decay", DECAYED[:2])
def test_a_damaged_record_is_set_aside_and_its_run_told_of(
    box: Box, decay, capsys, monkeypatch
) -> None:
    """Its content is kept; status, answer and `runner show` say damaged, and what is whole."""
    monkeypatch.setenv("COLUMNS", "160")  # a long path is cut in a narrow terminal
    box.drop("contracts", train=["train 5 then hang"])
    with box.watching() as daemon:
        wait_until(lambda: list(box.outputs.root.glob("*/*/attempts/01-*/hanging")))
        daemon.kill()
        daemon.wait()
    (run,) = box.outputs.runs()
    damaged = decay(run.record.read_bytes())
    run.record.write_bytes(damaged)
    show_run(run, samples=False)  # before any daemon has seen it
    attempt = attempt_of(run, 1).name  # no record tells to whom it belongs: it lies where it was
    whole = f"outputs/contracts/{run.run_id}/attempts/{attempt}/checkpoints/step-00000005/"
    shown = re.sub(r"\s+", "", capsys.readouterr().out)
    assert whole in shown
    box.drop("next")
    assert box.once().returncode == 0  # the next job is not held up
    (aside,) = run.root.glob("run.json.damaged-*")
    assert aside.read_bytes() == damaged
    record = read_record(run.record)
    assert record.state is State.FAILED
    assert record.error is not None
    assert record.error.kind == "damaged"
    assert whole in record.error.message
    assert whole in box.answer("failed")
    assert whole in (box.jobs / "STATUS.txt").read_text().split("\n\n")[0]
    assert [path.name for path in (box.jobs / "failed").glob("*.yaml")] == [
        f"contracts--{run.run_id}.yaml"
    ]
    assert box.once().returncode == 0
    assert len(list(run.root.glob("run.json.damaged-*"))) == 1


def test_a_run_without_its_spec_is_shown_as_damaged(box: Box) -> None:
    """Its copy torn and the claimed file gone: it ends, and what it had trained is told."""
    box.drop("contracts", train=["train 5 then hang"])
    with box.watching() as daemon:
        wait_until(lambda: list(box.outputs.root.glob("*/*/attempts/01-*/hanging")))
        wait_until(lambda: list((box.jobs / "running").glob("*.yaml")))
        daemon.kill()
        daemon.wait()
    (run,) = box.outputs.runs()
    run.spec.write_bytes(run.spec.read_bytes()[:5])
    (claimed,) = (box.jobs / "running").glob("*.yaml")
    claimed.unlink()
    assert box.once().returncode == 1
    error = box.record().error
    assert error is not None
    assert error.kind == "damaged"
    assert "checkpoints/step-00000005/" in error.message
    assert "spec.yaml is torn" in (box.jobs / "STATUS.txt").read_text().split("\n\n")[0]


def test_a_run_that_had_ended_is_shown_as_damaged_too(box: Box) -> None:
    """Its spec goes from done/ to failed/, with an answer that says what is whole."""
    box.drop("contracts")
    box.once()
    (run,) = box.outputs.runs()
    run.record.write_bytes(b"{ half a rec")
    assert box.once().returncode == 0
    assert not list((box.jobs / "done").glob("*.yaml"))
    assert "could not be read" in box.answer("failed")
    assert run.run_id in (box.jobs / "STATUS.txt").read_text().split("\n\n")[0]
