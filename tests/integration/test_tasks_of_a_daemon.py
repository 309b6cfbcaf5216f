"""A job with tasks of lm-evaluation-harness from its drop to what is in use, by the real daemon.

    make test-tasks

The harness is an extra of 340 MB: where it is not installed, these tests say so and are skipped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
from daemon_box import REPOSITORY, Box

from runner.contract.promotions import current_run
from runner.contract.record import RunRecord
from runner.contract.states import State

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed here: `make test-tasks` does it",
)
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
SPEC = """\
model: real
data: walls.jsonl
name: walls
eval_split: 0.2
training: {max_steps: 12, effective_batch_size: 4, learning_rate: 5e-3}
"""


class TaskBox(Box):
    """A box with a small real model, real stages and a folder of tasks."""

    def __init__(self, root: Path, model: Path) -> None:
        """Make the folders."""
        super().__init__(root)
        self.tasks = root / "tasks"
        self.tasks.mkdir()
        path = os.pathsep.join((str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])))
        self.prefix = ["env", f"PYTHONPATH={path}"]  # the daemon's stages get an own environment
        self.stage = [*self.prefix, sys.executable, "-m", "runner.training"]
        (root / "models" / "real").mkdir()
        for file in model.iterdir():
            os.link(file, root / "models" / "real" / file.name)
        rows = [
            {"prompt": f"How high is wall {n}?", "completion": f"Wall {n} is {3 * n} feet high."}
            for n in range(60)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.jobs / "walls.jsonl").write_text(text)
        items = [
            {"question": f"{n}. Is a wall high?", "choices": ["yes", "no"], "answer": n % 2}
            for n in range(20)
        ]
        (self.tasks / "words.jsonl").write_text("".join(json.dumps(one) + "\n" for one in items))
        for name, data in (("words", "words.jsonl"), ("lost", "lost.jsonl")):
            (self.tasks / f"{name}.yaml").write_text(TASK.format(name=name, file=data))

    def run_one(self, evaluation: str) -> RunRecord:
        """Drop the job and work it off: 1, where it is rejected."""
        (self.jobs / "walls.yaml").write_text(f"{SPEC}evaluation: {evaluation}\n")
        settings = {"stage_command": self.stage, "device": "cpu", "reports": True}
        done = self.once(**settings, evaluation_tasks=str(self.tasks), timeout=400)
        assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
        return self.records()[-1]

    def answer_of(self, record: RunRecord) -> str:
        """Read what was answered beside its spec."""
        (path,) = self.jobs.glob(f"*/*{record.run_id}*.txt")
        return path.read_text()


def test_tasks_go_the_whole_way(tmp_path: Path, tiny_model: Path) -> None:
    """Measured in the stage, shown everywhere; one that fails keeps a run out of use alone."""
    box = TaskBox(tmp_path, tiny_model)
    first = box.run_one("{samples: 0, minutes: 10, tasks: [words]}")
    assert first.state is State.SUCCEEDED
    assert first.evaluation is not None
    (axis,) = first.evaluation.axes
    assert (axis.name, axis.items) == ("task.words", 20)
    assert axis.low is not None
    assert axis.high is not None
    assert axis.low <= axis.difference <= axis.high
    assert "words" in box.outputs.run("walls", first.run_id).report.read_text()
    assert first.promotion is not None
    assert first.promotion.why != "axes_unknown"

    second = box.run_one("{samples: 0, minutes: 10, tasks: [words, lost]}")
    assert second.state is State.SUCCEEDED
    assert second.evaluation is not None
    assert [one.name for one in second.evaluation.axes] == ["task.words"]
    assert second.evaluation.axes[0].base == axis.base
    (said,) = [one for one in second.shortfalls if "lost" in one]
    assert said in box.answer_of(second)
    assert second.promotion is not None
    assert not second.promotion.is_promoted
    if second.promotion.why == "axes_unknown":  # and not for a reason that comes before
        assert second.promotion.names == "task.lost"
    assert current_run(box.outputs, "walls") != second.run_id
    assert box.outputs.run("walls", second.run_id).adapter.is_dir()

    third = box.run_one("{samples: 0, tasks: [wrods]}")
    assert third.state is State.REJECTED
    assert "lost, words" in box.answer_of(third)
