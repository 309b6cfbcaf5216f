"""Card of merged weights: README.md of merged/, what it is, what was measured, how it is served.

Nothing of the data stands here: facts of the run, and the spec's system prompt as the adapter's own
card has it.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.contract.handed_over import MERGED, Figures
from runner.training.export.card import cell, message_lines, quoted
from runner.words import counted, memory

if TYPE_CHECKING:
    from runner.contract.evaluation import Form

_BASES: dict[Form, str] = {
    "as_trained": "the base as the adapter was trained on it: packed to 4 bits (NF4) and unpacked",
    "original": "the original base",
}


@dataclass(frozen=True, kw_only=True)
class MergedCard:
    """What the card tells."""

    job: str
    run_id: str
    model: str
    """The base model's hub id, or its name under models/."""
    base: Form
    """Which of its weights the adapter was added to."""
    bytes: int
    folder: str
    """Where it lies."""
    system_prompt: str | None
    folds_system: bool
    """The chat template has no place for a system prompt: it stands in the first question."""
    figures: Figures | None
    reference: Figures | None
    """Of the adapter on the base that it was trained on."""
    other: Figures | None
    """Of the way that was not taken."""
    within: bool | None
    rows: int
    trust_remote_code: bool = False
    reads_pictures: bool = False
    """The base also reads pictures; its language part was trained, and it is used whole."""


def write_merged_card(card: MergedCard) -> str:
    """Word the card."""
    where = f"outputs/{card.job}/{card.run_id}/{MERGED}"
    served = f"vllm serve {shlex.quote(where)} --served-model-name {shlex.quote(card.job)}"
    return (
        "---\n"
        f"base_model: {json.dumps(card.model)}\n"
        "library_name: transformers\n"
        "pipeline_tag: text-generation\n"
        "---\n\n"
        f"# {cell(card.job)}: base model and adapter as one\n\n"
        f"`{cell(card.model)}` with the adapter of run `{card.run_id}` added to {_BASES[card.base]}"
        f".\n{memory(card.bytes)} in 16 bits, with tokenizer, chat template and generation "
        "settings: a server needs nothing else.\n"
        "It was trained on private data. It may repeat passages from its training data.\n\n"
        f"    {served}\n\n"
        "The path starts in the box's folder (BOX_DIR).\n\n"
        f"## What was measured\n\n{_measured(card)}\n"
        f"## With transformers\n\n```python\n{merged_snippet(card)}```\n"
    )


def _measured(card: MergedCard) -> str:
    ours, adapter = card.figures, card.reference
    if ours is None or adapter is None:
        return (
            "Nothing: the run has no held-out rows (any more) on which it could be compared with "
            "the adapter.\n"
        )
    rows = [("the adapter, on the base that it was trained on", adapter), ("this folder", ours)]
    if card.other is not None:
        rows.append(("the other way of merging, which was not kept", card.other))
    lines = [f"| {name} | {_figures(one)} |" for name, one in rows]
    said = {
        True: "It does what the adapter does, within the tolerance.",
        False: "**It does not do what the adapter does: the report says what differs.**",
        None: "",
    }[card.within]
    return (
        f"On {counted(card.rows, 'held-out row')}:\n\n"
        "| | loss (nats per token) | divergence from the adapter (nats) | same next token |\n"
        "|---|---|---|---|\n" + "\n".join(lines) + f"\n\n{said}\n"
    )


def _figures(one: Figures) -> str:
    loss, kl = (f"{x:.4f}" if x is not None else "–" for x in (one.loss, one.kl))
    same = f"{one.same_top:.1%}" if one.same_top is not None else "–"
    return f"{loss} | {kl} | {same}"


def merged_snippet(card: MergedCard) -> str:
    """Write Python that loads the folder and asks a question."""
    trust = ", trust_remote_code=True" if card.trust_remote_code else ""
    loads = "AutoModelForImageTextToText" if card.reads_pictures else "AutoModelForCausalLM"
    return (
        f"from transformers import {loads}, AutoTokenizer\n\n"
        f"folder = {quoted(card.folder)}  # the folder of this file\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        f"model = {loads}.from_pretrained(\n"
        f'    folder, dtype="auto", device_map="auto"{trust}\n'
        ")\n\n" + message_lines(card) + "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n'
        ").to(model.device)\n"
        "answer = model.generate(**inputs, max_new_tokens=200, do_sample=False)\n"
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], '
        "skip_special_tokens=True))\n"
    )
