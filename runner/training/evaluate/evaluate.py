"""Evaluate: held-out loss and answers with and without the adapter in adapter/.

The adapter is loaded as its user would load it; what it reaches here must be what training saw.
Command: `python -m runner.training evaluate outputs/contracts/20261123T221005Z-k3f9/evaluation`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.contract.layout import RunFolder, StageFolder
from runner.contract.models import find_model
from runner.contract.stage_io import EvaluatePlan, EvaluateResult, read_message, write_message
from runner.contract.verdict import paired_interval
from runner.errors import StageError
from runner.exit_codes import ExitCode
from runner.files.durable import write_bytes, write_json

if TYPE_CHECKING:
    from runner.training.fit.heldout import HeldOut

BATCH_SIZE = 8  # rows; halved where it does not fit
ANSWER_TOKENS = 96  # of each answer shown
TOLERANCE = {"float32": 2e-3, "bfloat16": 2e-2, "float16": 2e-2}  # relative


def evaluate(folder: Path) -> None:
    """Measure the exported adapter against the base model it stands on.

    Raises:
        StageError: the adapter does not reach the loss that training measured.
    """
    from runner.spec.read_spec import read_spec
    from runner.training.fit.memory import Meter
    from runner.training.fit.model import find_machine, load_base

    run, stage = RunFolder.containing(folder), StageFolder(folder)
    plan = read_message(stage.plan, EvaluatePlan)
    spec = read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml")
    machine = find_machine(plan.device, plan.compute)
    # Before the stack is imported: bitsandbytes makes the card's context, which is measured here.
    meter = Meter(on_gpu=machine.on_gpu, cap_bytes=plan.gpu_memory_bytes)

    from datasets import load_from_disk
    from peft import PeftModel
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from runner.training.data.tokenizer_folder import load_tokenizer
    from runner.training.evaluate.answers import autocast
    from runner.training.evaluate.extremes import extremes
    from runner.training.evaluate.row_loss import row_losses
    from runner.training.fit.head import give_head
    from runner.training.fit.heldout import held_out_loss

    tokenizer = load_tokenizer(run.adapter)
    base = load_base(
        find_model(Path(plan.models_dir), spec.model),
        method=spec.method,
        machine=machine,
        trust_remote_code=plan.trust_remote_code,
        whole=True,
    )
    give_head(base)
    model = PeftModel.from_pretrained(base, run.adapter).eval()

    def measure(rows: Any) -> HeldOut:
        collator = DataCollatorForLanguageModeling(
            pad_token_id=tokenizer.pad_token_id, padding_free="seq_lengths" in rows.column_names
        )
        known = {"input_ids", "labels", "seq_lengths"}
        inputs = rows.remove_columns([c for c in rows.column_names if c not in known])
        with autocast(machine):
            return held_out_loss(
                model, inputs, collator, batch_size=BATCH_SIZE, device=model.device
            )

    def measure_base(rows: Any) -> HeldOut:
        with model.disable_adapter():
            return measure(rows)

    before: HeldOut | None = None
    after: HeldOut | None = None
    rows = run.prepared / "eval"
    if (rows / "state.json").is_file() and len(held := load_from_disk(str(rows))) > 0:
        before = measure_base(held)
        after = measure(held)
    of_rows = row_losses(run, spec, measure_base, on_gpu=machine.on_gpu)

    paired = _paired(held["row"], before, after) if before and after else None
    if paired:
        write_json(run.evaluation / "losses.json", paired.as_json())
        write_json(run.extremes, extremes(held, tokenizer, **asdict(paired)))
    shortfalls = _answer_samples(run, model, tokenizer, machine)
    write_message(
        stage.result,
        EvaluateResult(
            eval_loss_before=_finite(before),
            eval_loss_after=_finite(after),
            eval_tokens=after.tokens if after else 0,
            eval_rows=len(paired.rows) if paired else 0,
            rows_changed=paired and paired.changed,
            change_low=paired and paired.interval and paired.interval[0],
            change_high=paired and paired.interval and paired.interval[1],
            adapter_is_zero=adapter_is_zero(run.adapter),
            peak_gpu_memory_bytes=meter.peak_bytes(),
            shortfalls=tuple(shortfalls),
            findings=of_rows,
        ),
    )
    wanted = plan.expected_eval_loss
    if after and math.isfinite(after.loss) and wanted is not None:
        tolerance = TOLERANCE[machine.compute]
        if not math.isclose(after.loss, wanted, rel_tol=tolerance, abs_tol=tolerance):
            raise StageError(
                f"The exported adapter reaches a held-out loss of {after.loss:.4f}; training "
                f"measured {wanted:.4f}.",
                exit_code=ExitCode.UNEXPECTED,
                kind="adapter_differs",
                advice="Do not use this adapter; please report it with the run's record.",
            )


def adapter_is_zero(adapter: Path) -> bool | None:
    """Say whether an adapter adds nothing to any layer: each of its B matrices is zero.

    None: it has no B matrices, so it is of a kind that this does not know.
    """
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as tensors:
        names = [n for n in tensors.keys() if "lora_B" in n or "lora_embedding_B" in n]  # noqa: SIM118
        if not names:
            return None
        return not any(bool(tensors.get_tensor(name).any()) for name in names)


def _finite(found: HeldOut | None) -> float | None:
    """Give a loss that JSON can say; None for what is no number."""
    return found.loss if found and math.isfinite(found.loss) else None


@dataclass(frozen=True, kw_only=True)
class _Paired:
    """Each held-out row's summed loss before and after."""

    rows: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def changed(self) -> int:
        """How many rows have another loss than before."""
        return sum(b != a for b, a in zip(self.before, self.after, strict=True))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the change of the loss lies."""
        return paired_interval(self.before, self.after, self.tokens)

    def as_json(self) -> list[dict[str, Any]]:
        """Give one object for each row: its number among the data's rows, and losses per token."""
        columns = zip(self.rows, self.before, self.after, self.tokens, strict=True)
        return [
            {"row": row, "before": _per(before, n), "after": _per(after, n), "tokens": n}
            for row, before, after, n in columns
        ]


