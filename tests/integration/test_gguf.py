"""GGUF files by llama.cpp's own tools: what they answer is what transformers and PEFT answer."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.contract.handed_over import Figures
from runner.contract.llama_cpp import LlamaCpp, find_llama_cpp, missing_tools
from runner.spec.export import GGUF
from runner.training.export.end_proof import judge_end, prove_ends
from runner.training.export.llama_convert import (
    NoGgufError,
    adapter_problem,
    as_llama_scales,
    convert_adapter,
    convert_model,
    quantize,
    require_convertible,
    require_disk,
)
from runner.training.export.llama_proof import KEPT, Place, compare, judge
from runner.training.export.llama_server import serve

MESSAGES = [
    {"role": "system", "content": "Answer like a clerk."},
    {"role": "user", "content": "Who owns the wall, 2nd floor?"},
]
CONTEXT = 512
END, OTHER_END = "<|im_end|>", 7


@dataclass(frozen=True, kw_only=True)
class Models:
    """A base, an adapter that changes it, both as one model, and what transformers says of them."""

    tools: LlamaCpp
    base: Path
    adapter: Path
    merged: Path
    places: list[Place]
    prompt: list[int]


def _log_probabilities(model: Any, ids: list[int], places: range) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, [at - 1 for at in places]].log_softmax(-1)


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The first layers of SmolLM2 with a seeded rsLoRA adapter, merged by PEFT itself."""
    tools = find_llama_cpp()
    if tools is None:
        pytest.skip(f"NO LLAMA.CPP: {missing_tools()}")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("gguf")
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    answer = tokenizer("The wall belongs to the 2nd floor.")["input_ids"]
    ids = [*prompt, *answer]
    places = range(len(prompt), len(ids))
    without = _log_probabilities(base, ids, places)
    config = LoraConfig(
        r=16, lora_alpha=16, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        adapted = get_peft_model(base, config).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05)
    trained = _log_probabilities(adapted, ids, places)
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().half().save_pretrained(folder / "merged")
    tokenizer.save_pretrained(folder / "merged")
    return Models(
        tools=tools,
        base=tiny_model,
        adapter=folder / "adapter",
        merged=folder / "merged",
        prompt=prompt,
        places=[
            Place(before=tuple(ids[:at]), token=ids[at], trained=own, base=other)
            for at, own, other in zip(places, trained, without, strict=True)
        ],
    )


