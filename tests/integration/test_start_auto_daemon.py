"""What the daemon makes of the start that prepare chose: the plans, the record, and a way back."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from daemon_box import attempt_of, wait_until
from test_schedules import SUNDAY, WEEK, ScheduledBox

from runner.contract.layout import StageFolder
from runner.contract.promotions import current_run
from runner.contract.record import Replay, RunRecord
from runner.contract.start_choice import StartChoice, Why, sentence
from runner.contract.states import State

CONFIG = {"r": 16, "lora_alpha": 32, "use_rslora": False, "target_modules": ["q_proj"]}


class StartBox(ScheduledBox):
    """A box whose runs are told what prepare finds."""

    def first(self) -> str:
        """Let the first Sunday's run come into use, and give it an adapter's shape."""
        self.schedule()
        with self.watching():
            wait_until(self.is_known)
            self.at(SUNDAY + timedelta(seconds=1))
            wait_until(lambda: self.outcomes() == ["schedule succeeded"])
        in_use = self.records()[0].run_id
        assert current_run(self.outputs, "contracts") == in_use
        self.shape(in_use).write_text(json.dumps(CONFIG))
        return in_use

    def shape(self, run_id: str) -> Path:
        """Give the file that says what shape a run's adapter has."""
        return self.outputs.run("contracts", run_id).adapter / "adapter_config.json"

    def next(self, *prepared: dict[str, Any]) -> RunRecord:
        """Let the next Sunday come; prepare finds that, one after the other."""
        (self.jobs / "contracts.jsonl").write_text(json.dumps({"prepared": prepared}))
        count = len(self.records())
        self.at(SUNDAY + count * WEEK + timedelta(seconds=1))
        with self.watching():
            wait_until(lambda: len(self.records()) > count and self.records()[-1].state.is_final)
        return self.records()[-1]

    def plan(self, record: RunRecord, name: str) -> Any:
        """Read what a stage of a run was asked: prepare, or its first attempt."""
        run = self.outputs.run("contracts", record.run_id)
        folder = run.prepared if name == "replay_from" else attempt_of(run, 1)
        return json.loads(StageFolder(folder).plan.read_bytes())[name]


@pytest.fixture
def box(tmp_path: Path) -> StartBox:
    """A box a day before the first time."""
    return StartBox(tmp_path)


def found(run_id: str, why: Why) -> dict[str, Any]:
    """Give what prepare says of its choice."""
    start = StartChoice(run_id=run_id, why=why, count=20, old=40)
    told: dict[str, Any] = {"start": start.model_dump(), "shortfalls": [sentence(start)]}
    if start.goes_on:
        replay = Replay(run_id=run_id, share=0.3, old=40, replayed=12, new=20)
        told["replay"] = replay.model_dump()
        told["shortfalls"] += [replay.sentence()]
    return told


def test_training_starts_where_prepare_chose(box: StartBox) -> None:
    """The adapter in use is named to prepare each time; training takes it where it was chosen."""
    in_use = box.first()
    first = box.records()[0]
    assert (first.start, first.started_from, box.plan(first, "replay_from")) == (None, None, None)
    folder = box.outputs.run("contracts", in_use)
    afresh = box.next(found(in_use, "rows_gone"))
    assert box.plan(afresh, "replay_from") == str(folder.root.resolve())
    assert (afresh.started_from, box.plan(afresh, "start_adapter")) == (None, None)
    assert afresh.start is not None
    assert afresh.start.why == "rows_gone"
    assert sentence(afresh.start) in afresh.shortfalls
    in_use = current_run(box.outputs, "contracts") or ""
    if not box.shape(in_use).exists():
        box.shape(in_use).write_text(json.dumps(CONFIG))
    folder = box.outputs.run("contracts", in_use)
    goes_on = box.next(found(in_use, "grown"))
    assert goes_on.state is State.SUCCEEDED
    assert goes_on.started_from == in_use
    assert box.plan(goes_on, "start_adapter") == str(folder.adapter.resolve())
    (answer,) = box.jobs.glob(f"done/contracts--{goes_on.run_id}.yaml.txt")
    assert "goes on from the adapter in use" in answer.read_text()


def test_a_start_that_fits_no_more_is_chosen_again(box: StartBox) -> None:
    """The adapter went between preparing and training: prepared again, not refused."""
    in_use = box.first()
    box.shape(in_use).unlink()
    record = box.next(found(in_use, "grown"), found(in_use, "does_not_fit"))
    assert record.state is State.SUCCEEDED
    assert record.tries["prepare"] == 2
    assert (record.started_from, record.replay) == (None, None)
    assert box.plan(record, "start_adapter") is None
    assert record.start is not None
    assert record.start.why == "does_not_fit"
    said = [note for note in record.shortfalls if "adapter in use" in note]
    assert said == [sentence(record.start)]


def test_a_spec_without_a_schedule_is_trained_from_nothing(box: StartBox) -> None:
    """A person who drops the job again expects a training, whatever is in use."""
    box.first()
    (box.jobs / "contracts-now.yaml").write_text(
        "model: m\ndata: contracts.jsonl\nname: contracts\n"
    )
    with box.watching():
        wait_until(lambda: len(box.records()) == 2 and box.records()[-1].state.is_final)
    record = box.records()[-1]
    assert (record.trigger, record.state) == ("drop", State.SUCCEEDED)
    assert (record.start, record.started_from, box.plan(record, "replay_from")) == (None,) * 3
