"""The stage that merges, on a real small model: each form is measured beside the adapter."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_answers import CPU, ROWS, prepared, with_adapter

from runner.contract.checkpoints import sha256_of
from runner.contract.handed_over import HandedOver
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.models import describe_model, fetch_command
from runner.contract.stage_io import HandOverPlan, HandOverResult, read_message, write_message
from runner.errors import ModelError, StageError
from runner.training.export import compare, gguf, merged, where_it_fits
from runner.training.export.hand_over import hand_over
from runner.training.export.makers import Made
from runner.training.export.merge import plan_merge
from runner.training.export.where_it_fits import PROCESSOR_ROWS

SPEC = """\
model: tiny
data: rows.jsonl
eval_split: 20%
method: qlora
evaluation:
  samples: 2
  taxonomy: {category: [Permissive, Copyleft]}
export: {merged: true}
"""
pytestmark = pytest.mark.filterwarnings("ignore")  # of the stack: its stage runs in this process


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that is prepared and exported."""
    found = prepared(tmp_path_factory.mktemp("box"), tiny_model.parent, SPEC, ROWS)
    with_adapter(found, tiny_model, seed=1)
    return found


def handed(run: RunFolder, models: Path, **plan: Any) -> HandOverResult:
    """Run the stage."""
    stage = StageFolder(run.hand_over)
    stage.root.mkdir(exist_ok=True)
    write_message(stage.plan, HandOverPlan(models_dir=str(models), **{**CPU, **plan}))
    hand_over(stage.root)
    return read_message(stage.result, HandOverResult)


@pytest.fixture(scope="module")
def result(run: RunFolder, tiny_model: Path) -> HandOverResult:
    """What the stage made of it."""
    return handed(run, tiny_model.parent, merged=True)


def by_plain_libraries(run: RunFolder, model: Path) -> tuple[float, float, float, float]:
    """Loss of the adapter on NF4, and loss, divergence and same choices of merged/, by hand."""
    import torch
    from datasets import load_from_disk
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, quantization_config=nf4, device_map={"": "cpu"}
    )
    adapted = PeftModel.from_pretrained(base, run.adapter).eval()
    served = AutoModelForCausalLM.from_pretrained(run.merged, dtype=torch.float32).eval()
    losses, kl, same, count = [0.0, 0.0], 0.0, 0, 0
    for row in load_from_disk(str(run.prepared / "eval")):
        ids, labels = (torch.tensor([row[key]]) for key in ("input_ids", "labels"))
        learned = labels[0, 1:] != -100
        both = []
        for at, one in enumerate((adapted, served)):
            with torch.no_grad():
                logits = one(input_ids=ids).logits[0, :-1][learned].double()
            wanted = labels[0, 1:][learned]
            losses[at] += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
            both.append(logits)
        p, q = (torch.distributions.Categorical(logits=one) for one in both)
        kl += float(torch.distributions.kl_divergence(p, q).sum())
        same += int((both[0].argmax(-1) == both[1].argmax(-1)).sum())
        count += int(learned.sum())
    return losses[0] / count, losses[1] / count, kl / count, same / count


def of(result: HandOverResult) -> HandedOver:
    """Give what the record gets."""
    assert result.handed_over is not None
    return result.handed_over


def test_its_figures_are_those_of_plain_libraries(
    run: RunFolder, result: HandOverResult, tiny_model: Path
) -> None:
    """Loss, divergence and share of equal choices, measured again with PEFT and torch alone."""
    found = of(result)
    (form,) = found.forms
    assert form.figures is not None
    assert found.reference is not None
    loss, served, kl, same = by_plain_libraries(run, tiny_model)
    assert found.reference.loss == pytest.approx(loss, rel=1e-3)
    assert form.figures.loss == pytest.approx(served, rel=1e-3)
    # bitsandbytes reads 4 bits otherwise while nothing is trained: 7e-5 nats here.
    assert form.figures.kl == pytest.approx(kl, rel=0.05, abs=2e-4)
    assert form.figures.same_top == pytest.approx(same, abs=0.01)


