"""GGUF conversion: a Hugging Face folder or a PEFT adapter as a GGUF file, by llama.cpp itself.

Its converters run as children with packages of their own beside them, so that none of the runner's
is replaced, and offline. What they print goes into a log; people read what went wrong in words.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from runner.contract.llama_cpp import LlamaCpp, unknown_architecture
from runner.contract.models import read_config, weight_files
from runner.errors import RunnerError
from runner.training.export.end_with_parent import end_with_parent
from runner.words import memory

F16 = "f16"
SHARE_OF_F16 = {F16: 1.0, "q8_0": 0.54, "q5_k_m": 0.42, "q4_k_m": 0.38}
"""How large a file of a format is beside the one in 16 bits, at most. Of small models more stays in
many bits: K-quants need rows of a multiple of 256 numbers. Estimates: no large model was tried."""
TRIAL_BASE = "q8_0"
"""The base in which a GGUF adapter is tried: nearly the 16 bits, in half the room."""
_RESERVE_BYTES = 1024**3  # what stays free on the disk for others
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ADAPTER_REFUSED = {
    "use_dora": "DoRA",
    "modules_to_save": "layers trained as a whole (modules_to_save)",
    "lora_bias": "a bias in the adapter (lora_bias)",
    "alpha_pattern": "several alphas (alpha_pattern)",
    "target_parameters": "experts kept in one tensor (target_parameters)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
}
"""What a GGUF adapter has no place for: refused by name, since llama.cpp would leave it out."""
_MEANINGS = (
    (
        "pre-tokenizer was not recognized",
        "llama.cpp does not know this model's tokenizer",
        "Serve the adapter or merged/ with transformers or vLLM.",
    ),
    ("not supported", "llama.cpp does not know this model's architecture", None),
    ("No space left", "the disk is full", "Free some space under outputs/."),
)
"""Words in a converter's last lines → what they mean, what to do."""
_TAIL_BYTES = 4000


class NoGgufError(RunnerError):
    """A GGUF file cannot be made of this model."""

    kind = "no_gguf"


def require_convertible(model: Path, name: str, tools: LlamaCpp, *, trust_code: bool) -> None:
    """Refuse a model that the converter cannot read, or must not.

    Args:
        model: a Hugging Face folder.
        name: what people call it.
        tools: llama.cpp.
        trust_code: the box's owner lets code of models run.

    Raises:
        NoGgufError: its architecture is unknown, or it brings code, which the converter would run.
    """
    if said := unknown_architecture(read_config(model, name), tools):
        raise NoGgufError(f"{said}.", advice="Serve merged/ with transformers or vLLM.")
    if not trust_code and any(model.glob("*.py")):
        raise NoGgufError(
            "The model's folder has Python code, which the converter would run.",
            advice="Remove the code, or let code of models run: RUNNER_TRUST_REMOTE_CODE=true.",
        )


def forecast_bytes(model: Path, name: str, *forms: str) -> int:
    """Forecast how large the files of a model in these formats are, together."""
    whole = sum(file.stat().st_size for file in weight_files(model, name))
    return round(whole * sum(SHARE_OF_F16[form] for form in forms))


