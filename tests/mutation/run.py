"""Mutation run: faults planted one by one in training and forecast; the tests must notice each.

Run `OMP_NUM_THREADS=1 python tests/mutation/run.py` (``--only WORD`` for some, ``--jobs N``
for more at once). Each fault is put into a scratch copy of the working tree, and the tests that are
nearest to it run there; the same tests run once without a fault, or their failure would show
nothing. Survivors are listed; what is known of them stands in docs/measurements.md.

Four fifths of a training test's time are imports. Here they are made once: each test run is a fork
of a process that has imported the libraries, and nothing of this product.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path

from handed_over import HANDED_OVER
from judging import JUDGING
from mends import MENDS
from mutation import Mutation

REPOSITORY = Path(__file__).parents[2]
_SHOWN = 160  # characters of a test's name and of what it found
SECONDS = 600.0  # a fault may make a test wait; that is noticed, too
LIBRARIES = (
    "pytest",
    "torch",
    "datasets",
    "bitsandbytes",
    "peft",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "trl.trainer.sft_trainer",
)
"""What the train stage and its tests import: 11 s of a core."""
_FORK = multiprocessing.get_context("fork")

FIELDS = ("tests/integration/test_spec_reaches_the_trainer.py", "-k", "what_the_spec_says")
SAVED = ("tests/integration/test_spec_reaches_the_trainer.py", "-k", "checkpoints_fall")
PADDED = ("tests/integration/test_reference.py", "-k", "padded")
PARTS = ("tests/integration/test_reference.py", "-k", "parts")
CUT = ("tests/integration/test_reference.py", "-k", "cut and not experts")
PACKED = ("tests/integration/test_reference.py", "-k", "packed and not alone")
SCHEDULE = ("tests/unit/test_schedule.py",)
WHEN = ("tests/unit/test_measure_when.py",)
SPLIT = ("tests/unit/test_split.py",)
FORECAST = ("tests/unit/test_forecast_parts.py",)
KEPT = ("tests/unit/test_forecast.py", "-k", "kept")
CHOSEN = ("tests/unit/test_forecast.py", "-k", "nearly_fills")
LESSONS = ("tests/unit/test_lessons.py",)
CACHE = "tests/integration/test_base_cache.py"
FP8 = ("tests/unit/test_fp8.py", "-k", "neighbours or one_place")
AHEAD = ("tests/unit/test_read_ahead.py",)
SEEN = ("tests/unit/test_kernels.py", "-k", "weights_that_change")
TRAIN = "tests/integration/test_train.py::"
OOM = "tests/integration/test_out_of_memory.py::"


_FIT = "training/fit/"
SPEED = (
    Mutation(
        "a changed model's kept base",
        _FIT + "base_cache.py",
        'for path in sorted(model.glob("*.safetensors*"))',
        "for path in ()",
        (CACHE, "-k", "changed"),
    ),
    Mutation(
        "a base fills the disk",
        "contract/base_entries.py",
        ">= needed + leave:",
        ">= needed:",
        (CACHE, "-k", "short"),
    ),
    Mutation(
        "the newest bases go first",
        "contract/base_entries.py",
        "for entry in _entries(cache)), reverse=True)",
        "for entry in _entries(cache)))",
        (CACHE, "-k", "used_last"),
    ),
    Mutation(
        "a damaged base stays",
        _FIT + "base_cache.py",
        "        discard_folder(entry)",
        "        pass",
        (CACHE, "-k", "damaged"),
    ),
    Mutation(
        "fp8 lines scaled by the largest of all",
        "training/kernels/fp8.py",
        "x.float().abs().amax(1, keepdim=True) / LARGEST",
        "x.float().abs().amax().expand(count, 1) / LARGEST",
        FP8,
    ),
    Mutation(
        "fp8 lines in ever new places",
        "training/kernels/fp8.py",
        "if self._place is None or self._place.numel() < count * width:",
        "if True:",
        FP8,
    ),
    Mutation(
        "an old adapter beside the weights",
        "training/kernels/projection.py",
        "if self._beside.get(kind) != (group, version):",
        "if self._beside.get(kind, (None,))[0] is not group:",
        SEEN,
    ),
    Mutation(
        "rows read ahead of another epoch",
        _FIT + "cut.py",
        "and feed.batches is epoch_iterator:",
        "and feed.batches is not None:",
        AHEAD,
    ),
)
"""Faults of what makes a run quick and must change nothing."""

MUTATIONS = (
    *SPEED,
    # what the spec says
    Mutation(
        "no warm-up", _FIT + "build_trainer.py", "=warmup_steps(", "=0 * warmup_steps(", FIELDS
    ),
    Mutation(
        "another scheduler",
        _FIT + "build_trainer.py",
        "_type=t.lr_scheduler",
        '_type="linear"',
        FIELDS,
    ),
    Mutation("no weight decay", _FIT + "build_trainer.py", "=t.weight_decay", "=0.0", FIELDS),
    Mutation("no clipping", _FIT + "build_trainer.py", "=t.max_grad_norm", "=1e9", FIELDS),
    Mutation("another rate", _FIT + "build_trainer.py", "=t.learning_rate", "=3e-4", FIELDS),
    Mutation("one data seed", _FIT + "build_trainer.py", "data_seed=t.seed", "data_seed=1", FIELDS),
    Mutation(
        "one seed of weights",
        _FIT + "set_up.py",
        "set_seed(spec.training.seed)",
        "set_seed(1)",
        PADDED,
    ),
    Mutation(
        "another optimizer", _FIT + "build_trainer.py", 'else "adamw_torch"', 'else "sgd"', FIELDS
    ),
    Mutation(
        "no checkpointing",
        _FIT + "build_trainer.py",
        "_checkpointing(plan.batch_plan.activation_checkpointing)",
        "_checkpointing(False)",
        FIELDS,
    ),
    Mutation(
        "no accumulation",
        _FIT + "build_trainer.py",
        "gradient_accumulation_steps=plan.batch_plan.gradient_accumulation_steps,",
        "gradient_accumulation_steps=1,",
        PARTS,
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
    Mutation("FP4", _FIT + "model.py", 'quant_type="nf4"', 'quant_type="fp4"', FIELDS),
    Mutation(
        "not quantised",
        _FIT + "model.py",
        'elif method == "qlora"',
        'elif method == "none"',
        FIELDS,
    ),
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
        SAVED,
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
        _FIT + "collator.py",
        "torch.ones_like(batch",
        "torch.zeros_like(batch",
        PADDED,
    ),
    Mutation(
        "padding first",
        _FIT + "collator.py",
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
        "contract/prune.py",
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
    Mutation("measured once", "contract/measure_when.py", "min(count, total_steps)", "1", WHEN),
    Mutation("measured at any cost", "contract/measure_when.py", "int(DEAR / cost)", "8", WHEN),
    Mutation(
        "not spread",
        "contract/measure_when.py",
        "-(-total_steps * place // count)",
        "total_steps - count + place",
        WHEN,
    ),
    Mutation(
        "base is the adapter",
        "training/evaluate/adapted.py",
        "with self.base():\n            return self.loss(rows)",
        "if True:\n            return self.loss(rows)",
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
    Mutation("no head", "forecast/memory.py", "max(in_blocks, kept + head)", "in_blocks", FORECAST),
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
    Mutation(
        "no head's time",
        "forecast/seconds.py",
        "head = 3 * 2 * shape.vocabulary * shape.hidden\n    each",
        "head = 0\n    each",
        FORECAST,
    ),
    Mutation("no startup", "forecast/seconds.py", "+ _STARTUP_SECONDS", "", FORECAST),
    Mutation("a full card", "forecast/choose.py", "<= ROOM_SHARE * limit", "<= limit", CHOSEN),
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
        "lessons = [one for one in lessons if one.gpu == gpu and one.ranks == ranks]",
        "lessons = [one for one in lessons if one.ranks == ranks]",
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

LISTS = {
    "faults": MUTATIONS,
    "mends": MENDS,
    "judging": JUDGING,
    "handed over": HANDED_OVER,
}


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


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Tests that run in a copy, with a fault or without."""

    mutation: Mutation | None
    tests: tuple[str, ...]
    tree: Path
    text: str
    """The file as it was before the fault."""
    child: ForkProcess
    began: float

    @classmethod
    def start(cls, mutation: Mutation | None, tests: tuple[str, ...], tree: Path) -> Judging:
        """Plant the fault and start the tests."""
        text = ""
        if mutation is not None:
            file = tree / "runner" / mutation.file
            text = file.read_text()
            file.write_text(text.replace(mutation.old, mutation.new))
        child = _FORK.Process(target=_be_pytest, args=(tree, tests))
        child.start()
        return cls(
            mutation=mutation,
            tests=tests,
            tree=tree,
            text=text,
            child=child,
            began=time.monotonic(),
        )

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or has had its time."""
        return not self.child.is_alive() or time.monotonic() - self.began > SECONDS

    def end(self) -> str:
        """Take the fault out again and say what became of it."""
        status = self.child.exitcode
        if status is None:
            os.killpg(self.child.pid or 0, signal.SIGKILL)
            status = 1
        self.child.join()
        if self.mutation is not None:
            (self.tree / "runner" / self.mutation.file).write_text(self.text)
        return {0: "SURVIVED", 1: "noticed"}.get(status, f"pytest ended with {status}")

    def noticed_by(self) -> str:
        """Name the test that failed, or give what was printed last."""
        text = self.log.read_text()
        found = re.search(r"^(?:FAILED|ERROR) \S*/(.+)$", text, re.MULTILINE)
        return found[1][:_SHOWN] if found else "".join(text.splitlines()[-1:])

    @property
    def log(self) -> Path:
        """What pytest printed."""
        return self.tree / "pytest.log"


def _be_pytest(tree: Path, tests: tuple[str, ...]) -> None:
    """Be the child: pytest in the copy, its children forks of what is imported already."""
    os.setsid()
    log = os.open(tree / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    words = ["-q", "-x", "-rfE", "-W", "ignore", "-p", "no:cacheprovider", *tests]
    if tests[0].startswith(OOM):  # its limits count what a process has, and a fork has more
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *words])
    sys.path.insert(0, str(tree))
    # A fork server would import the libraries anew.
    multiprocessing.get_context = lambda *_: _FORK  # type: ignore[assignment]
    import pytest

    status = pytest.main(words)
    sys.stdout.flush()
    os._exit(int(status))


def judge_all(chosen: Sequence[Mutation], trees: Sequence[Path], *, trust: bool) -> list[str]:
    """Run every mutation's tests, as many at once as there are copies, and print what comes."""
    waiting: list[tuple[Mutation | None, tuple[str, ...]]] = []
    for tests in dict.fromkeys(one.tests for one in chosen):
        waiting += [
            *([] if trust else [(None, tests)]),
            *((one, tests) for one in chosen if one.tests == tests),
        ]
    free, running = list(trees), list[Judging]()
    outcomes: list[tuple[tuple[str, ...], str]] = []
    failing: set[tuple[str, ...]] = set()
    while waiting or running:
        while waiting and free:
            running.append(Judging.start(*waiting.pop(0), free.pop()))
        wait([one.child.sentinel for one in running], timeout=1.0)
        for one in [one for one in running if one.is_over]:
            running.remove(one)
            outcome = one.end()
            by = one.noticed_by()
            free.append(one.tree)
            seconds = f"{time.monotonic() - one.began:5.0f} s"
            if one.mutation is None:
                if outcome != "SURVIVED":
                    failing.add(one.tests)
                    print(f"{'FAILS':10}  {seconds}  without a fault: {by}", flush=True)
                continue
            outcomes.append((one.tests, outcome))
            what = f"{one.mutation.file}: {one.mutation.what}"
            print(f"{outcome:10}  {seconds}  {what}  {by}", flush=True)
    # What fails without a fault judges none; it may have ended after those that it was to judge.
    return ["not judged" if tests in failing else outcome for tests, outcome in outcomes]


