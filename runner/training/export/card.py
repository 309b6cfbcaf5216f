"""Model card: README.md of an adapter, with lines that load it as it was trained.

Nothing of the data stands here: facts of the run, the system prompt of the spec, and where things
lie on the box.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runner.contract.hand_over_page import lora_rank, serve_adapter

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
_QLORA = """\
    quantization_config=BitsAndBytesConfig(  # as it was trained: on other weights it answers worse
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.{compute},
    ),
"""
_PICTURES = (
    "The base also reads pictures: only its language part was trained, on text. What it does with "
    "pictures was not measured.\n"
)


class Asks(Protocol):
    """What the lines of a question need to know."""

    @property
    def system_prompt(self) -> str | None:
        """Give the spec's."""

    @property
    def folds_system(self) -> bool:
        """Whether the chat template has no place for it, so that it stands in the question."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card tells."""

    job: str
    run_id: str
    base: str
    """The base model's hub id, or its name under models/."""
    hub_id: str | None
    model: str
    """The base model's name under models/."""
    base_folder: Path
    adapter: Path
    config: dict[str, Any]
    """adapter_config.json as it is handed over."""
    facts: dict[str, Any]
    """The run's record, and the method."""
    system_prompt: str | None
    """The spec's."""
    folds_system: bool
    """The chat template has no place for a system prompt: it stands in the first question."""
    end_tokens: tuple[str, ...]
    trust_remote_code: bool = False
    reads_pictures: bool = False
    """The base also reads pictures; its language part was trained, and it is used whole."""


def write_card(card: Card) -> str:
    """Word the model card."""
    flat = {**card.facts, **_part(card.facts, "metrics"), "model": card.base}
    rows = [
        (title, f"{fact:.4f}" if isinstance(fact, float) else str(fact))
        for name, title in _FACTS_SHOWN
        if (fact := flat.get(name)) is not None
    ]
    rows.append(("LoRA", f"r {card.config.get('r')}, alpha {card.config.get('lora_alpha')}"))
    rows.append(("System prompt", "in the lines below" if card.system_prompt else "none"))
    rows.append(("Answers end with", " or ".join(card.end_tokens)))
    environment = _part(card.facts, "environment")
    rows += [(name, str(environment[name])) for name in sorted(environment)]
    table = "\n".join(f"| {cell(title)} | {cell(value)} |" for title, value in rows)
    return (
        "---\n"
        f"base_model: {json.dumps(card.base)}\n"
        "library_name: peft\n"
        "tags: [lora]\n"
        "---\n\n"
        f"# {cell(card.job)}\n\n"
        f"A LoRA adapter for `{cell(card.base)}`, run `{card.run_id}`.\n"
        "It was trained on private data. It may repeat passages from its training data.\n"
        + (_PICTURES if card.reads_pictures else "")
        + "\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"```python\n{snippet(card)}```\n\n" + _serving(card)
    )


def _serving(card: Card) -> str:
    """Say how vLLM takes the folder, and what is otherwise there."""
    rank = lora_rank(card.config)
    name = re.sub(r"[^\w.-]", "-", card.job)
    folder = f"outputs/{card.job}/{card.run_id}/adapter"
    command = serve_adapter(card.model, card.base, name=name, folder=folder, rank=rank)
    said = (
        f"## Serving\n\n    {command}\n\nThe paths start in the box's folder (BOX_DIR). "
        f"Without `--max-lora-rank {rank}` vLLM takes adapters up to rank 16. Its folder resolver "
        f"takes this one where the\nbase is served as `{cell(card.base)}`.\n"
    )
    if card.facts.get("method") == "qlora":
        said += (
            "\nIt was trained on the base in 4 bits (NF4), as the lines above load it. On the base "
            "in 16 bits, as vLLM, a\nplain merge and GGUF files of the base have it, it answers "
            f"otherwise: `runner export {card.run_id} --merged`\nmeasures by how much, and keeps "
            "what was learned.\n"
        )
    return said


def snippet(card: Card) -> str:
    """Write Python that loads the adapter on its base as it was trained, and asks a question."""
    qlora = card.facts.get("method") == "qlora"
    compute = str(_part(card.facts, "environment").get("compute") or "bfloat16")
    trust = ", trust_remote_code=True" if card.trust_remote_code else ""
    loads = "AutoModelForImageTextToText" if card.reads_pictures else "AutoModelForCausalLM"
    names = [loads, "AutoTokenizer", "GenerationConfig"]
    names += ["BitsAndBytesConfig"] if qlora else []
    return (
        "from pathlib import Path\n\n"
        "import torch\n"
        "from peft import PeftModel\n"
        f"from transformers import {', '.join(sorted(names))}\n\n"
        f"adapter = {quoted(str(card.adapter))}  # the folder of this file\n"
        + _base_lines(card)
        + "\n"
        "tokenizer = AutoTokenizer.from_pretrained(adapter)\n"
        f"model = {loads}.from_pretrained(\n"
        "    base,\n"
        + (_QLORA.format(compute=compute) if qlora else "")
        + f"    dtype=torch.{compute},\n"
        f'    device_map="auto"{trust},\n'
        ")\n"
        "model = PeftModel.from_pretrained(model, adapter).eval()\n\n"
        + message_lines(card)
        + "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n'
        ").to(model.device)\n"
        f"ends = GenerationConfig.from_pretrained(adapter)  # {', '.join(card.end_tokens)}\n"
        "answer = model.generate(\n"
        "    **inputs, generation_config=ends, max_new_tokens=200, do_sample=False\n"
        ")\n"
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], '
        "skip_special_tokens=True))\n"
    )


def _base_lines(card: Card) -> str:
    lines = f"base = {quoted(str(card.base_folder))}  # the base model on the box\n"
    if card.hub_id:
        lines += (
            "if not Path(base).is_dir():\n"
            f"    base = {quoted(card.hub_id)}  # the same model on the Hugging Face hub\n"
        )
    return lines


def message_lines(card: Asks) -> str:
    """Write the lines of a question, with the system prompt where training had it."""
    question = '"Your question"'
    if not card.system_prompt:
        return f'messages = [{{"role": "user", "content": {question}}}]\n'
    system = f"system = {quoted(card.system_prompt)}  # as in training\n"
    if card.folds_system:  # as the rows were rendered
        together = f'system + "\\n\\n" + {question}'
        return f'{system}messages = [{{"role": "user", "content": {together}}}]\n'
    return (
        f"{system}messages = [\n"
        '    {"role": "system", "content": system},\n'
        f'    {{"role": "user", "content": {question}}},\n'
        "]\n"
    )


def quoted(text: str) -> str:
    """Write a text as Python and JSON both read it; a fence of the page cannot close in it."""
    return json.dumps(text).replace("`", "\\u0060")


def _part(facts: dict[str, Any], name: str) -> dict[str, Any]:
    part = facts.get(name)
    return part if isinstance(part, dict) else {}


def cell(text: str) -> str:
    """Keep a value from breaking out of its table cell."""
    text = re.sub(r"[`\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]", " ", text)[:200]
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")
