"""Merged weights on a card that cannot hold the model in 16 bits: the allocator's own refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.contract.layout import Outputs, StageFolder
from runner.contract.stage_io import HandOverPlan, HandOverResult, read_message, write_message
from runner.training.export.hand_over import hand_over
from runner.training.export.where_it_fits import PROCESSOR_ROWS
from runner.training.fit import model

REPOSITORY = Path(__file__).parents[2]
SPEC = """\
model: '1B'
data: rows.jsonl
method: qlora
eval_split: 0.3
training: {max_steps: 4, eval_steps: 4}
"""
_ROOM_BYTES = 256 * 1024**2  # beside what is held: a tenth of the 1B in 16 bits


def test_what_the_card_cannot_hold_in_16_bits_is_measured_on_the_processor(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained in 4 bits; memory really runs out while the merged model is loaded."""
    import torch

    jobs = tmp_path / "jobs"
    jobs.mkdir()
    rows = [{"prompt": f"How high is wall {n}?", "completion": f"{3 * n} feet"} for n in range(64)]
    (jobs / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (jobs / "walls.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "runner.cli", "watch", "--once", "--jobs-dir", str(jobs)]
    command += ["--outputs-dir", str(tmp_path / "outputs"), "--models-dir", str(models)]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run(command, env=environment, check=True, timeout=400)
    (run,) = Outputs(tmp_path / "outputs").runs()

    sound, refused = model.load_base, []
    whole = torch.cuda.get_device_properties(0).total_memory

    def load_base(folder: Path, *, method: str, **how: Any) -> Any:
        if method != "lora" or refused:
            return sound(folder, method=method, **how)
        refused.append(torch.cuda.memory_allocated())
        room = torch.cuda.memory_reserved() + _ROOM_BYTES
        torch.cuda.set_per_process_memory_fraction(room / whole)
        try:
            return sound(folder, method=method, **how)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    monkeypatch.setattr(model, "load_base", load_base)
    stage = StageFolder(run.hand_over)
    stage.root.mkdir(exist_ok=True)
    write_message(stage.plan, HandOverPlan(models_dir=str(models), device="cuda", merged=True))
    hand_over(stage.root)
    made = read_message(stage.result, HandOverResult).handed_over
    assert made is not None
    (form,) = made.forms
    assert len(refused) == 1
    assert made.rows == PROCESSOR_ROWS
    assert form.figures is not None
    assert form.other is not None  # both ways were measured
    assert (run.merged / "config.json").is_file()
    # What was held when memory ran out is given back: only what was there before is left.
    assert torch.cuda.memory_allocated() <= refused[0] + _ROOM_BYTES
