"""The stage that makes what is served, under the real daemon with a stand-in: the run stands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from daemon_box import REPOSITORY, Box, wait_until

from runner.contract.layout import RunFolder
from runner.contract.promotions import current_run
from runner.contract.record import Cleared, Erased, write_record
from runner.contract.states import Stage, State

MERGED = {
    "name": "merged",
    "path": "merged",
    "bytes": 12,
    "base": "as_trained",
    "figures": {"loss": 0.218, "kl": 0.0004, "same_top": 0.996},
    "within": True,
}


def drop(root: Path, *, extra: str = "export: {merged: true}\n", **script: Any) -> Box:
    """Drop a job that asks for merged weights."""
    box = Box(root)
    (box.jobs / "contracts.jsonl").write_text(json.dumps(script))
    box.drop_spec("contracts", extra=extra)
    return box


def ask(box: Box, run: RunFolder, *options: str) -> subprocess.CompletedProcess[str]:
    """Call `runner export`."""
    where = [run.run_id, "--outputs-dir", str(box.outputs.root), *options]
    return subprocess.run(
        [sys.executable, "-m", "runner.cli", "export", *where],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_follows_the_evaluation(tmp_path: Path) -> None:
    """The stage is told what the spec asks for; the record has what it made, the run is in use."""
    box = drop(tmp_path, forms=[MERGED], extra="export: {merged: true, gguf: Q4_K_M}\n")
    done = box.once()
    assert done.returncode == 0, done.stderr
    record, (run,) = box.record(), box.outputs.runs()
    plan = json.loads((run.hand_over / "plan.json").read_text())
    assert (plan["merged"], plan["gguf"], plan["adapter_gguf"]) == (True, ["q4_k_m"], False)
    assert record.state is State.SUCCEEDED
    assert record.next_stage is None
    assert record.handed_over is not None
    assert record.handed_over.forms[0].path == "merged"
    assert record.tries == {"prepare": 1, "export": 1, "evaluate": 1, "hand-over": 1}
    assert current_run(box.outputs, "contracts") == run.run_id
    page = (box.outputs.root / "contracts" / "HANDOVER.md").read_text()
    assert "vllm serve outputs/contracts/current/merged --served-model-name contracts" in page
    assert "trained on: held-out loss 0.218 (the adapter: 0.217)" in box.answer("done")


def test_nothing_is_started_where_nothing_is_asked_for(tmp_path: Path) -> None:
    """A spec without `export` ends after its evaluation, as before."""
    box = drop(tmp_path, extra="")
    box.once()
    (run,) = box.outputs.runs()
    assert not run.hand_over.exists()
    assert box.record().handed_over is None


def test_a_failed_export_is_a_shortfall_and_can_be_repeated(tmp_path: Path) -> None:
    """The run succeeds and says what is missing; `runner export` makes it, and that is told."""
    box = drop(tmp_path, forms=[MERGED], **{"hand-over": ["10", "ok"]})
    assert box.once().returncode == 0
    record, (run,) = box.record(), box.outputs.runs()
    assert record.state is State.SUCCEEDED
    assert record.verdict is not None
    assert record.handed_over is None
    assert record.tries["hand-over"] == 1
    (told,) = [one for one in record.shortfalls if "export" in one]
    assert "the stand-in ended with 10" in told
    assert f"runner export {run.run_id}" in told
    assert told in box.answer("done")
    (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    asked = ask(box, run, "--merged", "--gguf", "q8_0,q4_k_m", "--adapter-gguf")
    assert asked.returncode == 0, asked.stderr
    assert box.once().returncode == 0
    plan = json.loads((run.hand_over / "plan.json").read_text())
    assert (plan["gguf"], plan["adapter_gguf"], plan["alone"]) == (["q8_0", "q4_k_m"], True, True)
    again = box.record()
    assert again.handed_over is not None
    assert not [one for one in again.shortfalls if "export" in one]
    assert not list(box.outputs.requests.iterdir())


def test_what_is_asked_for_twice_is_made_once(tmp_path: Path) -> None:
    """A second click does not take the card for another hour; another wish is one of its own."""
    box = drop(tmp_path, forms=[MERGED], extra="")
    box.once()
    (run,) = box.outputs.runs()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    for options in (["--merged"], ["--merged"], ["--merged", "--gguf", "q8_0"]):
        assert ask(box, run, *options).returncode == 0
    assert box.once().returncode == 0
    assert (run.root / "tries-hand-over").read_text() == "2"
    assert not list(box.outputs.requests.iterdir())


def test_a_killed_export_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Gigabytes beside their final name go as soon as the stage is over, however it ended."""
    box = drop(tmp_path, forms=[MERGED], extra="", **{"hand-over": ["hang"]})
    box.once()
    (run,) = box.outputs.runs()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    assert ask(box, run, "--merged").returncode == 0
    begun = run.root / ".tmp-0123456789ab"
    with box.watching():
        wait_until((run.hand_over / "hanging").exists)
        begun.mkdir()
        pid = int((run.hand_over / "process").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: any("The export failed" in one for one in box.record().shortfalls))
        wait_until(lambda: not begun.exists())


