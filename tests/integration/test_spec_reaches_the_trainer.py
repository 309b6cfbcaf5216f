"""Each spec field against what the trainer, the adapter and bitsandbytes really got.

The values are read out of the live objects of real attempts: one with every field at its default,
one with every field changed. A field without a row here fails the last test.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from train_box import Run
from trouble import around

from runner.exit_codes import ExitCode
from runner.spec.spec import Lora, Training

DEFAULTS = "model: small\ndata: rows.jsonl\n"
CHANGED = """\
model: small
data: rows.jsonl
method: lora
lora: {r: 5, alpha: 7.5, dropout: 0.25, target_modules: [q_proj, down_proj], use_rslora: true}
training:
  learning_rate: 0.003
  lr_scheduler: linear
  warmup_ratio: 0.5
  weight_decay: 0.2
  max_grad_norm: 0.125
  seed: 7
  eval_steps: 3
  save_steps: 2
"""
STEPS = 6
ROWS = 29
EFFECTIVE = 8


@dataclass(frozen=True)
class Looked:
    """Not a failure: what the live objects hold is written down at each optimizer step."""

    file: Path

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit.callbacks import Conduct

        def note(conduct: Conduct, args: Any, state: Any, *_: Any, **__: Any) -> None:
            lines = self.file.open("a")
            lines.write(json.dumps(live(conduct, args, state)) + "\n")
            lines.close()

        around(Conduct, "on_pre_optimizer_step", note)


def live(conduct: Any, args: Any, state: Any) -> dict[str, Any]:
    """Read everything that the spec decides out of a trainer before an optimizer step."""
    import bitsandbytes as bnb
    import torch
    from peft.tuners.lora import LoraLayer

    trainer = conduct.trainer
    optimizer = trainer.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    layers = {n: m for n, m in trainer.model.named_modules() if isinstance(m, LoraLayer)}
    bases = [layer.get_base_layer() for layer in layers.values()]
    nf4 = [base for base in bases if isinstance(base, bnb.nn.Linear4bit)]
    trained = {n: w for n, w in trainer.model.named_parameters() if w.requires_grad}
    dropouts = {getattr(m.lora_dropout["default"], "p", 0.0) for m in layers.values()}
    rows = [trainer.train_dataset[row] for row in range(4)]
    batch = conduct.collator.pad(rows)  # without a note of it
    pads = (batch["input_ids"] == trainer.processing_class.pad_token_id).long()
    return {
        "rates": sorted({group["lr"] for group in optimizer.param_groups}),
        "decays": sorted({g["weight_decay"] for g in optimizer.param_groups if g["params"]}),
        "optimizer": [type(optimizer).__name__, *optimizer.param_groups[0]["betas"]],
        "optimizer eps": optimizer.param_groups[0]["eps"],
        "optimized": sum(len(group["params"]) for group in optimizer.param_groups),
        "trained": sorted({name.split(".")[-3] for name in trained}),
        "trained weights": len(trained),
        "dtypes": sorted({str(weight.dtype) for weight in trained.values()}),
        "norm": math.sqrt(sum(float(w.grad.double().pow(2).sum()) for w in trained.values())),
        "ranks": sorted({int(m.lora_A["default"].weight.shape[0]) for m in layers.values()}),
        "scales": sorted({m.scaling["default"] for m in layers.values()}),
        "dropouts": sorted(dropouts),
        "adapted": sorted({name.rpartition(".")[2] for name in layers}),
        "layers": len(layers),
        "dora": any(any(m.use_dora.values()) for m in layers.values()),
        "biases": any("lora_" not in name for name in trained),
        "4 bits": [len(nf4), len(bases)],
        "quantised": sorted({base.weight.quant_type for base in nf4}),
        "nested": sorted({bool(base.weight.quant_state.nested) for base in nf4}),
        "block": sorted({base.weight.quant_state.blocksize for base in nf4}),
        "compute": sorted({str(base.compute_dtype) for base in nf4}),
        "base dtypes": sorted({str(b.weight.dtype) for b in bases if b not in nf4}),
        "first A": [float(x) for x in next(iter(trained.values())).flatten()[:4]],
        "seeds": [args.seed, args.data_seed if args.data_seed is not None else args.seed],
        "max_steps": state.max_steps,
        "batch": [args.per_device_train_batch_size, args.gradient_accumulation_steps],
        "padding side": "right" if bool((pads.diff(dim=1) >= 0).all()) else "left",
        "padded": bool(pads.any()),
        "checkpointing": bool(trainer.model.is_gradient_checkpointing),
        "smoothing": args.label_smoothing_factor,
        "neftune": args.neftune_noise_alpha,
        "loss": getattr(args, "loss_type", "nll"),
        "training": bool(trainer.model.training),
        "generator": torch.initial_seed(),
    }


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What an attempt showed."""

    run: Run
    steps: list[dict[str, Any]]

    def always(self, name: str) -> Any:
        """Give what was the same in each step."""
        values = {json.dumps(step[name]) for step in self.steps}
        assert len(values) == 1, f"{name} changes: {values}"
        return self.steps[0][name]

    @property
    def rates(self) -> list[float]:
        """Each step's rate; one for all weights."""
        assert all(len(step["rates"]) == 1 for step in self.steps)
        return [step["rates"][0] for step in self.steps]

    @property
    def order(self) -> list[int]:
        """The rows in the order in which they were learned."""
        return [row for line in self.run.curve() for row in line["rows"]]

    @property
    def measured(self) -> list[int]:
        """Steps with a held-out loss."""
        return [line["step"] for line in self.run.counted("eval_loss")]