def require_disk(folder: Path, needed: int) -> None:
    """Refuse what the disk has no room for, with the numbers.

    Raises:
        NoGgufError: there is less than that, or next to nothing would be left.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _RESERVE_BYTES:
        raise NoGgufError(
            f"It needs {memory(needed)} on the disk under outputs/, and "
            f"{memory(_RESERVE_BYTES)} to spare; {memory(free)} are free.",
            advice="Free some space, then run `runner export RUN`.",
        )


def convert_model(model: Path, target: Path, tools: LlamaCpp, *, log: Path) -> None:
    """Make a GGUF file in 16 bits of a model; it has its name when it is whole.

    Args:
        model: a Hugging Face folder in 16 bits.
        target: the file.
        tools: llama.cpp.
        log: what the tools print is added to it.

    Raises:
        NoGgufError: it cannot be made, and why.
    """
    begun = target.with_name(f"begun-{target.name}")
    try:
        script = [sys.executable, str(tools.convert_model), str(model)]
        _run([*script, "--outfile", str(begun), "--outtype", F16], tools, log)
        begun.rename(target)
    finally:
        begun.unlink(missing_ok=True)


def quantize(whole: Path, target: Path, tools: LlamaCpp, *, form: str, log: Path) -> None:
    """Make a smaller GGUF file of one in 16 bits, by llama.cpp's own program.

    Args:
        whole: in 16 bits; it stays.
        target: the file, which is not yet under its final name.
        tools: llama.cpp.
        form: one of `SHARE_OF_F16`.
        log: what the tools print is added to it.

    Raises:
        NoGgufError: it cannot be made, and why.
    """
    threads = str(os.cpu_count() or 1)
    _run([str(tools.quantize), str(whole), str(target), form.upper(), threads], tools, log)


def convert_adapter(adapter: Path, base: Path, target: Path, tools: LlamaCpp, *, log: Path) -> None:
    """Make a GGUF file of an adapter alone, for a base that llama.cpp has.

    Raises:
        NoGgufError: it cannot be made, and why.
    """
    config = json.loads((adapter / _CONFIG).read_bytes())
    if said := adapter_problem(config):
        raise NoGgufError(said, advice="Ask for the whole model instead: export: {gguf: [q8_0]}.")
    with tempfile.TemporaryDirectory(dir=target.parent) as beside:
        folder = Path(beside)
        (folder / _CONFIG).write_text(json.dumps(as_llama_scales(config)))
        shutil.copyfile(adapter / _WEIGHTS, folder / _WEIGHTS)  # a link cannot be made on SMB
        script = [sys.executable, str(tools.convert_adapter), str(folder), "--base", str(base)]
        _run([*script, "--outfile", str(target), "--outtype", F16], tools, log)


def adapter_problem(config: dict[str, Any]) -> str | None:
    """Name what an adapter has that a GGUF adapter cannot hold; None: nothing."""
    found = [words for key, words in _ADAPTER_REFUSED.items() if config.get(key)]
    if config.get("use_rslora") and config.get("rank_pattern"):
        found.append("rsLoRA with several ranks (rank_pattern)")
    return f"A GGUF adapter has no place for {', '.join(found)}." if found else None


def as_llama_scales(config: dict[str, Any]) -> dict[str, Any]:
    """Give the configuration with the alpha that makes llama.cpp scale as PEFT does.

    llama.cpp always multiplies by alpha / r, and its converter does not look at ``use_rslora``,
    with which PEFT multiplies by alpha / sqrt(r): r = 16 would be served at a quarter.
    """
    if not config.get("use_rslora"):
        return config
    alpha = config["lora_alpha"] * math.sqrt(config["r"])
    return {**config, "lora_alpha": alpha, "use_rslora": False}


def _run(command: list[str], tools: LlamaCpp, log: Path) -> None:
    """Run one of the tools; what it prints goes into the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        ended = subprocess.run(
            end_with_parent(command),
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_environment(tools),
            check=False,
        )
    if ended.returncode == 0:
        return
    with log.open("rb") as back:
        back.seek(max(0, back.seek(0, os.SEEK_END) - _TAIL_BYTES))
        tail = back.read().decode(errors="replace")
    for words, meaning, advice in _MEANINGS:
        if words in tail:
            raise NoGgufError(f"{meaning}.".capitalize(), advice=advice)
    raise NoGgufError(
        f"{Path(command[0 if command[0] == str(tools.quantize) else 1]).name} ended with exit code "
        f"{ended.returncode}.",
        advice=f"What it printed is in {log.parent.name}/{log.name} of the run's folder.",
    )


def _environment(tools: LlamaCpp) -> dict[str, str]:
    """Give the child what the stage has, with the converter's own packages before all others."""
    paths = [str(tools.root / "python"), os.environ.get("PYTHONPATH", "")]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1"}
    kept = {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # Its converters take another `gguf` than the one beside them where this is set.
    kept.pop("NO_LOCAL_GGUF", None)
    kept["PYTHONDONTWRITEBYTECODE"] = "1"  # the image's folder is not writable
    return kept
