"""Turns the best checkpoint into ``adapter/``: the product, without loading the model.

Command: `python -m runner.training export outputs/contracts/20261123T221005Z-k3f9/export`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from runner.contract.checkpoints import sha256_of, verified
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.stage_io import ExportPlan, ExportResult, read_message, write_message
from runner.errors import StageError
from runner.exit_codes import ExitCode
from runner.files.crash_points import reached
from runner.files.durable import TEMPORARY_PREFIX, rename_durably, sync_tree

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_FACTS_SHOWN = (
    ("model", "Base model"),
    ("method", "Method"),
    ("effective_batch_size", "Effective batch"),
    ("total_steps", "Optimizer steps"),
    ("train_rows", "Rows trained on"),
    ("eval_rows", "Rows held out"),
    ("eval_loss", "Held-out loss (nats per token)"),
    ("started_at", "Started"),
    ("spec_sha256", "sha256 of the job spec"),
)


def export(folder: Path) -> None:
    """Write the run's ``adapter/``: weights, configuration, tokenizer and model card.

    Raises:
        StageError: the checkpoint is damaged.
    """
    run, stage = RunFolder.containing(folder), StageFolder(folder)
    plan = read_message(stage.plan, ExportPlan)
    checkpoint = run.checkpoints / plan.checkpoint
    if not verified(checkpoint):
        raise StageError(
            f"Checkpoint {plan.checkpoint} is damaged.",
            exit_code=ExitCode.UNEXPECTED,
            kind="damaged",
            advice="Check the disk under outputs/, then drop the spec again.",
        )
    beside = run.root / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    reached("adapter begun")
    try:
        shutil.copytree(run.prepared / "tokenizer", beside)
        shutil.copyfile(checkpoint / WEIGHTS, beside / WEIGHTS)
        base = _base_model(run, plan.facts)
        config = json.loads((checkpoint / CONFIG).read_bytes())
        config["base_model_name_or_path"] = base  # else a path on this box
        (beside / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (beside / "README.md").write_text(_card(run, base, config, plan.facts))
        for file in beside.rglob("*"):
            file.chmod(0o750 if file.is_dir() else 0o640)  # safetensors writes for its owner alone
        sync_tree(beside)
        reached("adapter synced")
        _replace(beside, run.adapter)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    files = {
        path.relative_to(run.adapter).as_posix(): sha256_of(path)
        for path in sorted(run.adapter.rglob("*"))
        if path.is_file()
    }
    write_message(stage.result, ExportResult(files=files))


def _replace(beside: Path, target: Path) -> None:
    old = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
    if target.exists():
        os.rename(target, old)
        reached("adapter set aside")
    rename_durably(beside, target)
    reached("adapter named")
    shutil.rmtree(old, ignore_errors=True)


def _base_model(run: RunFolder, facts: dict[str, Any]) -> str:
    model = facts.get("model")
    name = model.get("id") if isinstance(model, dict) else model
    if isinstance(name, str) and name:
        return name
    from runner.spec.read_spec import read_spec

    return read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml").model


def _card(run: RunFolder, base: str, config: dict[str, Any], facts: dict[str, Any]) -> str:
    """Word the model card: facts of this run, no row of its data."""
    flat = {**facts, **_part(facts, "metrics"), "model": base}
    rows = [
        (title, f"{fact:.4f}" if isinstance(fact, float) else str(fact))
        for name, title in _FACTS_SHOWN
        if (fact := flat.get(name)) is not None
    ]
    rows.append(("LoRA", f"r {config.get('r')}, alpha {config.get('lora_alpha')}"))
    environment = _part(facts, "environment")
    rows += [(name, str(environment[name])) for name in sorted(environment)]
    table = "\n".join(f"| {_cell(title)} | {_cell(value)} |" for title, value in rows)
    return (
        "---\n"
        f"base_model: {json.dumps(base)}\n"
        "library_name: peft\n"
        "tags: [lora]\n"
        "---\n\n"
        f"# {_cell(run.job)}\n\n"
        f"A LoRA adapter for `{_cell(base)}`, run `{run.run_id}`. It was trained on private data.\n"
        "It may repeat passages from its training data.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        "```python\n"
        "from peft import AutoPeftModelForCausalLM\n"
        'model = AutoPeftModelForCausalLM.from_pretrained("adapter")\n'
        "```\n"
    )


def _part(facts: dict[str, Any], name: str) -> dict[str, Any]:
    part = facts.get(name)
    return part if isinstance(part, dict) else {}


def _cell(text: str) -> str:
    """Keep a value from breaking out of its table cell."""
    return re.sub(r"[|`<>\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]", " ", text)[:200]