def look(folder: Path, prepared: Path, models: Path, spec: str, **plan: Any) -> Seen:
    """Run a real attempt with this spec."""
    run = Run(folder, prepared, models, spec)
    status, _ = run.train(4, trouble=Looked(folder / "live.jsonl"), total_steps=STEPS, **plan)
    assert status == ExitCode.OK, run.log()
    lines = (folder / "live.jsonl").read_text().splitlines()
    return Seen(run=run, steps=[json.loads(line) for line in lines])


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory, prepared: Path, small_models: Path) -> Seen:
    """An attempt whose spec says nothing but model and data."""
    return look(tmp_path_factory.mktemp("default"), prepared, small_models, DEFAULTS)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory, prepared: Path, small_models: Path) -> Seen:
    """An attempt whose spec says something else in every field."""
    folder = tmp_path_factory.mktemp("changed")
    return look(folder, prepared, small_models, CHANGED, activation_checkpointing=True)


def cosine(peak: float) -> list[float]:
    """One step of warm-up (3% of six), then half a cosine."""
    fall = [0.5 * (1 + math.cos(math.pi * done / (STEPS - 1))) for done in range(STEPS - 1)]
    return [peak / 2, *(peak * share for share in fall)]


ALL_LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
Row = tuple[str, Callable[[Seen], Any], Any, Any]
TABLE: list[Row] = [
    # field, where it shows, by default, when changed
    ("method", lambda s: s.always("4 bits")[0] > 0, True, False),
    ("method", lambda s: s.always("quantised"), ["nf4"], []),
    ("method", lambda s: s.always("nested"), [True], []),
    ("method", lambda s: s.always("block"), [64], []),
    ("method", lambda s: s.always("compute"), ["torch.float32"], []),
    ("method", lambda s: s.always("base dtypes"), [], ["torch.float32"]),
    ("lora.r", lambda s: s.always("ranks"), [16], [5]),
    ("lora.alpha", lambda s: s.always("scales"), [2.0], [pytest.approx(7.5 / math.sqrt(5))]),
    ("lora.use_rslora", lambda s: s.always("scales"), [2.0], [pytest.approx(7.5 / math.sqrt(5))]),
    ("lora.dropout", lambda s: s.always("dropouts"), [0.0], [0.25]),
    ("lora.target_modules", lambda s: s.always("adapted"), ALL_LINEAR, ["down_proj", "q_proj"]),
    ("training.learning_rate", lambda s: max(s.rates), 2e-4, 0.003),
    ("training.lr_scheduler", lambda s: s.rates[-1] / max(s.rates), 0.0954915, 1 / 3),
    (
        "training.warmup_ratio",
        lambda s: s.rates,
        cosine(2e-4),
        [0.00075, 0.0015, 0.00225, 0.003, 0.002, 0.001],
    ),
    ("training.weight_decay", lambda s: s.always("decays"), [0.01], [0.2]),
    ("training.max_grad_norm", lambda s: max(step["norm"] for step in s.steps), 1.0, 0.125),
    ("training.seed", lambda s: s.always("seeds"), [42, 42], [7, 7]),
    ("training.eval_steps", lambda s: s.measured, [1, 2, 3, 4, 5, 6], [3, 6]),
    ("training.activation_checkpointing", lambda s: s.always("checkpointing"), False, True),
    ("training.effective_batch_size", lambda s: len(s.run.curve()[0]["rows"]), 8, 8),
    ("training.batch_size", lambda s: s.always("batch"), [4, 2], [4, 2]),
    ("training.gradient_accumulation", lambda s: s.always("batch"), [4, 2], [4, 2]),
    ("training.max_steps", lambda s: s.always("max_steps"), STEPS, STEPS),
    ("training.epochs", lambda s: s.run.curve()[-1]["epoch"], 1.5, 1.5),
    # what no field decides
    ("", lambda s: s.always("optimizer"), ["AdamW", 0.9, 0.999], ["AdamW", 0.9, 0.999]),
    ("", lambda s: s.always("optimizer eps"), 1e-8, 1e-8),
    ("", lambda s: s.always("trained"), ["lora_A", "lora_B"], ["lora_A", "lora_B"]),
    ("", lambda s: s.always("optimized") == s.always("trained weights"), True, True),
    ("", lambda s: s.always("trained weights") == 2 * s.always("layers"), True, True),
    ("", lambda s: s.always("dtypes"), ["torch.float32"], ["torch.float32"]),
    ("", lambda s: s.always("dora") or s.always("biases"), False, False),
    ("", lambda s: s.always("padding side"), "right", "right"),
    ("", lambda s: s.always("padded"), True, True),
    ("", lambda s: s.always("smoothing"), 0.0, 0.0),
    ("", lambda s: s.always("neftune"), None, None),
    ("", lambda s: s.always("training"), True, True),
]
ELSEWHERE = {
    "training.max_length": "test_prepare",
    "training.packing": "test_packing and test_reference",
    "training.save_steps": "below",
}


