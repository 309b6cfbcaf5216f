"""A model in 16 bits that the card has no room for: measured on the processor, or said so."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from runner.contract.layout import RunFolder
from runner.contract.stage_io import HandOverPlan
from runner.spec.read_spec import read_spec
from runner.training.export import llama_proof, where_it_fits
from runner.training.export.llama_server import ServerError
from runner.training.export.makers import Source
from runner.training.export.where_it_fits import processor_for, unless_memory_runs_out
from runner.training.fit.model import find_machine

ROWS = [([1, 2, 3], [1, 2])]


def full() -> None:
    """Run out of a card's memory."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 112.00 MiB.")


def broken() -> None:
    """Fail otherwise."""
    raise ValueError("no")


def test_only_a_cards_memory_is_stepped_aside_from() -> None:
    """What a step gives is given on; any other fault stays one."""
    assert unless_memory_runs_out(lambda: 7) == 7
    assert unless_memory_runs_out(full) is None
    with pytest.raises(ValueError, match="no"):
        unless_memory_runs_out(broken)


def test_the_machines_memory_has_to_hold_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the format that the processor computes in, and two GiB beside it."""
    times = 1 if find_machine("cpu").compute == "bfloat16" else 2
    free = (16 * times + 2) * 2**30
    monkeypatch.setattr(where_it_fits, "available_bytes", lambda: free)
    machine, why = processor_for(16 * 2**30)
    assert (machine, why) == (find_machine("cpu"), "")
    machine, why = processor_for(16 * 2**30 + 1)
    assert machine is None
    assert f"{16 * times + 2}.0 GiB are free" in why
    monkeypatch.setattr(where_it_fits, "available_bytes", lambda: None)
    assert processor_for(2**60)[0] is not None


def source(folder: Path) -> Source:
    """Give what a GGUF file is made from: a base of 8 bytes."""
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"8 bytes.")
    spec = read_spec(b"model: m\ndata: a.jsonl\n", file_name="a.yaml")
    plan = HandOverPlan(models_dir=str(folder), device="auto")
    run = RunFolder(folder / "run")
    return Source(run=run, spec=spec, plan=plan, base=folder, adapter=folder, model=None)


def test_the_reference_of_a_gguf_file_is_read_on_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the card has no room; where nothing has, the file stands and is not measured."""
    asked: list[str] = []

    def places_on(machine: Any, *_: object, **__: object) -> list[str]:
        asked.append(machine.device)
        if len(asked) == 1:
            full()
        return ["place"]

    monkeypatch.setattr(llama_proof, "_places_on", places_on)
    found = cast("list[str]", llama_proof.reference_places(source(tmp_path), ROWS, merged=False))
    assert (found, asked[1:]) == (["place"], ["cpu"])
    asked.clear()
    monkeypatch.setattr(where_it_fits, "available_bytes", lambda: 0)
    with pytest.raises(ServerError, match="The card has no room"):
        llama_proof.reference_places(source(tmp_path), ROWS, merged=False)
    assert len(asked) == 1
