"""Answer: what an attempt came to, as the daemon reads it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Hashable
from typing import Any

from runner.contract.layout import RunFolder, checkpoint_name
from runner.contract.rates import HeldOutLosses
from runner.contract.record import ErrorFacts
from runner.contract.stage_io import TrainResult, write_message
from runner.errors import StageError
from runner.exit_codes import ExitCode
from runner.training.fit.attempt import Attempt, next_plan

STACK = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets")


def answer(attempt: Attempt, trouble: StageError | None, *, seconds: float) -> None:
    """Write the result.

    Args:
        attempt: that has ended.
        trouble: what ended it early; None: nothing did.
        seconds: that training took.
    """
    import shutil

    progress = attempt.progress
    shutil.rmtree(attempt.folder.root / "work", ignore_errors=True)
    shortfalls = list(progress.shortfalls)
    if progress.out_of_time:
        shortfalls.append(
            f"The time limit ended training after step {progress.step} of {progress.total_steps}."
        )
    if (why := _exact_because(attempt)) is not None:
        what = f"speed: fp8 was asked for and not used: {why}. It was trained in 16 bits."
        shortfalls.append(what)
    best = progress.best_step or (progress.sealed_step or None)
    outcomes = {
        ExitCode.OUT_OF_GPU_MEMORY: "out of memory",
        ExitCode.INTERRUPTED: "interrupted",
        ExitCode.DIVERGED: "diverged",
    }
    write_message(
        attempt.folder.result,
        TrainResult(
            outcome="succeeded" if trouble is None else outcomes.get(trouble.exit_code, "failed"),
            batch_plan=attempt.batch_plan,
            next_batch_plan=next_plan(attempt)
            if trouble is not None and trouble.exit_code == ExitCode.OUT_OF_GPU_MEMORY
            else None,
            first_step=progress.first_step,
            last_step=progress.sealed_step,
            checkpoint=progress.sealed,
            best_checkpoint=checkpoint_name(best) if best else None,
            best_eval_loss=progress.best_eval_loss,
            peak_gpu_memory_bytes=attempt.meter.peak_bytes(),
            peak_gpu_allocated_bytes=attempt.meter.peak_allocated_bytes(),
            metrics={
                "train_loss": progress.losses[-1] if progress.losses else None,
                "eval_loss": progress.eval_loss,
                "eval_losses": progress.eval_losses,
                "tokens_seen": progress.tokens_seen,
                "tokens_per_second": round(
                    progress.trained_tokens / max(progress.trained_seconds, 1e-9), 1
                ),
                "seconds": round(seconds, 3),
                "plan_changes": attempt.notes,
                "gpu_memory": attempt.meter.notes,
                "path": "plain" if attempt.trainer.fast is None else "fast",
                "speed": "fp8" if _in_fp8(attempt) else "exact",
            },
            environment=_environment(attempt),
            held_out=_held_out(attempt) if trouble is None and attempt.plan.is_trial else None,
            shortfalls=tuple(shortfalls),
            findings=progress.findings,
            error=trouble
            and ErrorFacts(kind=trouble.kind, message=trouble.message, advice=trouble.advice),
        ),
    )


def _held_out(attempt: Attempt) -> HeldOutLosses | None:
    """Give the held-out rows' losses at the end of a small run, by what they belong to."""
    from runner.training.data.clusters import clusters_of_rows

    found = attempt.conduct.last_held_out()
    if found is None:
        return None
    sums: dict[Hashable, float] = {}
    tokens: Counter[Hashable] = Counter()
    prepared = RunFolder.containing(attempt.folder.root).prepared
    clusters = clusters_of_rows(prepared, attempt.conduct.eval_rows["row"])
    for cluster, lost, count in zip(clusters, found.sums, found.counts, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + lost
        tokens[cluster] += count
    return HeldOutLosses(
        sums=tuple(sums.values()), tokens=tuple(tokens[cluster] for cluster in sums)
    )


def _in_fp8(attempt: Attempt) -> bool:
    fast = attempt.trainer.fast
    return fast is not None and bool(fast.model.fp8)


def _exact_because(attempt: Attempt) -> str | None:
    """Say why a run that asked for fp8 was trained without; None: it was not asked, or it was."""
    if attempt.spec.speed != "fp8" or _in_fp8(attempt):
        return None
    fast = attempt.trainer.fast
    return str(fast.exact_because) if fast is not None else "the run took the plain path"


def _environment(attempt: Attempt) -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {name: importlib.metadata.version(name) for name in STACK}
    facts |= {
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(0) if attempt.machine.on_gpu else "cpu",
        "compute": attempt.machine.compute,
    }
    if attempt.machine.on_gpu:
        facts["cuda"] = torch.version.cuda
        facts["gpu_context_bytes"] = attempt.meter.context_bytes
    return json.loads(json.dumps(facts))
