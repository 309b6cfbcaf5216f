"""Mutation run: faults planted one by one in training and forecast; the tests must notice each.

Run `python tests/mutation/run.py` (about half an hour; ``--only WORD`` for some, ``--jobs N`` for
more at once). Each fault is put into a scratch copy of the working tree, and the tests that are
nearest to it run there. Survivors are listed; what is known of them stands in docs/measurements.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

REPOSITORY = Path(__file__).parents[2]
SECONDS = 600.0  # a fault may make a test wait; that is noticed, too

FIELDS = ("tests/integration/test_spec_reaches_the_trainer.py",)
PADDED = ("tests/integration/test_reference.py", "-k", "padded or parts")
CUT = ("tests/integration/test_reference.py", "-k", "cut and not experts")
PACKED = ("tests/integration/test_reference.py", "-k", "packed and not alone")
SCHEDULE = ("tests/unit/test_schedule.py",)
WHEN = ("tests/unit/test_measure_when.py",)
SPLIT = ("tests/unit/test_split.py",)
FORECAST = ("tests/unit/test_forecast_parts.py",)
KEPT = ("tests/unit/test_forecast.py", "-k", "kept")
CHOICE = ("tests/unit/test_forecast.py", "tests/unit/test_what_fits.py", "-k", "not kept")
LESSONS = ("tests/unit/test_lessons.py",)
TRAIN = "tests/integration/test_train.py::"
OOM = "tests/integration/test_out_of_memory.py::"


@dataclass(frozen=True)
class Mutation:
    """One fault, and the tests that should notice it."""

    what: str
    file: str
    """Under runner/."""
    old: str
    new: str
    tests: tuple[str, ...]


_FIT = "training/fit/"
MUTATIONS = (
    # what the spec says
    Mutation("no warm-up", _FIT + "train.py", "=warmup_steps(", "=0 * warmup_steps(", FIELDS),
    Mutation(
        "another scheduler", _FIT + "train.py", "_type=t.lr_scheduler", '_type="linear"', FIELDS
    ),
    Mutation("no weight decay", _FIT + "train.py", "=t.weight_decay", "=0.0", FIELDS),
    Mutation("no clipping", _FIT + "train.py", "=t.max_grad_norm", "=1e9", FIELDS),
    Mutation("another rate", _FIT + "train.py", "=t.learning_rate", "=3e-4", FIELDS),
    Mutation("one data seed", _FIT + "train.py", "data_seed=t.seed", "data_seed=1", FIELDS),
    Mutation(
        "one seed of weights",
        _FIT + "train.py",
        "set_seed(spec.training.seed)",
        "set_seed(1)",
        FIELDS,
    ),
    Mutation("another optimizer", _FIT + "train.py", 'else "adamw_torch"', 'else "sgd"', FIELDS),
    Mutation(
        "no checkpointing",
        _FIT + "train.py",
        "_checkpointing(plan.batch_plan.activation_checkpointing)",
        "_checkpointing(False)",
        FIELDS,
    ),
    Mutation(
        "no accumulation",
        _FIT + "train.py",
        "gradient_accumulation_steps=plan.batch_plan.gradient_accumulation_steps,",
        "gradient_accumulation_steps=1,",
        PADDED,
    ),
    Mutation("r fixed", _FIT + "model.py", "r=spec.lora.r,", "r=16,", FIELDS),
    Mutation(
        "alpha doubled", _FIT + "model.py", "=spec.lora.alpha", "=2 * spec.lora.alpha", FIELDS
    ),
    Mutation("no dropout", _FIT + "model.py", "=spec.lora.dropout", "=0.0", FIELDS),
    Mutation("no rsLoRA", _FIT + "model.py", "=spec.lora.use_rslora", "=False", FIELDS),
    Mutation(
        "no double quantisation",
        _FIT + "model.py",
        "double_quant=True",
        "double_quant=False",
        FIELDS,
    ),
    Mutation("FP4", _FIT + "model.py", '"nf4"', '"fp4"', FIELDS),
    Mutation("not quantised", _FIT + "model.py", 'method == "qlora"', 'method == "none"', FIELDS),
    Mutation(
        "adapters left in 16 bits",
        _FIT + "model.py",
        "weight.data.float()",
        "weight.data.bfloat16()",
        FIELDS,
    ),
    Mutation(
        "save_steps ignored",
        _FIT + "callbacks.py",
        "progress.step % wishes.save_steps == 0",
        "False",
        FIELDS,
    ),
    # one step
    Mutation(
        "triple loss",
        _FIT + "cut.py",
        "return super().training_step(model, inputs, num_items_in_batch)",
        "return super().training_step(model, inputs, num_items_in_batch / 3)",
        PADDED,
    ),
    Mutation("triple loss told", _FIT + "cut.py", "sum(losses)", "3 * sum(losses)", CUT),
    Mutation("a row cut short", _FIT + "cut.py", ":longest]", ": longest - 1]", CUT),
    Mutation("a pass lost", _FIT + "cut.py", "for rows in passes", "for rows in passes[1:]", CUT),
    Mutation(
        "rows twice as long",
        "training/data/pack.py",
        "_pack(numbered, limit)",
        "_pack(numbered, 2 * limit)",
        PACKED,
    ),
    Mutation(
        "all masked",
        _FIT + "callbacks.py",
        "torch.ones_like(batch",
        "torch.zeros_like(batch",
        PADDED,
    ),
    Mutation(
        "padding first",
        _FIT + "callbacks.py",
        'if "attention_mask" in batch:',
        'batch = {k: v.flip(1).roll(1, 1) if k == "labels" else v for k, v in batch.items()}\n'
        '        if "attention_mask" in batch:',
        PADDED,
    ),
    # the schedule
    Mutation(
        "first step lost",
        _FIT + "schedule.py",
        "(done + 1) / (warmup + 1)",
        "done / (warmup + 1)",
        SCHEDULE,
    ),
    Mutation("all warm-up", _FIT + "schedule.py", ", total_steps - 1)", ", total_steps)", SCHEDULE),
    Mutation("falls too early", _FIT + "schedule.py", "(done - warmup) /", "done /", SCHEDULE),
    Mutation(
        "last step lost",
        _FIT + "schedule.py",
        "max(1, total_steps - warmup)",
        "max(1, total_steps - warmup - 1)",
        SCHEDULE,
    ),
    Mutation(
        "scheduler kept after a probe",
        _FIT + "cut.py",
        "_created_lr_scheduler = True",
        "_created_lr_scheduler = False",
        (OOM + "test_the_probe_finds_the_plan_that_fits",),
    ),
    # held-out rows
    Mutation(
        "mean of rows",
        _FIT + "heldout.py",
        "loss=sum(sums) / max(1, tokens)",
        "loss=sum(s / max(1, c) for s, c in zip(sums, counts)) / len(sums)",
        PADDED,
    ),
    Mutation(
        "dropout while measuring",
        _FIT + "heldout.py",
        "model.eval()",
        "model.train()",
        ("tests/integration/test_reference.py", "-k", "dropout"),
    ),
    Mutation(
        "the worst is best",
        _FIT + "callbacks.py",
        "found.loss < progress.best_eval_loss",
        "found.loss > progress.best_eval_loss",
        (TRAIN + "test_the_best_checkpoint_wins",),
    ),
    Mutation(
        "the best is pruned",
        _FIT + "checkpoint.py",
        "step_of(name) == best_step",
        "False",
        (TRAIN + "test_the_best_checkpoint_wins",),
    ),
    Mutation(
        "not measured at the end",
        _FIT + "callbacks.py",
        "(ending or progress.step in",
        "(progress.step in",
        (TRAIN + "test_a_time_limit_ends_a_run_with_its_best_adapter",),
    ),
    Mutation(
        "diverges unseen",
        _FIT + "callbacks.py",
        "DIVERGED_FACTOR = 1.5",
        "DIVERGED_FACTOR = 150",
        (TRAIN + "test_a_run_that_diverges_ends_with_a_reason",),
    ),
    Mutation("measured once", _FIT + "measure_when.py", "min(count, total_steps)", "1", WHEN),
    Mutation("measured at any cost", _FIT + "measure_when.py", "int(DEAR / cost)", "8", WHEN),
    Mutation(
        "not spread",
        _FIT + "measure_when.py",
        "-(-total_steps * place // count)",
        "total_steps - count + place",
        WHEN,
    ),
    Mutation(
        "base is the adapter",
        "training/evaluate/evaluate.py",
        "with model.disable_adapter():\n            before = measure()",
        "if True:\n            before = measure()",
        (TRAIN + "test_what_is_exported_is_what_training_measured",),
    ),
    Mutation(
        "zeros unseen",
        "training/evaluate/evaluate.py",
        "return not any(bool(",
        "return not all(bool(",
        (TRAIN + "test_an_adapter_of_zeros_is_known_by_its_weights",),
    ),
    Mutation(
        "a half held out", "training/data/split.py", "MOST_SHARE = 0.2", "MOST_SHARE = 0.5", SPLIT
    ),
    Mutation(
        "20 rows are enough",
        "training/data/split.py",
        "ENOUGH_ROWS = 100",
        "ENOUGH_ROWS = 20",
        SPLIT,
    ),
    Mutation(
        "case makes another prompt", "training/data/split.py", "text.casefold()", "text", SPLIT
    ),
    # the forecast
    Mutation(
        "optimizer halved",
        "forecast/memory.py",
        "optimizer=adapter * 2 * FP32",
        "optimizer=adapter * FP32",
        FORECAST,
    ),
    Mutation(
        "no copy of the adapter",
        "forecast/memory.py",
        "adapter=adapter * (FP32 + BF16)",
        "adapter=adapter * FP32",
        FORECAST,
    ),
    Mutation(
        "one block's gradients",
        "forecast/memory.py",
        "shape.layers if plan.gradient_accumulation_steps > 1 else 1",
        "1",
        FORECAST,
    ),
    Mutation("no head", "forecast/memory.py", "max(in_blocks, kept + head)", "in_blocks", CHOICE),
    Mutation(
        "no logits", "forecast/memory.py", "_HEAD_TILE[1] * BF16", "_HEAD_TILE[1] * 0", FORECAST
    ),
    Mutation("no slack", "forecast/memory.py", "_SLACK_ELSE = 0.02", "_SLACK_ELSE = 0.0", FORECAST),
    Mutation(
        "norms kept in 16 bits",
        "forecast/memory.py",
        "2 * (FP32 * shape.hidden + FP32)",
        "2 * (BF16 * shape.hidden + FP32)",
        KEPT,
    ),
    Mutation("no dropout masks", "forecast/memory.py", "if work.dropout:", "if False:", FORECAST),
    Mutation(
        "a checkpoint fewer",
        "forecast/memory.py",
        "(_CHECKPOINTS_KEPT + 1)",
        "_CHECKPOINTS_KEPT",
        FORECAST,
    ),
    Mutation(
        "the host's adapter once",
        "forecast/memory.py",
        "_HOST_BASE_BYTES + 3 * FP32",
        "_HOST_BASE_BYTES + FP32",
        FORECAST,
    ),
    Mutation(
        "checkpointing is free",
        "forecast/seconds.py",
        "3 if plan.activation_checkpointing else 2",
        "2",
        FORECAST,
    ),
    Mutation(
        "Python waits for nothing",
        "forecast/seconds.py",
        "max(tokens * each_token, waiting)",
        "tokens * each_token",
        FORECAST,
    ),
    Mutation("no head's time", "forecast/seconds.py", "head = 3 * 2 *", "head = 0 *", FORECAST),
    Mutation("no startup", "forecast/seconds.py", "+ _STARTUP_SECONDS", "", FORECAST),
    Mutation("a full card", "forecast/choose.py", "<= ROOM_SHARE * limit", "<= limit", CHOICE),
    Mutation(
        "double weights", "forecast/work.py", "_NF4_BYTES = 0.5 +", "_NF4_BYTES = 1.0 +", FORECAST
    ),
    Mutation("no reserve", "forecast/work.py", "- CARD_RESERVE_BYTES", "", FORECAST),
    Mutation(
        "tied by default",
        "forecast/model_shape.py",
        'config.get("tie_word_embeddings") is True',
        'config.get("tie_word_embeddings") is not False',
        FORECAST,
    ),
    Mutation(
        "one lesson is all",
        "forecast/lessons.py",
        "len(ratios) / (len(ratios) + 1)",
        "1.0",
        LESSONS,
    ),
    Mutation(
        "another card's lesson",
        "forecast/lessons.py",
        "one.key == kind and one.gpu == gpu and",
        "one.key == kind and",
        LESSONS,
    ),
    Mutation(
        "any factor",
        "forecast/lessons.py",
        "_FACTORS = (0.7, 1.5)",
        "_FACTORS = (0.0, 9.0)",
        LESSONS,
    ),
    Mutation(
        "old lessons count", "forecast/lessons.py", "_COUNTED = 10", "_COUNTED = 100", LESSONS
    ),
)


def copy_tree(target: Path) -> None:
    """Copy what git tracks, or would."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, target / name)


