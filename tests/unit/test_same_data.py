"""What counts as a change for a scheduled job with `when_data_changed`: any file it names."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_runs import ID, record

from runner.contract.layout import Outputs
from runner.contract.models import describe_model
from runner.contract.record import DataFile, write_record
from runner.contract.states import State
from runner.daemon.schedule.same_data import run_with_the_same_data
from runner.spec.read_spec import read_spec

SPEC = b"""\
model: tiny
name: contracts
data: [data/*.jsonl]
eval_data: [held.jsonl]
evaluation: {json_schema: form.json, general: general.jsonl}
schedule: "0 2 * * sun"
when_data_changed: true
"""


class Jobs:
    """An inbox, and a run that has succeeded on what lies in it."""

    def __init__(self, root: Path) -> None:
        self.jobs, self.outputs, self.models = root / "jobs", Outputs(root / "out"), root / "models"
        (self.jobs / "data").mkdir(parents=True)
        (self.models / "tiny").mkdir(parents=True)
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        (self.models / "tiny" / "config.json").write_text(json.dumps(config))
        header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        weights = len(header).to_bytes(8, "little") + header + bytes(4)
        (self.models / "tiny" / "model.safetensors").write_bytes(weights)
        for name in ("data/1.jsonl", "held.jsonl", "form.json"):
            (self.jobs / name).write_text("{}")
        (self.jobs / "general.jsonl").write_text("[]")
        sha256 = hashlib.sha256(b"{}").hexdigest()
        files = tuple(
            DataFile(path=name, sha256=sha256, bytes=2, rows=1)
            for name in ("data/1.jsonl", "held.jsonl")
        )
        run = self.outputs.run("contracts", ID)
        run.data.mkdir(parents=True)
        (run.data / f"{sha256[:16]}-form.json").write_text("{}")
        general = hashlib.sha256(b"[]").hexdigest()
        (run.data / f"{general[:16]}-general.jsonl").write_text("[]")
        self.made = record(
            data=files,
            spec_sha256=hashlib.sha256(SPEC).hexdigest(),
            model=describe_model(self.models / "tiny", "tiny"),
        )
        write_record(run.record, self.made)

    def another_run(self, run_id: str, **changes: object) -> None:
        """Add a run, like the one that is there but for some fields."""
        run = self.outputs.run("contracts", run_id)
        shutil.copytree(self.outputs.run("contracts", ID).data, run.data)
        write_record(run.record, self.made.but(run_id=run_id, **changes))

    def same(self, spec: bytes = SPEC) -> str | None:
        """Ask as a schedule does at its time."""
        return run_with_the_same_data(
            self.jobs,
            self.outputs,
            read_spec(spec, file_name="contracts.yaml"),
            hashlib.sha256(spec).hexdigest(),
            models_dir=self.models,
        )

    def write(self, name: str) -> None:
        """Change a file."""
        (self.jobs / name).write_text("{} ")


@pytest.fixture
def box(tmp_path: Path) -> Jobs:
    """Everything as it was at the last run."""
    return Jobs(tmp_path)


def test_nothing_has_changed(box: Jobs) -> None:
    """The run with the same files is named, also where they were written anew."""
    assert box.same() == ID
    (box.jobs / "held.jsonl").unlink()
    (box.jobs / "held.jsonl").write_text("{}")
    assert box.same() == ID


@pytest.mark.parametrize(
    "change",
    [
        lambda box: box.write("data/1.jsonl"),
        lambda box: box.write("data/2.jsonl"),
        lambda box: (box.jobs / "data/1.jsonl").rename(box.jobs / "data/2.jsonl"),
        lambda box: box.write("held.jsonl"),
        lambda box: (box.jobs / "held.jsonl").unlink(),
        lambda box: box.write("form.json"),
        lambda box: (box.jobs / "form.json").unlink(),
        lambda box: box.write("general.jsonl"),
        lambda box: (box.models / "tiny" / "config.json").write_text(
            '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 9}'
        ),
        lambda box: (box.models / "tiny" / "model.safetensors").unlink(),
        lambda box: (box.models / "tiny" / "config.json").unlink(),
        lambda box: (box.outputs.run("contracts", ID).record).write_text("torn"),
        lambda box: write_record(
            box.outputs.run("contracts", ID).record, record(state=State.FAILED)
        ),
    ],
)
def test_any_file_counts(box: Jobs, change: Callable[[Jobs], object]) -> None:
    """Data, held-out rows, the schema of the answers and the base model; what is missing, too."""
    change(box)
    assert box.same() is None


def test_an_edited_spec_counts(box: Jobs) -> None:
    """By its bytes: whoever edits it wants to see what comes of it."""
    assert box.same(SPEC + b"# a comment\n") is None


def test_the_last_success_is_compared_with(box: Jobs) -> None:
    """By the order of the claims: a clock that was set back gives later runs earlier names."""
    other = (DataFile(path="data/1.jsonl", sha256="ab" * 32, bytes=9, rows=9),)
    failed = "20261127T110000Z-aaaa"
    box.another_run(failed, sequence=1, state=State.FAILED)
    assert box.same() == ID  # one that failed on the same files is no reason to start none
    box.another_run("20261127T120000Z-bbbb", sequence=2, state=State.FAILED, data=other)
    assert box.same() == ID
    box.another_run("20261125T110000Z-cccc", sequence=3, data=other)
    assert box.same() is None
    box.another_run("20261124T110000Z-dddd", sequence=4)
    assert box.same() == "20261124T110000Z-dddd"
