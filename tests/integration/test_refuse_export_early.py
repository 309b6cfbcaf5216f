"""An export that cannot be made is refused before the run, with the numbers or by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.commands.validate import validate
from runner.contract.models import read_config
from runner.errors import SpecError
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec
from runner.training.data.try_model import try_model
from runner.training.export.base_weights import read_base
from runner.training.export.refuse_early import (
    needed_disk,
    refused_export,
    refused_layers,
    short_of_disk,
    short_of_memory,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own
GIB = 1024**3


def spec_with(text: str) -> JobSpec:
    """Give a spec with these lines."""
    return read_spec(f"model: m\ndata: d.jsonl\n{text}\n".encode(), file_name="job.yaml")


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("method: lora\nexport: {merged: true}", 1),
        ("method: qlora\nexport: {merged: true}", 2),  # into both bases, and the better one stays
        ("method: lora\nexport: {gguf: [f16]}", 2),
        ("method: lora\nexport: {gguf: [q8_0]}", 2.54),  # made from 16 bits
        ("method: lora\nexport: {gguf: [q8_0, f16, q4_k_m]}", 2.92),
        ("export: {merged: true}", 1),  # either method: in 16 bits it is merged once
        ("method: qlora\nexport: {adapter_gguf: true}", 1.54),  # the base that it is tried on
        ("method: qlora\nexport: {merged: true, adapter_gguf: true}", 2.54),
        ("method: lora\nexport: {gguf: [q8_0], adapter_gguf: true}", 4.08),
    ],
)
def test_the_disk_that_an_export_needs_is_known_before(text: str, times: float) -> None:
    """What lies there at a time; more than the whole disk is refused with both numbers."""
    spec = spec_with(text)
    needed = needed_disk(spec, 16 * GIB)
    assert needed == pytest.approx(16 * GIB * times)
    assert short_of_disk(spec, 16 * GIB, needed) is None
    refused = short_of_disk(spec, 16 * GIB, needed - GIB)
    assert refused is not None
    assert f"{16 * times:.1f} GiB of disk" in refused.message
    assert f"{16 * times - 1:.1f} GiB" in refused.message
    fields = ("merged", "gguf:", "adapter_gguf")
    first = next(one for one in fields if f"{{{one}" in text or f" {one}" in text)
    assert refused.field == f"export.{first.rstrip(':')}"


def test_an_adapter_file_that_the_disk_cannot_hold_is_refused_with_the_numbers(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what its trial takes of the disk, counted from the base's own files."""
    spec, config = spec_with("export: {adapter_gguf: true}"), read_config(tiny_model, "tiny")
    whole = sum(file.stat().st_size for file in tiny_model.glob("*.safetensors"))
    for size, is_refused in ((round(1.5 * whole), True), (round(1.6 * whole), False)):
        disk = lambda _, size=size: SimpleNamespace(total=size)  # noqa: E731
        monkeypatch.setattr("runner.training.export.refuse_early.shutil.disk_usage", disk)
        found = refused_export(spec, tiny_model, config, tmp_path)
        assert (found is not None) is is_refused
    monkeypatch.undo()
    quantised = {**config, "quantization_config": {"quant_method": "bitsandbytes"}}
    said = refused_export(spec, tiny_model, quantised, tmp_path)
    assert said is not None
    assert "itself quantised" in said.message
    assert said.field == "export.adapter_gguf"


