"""Findings of the prepare stage: written, carried in the record, and a stop before the GPU."""

from __future__ import annotations

import json

import pytest
from test_prepare import Box, qa

from runner.contract.findings import Level, read_findings
from runner.contract.record import RunRecord
from runner.contract.states import State
from runner.daemon.stages.outcome import prepared
from runner.errors import DataError

CANARY = "Ziegenpeter"


@pytest.fixture
def box(tmp_path, tiny_model):
    """Give an empty inbox and the box's small model."""
    return Box(tmp_path, tiny_model.parent)


def test_findings_are_written_and_reach_the_record_without_the_rows(box):
    """One copy of 60 rows: file, result and record name its line, never its words."""
    rows = [{**qa(i), "output": f"{CANARY} answers {i}."} for i in range(60)]
    box.put("a.jsonl", [*rows, rows[7]])
    result = box.prepare("data: a.jsonl")
    written = read_findings(box.run.findings)
    assert written == result.findings
    (copies,) = [one for one in written if one.check == "exact_duplicates"]
    assert (copies.count, copies.of, copies.places[0].line) == (1, 61, 61)
    record = RunRecord.model_validate(
        {
            "job": "job",
            "run_id": "20261123T221005Z-k3f9",
            "state": State.PREPARING,
            "file_name": "job.yaml",
            "created_at": "2026-11-23T22:10:05Z",
            "spec_sha256": "0" * 64,
        }
    )
    kept = record.but(**prepared(record, result))
    assert [one.check for one in kept.findings] == [one.check for one in written]
    text = kept.model_dump_json() + box.run.findings.read_text()
    assert CANARY not in text
    assert "Question 7" not in text


def test_a_finding_that_stops_rejects_the_job_with_the_same_words(box):
    """What `stop` asks for ends the run before training, names line and remedy, and is written."""
    box.put("a.jsonl", [*[qa(i) for i in range(60)], qa(7)])
    with pytest.raises(DataError) as refused:
        box.prepare("data: a.jsonl\nchecks: {exact_duplicates: stop}")
    (stop,) = [one for one in read_findings(box.run.findings) if one.level is Level.STOP]
    said = str(refused.value)
    assert said.startswith(f"a.jsonl, line 61: {stop.message.rstrip('.')}")
    assert stop.advice in said
    assert "write exact_duplicates: advise below checks:" in said
    assert not (box.run.prepared / "train").exists()


def test_rows_that_cannot_be_used_are_findings_too(box):
    """The report of a rejected run has what is wrong, with lines, in the refusal's own words."""
    box.put("a.jsonl", [*[qa(i) for i in range(20)], {"instruction": "x"}, {"instruction": "y"}])
    with pytest.raises(DataError) as refused:
        box.prepare("data: a.jsonl")
    (bad,) = read_findings(box.run.findings)
    assert (bad.check, bad.level, bad.count) == ("bad_rows", Level.STOP, 2)
    assert [place.line for place in bad.places] == [21, 22]
    assert bad.message.rstrip(".").lower() in str(refused.value).lower()


def test_a_held_out_file_that_repeats_what_is_learned_is_a_leak(box):
    """Questions of eval_data that are learned, too, are counted, and named in their own file."""
    box.put("a.jsonl", [qa(i) for i in range(40)])
    box.put("b.jsonl", [qa(100), {**qa(7), "output": "Another answer."}, qa(101)])
    (leak,) = [
        one
        for one in box.prepare("data: a.jsonl\neval_data: b.jsonl").findings
        if one.check == "leak"
    ]
    assert (leak.count, leak.of, leak.level) == (1, 3, Level.ADVISE)
    assert [(place.file, place.line) for place in leak.places] == [("b.jsonl", 2)]


def test_an_earlier_try_leaves_no_findings(box):
    """A run that is prepared again, after a kill, has the findings of the last time alone."""
    box.put("a.jsonl", [qa(i) for i in range(20)])
    box.prepare("data: a.jsonl")
    before = json.loads(box.run.findings.read_text())
    from runner.training.data.prepare import prepare

    prepare(box.run.prepared)
    assert json.loads(box.run.findings.read_text()) == before


def test_every_row_of_the_real_template_ends_its_turn(box):
    """The end of each answer is learned in single turns, conversations and plain texts."""
    box.put("a.jsonl", [qa(i) for i in range(20)])
    assert "end_of_turn" not in {one.check for one in box.prepare("data: a.jsonl").findings}
    talk = [{"role": r, "content": f"{r} {n}"} for n in range(2) for r in ("user", "assistant")]
    box.put("b.jsonl", [{"messages": talk}] * 3)
    assert "end_of_turn" not in {one.check for one in box.prepare("data: b.jsonl").findings}
    box.put("c.jsonl", [{"text": f"A text of its own, number {n}."} for n in range(20)])
    assert "end_of_turn" not in {one.check for one in box.prepare("data: c.jsonl").findings}
