"""HANDOVER.md: the command by which a job's result in use is served."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import unicodedata
from typing import Any

from runner.contract.handed_over import (
    ADAPTER_GGUF,
    BASE_GGUF,
    MERGED,
    MODELFILE,
    HandedOver,
    ServedForm,
    compared_with,
)
from runner.contract.layout import HAND_OVER_PAGE, Outputs, RunFolder
from runner.contract.promotions import known_current
from runner.contract.record import RunRecord, read_record
from runner.errors import RunnerError
from runner.files.durable import write_bytes
from runner.files.plain import read_plain
from runner.words import counted

_CONFIG_BYTES = 1024 * 1024
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM's --max-lora-rank takes; 16 without it (read in its documentation, 0.11)."""


def write_hand_over_page(outputs: Outputs, job: str) -> None:
    """Write outputs/JOB/HANDOVER.md for the run in use; without one, nothing changes.

    Raises:
        OSError: it cannot be written.
    """
    run_id = known_current(outputs, job)
    if run_id is None:
        return
    run = outputs.run(job, run_id)
    with contextlib.suppress(RunnerError):
        record = read_record(run.record)
        if (made := record.handed_over) is not None:
            there = tuple(form for form in made.forms if (run.root / form.path).exists())
            record = record.but(handed_over=made.model_copy(update={"forms": there}))
        has_link = outputs.current(job).is_symlink()
        text = hand_over_page(record, adapter_config(run), folder="current" if has_link else run_id)
        write_bytes(outputs.root / job / HAND_OVER_PAGE, text.encode())


def adapter_config(run: RunFolder) -> dict[str, Any]:
    """Read a run's adapter_config.json; nothing where it cannot be read."""
    try:
        content = read_plain(run.adapter / "adapter_config.json", limit_bytes=_CONFIG_BYTES)
        found = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def lora_rank(config: dict[str, Any]) -> int:
    """Give the least --max-lora-rank with which vLLM loads an adapter."""
    rank = config.get("r")
    rank = rank if isinstance(rank, int) else VLLM_RANKS[1]
    return next((one for one in VLLM_RANKS if one >= rank), rank)


def serve_adapter(model: str, base: str, *, name: str, folder: str, rank: int) -> str:
    """Write vLLM's command for an adapter beside its base, by paths in the box's folder.

    Args:
        model: the base's name under models/: by its hub id vLLM would fetch it again.
        base: the name under which it is served, by which vLLM's resolver knows the adapter.
        name: the adapter's, for whoever asks.
        folder: the adapter's.
        rank: of `lora_rank`.
    """
    served = f"--served-model-name {shlex.quote(base)} " if base != f"models/{model}" else ""
    return (
        f"vllm serve {shlex.quote(f'models/{model}')} {served}--enable-lora "
        f"--max-lora-rank {rank} --lora-modules {shlex.quote(f'{name}={folder}')}"
    )


def ollama_name(job: str) -> str:
    """Give a name that Ollama takes for a model: Latin letters without accents, digits, ._-."""
    plain = unicodedata.normalize("NFKD", job).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9._-]+", "-", plain.lower()).strip("._-") or "model"


