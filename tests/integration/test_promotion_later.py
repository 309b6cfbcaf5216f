"""A decision that could not be carried out at once: what comes of it at a later start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from daemon_box import Box, wait_until

from runner.clock import now
from runner.contract.gate import Decision, Promotion
from runner.contract.promotions import promote, read_promotions
from runner.contract.record import RunRecord, write_record
from runner.contract.states import State

A, B, C = (f"2026112{n}T020000Z-aaa{n}" for n in (1, 2, 3))


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A is in use; B was to take its place when a file of its adapter was gone."""
    found = Box(tmp_path)
    to_use = Promotion(decision=Decision.PROMOTED, why="always", reason="always", against=A)
    for number, (run_id, promotion) in enumerate(((A, None), (B, to_use), (C, None))):
        run = found.outputs.run("job", run_id)
        run.adapter.mkdir(parents=True)
        (run.adapter / "adapter_model.safetensors").touch()
        fields = {"job": "job", "run_id": run_id, "state": State.SUCCEEDED, "created_at": now()}
        more = {"file_name": "job.yaml", "spec_sha256": "", "sequence": number}
        record = RunRecord.model_validate({**fields, **more, "promotion": promotion})
        write_record(run.record, record)
    promote(found.outputs, found.outputs.run("job", A), why="asked", by="me")
    (found.outputs.run("job", B).adapter / "adapter_model.safetensors").unlink()
    return found


def status(box: Box) -> str:
    """Read what the share's users read first."""
    path = box.jobs / "STATUS.txt"
    return path.read_text() if path.exists() else ""


def in_use(box: Box) -> str:
    """Follow the link."""
    return os.readlink(box.outputs.current("job"))


def test_a_missing_file_is_named_until_somebody_sees_to_it(box: Box) -> None:
    """At each start; once it is back, the decision is carried out."""
    for _ in range(2):
        with box.watching():
            wait_until(lambda: "it was not put into use" in status(box))
            assert "adapter/ lacks adapter_model.safetensors" in status(box)
        (box.jobs / "STATUS.txt").unlink()
    assert in_use(box) == A
    (box.outputs.run("job", B).adapter / "adapter_model.safetensors").touch()
    with box.watching():
        wait_until(lambda: in_use(box) == B)
        wait_until(lambda: status(box))
        assert "it was not put into use" not in status(box)


def test_a_choice_made_since_stays(box: Box) -> None:
    """C was put into use by hand meanwhile: B, whole again, does not take its place at a start."""
    promote(box.outputs, box.outputs.run("job", C), why="asked", by="me")
    (box.outputs.run("job", B).adapter / "adapter_model.safetensors").touch()
    with box.watching():
        wait_until(lambda: status(box))
    assert in_use(box) == C
    assert [one.run_id for one in read_promotions(box.outputs, "job")] == [A, C]