def judge(mutation: Mutation, tree: Path) -> tuple[str, float]:
    """Plant one fault in a copy, run its tests, take it out again; say what became of it."""
    file = tree / "runner" / mutation.file
    text = file.read_text()
    if text.count(mutation.old) != 1:
        return f"not planted: found {text.count(mutation.old)} times", 0.0
    file.write_text(text.replace(mutation.old, mutation.new))
    began = time.monotonic()
    try:
        status = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutation.tests],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=SECONDS,
        ).returncode
    except subprocess.TimeoutExpired:
        status = 1
    finally:
        file.write_text(text)
    outcome = {0: "SURVIVED", 1: "noticed"}.get(status, f"pytest ended with {status}")
    return outcome, time.monotonic() - began


def main(words: Sequence[str] | None = None) -> int:
    """Run all, or some; 0 where each fault is noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a word of the fault's name, file or tests")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args(words)
    chosen = [m for m in MUTATIONS if asked.only in f"{m.what} {m.file} {' '.join(m.tests)}"]
    with tempfile.TemporaryDirectory(prefix="mutation-") as scratch:
        trees: Queue[Path] = Queue()
        for number in range(asked.jobs):
            tree = Path(scratch) / str(number)
            copy_tree(tree)
            trees.put(tree)

        def one(mutation: Mutation) -> str:
            tree = trees.get()
            outcome, seconds = judge(mutation, tree)
            trees.put(tree)
            print(f"{outcome:10}  {seconds:5.0f} s  {mutation.file}: {mutation.what}", flush=True)
            return outcome

        with ThreadPoolExecutor(asked.jobs) as pool:
            outcomes = list(pool.map(one, chosen))
    noticed = outcomes.count("noticed")
    print(f"{noticed} of {len(outcomes)} noticed")
    return 0 if noticed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