def hand_over_page(record: RunRecord, config: dict[str, Any], *, folder: str = "current") -> str:
    """Write the page: the one command first, the others below.

    Args:
        record: of the run in use.
        config: its adapter_config.json.
        folder: the run's, or the link that leads to it.
    """
    job, made = record.job, record.handed_over or HandedOver()
    name = shlex.quote(job)
    model = record.model.id if record.model else "BASE"
    base = str(config.get("base_model_name_or_path") or model)
    base = base if base.isprintable() else model  # edited by hand: a line of the page is a command
    current = f"outputs/{job}/{folder}"
    merged = made.form(MERGED)
    files = [one for one in made.forms if one.path.endswith(".gguf") and one.name != ADAPTER_GGUF]
    ways = []
    if merged is not None:
        command = f"vllm serve {shlex.quote(f'{current}/{merged.path}')} --served-model-name {name}"
        ways.append(_way("Merged weights with vLLM", command, _measured(merged, made)))
    ways += [
        _way(
            f"GGUF ({one.name}) with llama.cpp, or with Ollama",
            f"llama-server -m {shlex.quote(f'{current}/{one.path}')} --jinja\n    "
            + _ollama(job, _modelfile(current, one)),
            _measured(one, made),
        )
        for one in files
    ]
    adapter = serve_adapter(
        model, base, name=job, folder=f"{current}/adapter", rank=lora_rank(config)
    )
    is_16_bits = record.method is not None and record.method.method == "lora"
    of_adapter = ("" if is_16_bits else _OF_QLORA.format(run=record.run_id)) + _OF_ADAPTER
    ways.append(_way("The adapter beside its base with vLLM", adapter, of_adapter))
    if (alone := made.form(ADAPTER_GGUF)) is not None:
        path = shlex.quote(f"{current}/{alone.path}")
        command = f"llama-server -m {BASE_GGUF} --lora {path} --jinja\n    " + _ollama(
            job, _modelfile(current, alone)
        )
        title = "The adapter as a GGUF file on its base with llama.cpp, or with Ollama"
        ways.append(_way(title, command, _OF_GGUF_ADAPTER + _measured(alone, made)))
    return (
        f"# {job}: how to serve it\n\n"
        f"In use is run `{record.run_id}`. The paths start in the box's folder (BOX_DIR)"
        + (_BY_LINK if folder == "current" else _BY_NAME)
        + "\n".join(sorted(ways, key=lambda way: _BEYOND in way))  # what passed comes first
        + _ASKING
        + "\nAsk as in training, with the same system prompt where there was one: "
        f"`{current}/adapter/README.md`\nshows the lines.\n"
        + (_FIGURES if any(form.figures for form in made.forms) else "")
    )


_BEYOND = "**It does not do what the adapter does: see the report.**"
_BY_LINK = (
    ", and `current` always leads to\nthe run in use: after a new one came into use, restart the "
    "server.\n\n"
)
_BY_NAME = (
    ".\nThis disk has no links: once a new run is in use, this page names it, and the server has "
    "to be started\nwith the new paths.\n\n"
)
_OF_QLORA = (
    "vLLM loads the base in 16 bits. An adapter of `method: qlora` was trained on the base in 4 "
    "bits and may\nanswer otherwise there: `runner export {run} --merged` measures it.\n"
)
_OF_ADAPTER = (
    "To load the folder by vLLM's own resolver, its `base_model_name_or_path` has to be the name "
    "that the\nbase is served under.\n"
)
_ASKING = """
## Asking it

Programs that speak OpenAI's interface reach the model at `http://localhost:8000/v1` (vLLM),
`http://localhost:8080/v1` (llama-server) or `http://localhost:11434/v1` (Ollama). vLLM listens on
all network addresses of the machine and asks for no key: `--host 127.0.0.1` keeps it to the
machine, `--api-key` asks for a key.
"""
_FIGURES = """
## What the figures mean

Held-out rows are questions and answers of your data that were not learned. The loss says how badly
a form foretells those answers: lower is better, and it should be nearly the same as what it is
compared with. Next tokens are the pieces of words that an answer is made of.
"""


_OF_GGUF_ADAPTER = (
    f"`{BASE_GGUF}` stands for the base model's own GGUF file in q8_0 or f16; for Ollama it has to "
    "lie beside the\nModelfile under that name. On a smaller one it answers otherwise.\n"
)


def _ollama(job: str, modelfile: str) -> str:
    name = ollama_name(job)
    return f"ollama create {name} -f {shlex.quote(modelfile)} && ollama run {name}"


def _modelfile(current: str, form: ServedForm) -> str:
    return f"{current}/{form.path.removesuffix('.gguf')}{MODELFILE}"


def _way(title: str, command: str, said: str) -> str:
    return f"## {title}\n\n    {command}\n\n{said}"


def _measured(form: ServedForm, made: HandedOver) -> str:
    """Say what was measured of a form, in a sentence."""
    figures, reference = form.figures, made.reference
    verdict = f"\n{_BEYOND}" if form.within is False else ""
    if figures is None or figures.same_top is None:
        return f"It was not measured on held-out rows.{verdict}\n"
    same = f"{figures.same_top:.1%} of its next tokens are the same"
    against = compared_with(figures, reference)
    on = f"On {counted(figures.rows or made.rows or 0, 'held-out row')}"
    if figures.loss is None or against is None:
        return f"{on} {same} as the adapter's.{verdict}\n"
    whose = "that of the weights that it was\nmade from is"
    if figures.reference_loss is None:
        whose = "the adapter's on the base that it was\ntrained on is"
    return (
        f"{on} its loss is {figures.loss:.3f} where {whose} {against:.3f}, and {same}.{verdict}\n"
    )