NAMES = [f"{place} {row[0]}" for place, row in enumerate(TABLE)]


@pytest.mark.parametrize("place", range(len(TABLE)), ids=NAMES)
def test_what_the_spec_says_is_what_trains(place: int, default: Seen, changed: Seen) -> None:
    """A field left out has its documented default in the live objects, a changed one its value."""
    _field, shown, by_default, when_changed = TABLE[place]
    for seen, wanted in ((default, by_default), (changed, when_changed)):
        found = shown(seen)
        if isinstance(wanted, float):
            assert found == pytest.approx(wanted, rel=1e-4)
        elif isinstance(wanted, list) and wanted and isinstance(wanted[0], float):
            assert found == pytest.approx(wanted)
        else:
            assert found == wanted


def test_the_seed_decides_first_weights_and_order(
    tmp_path: Path, default: Seen, prepared: Path, small_models: Path
) -> None:
    """The same seed gives the same of both; another seed another of each."""
    again = look(tmp_path / "again", prepared, small_models, DEFAULTS)
    other = look(tmp_path / "other", prepared, small_models, DEFAULTS + "training: {seed: 43}\n")
    assert again.order == default.order
    assert again.steps[0]["first A"] == default.steps[0]["first A"]
    assert again.run.curve()[-1]["loss"] == default.run.curve()[-1]["loss"]
    assert other.order != default.order
    assert other.steps[0]["first A"] != default.steps[0]["first A"]
    assert sorted(other.order[:ROWS]) == list(range(ROWS))


def test_the_clip_and_the_norm_are_different_numbers(changed: Seen) -> None:
    """What is told is the norm before clipping: it shows a run that goes wrong."""
    norms = [line["grad_norm"] for line in changed.run.curve()]
    assert min(norms) > 0.125
    assert [step["norm"] for step in changed.steps] == pytest.approx([0.125] * STEPS, rel=1e-4)


def test_checkpoints_fall_where_the_spec_says(
    tmp_path: Path, prepared: Path, small_models: Path
) -> None:
    """``save_steps`` leaves one at its step, measured or not."""
    spec = DEFAULTS + "training: {save_steps: 2, eval_steps: 100}\n"
    run = Run(tmp_path, prepared, small_models, spec)
    assert run.train(4, total_steps=5)[0] == ExitCode.OK
    assert {path.name for path in run.run.checkpoints.iterdir()} >= {
        run.run.checkpoint(step).name for step in (4, 5)
    }


def test_every_field_of_training_is_compared() -> None:
    """Whoever adds a field says here where it shows in the live objects."""
    fields = {f"training.{name}" for name in Training.model_fields}
    fields |= {f"lora.{name}" for name in Lora.model_fields}
    fields.add("method")
    assert fields == ({row[0] for row in TABLE} - {""}) | set(ELSEWHERE)