@pytest.fixture(scope="module")
def q8_base(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base as a GGUF file."""
    target = tmp_path_factory.mktemp("base") / "base.gguf"
    log = target.with_name("log")
    convert_model(models.base, target, models.tools, log=log)
    return target


def test_formats_answer_as_the_merged_model_does(models: Models, tmp_path: Path) -> None:
    """Each format is one file alone, smaller than the one before, and within its tolerance."""
    sizes = []
    whole = tmp_path / "f16.gguf"
    for form in GGUF:
        target = tmp_path / f"{form}.gguf"
        if form == "f16":
            convert_model(models.merged, whole, models.tools, log=tmp_path / "log")
        else:
            quantize(whole, target, models.tools, form=form, log=tmp_path / "log")
        assert {file.stem for file in tmp_path.glob("*.gguf")} == set(GGUF[: len(sizes) + 1])
        sizes.append(target.stat().st_size)
        with serve(models.tools, target, context=CONTEXT, log=tmp_path / "log") as server:
            figures = compare(models.places, lambda ids: server.next_tokens(ids, most=1024))
            assert judge(form, figures) is None, figures
        if form == "f16":  # the same numbers: only rounding differs
            assert (figures.kl or 0) < 1e-3
            assert figures.same_top == 1
    assert sizes == sorted(sizes, reverse=True)


def test_an_adapter_file_does_what_peft_does(models: Models, q8_base: Path, tmp_path: Path) -> None:
    """On the base's GGUF file, rsLoRA's scale included; switched off, the base answers."""
    target = tmp_path / "adapter.gguf"
    log = tmp_path / "log"
    convert_adapter(models.adapter, models.base, target, models.tools, log=log)
    with serve(models.tools, q8_base, context=CONTEXT, log=log, adapter=target) as server:
        on = compare(models.places, lambda ids: server.next_tokens(ids, most=1024))
        off = compare(models.places, lambda ids: server.next_tokens(ids, most=1024, adapter=False))
    assert judge("adapter_gguf", on) is None, on
    assert (on.kept or 0) > 0.95
    assert (off.kept or 0) < 0.1
    assert "does not work" in (judge("adapter_gguf", off) or "")


def test_an_adapter_of_zeros_is_caught(models: Models, q8_base: Path, tmp_path: Path) -> None:
    """A file that loads and changes nothing is named: what training changed is not there."""
    from safetensors.torch import load_file, save_file

    zeroed = tmp_path / "zeroed"
    zeroed.mkdir()
    weights = load_file(models.adapter / "adapter_model.safetensors")
    save_file({k: v * 0 for k, v in weights.items()}, zeroed / "adapter_model.safetensors")
    (zeroed / "adapter_config.json").write_bytes(
        (models.adapter / "adapter_config.json").read_bytes()
    )
    target, log = tmp_path / "adapter.gguf", tmp_path / "log"
    convert_adapter(zeroed, models.base, target, models.tools, log=log)
    with serve(models.tools, q8_base, context=CONTEXT, log=log, adapter=target) as server:
        found = compare(models.places, lambda ids: server.next_tokens(ids, most=1024))
    assert (found.kept or 0) < KEPT
    assert "Do not serve it" in (judge("adapter_gguf", found) or "")


def test_another_gguf_package_is_not_in_the_converters_way(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that lies beside them is taken, whatever is installed or asked for."""
    package = tmp_path / "site" / "gguf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('another version')\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("NO_LOCAL_GGUF", "1")
    target, log = tmp_path / "base.gguf", tmp_path / "log"
    convert_model(models.base, target, models.tools, log=log)
    assert target.stat().st_size > 1_000_000
    adapter = tmp_path / "adapter.gguf"
    convert_adapter(models.adapter, models.base, adapter, models.tools, log=log)
    assert adapter.stat().st_size > 1_000


def test_the_server_builds_the_prompt_that_was_trained(
    models: Models, q8_base: Path, tmp_path: Path
) -> None:
    """The chat template in the file gives the tokens of transformers, digits and marks included."""
    with serve(models.tools, q8_base, context=CONTEXT, log=tmp_path / "log") as server:
        assert server.prompt(MESSAGES) == models.prompt


def with_another_end(model: Path, target: Path) -> None:
    """Copy a GGUF file whose end token has another name and which stops at another one.

    llama.cpp knows many end tokens by their names, whatever the file says: both are changed.
    """
    content = bytearray(model.read_bytes())
    name = len(END).to_bytes(8, "little") + END.encode()
    assert content.count(name) == 1
    at = content.index(name) + 8
    content[at : at + len(END)] = b"<|im_now|>"
    key = b"tokenizer.ggml.eos_token_id"
    at = content.index(key) + len(key) + 4  # after the number of its type
    content[at : at + 4] = OTHER_END.to_bytes(4, "little")
    target.write_bytes(content)


def test_a_file_whose_end_token_was_changed_is_caught(
    models: Models, q8_base: Path, tmp_path: Path
) -> None:
    """Answers of the sound file end at the learned token, those of the other run on; it is said."""
    from transformers import AutoTokenizer

    end = AutoTokenizer.from_pretrained(models.base).convert_tokens_to_ids(END)
    trained = models.places[0].trained.clone()
    trained[end] = 100.0  # the trained model ends its answer here
    place = Place(before=tuple(models.prompt), token=end, trained=trained, base=None)
    call = trained.clone()
    call[0] = 99.5  # by so little that another format may go on: it is not asked
    close = Place(before=tuple(models.prompt), token=end, trained=call, base=None)
    broken = tmp_path / "broken.gguf"
    with_another_end(q8_base, broken)
    found = {}
    for file in (q8_base, broken):
        with serve(models.tools, file, context=CONTEXT, log=tmp_path / "log") as server:
            found[file] = prove_ends([place, close], server, frozenset({end}), Figures())
    assert found[q8_base].stops is True
    assert judge_end("q8_0", found[q8_base].model_copy(update={"ends": 1.0}), [END]) is None
    assert found[broken].stops is False
    assert END in (judge_end("q8_0", found[broken], [END]) or "")
    # This base does not end its answer there by itself, and the figure says so.
    assert (found[q8_base].ends, found[q8_base].end_places) == (0.0, 1)
    assert "run on" in (judge_end("q8_0", found[q8_base], [END]) or "")


def test_a_model_that_cannot_be_converted_is_refused_by_name(
    models: Models, tmp_path: Path
) -> None:
    """An unknown architecture, and code that the converter would run, before a byte is written."""
    config = json.loads((models.base / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["NewForLM"]}))
    with pytest.raises(NoGgufError, match="NewForLM"):
        require_convertible(tmp_path, "new", models.tools, trust_code=False)
    (tmp_path / "config.json").write_text(json.dumps(config))
    require_convertible(tmp_path, "new", models.tools, trust_code=False)
    (tmp_path / "modeling_new.py").write_text("")
    with pytest.raises(NoGgufError, match="Python code"):
        require_convertible(tmp_path, "new", models.tools, trust_code=False)
    require_convertible(tmp_path, "new", models.tools, trust_code=True)


def test_what_the_disk_cannot_hold_is_refused_with_the_numbers(tmp_path: Path) -> None:
    """Before a byte is written, with what is needed and what is free."""
    with pytest.raises(NoGgufError, match=r"GiB.*free"):
        require_disk(tmp_path, 2**60)
    require_disk(tmp_path, 1)


def test_what_a_gguf_adapter_cannot_hold_is_named() -> None:
    """DoRA and whole layers would be left out in silence; the scale of rsLoRA is written."""
    assert adapter_problem({"use_dora": False, "modules_to_save": None}) is None
    assert "DoRA" in (adapter_problem({"use_dora": True}) or "")
    assert "modules_to_save" in (adapter_problem({"modules_to_save": ["lm_head"]}) or "")
    scaled = as_llama_scales({"use_rslora": True, "lora_alpha": 16, "r": 16})
    assert scaled["lora_alpha"] / 16 == 16 / math.sqrt(16)