def test_the_base_that_was_trained_on_keeps_what_was_learned(
    run: RunFolder, result: HandOverResult
) -> None:
    """Both ways are measured; the one nearer to the adapter has the smaller divergence."""
    (form,) = of(result).forms
    assert form.figures is not None
    assert form.other is not None
    ours, other = form.figures, form.other
    trained, original = (ours, other) if form.base == "as_trained" else (other, ours)
    assert trained.kl is not None
    assert original.kl is not None
    assert trained.kl < original.kl / 10
    assert trained.kept is not None
    assert trained.kept > 0.99
    assert form.figures.scores.keys() == form.other.scores.keys() != set()
    assert form.figures.score_rows == 2


def test_its_folder_is_a_model_of_its_own(run: RunFolder, result: HandOverResult) -> None:
    """Weights, config, tokenizer, template and end tokens; nothing of the adapter or of 4 bits."""
    (form,) = of(result).forms
    names = {path.name for path in run.merged.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "generation_config.json"} <= names
    assert not names & {"adapter_config.json", "adapter_model.safetensors"}
    assert form.files.keys() == names
    config = json.loads((run.merged / "config.json").read_text())
    assert "quantization_config" not in config
    assert not [one.name for one in run.root.iterdir() if one.name.startswith(".tmp")]


def test_its_card_says_what_it_is_and_its_lines_load_it(
    run: RunFolder, result: HandOverResult, capsys: pytest.CaptureFixture[str]
) -> None:
    """README.md has the figures of the record, the one command, and Python that answers."""
    (form,) = of(result).forms
    text = (run.merged / "README.md").read_text()
    assert f"vllm serve outputs/{run.job}/{run.run_id}/merged --served-model-name {run.job}" in text
    assert form.figures is not None
    assert form.other is not None
    for one in (form.figures, form.other, of(result).reference):
        assert one is not None
        assert f"| {one.loss:.4f} | {one.kl:.4f} |" in text
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(lines, "README.md", "exec"), {})  # what a person pastes
    assert capsys.readouterr().out.strip()
    for row in ROWS:
        assert row["instruction"] not in text
        assert row["output"] not in text


def test_a_run_whose_rows_were_removed_is_merged_as_it_was_trained(
    run: RunFolder, tiny_model: Path, result: HandOverResult
) -> None:
    """Nothing can be measured: into the trained base, or as it was measured before."""
    cleared = {"cleared": {"at": "2026-11-27T10:00:00.000Z"}}
    before = {**cleared, "handed_over": of(result).model_dump(mode="json")}
    before["handed_over"]["forms"][0]["base"] = "original"
    kept = run.root / "kept"
    (run.prepared / "eval").rename(kept)
    try:
        found = [handed(run, tiny_model.parent, merged=True, facts=f) for f in (cleared, before)]
    finally:
        kept.rename(run.prepared / "eval")
    for one, base in zip(found, ("as_trained", "original"), strict=True):
        (form,) = of(one).forms
        assert (form.base, form.figures, form.within) == (base, None, None)
        assert "its held-out rows were removed" in one.shortfalls[0]
    assert "Nothing: the run has no held-out rows" in (run.merged / "README.md").read_text()


def test_a_base_that_is_gone_is_said_to_be(run: RunFolder, tmp_path: Path) -> None:
    """Nothing is made, what was there stays, and the message names the model."""
    with pytest.raises(ModelError, match="tiny"):
        handed(run, tmp_path, merged=True)
    assert (run.merged / "config.json").is_file()


def test_a_lost_adapter_is_caught(
    run: RunFolder,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    result: HandOverResult,
) -> None:
    """Where the merge left the adapter out, the form does not pass as it; the sentence says so."""
    del result  # the sound one is made first
    sound = merged.plan_merge

    def planned(*args: Any, **how: Any) -> Any:
        plan = sound(*args, **how)
        weaker = {
            name: dataclasses.replace(change, scale=0.0) for name, change in plan.changes.items()
        }
        return dataclasses.replace(plan, changes=weaker)

    monkeypatch.setattr(merged, "plan_merge", planned)
    monkeypatch.setattr(merged, "_scores", lambda *_: ({}, 0))  # answers take most of the time
    found = handed(run, tiny_model.parent, merged=True)
    (form,) = of(found).forms
    assert form.within is False
    assert form.figures is not None
    assert form.figures.kept is not None
    (told,) = [one for one in found.shortfalls if "does not do what the adapter does" in one]
    assert "the adapter seems to be left out" in told
    assert math.isclose(form.figures.kept, 0.0, abs_tol=0.2)