def _per(total: float, tokens: int) -> float | None:
    return round(total / tokens, 6) if tokens and math.isfinite(total) else None


def _paired(rows: Sequence[int], before: HeldOut, after: HeldOut) -> _Paired:
    """Put the examples of one row together: they are not independent of each other."""
    sums: dict[int, list[float]] = {}
    counts: Counter[int] = Counter()
    examples = zip(rows, before.sums, after.sums, after.counts, strict=True)
    for row, lost_before, lost_after, tokens in examples:
        both = sums.setdefault(row, [0.0, 0.0])
        both[0] += lost_before
        both[1] += lost_after
        counts[row] += tokens
    return _Paired(
        rows=tuple(sums),
        before=tuple(pair[0] for pair in sums.values()),
        after=tuple(pair[1] for pair in sums.values()),
        tokens=tuple(counts[row] for row in sums),
    )


def _answer_samples(run: RunFolder, model: Any, tokenizer: Any, machine: Any) -> list[str]:
    """Write evaluation/samples.json; give what fell short."""
    from runner.training.evaluate.answers import answers, unpack_for_answers
    from runner.training.evaluate.answers_page import answers_page
    from runner.training.fit.memory import classify, let_go, plan_does_not_fit

    try:
        samples = json.loads((run.prepared / "samples.json").read_bytes())
    except FileNotFoundError:
        return []
    how: dict[str, Any] = {"machine": machine, "tokens": ANSWER_TOKENS}
    conversations = [sample["messages"] for sample in samples]
    found: dict[str, list[str]] = {"before": [], "after": []}
    failed = False
    try:
        if samples:
            unpack_for_answers(model, machine)
            with model.disable_adapter():
                before = answers(model, tokenizer, conversations, **how)
            found = {"before": before, "after": answers(model, tokenizer, conversations, **how)}
    except Exception as error:  # samples are a courtesy: what the run is about stands without
        if not plan_does_not_fit(classify(error), on_gpu=machine.on_gpu):
            raise
        failed, samples = True, []
    let_go()
    shown = [
        {
            "question": str(sample["messages"][-1]["content"]),
            "reference": str(sample["reference"]),
            "before": before,
            "after": after,
        }
        for sample, before, after in zip(samples, found["before"], found["after"], strict=True)
    ]
    write_json(run.evaluation / "samples.json", shown)
    if shown:
        write_bytes(run.answers, answers_page(shown).encode(errors="replace"))
    if failed:
        return ["Memory ran out while answering held-out questions; the answers are missing."]
    return []
