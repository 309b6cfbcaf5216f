"""Start from current: a run goes on from the adapter in use, where that has the same shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from runner.contract.layout import Outputs, RunFolder
from runner.contract.promotions import current_run
from runner.contract.record import ErrorFacts, RunRecord, read_record
from runner.contract.states import TRAINS
from runner.errors import RunnerError
from runner.files.plain import read_plain
from runner.spec.spec import JobSpec

NOTHING_IN_USE = "No adapter was in use to start from (start_from: current): it began afresh."
_CONFIG_BYTES = 1024 * 1024  # PEFT's adapter_config.json has a few hundred


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run starts."""

    run_id: str | None = None
    """The run whose adapter it goes on from; None: afresh."""
    note: str | None = None
    problem: ErrorFacts | None = None
    """Why it cannot start so."""


def choose_start(outputs: Outputs, record: RunRecord, spec: JobSpec) -> Start:
    """Find the adapter that a run starts from; one that was chosen once stays so."""
    if spec.start_from != "current":
        return Start()
    run_id = record.started_from or current_run(outputs, record.job)
    trains = record.next_stage in TRAINS
    began = record.rates is not None and record.rates.steps > 0
    if record.started_from is None and trains and (spec.replay is not None or began):
        # Nothing was in use when its rows were chosen, which are all of the data's, or when the
        # first of its small runs began, with which the others are compared.
        run_id = None
    if run_id is None:
        return Start(note=NOTHING_IN_USE)
    run = outputs.run(record.job, run_id)
    what = _other_base(run, record) or _other_shape(run, spec)
    if what is None:
        return Start(run_id=run_id)
    advice = "Give the spec the same values, or leave start_from out to begin afresh."
    if not run.adapter.is_dir():
        advice = (
            f"Take outputs/{record.job}/{run_id}/ back from a backup, or put another run into use "
            f"(`runner rollback {record.job}`); or leave start_from out to begin afresh."
        )
    problem = ErrorFacts(
        kind="bad_spec",
        message=f"start_from: current cannot go on from {record.job}/{run_id}: {what}",
        advice=advice,
    )
    return Start(problem=problem)


def _other_base(run: RunFolder, record: RunRecord) -> str | None:
    if record.model is None:  # before prepare: it is asked again
        return None
    try:
        other = read_record(run.record).model
    except (OSError, RunnerError):
        return "its record cannot be read"
    if other is None or (other.id, other.sha256) == (record.model.id, record.model.sha256):
        return None
    return f"it stands on the base model {other.id}, and this run on {record.model.id}"


def _other_shape(run: RunFolder, spec: JobSpec) -> str | None:
    """Compare what adapter_config.json says with the spec; names of layers where both list them."""
    try:
        content = read_plain(run.adapter / "adapter_config.json", limit_bytes=_CONFIG_BYTES)
        config: dict[str, Any] = dict(json.loads(content))
    except (OSError, ValueError, TypeError, RecursionError):
        return "its adapter is gone, or its adapter_config.json cannot be read"
    wanted: dict[str, Any] = {
        "r": spec.lora.r,
        "lora_alpha": spec.lora.alpha,
        "use_rslora": spec.lora.use_rslora,
    }
    there = {name: config.get(name, False) for name in wanted}
    modules = config.get("target_modules")
    if isinstance(modules, list) and isinstance(spec.lora.target_modules, list):
        wanted["target_modules"] = sorted(spec.lora.target_modules)
        there["target_modules"] = sorted(map(str, modules))
    differ = [name for name in wanted if wanted[name] != there[name]]
    if not differ:
        return None
    said = [f"{name} is {there[name]} there and {wanted[name]} here" for name in differ]
    return "; ".join(said)