@pytest.fixture
def full_card(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let memory run out at the first model in 16 bits: no machine without a card can show it."""
    import torch

    from runner.training.fit import model

    sound, refused = model.load_base, []

    def load_base(folder: Path, *, method: str, **how: Any) -> Any:
        if method == "lora" and not refused:
            refused.append(folder)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 112.00 MiB.")
        return sound(folder, method=method, **how)

    monkeypatch.setattr(model, "load_base", load_base)
    return refused


def test_a_model_that_the_card_cannot_hold_is_measured_on_the_processor(
    run: RunFolder, tiny_model: Path, result: HandOverResult, full_card: list[Path]
) -> None:
    """Both ways, on fewer rows, by their loss; the same way wins."""
    (before,) = of(result).forms
    found = handed(run, tiny_model.parent, merged=True)
    assert len(full_card) == 1
    (form,) = of(found).forms
    assert form.base == before.base
    assert form.figures is not None
    assert form.other is not None
    assert before.figures is not None
    assert of(found).rows == min(PROCESSOR_ROWS, of(result).rows)
    assert form.figures.scores == {}
    assert form.figures.kl == pytest.approx(before.figures.kl, rel=0.5, abs=2e-3)  # bf16 there
    assert form.other.kl is not None
    (said,) = [one for one in found.shortfalls if "no room" in one]
    assert f"chosen by the loss on {of(found).rows} held-out rows by the processor" in said
    assert "no answers of it were scored" in said


def test_a_model_that_nothing_here_can_hold_is_merged_and_not_measured(
    run: RunFolder,
    tiny_model: Path,
    full_card: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Into the base as it was trained on, with the numbers: the weights are not lost by it."""
    monkeypatch.setattr(where_it_fits, "available_bytes", lambda: 2**30)
    found = handed(run, tiny_model.parent, merged=True)
    assert len(full_card) == 1
    (form,) = of(found).forms
    assert (form.base, form.figures, form.within) == ("as_trained", None, None)
    (said,) = found.shortfalls
    assert "the card has no room for the model in 16 bits" in said
    assert "of which 1.0 GiB are free" in said
    assert "4 bits, unpacked" in said
    assert {path.name for path in run.root.glob("merged*")} == {"merged"}


def test_a_base_that_has_changed_is_refused(run: RunFolder, tiny_model: Path) -> None:
    """All would be measured on another model under the same name, and look right."""
    same = describe_model(tiny_model, "tiny").model_dump(mode="json")
    before = (run.merged / "config.json").stat().st_ino
    changed = {"model": {**same, "sha256": "0" * 64}}
    with pytest.raises(StageError, match="is not the one that this run was trained on"):
        handed(run, tiny_model.parent, merged=True, facts=changed)
    assert (run.merged / "config.json").stat().st_ino == before
    with pytest.raises(StageError, match="of disk"):  # it goes on to what comes next
        handed(run, tiny_model.parent, merged=True, facts={"model": same}, leave_bytes=2**60)


@pytest.mark.parametrize("broken", ["original", "as_trained", "both", "adapter"])
def test_answers_that_are_no_numbers_are_never_named(
    run: RunFolder, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A model that overflows on this card says NaN: that way is not taken, whatever its loss.

    The values are put in by hand: finite weights that overflow need a card of fp16 alone.
    """
    monkeypatch.setattr(merged, "_scores", lambda *_: ({}, 0))
    sound = compare.read
    reads: list[str] = []

    def read(model: Any, *args: Any, **how: Any) -> Any:
        reads.append(("adapter", "base", "original", "as_trained")[len(reads)])
        if reads[-1] == broken or (broken == "both" and len(reads) > 2):
            model.get_output_embeddings().weight.data[0] = float("nan")
        return sound(model, *args, **how)

    monkeypatch.setattr(compare, "read", read)
    before = (run.merged / "config.json").stat().st_ino
    if broken in ("both", "adapter"):
        with pytest.raises(StageError, match="values that are no numbers"):
            handed(run, tiny_model.parent, merged=True)
        assert (run.merged / "config.json").stat().st_ino == before
        return
    found = handed(run, tiny_model.parent, merged=True)
    (form,) = of(found).forms
    assert form.base == ("as_trained" if broken == "original" else "original")
    assert form.other is None
    assert form.figures is not None
    assert form.figures.loss is not None
    assert any("that way was not taken" in one for one in found.shortfalls)


def test_a_disk_that_fills_up_later_leaves_what_was_made(
    run: RunFolder, tiny_model: Path, counting_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """merged/ stands and is recorded; what has no room is named, and what needs none is made."""
    del counting_tools
    folder = run.root / "made"
    shutil.copytree(tiny_model, folder)
    made = merged.Merged(base="original", folder=folder)
    monkeypatch.setattr(merged, "make_merged", lambda *_, **__: made)
    sound = gguf.quantize

    def quantize(whole: Path, target: Path, *args: Any, form: str, **how: Any) -> None:
        if form == "q8_0":
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        sound(whole, target, *args, form=form, **how)

    monkeypatch.setattr(gguf, "quantize", quantize)
    found = handed(run, tiny_model.parent, merged=True, gguf=("q8_0", "q4_k_m"))
    assert [form.name for form in of(found).forms] == ["merged", "q4_k_m"]
    (said,) = found.shortfalls
    assert said == (
        "q8_0 was not made: no space was left on the disk of outputs/. Make some room, then ask "
        "again."
    )
    assert of(found).shortfalls == {"q8_0": (said,)}


def test_a_modelfile_without_room_leaves_no_file_without_one(
    run: RunFolder, tiny_model: Path, counting_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GGUF file is named last: what the record does not name is not there either."""
    del counting_tools
    made = merged.Merged(base="original", folder=tiny_model)
    monkeypatch.setattr(merged, "make_merged", lambda *_, **__: made)
    shutil.rmtree(run.gguf, ignore_errors=True)
    sound = Path.write_bytes

    def write_bytes(path: Path, content: bytes) -> int:
        if path.name.endswith("q8_0.Modelfile"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return sound(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    found = handed(run, tiny_model.parent, gguf=("q8_0", "q4_k_m"))
    assert [form.name for form in of(found).forms] == ["q4_k_m"]
    assert sorted(path.name for path in run.gguf.iterdir()) == [
        f"{run.job}-q4_k_m.Modelfile",
        f"{run.job}-q4_k_m.gguf",
    ]


def test_an_adapter_that_was_changed_is_refused(
    run: RunFolder, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is compared with would have changed as well, and all would seem right."""
    monkeypatch.setenv("RUNNER_LLAMA_CPP", str(tmp_path))  # no tools: it is quickly over
    files = {path.name: sha256_of(path) for path in run.adapter.iterdir()}
    config = run.adapter / "adapter_config.json"
    known = {"metrics": {"adapter_files": {**files, "README.md": "of another card"}}}
    sound = config.read_bytes()
    alpha = json.loads(sound)["lora_alpha"]
    config.write_text(json.dumps({**json.loads(sound), "lora_alpha": 2 * alpha}))
    try:
        with pytest.raises(StageError, match=r"adapter/adapter_config\.json .* not as it was made"):
            handed(run, tiny_model.parent, adapter_gguf=True, facts=known)
        config.unlink()
        with pytest.raises(StageError, match=r"adapter/adapter_config\.json"):
            handed(run, tiny_model.parent, adapter_gguf=True, facts=known)
    finally:
        config.write_bytes(sound)
    with pytest.raises(StageError, match="adapter_gguf was not made"):
        handed(run, tiny_model.parent, adapter_gguf=True, facts=known)


def test_a_base_that_goes_meanwhile_is_named(
    run: RunFolder, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """models/ is a share that went away after the first look: a sentence, and no traceback."""
    models = tmp_path / "models"
    shutil.copytree(tiny_model, models / "tiny")
    before = (run.merged / "config.json").stat().st_ino

    def plan_and_go(*args: Any, **how: Any) -> Any:
        plan = plan_merge(*args, **how)
        shutil.rmtree(models)
        return plan

    monkeypatch.setattr(merged, "plan_merge", plan_and_go)
    with pytest.raises(StageError) as said:
        handed(run, models, merged=True)
    assert said.value.message == (
        "merged/ was not made: the base model tiny: the model is not on this box. Fetch it with: "
        f"{fetch_command('tiny')}."
    )
    assert (run.merged / "config.json").stat().st_ino == before
    assert not list(run.root.glob(".tmp*"))


def test_what_was_made_before_stays_in_the_record(
    run: RunFolder, tiny_model: Path, counting_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later `runner export --gguf` adds to merged/, and does not make the record forget it."""
    del counting_tools
    made = merged.Merged(base="original", folder=tiny_model)
    monkeypatch.setattr(merged, "make_merged", lambda *_, **__: made)
    first = of(handed(run, tiny_model.parent, gguf=("q8_0", "q4_k_m")))
    (run.root / first.forms[1].path).unlink()
    facts = {"handed_over": first.model_dump(mode="json")}
    second = of(handed(run, tiny_model.parent, gguf=("q5_k_m",), facts=facts))
    assert [form.name for form in second.forms] == ["q8_0", "q5_k_m"]


def test_what_cannot_be_made_is_said(run: RunFolder, tiny_model: Path) -> None:
    """A disk without room is refused with the numbers; what was there stays."""
    before = (run.merged / "config.json").stat().st_ino
    with pytest.raises(StageError, match="GiB of disk"):
        handed(run, tiny_model.parent, merged=True, leave_bytes=2**60)
    assert (run.merged / "config.json").stat().st_ino == before


COUNTED = """\
import sys
from pathlib import Path
with Path(__file__).with_name("conversions").open("a") as log:
    log.write("one\\n")
Path(sys.argv[sys.argv.index("--outfile") + 1]).write_text("16 bits")
"""
QUANTIZED = '#!/bin/sh\n{ cat "$1"; echo " as $3"; } > "$2"\n'


@pytest.fixture
def counting_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins of llama.cpp's tools that say how often a model was converted."""
    for name, text in {
        "bin/llama-quantize": QUANTIZED,
        "bin/llama-server": QUANTIZED,
        "convert_hf_to_gguf.py": COUNTED,
        "convert_lora_to_gguf.py": "",
        "conversion/__init__.py": "TEXT_MODEL_MAP: dict[str, str] = {'LlamaForCausalLM': 'llama'}",
        "VERSION": "stand-in",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("RUNNER_LLAMA_CPP", str(tmp_path))
    monkeypatch.setattr(gguf, "prove", lambda *_: Made())
    return tmp_path


@pytest.mark.parametrize("formats", [("q8_0", "q4_k_m"), ("q4_k_m", "f16", "q5_k_m")])
def test_a_model_is_converted_once_for_all_formats(
    run: RunFolder,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    counting_tools: Path,
    formats: tuple[str, ...],
) -> None:
    """All formats are made from one file in 16 bits, which is named only where it is asked for."""
    made = merged.Merged(base="original", folder=tiny_model)
    monkeypatch.setattr(merged, "make_merged", lambda *_, **__: made)
    shutil.rmtree(run.gguf, ignore_errors=True)
    found = of(handed(run, tiny_model.parent, gguf=formats))
    assert (counting_tools / "conversions").read_text() == "one\n"
    assert sorted(form.name for form in found.forms) == sorted(formats)
    for form in found.forms:
        text = "16 bits" if form.name == "f16" else f"16 bits as {form.name.upper()}\n"
        assert (run.root / form.path).read_text() == text
    assert {file.stem for file in run.gguf.iterdir()} == {f"{run.job}-{name}" for name in formats}
    assert not list(run.root.glob(".tmp*"))
