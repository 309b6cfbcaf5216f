"""The model card's lines load the adapter as it was trained, from any folder, and ask as it did.

Those lines that need no library are run here; tests/older runs all of them in older tools.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.training.export.card import Card, snippet, write_card

CARD = Card(
    job="contracts",
    run_id="20261123T221005Z-k3f9",
    base="org/name",
    model="org/name",
    hub_id="org/name",
    base_folder=Path("/models/org/name"),
    adapter=Path("/outputs/contracts/20261123T221005Z-k3f9/adapter"),
    config={"r": 16, "lora_alpha": 32},
    facts={"method": "qlora", "environment": {"compute": "float16"}},
    system_prompt='You answer in "plain" words.\n```',
    folds_system=False,
    end_tokens=("<|im_end|>",),
)


def values(card: Card) -> dict[str, Any]:
    """Run the card's lines that name folders, base and messages."""
    mine = {"adapter", "base", "system", "messages"}
    tree = ast.parse(snippet(card))
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, ast.If)
        or (isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in mine)
    ]
    found: dict[str, Any] = {"Path": Path}
    exec(compile(tree, "card", "exec"), found)  # our own lines
    return found


def calls(card: Card) -> dict[str, dict[str, str]]:
    """Give the arguments of every call in the card's lines, by the function's name."""
    return {
        ast.unparse(node.func): {str(k.arg): ast.unparse(k.value) for k in node.keywords}
        for node in ast.walk(ast.parse(snippet(card)))
        if isinstance(node, ast.Call)
    }


def test_its_lines_work_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both folders are whole paths; away from the box the base is the one on the hub."""
    monkeypatch.chdir(tmp_path)
    found = values(CARD)
    assert Path(found["adapter"]) == CARD.adapter
    assert found["base"] == "org/name"
    here = replace(CARD, base_folder=tmp_path)
    assert values(here)["base"] == str(tmp_path)
    assert values(replace(CARD, hub_id=None))["base"] == "/models/org/name"


def test_it_asks_as_the_rows_were_rendered() -> None:
    """The system prompt of the spec, in a message of its own or before the question."""
    system, question = CARD.system_prompt, "Your question"
    asked = {"role": "user", "content": question}
    assert values(CARD)["messages"] == [{"role": "system", "content": system}, asked]
    folded = values(replace(CARD, folds_system=True))["messages"]
    assert folded == [{"role": "user", "content": f"{system}\n\n{question}"}]
    assert values(replace(CARD, system_prompt=None))["messages"] == [asked]
    assert write_card(CARD).count("```") == 2  # nothing in a prompt closes the fence


def test_the_base_is_loaded_as_it_was_trained_on() -> None:
    """NF4 with double quantisation for qlora: on other weights the adapter answers worse."""
    found = calls(CARD)
    assert found["BitsAndBytesConfig"] == {
        "load_in_4bit": "True",
        "bnb_4bit_quant_type": "'nf4'",
        "bnb_4bit_use_double_quant": "True",
        "bnb_4bit_compute_dtype": "torch.float16",
    }
    loaded = found["AutoModelForCausalLM.from_pretrained"]
    assert loaded["quantization_config"].startswith("BitsAndBytesConfig(")
    assert loaded["dtype"] == "torch.float16"
    plain = calls(replace(CARD, facts={**CARD.facts, "method": "lora"}))
    assert "BitsAndBytesConfig" not in plain
    assert "quantization_config" not in plain["AutoModelForCausalLM.from_pretrained"]