def main(words: Sequence[str] | None = None) -> int:
    """Run all, or some; 0 where each fault is noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a word of the fault's name, file or tests")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--list", choices=LISTS, default="faults", help="which list of faults")
    parser.add_argument("--trust", action="store_true", help="skip the runs without a fault")
    parser.add_argument("--dry", action="store_true", help="only see that each can be planted")
    asked = parser.parse_args(words)
    chosen = [
        m for m in LISTS[asked.list] if asked.only in f"{m.what} {m.file} {' '.join(m.tests)}"
    ]
    with tempfile.TemporaryDirectory(prefix="mutation-") as scratch:
        trees = [Path(scratch) / str(number) for number in range(asked.jobs)]
        for tree in trees:
            copy_tree(tree)
            # Only a file with a fault is compiled anew; its bytecode is never written.
            compileall.compile_dir(tree, quiet=2)
        astray = [m for m in chosen if (trees[0] / "runner" / m.file).read_text().count(m.old) != 1]
        for one in astray:
            print(f"not planted: {one.file}: {one.what}", flush=True)
        if asked.dry:
            return len(astray)
        for library in LIBRARIES:
            importlib.import_module(library)
        outcomes = judge_all([one for one in chosen if one not in astray], trees, trust=asked.trust)
    noticed = outcomes.count("noticed")
    print(f"{noticed} of {len(chosen)} noticed")
    return 0 if noticed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
