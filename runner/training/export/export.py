"""Export: the best checkpoint as ``adapter/``, the product; the model itself is not loaded.

Command: `python -m runner.training export outputs/contracts/20261123T221005Z-k3f9/export`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from runner.contract.checkpoints import sha256_of, verified
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.model_kind import LANGUAGE_PARTS, LanguagePart
from runner.contract.models import hub_id
from runner.contract.stage_io import (
    ExportPlan,
    ExportResult,
    PrepareResult,
    read_message,
    write_message,
)
from runner.errors import DamagedError, SpecError, StageError
from runner.exit_codes import ExitCode
from runner.files.crash_points import reached
from runner.files.durable import TEMPORARY_PREFIX, rename_durably, sync_tree
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec
from runner.training.export.adapter_config import hand_over_config
from runner.training.export.adapter_weights import copy_weights
from runner.training.export.card import Card, write_card

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


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
        name, spec = _base_model(run, plan.facts)
        prepared = read_prepared(run)
        part = _trained_part(prepared, plan.facts)
        copy_weights(checkpoint / WEIGHTS, beside / WEIGHTS, part)
        folder = Path(plan.models_dir, name)
        base = hub_id(folder, name) or name
        written = json.loads((checkpoint / CONFIG).read_bytes())
        config = hand_over_config(written, base=base, part=part)
        (beside / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        card = Card(
            job=run.job,
            run_id=run.run_id,
            base=base,
            hub_id=hub_id(folder, name),
            model=name,
            base_folder=folder,
            adapter=run.adapter,
            config=config,
            facts=plan.facts,
            system_prompt=spec.system_prompt if spec else None,
            folds_system=prepared.folds_system,
            end_tokens=prepared.end_tokens,
            trust_remote_code=plan.trust_remote_code,
            reads_pictures=part is not None,
        )
        (beside / "README.md").write_text(write_card(card), encoding="utf-8")
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


def _base_model(run: RunFolder, facts: dict[str, Any]) -> tuple[str, JobSpec | None]:
    """Name the base model as the record does, or else the spec; give the spec, too."""
    try:
        spec = read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml")
    except (OSError, SpecError):
        spec = None  # of an older version: what it trained stands in the record
    model = facts.get("model")
    name = model.get("id") if isinstance(model, dict) else model
    if isinstance(name, str) and name:
        return name, spec
    if spec is None:
        raise StageError(
            "The run's record does not name its base model.",
            exit_code=ExitCode.UNEXPECTED,
            kind="damaged",
            advice="Check the disk under outputs/, then drop the spec again.",
        )
    return spec.model, spec


def _trained_part(prepared: PrepareResult, facts: dict[str, Any]) -> LanguagePart | None:
    """Give the part that was trained of a base that also reads pictures, by its class."""
    recorded = facts.get("model")
    named = recorded.get("architecture") if isinstance(recorded, dict) else None
    found = prepared.model.architecture if prepared.model else named
    return LANGUAGE_PARTS.get(found) if isinstance(found, str) else None


def read_prepared(run: RunFolder) -> PrepareResult:
    """Read what prepare found; of a run whose result is gone or damaged, nothing."""
    try:
        return read_message(StageFolder(run.prepared).result, PrepareResult)
    except (OSError, DamagedError):
        return PrepareResult()
