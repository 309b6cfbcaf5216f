"""A run that goes on from an adapter has the rows that fit the bits it was trained in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from daemon_box import attempt_of, wait_until
from test_promotion import PromotionBox

from runner.contract.layout import StageFolder
from runner.contract.record import RunRecord
from runner.contract.states import Stage, State
from runner.files.lock import Lock

CONFIG = {"r": 16, "lora_alpha": 32, "use_rslora": False, "target_modules": ["q_proj"]}


class RowsBox(PromotionBox):
    """A box whose stand-in adapters can be gone on from."""

    def drop_one(self, extra: str) -> None:
        """Drop the job."""
        (self.jobs / "contracts.jsonl").write_text("{}")
        self.drop_spec("contracts", extra)

    def end_one(self, extra: str) -> RunRecord:
        """Let the job run to its end."""
        self.drop_one(extra)
        self.once()
        record = self.records()[-1]
        assert record.state is State.SUCCEEDED, record.error
        adapter = self.outputs.run("contracts", record.run_id).adapter
        (adapter / "adapter_config.json").write_text(json.dumps(CONFIG))
        return record

    def methods(self, record: RunRecord) -> tuple[str | None, str | None]:
        """Give the methods that prepare and the newest attempt were asked for."""
        run = self.outputs.run("contracts", record.run_id)
        folders = run.prepared, attempt_of(run, len(record.attempts))
        first, last = (
            json.loads(StageFolder(folder).plan.read_bytes())["method"] for folder in folders
        )
        return first, last


@pytest.fixture
def box(tmp_path: Path) -> RowsBox:
    """An empty box."""
    return RowsBox(tmp_path)


@pytest.mark.parametrize("bits", ["lora", "qlora"])
def test_prepare_knows_the_bits_of_the_adapter_that_is_gone_on_from(
    box: RowsBox, bits: str
) -> None:
    """Which rows are too long for the card is decided there."""
    first = box.end_one(f"method: {bits}\n")
    second = box.end_one("start_from: current\n")
    assert second.started_from == first.run_id
    assert box.methods(second) == (bits, bits)


def test_another_adapter_in_other_bits_makes_it_choose_the_rows_anew(box: RowsBox) -> None:
    """It came into use between prepare and train: prepare is done again, and only then."""
    narrow = box.end_one("method: qlora\n")
    wide = box.end_one("method: lora\npromote: {when: never}\n")
    card = Lock.take(box.outputs.gpu_lease, what="the GPU", holder="the test")
    box.drop_one("start_from: current\n")
    with box.watching():
        wait_until(lambda: len(box.records()) == 3 and box.records()[-1].next_stage is Stage.TRAIN)
        run = box.outputs.run("contracts", box.records()[-1].run_id)
        assert json.loads(StageFolder(run.prepared).plan.read_bytes())["method"] == "qlora"
        assert box.in_use() == narrow.run_id
        box.ask("promote", wide.run_id)
        wait_until(lambda: box.in_use() == wide.run_id)
        card.release()
        wait_until(lambda: box.records()[-1].state is State.SUCCEEDED)
    record = box.records()[-1]
    assert record.started_from == wide.run_id
    assert box.methods(record) == ("lora", "lora")
    assert record.tries[Stage.PREPARE.value] == 2
