"""Train: prepared rows and a plan become checkpoints of a LoRA adapter; one attempt of a run.

Read it top to bottom: set up, fit, answer. TRL's SFTTrainer does the training; it is configured by
arguments and callbacks, and one step of it is overridden (cut.py).
"""

from __future__ import annotations

import time
import traceback
from pathlib import Path

from runner.contract.batch import BatchPlan, describe_change
from runner.contract.stage_io import SmallerPlan, write_message
from runner.errors import HOST_MEMORY_ADVICE, RunnerError, StageError
from runner.exit_codes import ExitCode
from runner.training.fit.answer import answer
from runner.training.fit.attempt import Attempt, next_plan, smaller_plan
from runner.training.fit.build_trainer import apply_plan
from runner.training.fit.set_up import of_first, plain_plan, set_up
from runner.training.import_stack import import_stack
from runner.training.ranks.place import Place


def train(folder: Path, place: Place | None = None) -> None:
    """Run the attempt whose plan lies in ``folder``.

    Args:
        folder: the attempt's.
        place: of this process among several that train together; None: it trains alone.

    Raises:
        StageError: it did not come to its end; the result says why and what is safe.
    """
    import_stack("torch")
    attempt = set_up(folder, place)
    started = time.monotonic()
    trouble = _fit(attempt)
    attempt.meter.note("in all")
    answer(attempt, trouble, seconds=time.monotonic() - started)
    if trouble is not None:
        raise trouble


def _fit(attempt: Attempt) -> StageError | None:
    """Train until the end or until something is in the way; give what it was."""
    from runner.training.fit.memory import let_go

    resume = attempt.plan.resume_from
    checkpoint = str(attempt.run.checkpoints / resume) if resume else None
    while True:
        trouble = _try(attempt, checkpoint)
        attempt.trainer.model.zero_grad(set_to_none=True)
        let_go()  # only here: inside an except the error still holds the tensors
        if trouble == "fast path":
            checkpoint = _go_on_plainly(attempt, checkpoint)
            continue
        if trouble == "limit":
            if not _saved_last_step(attempt):
                return _out_of_memory(attempt)
            attempt.trainer.optimizer = None  # made anew, and its state is read
            checkpoint = _newest(attempt, checkpoint)
            continue
        if trouble != "probe":
            break
        attempt.meter.forget_peak()
        if _may_have_more(attempt):
            continue
        less = of_first(attempt.ranks, smaller_plan(attempt))
        if less is None:
            return _out_of_memory(attempt)
        change = describe_change(attempt.batch_plan, less)
        print(f"the worst batch does not fit; {change}", flush=True)
        _go_on_with(attempt, less, change)
    if isinstance(trouble, StageError) and trouble.exit_code != ExitCode.DIVERGED:
        _save_last_step(attempt)  # useless weights would become the newest checkpoint
    return trouble if isinstance(trouble, StageError) else None


def _try(attempt: Attempt, checkpoint: str | None) -> StageError | str | None:
    """Call the trainer once, and turn what it raises into words; nothing of the error survives."""
    from runner.training.fit.callbacks import ProbeDoesNotFit
    from runner.training.fit.fast_path import COST, FastPathFailed
    from runner.training.fit.memory import Lost, classify, plan_does_not_fit
    from runner.training.fit.stop import Interrupted

    try:
        attempt.trainer.train(resume_from_checkpoint=checkpoint)
    except ProbeDoesNotFit as error:
        traceback.clear_frames(error.__traceback__)
        return "probe"
    except FastPathFailed as error:
        traceback.clear_frames(error.__traceback__)
        step = attempt.progress.step + 1
        if attempt.ranks.size > 1:  # the others are in the middle of that step
            return StageError(
                f"A kernel of the fast path failed in step {step} ({error}).",
                exit_code=ExitCode.UNEXPECTED,
                kind="fast_path_failed",
                advice="The next attempt trains on the plain path; the traceback is in train.log.",
            )
        print(
            f"Plain path: the fast one failed in step {step} ({error}). It gives {COST}.",
            flush=True,
        )
        return "fast path"
    except Interrupted:
        return StageError(
            f"Stopped after step {attempt.progress.step}.",
            exit_code=ExitCode.INTERRUPTED,
            kind="interrupted",
        )
    except RunnerError as error:
        if not isinstance(error, StageError):
            raise
        traceback.clear_frames(error.__traceback__)
        return error.with_traceback(None)
    except Exception as error:
        lost = classify(error)
        on_gpu = attempt.machine.on_gpu
        if lost is not Lost.HOST_MEMORY and not plan_does_not_fit(lost, on_gpu=on_gpu):
            raise
        traceback.print_tb(error.__traceback__)
        print(f"{type(error).__name__}: {error}", flush=True)
        traceback.clear_frames(error.__traceback__)
        if not plan_does_not_fit(lost, on_gpu=on_gpu):
            return StageError(
                f"The machine's own memory ran out after step {attempt.progress.step}.",
                exit_code=ExitCode.OUT_OF_HOST_MEMORY,
                kind="out_of_host_memory",
                advice=HOST_MEMORY_ADVICE,
            )
        return "limit" if _may_have_more(attempt) else _out_of_memory(attempt)
    return None