def test_a_run_whose_rows_were_removed_is_exported_again(tmp_path: Path) -> None:
    """Adapter and base are there; a run whose rows a person had erased stays as it is."""
    box = drop(tmp_path, forms=[MERGED], extra="")
    box.once()
    record, (run,) = box.record(), box.outputs.runs()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    write_record(run.record, record.but(cleared=Cleared(at=record.created_at)))
    shutil.rmtree(run.prepared / "eval", ignore_errors=True)
    assert ask(box, run, "--merged").returncode == 0
    assert box.once().returncode == 0
    assert box.record().handed_over is not None
    assert json.loads((run.hand_over / "plan.json").read_text())["facts"]["cleared"]
    erased = Erased(at=record.created_at, by="root")
    write_record(run.record, box.record().but(erased=erased))
    refused = ask(box, run, "--merged")
    assert refused.returncode != 0
    assert "were erased" in refused.stderr


def test_a_crash_is_tried_again_first(tmp_path: Path) -> None:
    """An unexpected end is tried once more, as with every stage; a full disk holds up nobody."""
    box = drop(tmp_path, forms=[MERGED], **{"hand-over": ["1", "ok"]})
    box.once()
    assert box.record().handed_over is not None
    (tmp_path / "full").mkdir()
    full = drop(tmp_path / "full", forms=[MERGED], **{"hand-over": ["16"]})
    assert full.once().returncode == 0
    assert full.record().state is State.SUCCEEDED
    assert any("The export failed" in one for one in full.record().shortfalls)


def test_a_daemon_that_goes_down_meanwhile_begins_it_anew(tmp_path: Path) -> None:
    """The record names the stage that comes next, and no evaluation is made twice."""
    box = drop(tmp_path, forms=[MERGED], **{"hand-over": ["hang", "ok"]})
    with box.watching():
        wait_until(
            lambda: any(run.hand_over.joinpath("hanging").exists() for run in box.outputs.runs())
        )
        assert box.record().next_stage is Stage.HAND_OVER
        assert box.record().state is State.EXPORTING
    assert box.once().returncode == 0
    record = box.record()
    assert record.state is State.SUCCEEDED
    assert record.handed_over is not None
    assert record.tries["evaluate"] == 1


def test_a_format_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """The command names those that do, and leaves no request."""
    box = drop(tmp_path)
    box.once()
    (run,) = box.outputs.runs()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    asked = ask(box, run, "--gguf", "q4_k_x")
    assert asked.returncode == 1
    assert "f16, q8_0, q5_k_m, q4_k_m" in asked.stderr
    assert not box.outputs.requests.exists() or not list(box.outputs.requests.iterdir())
