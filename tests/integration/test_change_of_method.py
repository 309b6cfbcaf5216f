"""16 bits that the box chose and that do not fit the card become 4 bits, under the real daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_card_daemon import CardBox

from runner.contract.states import State
from runner.daemon.stages.change_method import SAID
from runner.exit_codes import ExitCode

OOM = int(ExitCode.OUT_OF_GPU_MEMORY)


class WellCardBox(CardBox):
    """A box whose card the container toolkit gave it: the box trains in 16 bits where they fit."""

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon inherits."""
        return {**super().environment, "NVIDIA_VISIBLE_DEVICES": "0"}

    def answer_of(self, job: str) -> str:
        """Read the answer beside a job's spec."""
        (path,) = self.jobs.glob(f"*/{job}--*.txt")
        return path.read_text()


@pytest.fixture
def box(tmp_path: Path) -> WellCardBox:
    """Give a box with a card."""
    return WellCardBox(tmp_path)


def _shown(box: WellCardBox, *command: str) -> str:
    """Give what a command prints of the box."""
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli", *command, "--outputs-dir", str(box.outputs.root)],
        env={**box.environment, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_16_bits_that_do_not_fit_become_4(box: WellCardBox) -> None:
    """The box chose them by a forecast that was too low: it begins again in 4, and says so once."""
    record = box.run("contracts", **{"train lora": [f"train 3 then {OOM}", OOM], "train": ["ok"]})
    assert record.state is State.SUCCEEDED, record.error
    assert record.method is not None
    assert (record.method.method, record.method.why) == ("qlora", "did_not_fit")
    *wide, last = record.attempts
    plans = [
        json.loads(path.read_text()) for path in sorted(box.root.rglob("attempts/*/plan.json"))
    ]
    assert [plan["method"] for plan in plans] == ["lora"] * len(wide) + ["qlora"]
    assert plans[1]["resume_from"] == "step-00000003"
    assert (last.first_step, last.last_step, plans[-1]["resume_from"]) == (1, 8, None)
    assert {attempt.last_step for attempt in wide} == {0}  # what 16 bits learned counts for nothing
    # As it would have begun in 4 bits at once: not where the ladder in 16 ended.
    assert record.batch_plan == box.run("other", "method: qlora\n").batch_plan
    answer, story = box.answer_of("contracts"), _shown(box, "status")
    assert answer.count(SAID) == 1
    assert "any plan" not in answer
    assert "16 × 1, activation" not in answer + story  # 16 bits' smallest plan → 4 bits' first
    assert "in 16, which were tried first, it did not fit into 23.8 GiB" in _shown(
        box, "show", record.run_id
    )


def test_a_run_that_did_not_fit_teaches_the_next_job(box: WellCardBox) -> None:
    """Another job of the same size begins in 4 bits at once; a smaller one is trained in 16."""
    given = {"train lora": [OOM], "train": ["ok"]}
    assert len(box.run("contracts", **given).attempts) > 1
    record = box.run("other", **given)
    assert record.state is State.SUCCEEDED, record.error
    assert record.method is not None
    assert (record.method.method, record.method.why) == ("qlora", "ran_out")
    assert len(record.attempts) == 1
    small = box.run("small", "training: {batch_size: 1}\n", lengths=[64] * 800)
    assert small.method is not None
    assert (small.method.method, small.method.why) == ("lora", "fits")


def test_neither_16_bits_nor_4(box: WellCardBox) -> None:
    """Where 4 bits do not fit either, the run ends with the advice that is left."""
    record = box.run("contracts", train=[OOM])
    assert record.state is State.FAILED
    assert record.method is not None
    assert record.method.why == "did_not_fit"
    assert record.error is not None
    assert "method: qlora" not in str(record.error.advice)


def test_16_bits_that_were_asked_for_stay(box: WellCardBox) -> None:
    """A spec that names the method is not changed: it fails, and is told what would fit."""
    record = box.run("contracts", "method: lora\n", **{"train lora": [OOM], "train": ["ok"]})
    assert (record.state, record.method) == (State.FAILED, None)
    assert record.error is not None
    assert "method: qlora" in str(record.error.advice)


def test_learning_rates_are_compared_anew_in_4_bits(box: WellCardBox) -> None:
    """A rate that was measured in 16 bits is none to compare with: all are tried again."""
    losses = {rate: [float(at)] * 40 for at, rate in enumerate(("0.0001", "0.0002", "0.0004"), 1)}
    record = box.run(
        "contracts",
        "try: {learning_rate: [1e-4, 2e-4, 4e-4], hours: 60}\n",
        losses=losses,
        **{"rates lora": ["ok", f"train 3 then {OOM}", OOM], "rates": ["ok"]},
    )
    assert record.state is State.SUCCEEDED, record.error
    assert record.method is not None
    assert record.method.why == "did_not_fit"
    assert record.rates is not None
    assert [one.outcome for one in record.rates.trials] == ["measured"] * 3
    plans = [
        json.loads(path.read_text()) for path in box.root.rglob("rates/*/attempts/*/plan.json")
    ]
    assert {(plan["method"], plan["resume_from"]) for plan in plans} == {("qlora", None)}
    assert SAID in box.answer_of("contracts")