def _may_have_more(attempt: Attempt) -> bool:
    """Whether the same plan has more room now; of several ranks each would have to know of it.

    Not after an error inside the optimizer step: weights that are half changed may have no
    checkpoint to go back to.
    """
    is_whole = not attempt.progress.in_optimizer
    return attempt.ranks.size == 1 and is_whole and attempt.meter.lift()


def _go_on_with(attempt: Attempt, plan: BatchPlan, change: str) -> None:
    """Change the plan within an attempt, and tell the daemon; ``change`` is for the result."""
    attempt.notes.append(change)
    attempt.batch_plan = plan
    told = SmallerPlan(batch_plan=plan, left_fast_path=attempt.left_fast_path)
    write_message(attempt.folder.smaller_plan, told)
    apply_plan(attempt.trainer, plan, attempt.spec)


def _go_on_plainly(attempt: Attempt, checkpoint: str | None) -> str | None:
    """Let the plain path go on after the last finished step; give the checkpoint that has it.

    Raises:
        FastPathFailed: the step could not be saved. The daemon's next attempt takes the plain path
            from the last durable one.
    """
    from runner.training.fit.fast_path import FastPathFailed
    from runner.training.fit.memory import let_go

    trainer = attempt.trainer
    if not _saved_last_step(attempt):
        raise FastPathFailed("and the last finished step could not be saved")
    before = trainer.fast.in_force(attempt.batch_plan)
    trainer.fast.leave()
    trainer.fast = trainer.optimizer = None  # the optimizer is made anew, and its state is read
    attempt.left_fast_path = True
    plain = plain_plan(attempt.plan)
    _go_on_with(attempt, plain, describe_change(before, plain))
    attempt.conduct.probed = not attempt.conduct.wishes.probe
    let_go()  # places of unpacked weights, and the optimizer's first state
    return _newest(attempt, checkpoint)


def _newest(attempt: Attempt, checkpoint: str | None) -> str | None:
    """Give this attempt's newest checkpoint, or the one that it began with."""
    sealed = attempt.progress.sealed
    own = attempt.folder.checkpoints / str(sealed)
    return str(own) if sealed and own.exists() else checkpoint


def _saved_last_step(attempt: Attempt) -> bool:
    """Save the last finished step; False: it could not be."""
    _save_last_step(attempt)
    return attempt.progress.step <= attempt.progress.sealed_step


def _out_of_memory(attempt: Attempt) -> StageError:
    progress = attempt.progress
    message = f"Memory ran out at {attempt.batch_plan}, after step {progress.step}."
    if progress.in_evaluation:
        message = f"Memory ran out in the held-out loss, after step {progress.step}."
    return StageError(
        message,
        exit_code=ExitCode.OUT_OF_GPU_MEMORY,
        kind="out_of_gpu_memory",
        advice="A smaller training.max_length or lora.r, or method: qlora, needs less."
        if next_plan(attempt) is None
        else None,
    )


def _save_last_step(attempt: Attempt) -> None:
    """Save a checkpoint of the last finished step, if the weights are still its own.

    An error inside the optimizer step leaves weights half changed: then the last durable
    checkpoint stands.
    """
    progress, trainer = attempt.progress, attempt.trainer
    if not attempt.ranks.is_first:
        return
    if progress.boundary is None or progress.in_optimizer or progress.step <= progress.sealed_step:
        return
    progress.boundary.restore()
    try:
        # Private, but what the library's own signal checkpoint calls; it does not fire on_save.
        trainer._save_checkpoint(trainer.model, trial=None)  # noqa: SLF001
        trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
    except Exception as error:  # a full disk, memory still short: the last durable one stands
        traceback.print_tb(error.__traceback__)
        print(f"no checkpoint of step {progress.step}: {type(error).__name__}", flush=True)
