"""What a stage imports, and what it does without: the start of a stage is most of a short one."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from runner.training.import_stack import compiled_when_called, import_stack


def loaded_after(program: str) -> dict[str, Any]:
    """Run a program in a fresh process; tell which heavy modules it left there, and of garbage."""
    heavy = ["torch", "transformers", "datasets", "bitsandbytes", "torch._inductor.compile_fx"]
    tells = (
        f"{program}\nimport gc, json, sys\n"
        f"found = [name for name in {heavy} if name in sys.modules]\n"
        "looks = {'enabled': gc.isenabled(), 'kept': gc.get_freeze_count()}\n"
        "print(json.dumps({'found': found} | looks))"
    )
    done = subprocess.run(
        [sys.executable, "-c", tells], check=True, capture_output=True, text=True, timeout=300
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_prepare_begins_without_torch() -> None:
    """Rows are read, checked and tokenised without it: `runner check` takes half the time so."""
    assert loaded_after("import runner.training.data.prepare")["found"] == []


def test_bitsandbytes_brings_no_compiler() -> None:
    """Nothing of what it compiles is called in most stages; looks for garbage go on afterwards."""
    told = loaded_after(
        "from runner.training.import_stack import import_stack\n"
        "import_stack('no.such.module', 'bitsandbytes')\n"
        "import torch; assert torch.compile.__module__ == 'torch', torch.compile"
    )
    assert told["found"] == ["torch", "bitsandbytes"]
    assert told["enabled"]
    assert told["kept"] > 100_000


def test_the_doctor_computes_without_a_compiler() -> None:
    """Its test on the card takes half the time so, and the product is right all the same."""
    told = loaded_after(
        "from runner.doctor.card import facts_of_card\n"
        "facts = facts_of_card('cpu')\n"
        "assert facts.error is None, facts.error\n"
        "assert max(facts.product.forward_error, facts.product.one_row_error) < 1e-5"
    )
    assert told["found"] == ["torch", "bitsandbytes"]


def test_what_was_imported_before_freezes_nothing() -> None:
    """In a process that goes on, whatever lies about now may be garbage later."""
    before = gc.get_freeze_count()
    import_stack("torch", "json")
    assert gc.get_freeze_count() == before


@pytest.mark.parametrize("options", [None, {}, {"dynamic": False}])
def test_a_function_is_compiled_at_its_first_call(
    options: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the options that it was decorated with, once, and to the same result."""
    asked: list[dict[str, Any]] = []
    compiles = torch.compile

    def counted(function: Any, **more: Any) -> Any:
        asked.append(more)
        return compiles(function, backend="eager", **more)

    monkeypatch.setattr(torch, "compile", counted)

    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    with compiled_when_called():
        made: Any = torch.compile(twice) if options is None else torch.compile(**options)(twice)
    assert torch.compile is counted
    assert (asked, made.__name__) == ([], "twice")
    for number in (1.0, 3.0):
        assert made(torch.tensor(number)).item() == 2 * number
    assert asked == [options or {}]
