"""Whole attempts of the train stage against plain PEFT: gradients, steps, losses, held-out losses.

The reference is a loop that anybody would write down (plain_peft.py): each row alone through the
model's own logits, torch's cross entropy, clipping and AdamW, the schedule by its formula. Nothing
of TRL, Trainer or this product takes part in it; the product runs as the daemon starts it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from plain_peft import largest_error, random_rows, row_by_row, save_tiny, save_words
from train_box import Run, in_a_child
from trouble import MemoryRunsOut, around

from runner.contract.stage_io import PrepareResult, write_message
from runner.exit_codes import ExitCode

ROUNDING = 1e-5  # of a gradient in fp32; faults start at 4e-4, where families were measured
LENGTHS = (20, 13, 9, 16, 24, 11, 18, 7, 30, 15, 12, 22, 10, 17, 26, 14, 19, 8, 21)
TRAINED, EFFECTIVE, STEPS = 15, 4, 8  # two epochs of four steps, the last of each partial
LIMIT = 48  # tokens of a packed sequence
RATE, RATIO, DECAY, CLIP, RANK, ALPHA, SEED = 5e-3, 0.2, 0.1, 0.5, 3, 7.5, 11
SPEC = f"""\
model: m
data: rows.jsonl
method: lora
lora: {{r: {RANK}, alpha: {ALPHA}}}
training:
  epochs: 2
  effective_batch_size: {EFFECTIVE}
  learning_rate: {RATE}
  warmup_ratio: {RATIO}
  weight_decay: {DECAY}
  max_grad_norm: {CLIP}
  seed: {SEED}
  eval_steps: 4