@pytest.mark.parametrize("export", ["merged: true", "merged: true, adapter_gguf: true"])
def test_validate_knows_a_spec_that_leaves_the_method_to_the_box(
    tiny_model: Path, tmp_path: Path, export: str
) -> None:
    """As nearly every spec does: nothing is wrong with it where the disk has room."""
    (tmp_path / "job.yaml").write_text(f"model: tiny\ndata: rows.jsonl\nexport: {{{export}}}\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    found = validate(tmp_path / "job.yaml", tiny_model.parent, outputs_dir=tmp_path / "new")
    assert [one for one in found.problems if one.field != "export.adapter_gguf"] == []


@pytest.mark.parametrize("line", ["use_dora: true", "dora: true", "modules_to_save: [lm_head]"])
def test_what_no_export_could_hold_is_no_field_of_a_spec(line: str) -> None:
    """DoRA and layers trained whole are named, with what to do, where the spec is read."""
    with pytest.raises(SpecError) as found:
        spec_with(f"lora: {{{line}}}")
    (problem,) = found.value.problems
    assert "DoRA is not trained here" in str(problem) or "lora.target_modules" in str(problem)


def test_a_tensor_larger_than_the_machines_memory_is_refused(tiny_model: Path) -> None:
    """With what it takes and what there is; a smaller one may be merged."""
    spec, weights = spec_with("export: {merged: true}"), read_base(tiny_model, "tiny")
    assert short_of_memory(spec, weights, 64 * GIB) is None
    refused = short_of_memory(spec, weights, 1024**2)
    assert refused is not None
    assert "1 MiB" in refused.message or "0.0 GiB" in refused.message


def test_a_tied_head_is_refused_by_validate_and_at_the_run(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Only where something is merged: the adapter alone may have it."""
    tied = "lora: {target_modules: [q_proj, lm_head]}\n"
    for export, is_refused in (("export: {gguf: [q8_0], merged: true}\n", True), ("", False)):
        (tmp_path / "job.yaml").write_text(f"model: tiny\ndata: rows.jsonl\n{tied}{export}")
        (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
        found = validate(tmp_path / "job.yaml", tiny_model.parent, outputs_dir=tmp_path / "new")
        said = [one for one in found.problems if one.field == "export.merged"]
        assert bool(said) is is_refused
        assert all("the same tensor" in one.message for one in said)
        spec = read_spec((tmp_path / "job.yaml").read_bytes(), file_name="job.yaml")
        config = read_config(tiny_model, "tiny")
        assert bool(refused_export(spec, tiny_model, config, tmp_path)) is is_refused


def test_a_table_of_words_is_refused_before_the_run(tiny_model: Path, tmp_path: Path) -> None:
    """Its part of an adapter is no addition to a weight as other layers' are, tied or not."""
    spec = spec_with("lora: {target_modules: [q_proj, embed_tokens]}\nexport: {merged: true}")
    config = {**read_config(tiny_model, "tiny"), "tie_word_embeddings": False}
    refused = refused_export(spec, tiny_model, config, tmp_path)
    assert refused is not None
    assert "embed_tokens, the table of words" in refused.message


def test_layers_that_the_files_do_not_show_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    """The adapter is tried without weights: a part without its place is named before training."""
    from safetensors.torch import load_file, save_file

    spec = spec_with("export: {merged: true}")
    layers = try_model(tiny_model, spec, longest=20).layers
    assert "model.layers.0.mlp.up_proj.weight" in layers.shapes
    assert refused_layers(spec, tiny_model, layers) is None
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    weights = load_file(other / "model.safetensors")
    renamed = {name.replace("up_proj", "rise_proj"): one for name, one in weights.items()}
    save_file(renamed, other / "model.safetensors", metadata={"format": "pt"})
    refused = refused_layers(spec, other, layers)
    assert refused is not None
    assert "up_proj" in refused.message
    assert "Leave export.merged out" in (refused.hint or "")
    assert refused_layers(spec_with(""), other, layers) is None


def test_layers_stored_the_other_way_round_are_refused(tmp_path: Path) -> None:
    """GPT-2's kind of layer is named; nobody trains for hours first."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=32, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "gpt2"
    spec = spec_with("export: {gguf: [q8_0]}")
    refused = refused_layers(spec, tmp_path, try_model(tmp_path, spec, longest=20).layers)
    assert refused is not None
    assert "Conv1D" in refused.message
    assert refused.field == "export.gguf"
