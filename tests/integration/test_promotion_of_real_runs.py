"""Two real runs of one job: the second goes on from the adapter in use and is compared with it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from daemon_box import Box

from runner.contract.promotions import current_run
from runner.contract.states import State

pytestmark = pytest.mark.long

SPEC = """\
model: real
data: walls.jsonl
name: walls
eval_split: 0.2
training: {max_steps: 16, effective_batch_size: 4, learning_rate: 5e-3}
evaluation: {samples: 0}
"""


def test_the_second_run_is_compared_with_the_adapter_in_use(
    tmp_path: Path, tiny_model: Path
) -> None:
    """On the same held-out rows, with an interval that the reason shows; half is replayed."""
    box = Box(tmp_path)
    model = box.root / "models" / "real"
    model.mkdir()
    for file in tiny_model.iterdir():
        os.link(file, model / file.name)
    rows = [
        {"prompt": f"How high is wall {n}?", "completion": f"Wall {n} is {3 * n} feet high."}
        for n in range(60)
    ]
    (box.jobs / "walls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = [sys.executable, "-m", "runner.training"]
    for extra in ("promote: {when: always}\n", "start_from: current\nreplay: 0.5\n"):
        (box.jobs / "walls.yaml").write_text(SPEC + extra)
        done = box.once(stage_command=stage, device="cpu")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    first, second = box.records()
    assert (first.state, second.state) == (State.SUCCEEDED, State.SUCCEEDED)
    assert second.started_from == first.run_id
    assert second.replay is not None
    assert (second.replay.run_id, second.replay.new) == (first.run_id, 0)
    assert second.replay.replayed == second.metrics["train_rows"]
    assert second.replay.replayed == round(first.metrics["train_rows"] / 2)
    assert f"{second.replay.replayed} of {second.replay.old} are learned again" in (
        next((box.jobs / "done").glob(f"*{second.run_id}*.txt")).read_text()
    )
    assert second.promotion is not None
    assert second.promotion.why in ("better_than_current", "not_better_than_current")
    assert second.promotion.against == first.run_id
    assert second.promotion.low is not None
    assert second.promotion.rows == second.metrics["eval_rows"]
    in_use = second if second.promotion.is_promoted else first
    assert current_run(box.outputs, "walls") == in_use.run_id