"""


@dataclass(frozen=True)
class Recorded:
    """Not a failure: each step's weights and clipped gradients are written down."""

    folder: Path
    then: MemoryRunsOut | None = None

    def __call__(self) -> None:
        """Arrange it."""
        import torch

        from runner.training.fit.callbacks import Conduct

        if self.then is not None:
            self.then()

        def note(conduct: Conduct, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            weights = conduct.trainer.model.named_parameters()
            found = {
                name: (weight.detach().clone(), weight.grad.clone())
                for name, weight in weights
                if weight.requires_grad
            }
            torch.save(found, self.folder / f"step-{state.global_step + 1}.pt")

        around(Conduct, "on_pre_optimizer_step", note)


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to train the same rows."""

    family: str
    batch: int
    more: str = ""
    """Lines of the spec's training section."""
    fails: MemoryRunsOut | None = None
    """Where memory runs out; the run goes on at half the batch."""
    plan: tuple[tuple[str, int], ...] = ()
    dropout: float = 0.0
    """Drawn anew in each pass: then only what is measured can be compared."""


WAYS = {
    "padded": Way(family="llama", batch=4),
    "in parts": Way(family="phi3", batch=1),
    "cut": Way(family="qwen3", batch=4, plan=(("tokens_per_pass", 40),)),
    "packed": Way(family="llama", batch=2, more="packing: true"),
    "packed, one sequence alone": Way(family="qwen3", batch=1, more="packing: true"),
    "checkpointed": Way(family="gemma3_text", batch=2, plan=(("activation_checkpointing", 1),)),
    "resumed": Way(family="gemma3_text", batch=4, fails=MemoryRunsOut("backward", 6)),
    "experts, cut and resumed": Way(
        family="qwen3_moe",
        batch=4,
        fails=MemoryRunsOut("forward", 3),
        plan=(("tokens_per_pass", 60),),
    ),
    "measured without dropout": Way(family="llama", batch=4, dropout=0.5),
    "experts, checkpointed": Way(
        family="mixtral", batch=2, plan=(("activation_checkpointing", 1),)
    ),
}


def rate_of(step: int, total: int) -> float:
    """Give the learning rate of a step (1-based) by the formula that docs and users know."""
    warmup = math.ceil(RATIO * total)
    if step <= warmup:
        return RATE * step / (warmup + 1)
    return RATE * 0.5 * (1 + math.cos(math.pi * (step - 1 - warmup) / (total - warmup)))


def reference(folder: str) -> None:
    """Be the child: what plain PEFT makes of the same rows at the same weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, set_seed

    torch.set_num_threads(1)
    asked = json.loads((Path(folder) / "asked.json").read_text())
    rows = {row["row"]: row for row in random_rows(LENGTHS)}
    set_seed(SEED)
    base = AutoModelForCausalLM.from_pretrained(
        asked["model"], dtype=torch.float32, attn_implementation="eager"
    )
    base.config.output_router_logits = False
    config = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear"
    )
    model = get_peft_model(base, config)
    weights = {n: w for n, w in model.named_parameters() if w.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=DECAY)
    total = len(asked["steps"])
    steps = [torch.load(Path(folder) / f"step-{n}.pt") for n in range(1, total + 1)]
    final = load_file(asked["final"])
    final = {n: final[n.replace(".default", "")] for n in weights}
    started = {n: w.detach().clone() for n, w in weights.items()}
    found: dict[str, Any] = {"gradients": [], "losses": [], "norms": [], "weights": []}
    found["start"] = largest_error({n: w for n, (w, _) in steps[0].items()}, started)
    found["held out"] = {}

    def take(values: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(values[name])

    for number, (numbers, step) in enumerate(zip(asked["steps"], steps, strict=True), start=1):
        take({name: weight for name, (weight, _) in step.items()})
        loss, gradients = row_by_row(model, [rows[row] for row in numbers])
        norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients.values()))
        for name, gradient in gradients.items():
            gradients[name] = gradient * min(1.0, CLIP / (norm + 1e-6))
        found["losses"].append(loss)
        found["norms"].append(norm)
        found["gradients"].append(largest_error({n: g for n, (_, g) in step.items()}, gradients))
        for name, weight in weights.items():
            weight.grad = step[name][1].clone()
        optimizer.param_groups[0]["lr"] = rate_of(number, total)
        optimizer.step()
        after = final if number == total else {n: w for n, (w, _) in steps[number].items()}
        moved = {n: w.detach().clone() for n, w in weights.items()}
        found["weights"].append(largest_error(after, moved))
        if number in asked["measured"]:
            loss, _ = row_by_row(model, [rows[n] for n in range(TRAINED, len(LENGTHS))])
            found["held out"][number] = loss
    (Path(folder) / "found.json").write_text(json.dumps(found))


def prepare(way: Way, folder: Path) -> None:
    """Leave what the train stage needs: a tiny model, prepared rows and a tokenizer."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    save_tiny(way.family, folder / "models" / "m")
    rows = random_rows(LENGTHS)
    prepared = folder / "prepared"
    Dataset.from_list(rows[:TRAINED]).save_to_disk(str(prepared / "train"))
    Dataset.from_list(rows[TRAINED:]).save_to_disk(str(prepared / "eval"))
    save_words(prepared / "tokenizer")
    write_message(prepared / "result.json", PrepareResult(max_length=LIMIT))


@pytest.mark.parametrize("name", WAYS)
def test_a_run_is_what_plain_peft_would_do(name: str, tmp_path: Path) -> None:
    """However a run is padded, cut, packed, checkpointed or resumed: it is the reference's."""
    way = WAYS[name]
    prepare(way, tmp_path)
    packing = "packing" in way.more
    total = 4 if packing else STEPS
    spec = SPEC.replace("{r:", f"{{dropout: {way.dropout}, r:") + f"  {way.more}\n"
    run = Run(tmp_path / "out", tmp_path / "prepared", tmp_path / "models", spec)
    more = {**dict(way.plan), "effective": EFFECTIVE, "total_steps": total}
    if way.fails is not None:
        failing = Recorded(tmp_path, way.fails)
        assert run.train(way.batch, trouble=failing, **more)[0] == ExitCode.OUT_OF_GPU_MEMORY
    batch = way.batch // 2 if way.fails else way.batch
    status, result = run.train(batch, trouble=Recorded(tmp_path), **more)
    assert status == ExitCode.OK, run.log()
    curve = run.curve()
    measured = {line["step"]: line["eval_loss"] for line in run.counted("eval_loss")}
    asked = {
        "model": str(tmp_path / "models" / "m"),
        "steps": [line["rows"] for line in curve],
        "measured": list(measured),
        "final": str(run.run.checkpoint(total) / "adapter_model.safetensors"),
    }
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    in_a_child(reference, str(tmp_path))
    found = json.loads((tmp_path / "found.json").read_text())

    assert result.last_step == total == len(curve)
    half = [row for line in curve[: total // 2] for row in line["rows"]]
    assert sorted(half) == list(range(TRAINED))  # an epoch has each row once
    assert sorted(row for line in curve for row in line["rows"]) == sorted([*range(TRAINED)] * 2)
    assert found["start"] == 0.0  # the same first weights, from the same seed
    assert max(found["weights"]) < ROUNDING
    assert [line["learning_rate"] for line in curve] == pytest.approx(
        [rate_of(step, total) for step in range(1, total + 1)]
    )
    if way.dropout:
        assert min(found["gradients"]) > ROUNDING  # it was there
    else:
        assert max(found["gradients"]) < ROUNDING
        assert any(norm > CLIP for norm in found["norms"])
        for line, loss, norm in zip(curve, found["losses"], found["norms"], strict=True):
            assert line["loss"] == pytest.approx(loss, rel=1e-4)
            assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert list(map(str, measured)) == list(found["held out"])
    assert list(measured.values()) == pytest.approx(list(found["held out"].values()), rel=1e-5)
