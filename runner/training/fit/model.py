"""Base model: loaded in 4 or 16 bits, with a fresh LoRA adapter put on it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.fp8_cards import FP8_HINT, fp8_obstacle
from runner.contract.stage_io import StagePlan
from runner.errors import ModelError, Problem, StageError
from runner.exit_codes import ExitCode
from runner.spec.spec import JobSpec
from runner.training.fit.adapter_layers import left_out, require_adaptable, unusable_adapter
from runner.training.fit.base_cache import BaseCache, forget, is_usable, keep
from runner.training.fit.base_config import attention_of, training_config, unusable
from runner.training.fit.language_part import (
    class_of_whole,
    part_of,
    require_all_weights,
    require_same_answers,
    take_out,
)
from runner.training.fit.memory import classify, let_go, plan_does_not_fit
from runner.training.fit.quantise_on_card import quantised_on


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the model computes, and in what."""

    device: str
    """``cuda`` or ``cpu``."""
    compute: str
    """``bfloat16``; without it ``float16`` on a card and ``float32`` on a CPU."""
    quantises_on: str | None = None
    """Where 4-bit weights are made; None: on the device itself."""

    @property
    def host(self) -> Machine:
        """This machine's memory beside the card: a model lies there until its parts are placed."""
        return Machine(device="cpu", compute=self.compute, quantises_on=self.device)

    @property
    def on_gpu(self) -> bool:
        """Whether there is a card."""
        return self.device != "cpu"


def find_machine(device: str, compute: str = "auto") -> Machine:
    """Choose the card where torch sees one, and the number format that it computes well in.

    Args:
        device: ``auto``; ``cpu`` to not look for a card; ``cuda`` where the driver shows one, so
            that a card which torch cannot reach is not replaced by a CPU in silence.
        compute: ``auto``, or ``float32`` where rounding must not hide a difference.
    """
    import torch

    on_gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and torch.version.cuda and not on_gpu:
        raise StageError(
            "The driver shows a card, and torch cannot reach it.",
            exit_code=ExitCode.GPU_LOST,
            kind="gpu_lost",
            advice="Run `runner doctor`.",
        )
    if compute != "auto":
        return Machine(device="cuda" if on_gpu else "cpu", compute=compute)
    if on_gpu:
        # Cards before Ampere emulate bf16, slowly: torch says they support it.
        has_bf16 = torch.cuda.get_device_capability()[0] >= 8
        return Machine(device="cuda", compute="bfloat16" if has_bf16 else "float16")
    return Machine(device="cpu", compute="bfloat16" if _cpu_has_bf16() else "float32")


def require_fp8() -> None:
    """Refuse `speed: fp8` on a card that has no fp8.

    Raises:
        ModelError: naming the card.
    """
    import torch

    major, minor = torch.cuda.get_device_capability()
    why = fp8_obstacle(torch.cuda.get_device_name(), f"{major}.{minor}")
    if why is not None:
        raise ModelError([Problem(field="speed", found="fp8", message=why, hint=FP8_HINT)])


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 by itself; others emulate it, slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return " avx512_bf16" in flags or " amx_bf16" in flags


def load_base(
    folder: Path,
    *,
    method: str,
    machine: Machine,
    trust_remote_code: bool = False,
    whole: bool = False,
    cache: BaseCache | None = None,
) -> Any:
    """Load a base model: NF4 with double quantisation for ``qlora``, 16 bits for ``lora``.

    Args:
        folder: the model's.
        method: of the spec.
        machine: where it computes.
        trust_remote_code: whether code of its own may run.
        whole: of a model that also reads pictures, all of it, as people use it; else its language
            part alone, as it is trained. Other models are the same either way.
        cache: where quantised weights are kept; None: they are made anew.

    Raises:
        ModelError: transformers cannot load it, and says why.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = training_config(folder, trust_remote_code=trust_remote_code)
    part = part_of(config)
    compute = getattr(torch, machine.compute)
    options: dict[str, Any] = {"dtype": compute}
    if stored := getattr(config, "quantization_config", None):
        # Quantised by bitsandbytes before it came here (others are refused): transformers then
        # takes what the file says, which may be a number format that this card lacks.
        stored["bnb_4bit_compute_dtype"] = machine.compute
    elif method == "qlora":
        options["quantization_config"] = nf4(machine.compute)
    kind = AutoModelForCausalLM if part is None else class_of_whole(config)
    if part is None:
        options["trust_remote_code"] = trust_remote_code
    options |= {
        "device_map": {"": 0 if machine.on_gpu else "cpu"},
        "attn_implementation": attention_of(config, trust_remote_code=trust_remote_code),
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
    }
    # Code of a model's own may hold weights that their files do not show, and a model that also
    # reads pictures is taken apart: both are loaded from their own files.
    entry = None
    if cache is not None and part is None and not trust_remote_code and not stored:
        entry = _entry(cache, folder, machine) if method == "qlora" else None
    if entry is not None and (found := _load_entry(entry, folder, machine, options)) is not None:
        return found
    try:
        with quantised_on(machine.quantises_on):
            model, told = kind.from_pretrained(folder, config=config, **options)
    except (ValueError, ImportError, KeyError, AttributeError) as error:
        raise unusable(folder, error) from error
    require_all_weights(folder, told["missing_keys"])
    if cache is not None and cache.keeps and entry is not None:
        keep(cache, entry, model, folder)
    _make_ready(model)
    if part is None or whole:
        return model
    text = take_out(model, part)
    require_same_answers(model, text)
    _make_ready(text)
    del model
    let_go()  # what reads pictures is not trained: its memory goes back before the first batch
    return text


def base_cache_of(plan: StagePlan, *, keeps: bool = True) -> BaseCache | None:
    """Give the cache that a stage was told of."""
    if plan.base_cache is None:
        return None
    return BaseCache(folder=Path(plan.base_cache), leave_bytes=plan.leave_bytes, keeps=keeps)


def _entry(cache: BaseCache, folder: Path, machine: Machine) -> Path:
    settings = nf4(machine.compute).to_dict()
    made_on = machine.quantises_on or machine.device
    return cache.entry(folder, {"nf4": settings, "device": made_on})


def _load_entry(entry: Path, folder: Path, machine: Machine, options: dict[str, Any]) -> Any | None:
    """Load the weights that were quantised before; None: the model itself has to be."""
    from transformers import AutoModelForCausalLM

    if not is_usable(entry):
        return None
    config = training_config(folder)
    config.quantization_config = nf4(machine.compute).to_dict()
    others = {key: value for key, value in options.items() if key != "quantization_config"}
    try:
        model, told = AutoModelForCausalLM.from_pretrained(entry, config=config, **others)
        wrong = [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]
        if wrong:
            raise ValueError(f"{len(wrong)} weights do not fit, {wrong[0]} first")
    except Exception as error:  # an entry must cost time, never the run
        if isinstance(error, MemoryError) or plan_does_not_fit(
            classify(error), on_gpu=machine.on_gpu
        ):
            raise
        print(f"The kept 4-bit weights cannot be used and are made again: {error}", flush=True)
        traceback.clear_frames(error.__traceback__)
        forget(entry)
    else:
        model.name_or_path = model.config.name_or_path = str(folder)
        _make_ready(model)
        return model
    let_go()
    return None


def _make_ready(model: Any) -> None:
    """Switch off what would train something else than the rows, or leave a trace."""
    model.config.use_cache = False
    silence(model)
    # bitsandbytes repacks NF4 weights at their first use outside training on a CPU with bf16: other
    # numbers (7e-4 of a loss) from then on, in training too. A probe would leave a trace.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def nf4(compute: str) -> Any:
    """Say how bitsandbytes keeps the base for ``qlora``."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, compute),
    )


def silence(model: Any) -> None:
    """Switch off dropout that a model's code has without asking its config."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def add_adapter(model: Any, spec: JobSpec) -> Any:
    """Put a fresh LoRA adapter on the model; seed torch first.

    Raises:
        ModelError: a layer that the spec names is not there, or cannot have an adapter.
    """
    from peft import LoraConfig, get_peft_model

    wanted = spec.lora.target_modules
    if not isinstance(wanted, str):
        require_adaptable(model, wanted)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.lora.r,
        lora_alpha=spec.lora.alpha,  # a float is fine: the scale is alpha / r
        lora_dropout=spec.lora.dropout,
        target_modules=wanted if isinstance(wanted, str) else list(wanted),
        exclude_modules=(left_out(model) or None) if isinstance(wanted, str) else None,
        use_rslora=spec.lora.use_rslora,
        bias="none",
    )
    try:
        return get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise unusable_adapter(error, wanted) from error


def use_fp32_adapters(model: Any) -> None:
    """Let every trainable weight be fp32: TRL makes QLoRA's bf16, and a resume would not."""
    import torch

    for weight in model.parameters():
        if weight.requires_grad and weight.dtype != torch.float32:
            weight.data = weight.data.float()
