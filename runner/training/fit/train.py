"""Train: prepared rows and a plan become checkpoints of a LoRA adapter; one attempt of a run.

Read it top to bottom: set up, fit, answer. TRL's SFTTrainer does the training; it is configured by
arguments and callbacks, and one step of it is overridden (cut.py).
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import json
import math
import os
import platform
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.batch import BatchPlan, describe_change, smaller
from runner.contract.checkpoints import read_manifest, verified
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.measure_when import ROWS_AT_ONCE, measured_steps
from runner.contract.models import find_model
from runner.contract.rates import HeldOutLosses
from runner.contract.record import ErrorFacts
from runner.contract.stage_io import (
    PrepareResult,
    SmallerPlan,
    TrainPlan,
    TrainResult,
    read_message,
    write_message,
)
from runner.errors import (
    HOST_MEMORY_ADVICE,
    ModelError,
    Problem,
    RunnerError,
    StageError,
)
from runner.exit_codes import ExitCode
from runner.spec.spec import JobSpec
from runner.training.fit.row_lengths import row_lengths
from runner.training.ranks.place import Place, folder_of

STACK = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets")


def train(folder: Path, place: Place | None = None) -> None:
    """Run the attempt whose plan lies in ``folder``.

    Args:
        folder: the attempt's.
        place: of this process among several that train together; None: it trains alone.

    Raises:
        StageError: it did not come to its end; the result says why and what is safe.
    """
    attempt = _set_up(folder, place)
    started = time.monotonic()
    trouble = _fit(attempt)
    attempt.meter.note("in all")
    _answer(attempt, trouble, seconds=time.monotonic() - started)
    if trouble is not None:
        raise trouble


@dataclass(kw_only=True)
class _Attempt:
    run: RunFolder
    """Where its checkpoints lie."""
    folder: StageFolder
    """What this process writes, but for them."""
    spec: JobSpec
    plan: TrainPlan
    batch_plan: BatchPlan
    """The plan in force; the probe may make it smaller."""
    machine: Any
    meter: Any
    stop: Any
    progress: Any
    conduct: Any
    trainer: Any
    ranks: Any
    notes: list[str]


def _set_up(folder: Path, place: Place | None) -> _Attempt:  # noqa: PLR0915 - each step needs the one before
    # Torch reads it when the allocator starts; it makes room that fragments would waste.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    from runner.spec.read_spec import read_spec
    from runner.training.fit.memory import Meter
    from runner.training.fit.model import find_machine, require_fp8
    from runner.training.ranks.together import Ranks

    run, stage = RunFolder.containing(folder), folder_of(folder, place.rank if place else 0)
    home = RunFolder(folder.parents[1])  # the run's own, or that of a small run within it
    plan = read_message(StageFolder(folder).plan, TrainPlan)
    spec = read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml")
    spec = _with_rate(spec.with_method(plan.method), plan)
    machine = find_machine(plan.device, plan.compute)
    if spec.speed == "fp8" and machine.on_gpu:
        require_fp8()
    # First of all: it measures the card's context, and importing bitsandbytes (which much of the
    # stack does) makes one.
    ranks = Ranks(place, on_gpu=machine.on_gpu)
    meter = Meter(on_gpu=machine.on_gpu, cap_bytes=plan.gpu_memory_bytes, beside=ranks.warm_up)

    from datasets import load_from_disk
    from transformers import set_seed

    from runner.training.data.pack import pack
    from runner.training.data.tokenizer_folder import load_tokenizer
    from runner.training.fit.callbacks import Conduct, Progress, RowNotingCollator, Wishes
    from runner.training.fit.set_up_check import check_set_up
    from runner.training.fit.share_base import first_layers
    from runner.training.fit.start_adapter import give_first_weights
    from runner.training.fit.stop import StopFlag

    gc.freeze()  # half a million objects of libraries: each look for garbage took 0.3 s with them
    stop = StopFlag()
    if plan.spare_host_memory and not machine.on_gpu:
        less = smaller(plan.batch_plan, may_offload=False) or plan.batch_plan
        plan = plan.model_copy(update={"batch_plan": less})
        write_message(stage.smaller_plan, SmallerPlan(batch_plan=less))
    train_rows = load_from_disk(str(run.prepared / "train"))
    eval_rows = load_from_disk(str(run.prepared / "eval")) if _has_rows(run, "eval") else None
    known = {"input_ids", "labels", "row"}
    train_rows = train_rows.remove_columns([c for c in train_rows.column_names if c not in known])
    unpacked = train_rows
    if spec.training.packing:
        prepared = read_message(StageFolder(run.prepared).result, PrepareResult)
        train_rows = pack(train_rows, prepared.max_length)
    tokenizer = load_tokenizer(run.prepared / "tokenizer")

    set_seed(spec.training.seed)  # the adapter's first weights are drawn from it
    model = _load(plan, spec, machine, ranks)
    meter.note("after loading")

    progress = Progress(
        steps_per_epoch=math.ceil(len(train_rows) / plan.batch_plan.effective_batch_size),
        total_steps=plan.total_steps,
    )
    if plan.resume_from is not None:
        checkpoint = home.checkpoints / plan.resume_from
        if not verified(checkpoint):
            raise StageError(
                f"Checkpoint {plan.resume_from} is damaged.",
                exit_code=ExitCode.UNEXPECTED,
                kind="damaged",
                advice="Check the disk under outputs/, then drop the spec again.",
            )
        progress.resume(read_manifest(checkpoint), plan.resume_from)
        if progress.best_step and not verified(home.checkpoint(progress.best_step)):
            progress.best_step = progress.best_eval_loss = None  # torn, and set aside
    lengths = row_lengths(train_rows)
    conduct = Conduct(
        run=home,
        folder=stage,
        spec=spec,
        progress=progress,
        wishes=Wishes(
            measured_steps=measured_steps(
                plan.total_steps,
                every=plan.total_steps if plan.is_trial else spec.training.eval_steps,
                trained_tokens=sum(lengths) * plan.total_steps / progress.steps_per_epoch,
                held_out_tokens=sum(row_lengths(eval_rows)) if eval_rows else 0,
            ),
            save_steps=spec.training.save_steps,
            checkpoint_seconds=plan.checkpoint_seconds,
            seconds_left=plan.seconds_left,
            probe=machine.on_gpu if plan.probe is None else plan.probe,
            eval_batch_size=max(ROWS_AT_ONCE, plan.batch_plan.per_device_batch_size),
            single_rows=not plan.is_trial,
        ),
        stop=stop,
        meter=meter,
        eval_rows=eval_rows,
    )
    trainer = _build_trainer(
        model, tokenizer, train_rows, spec=spec, plan=plan, machine=machine, conduct=conduct
    )
    trainer.ranks = ranks
    trainer.base_shared_by = ranks.size if plan.shard_base else 1
    collator = RowNotingCollator(trainer.data_collator, shared=ranks.size > 1)
    trainer.data_collator = collator
    give_first_weights(trainer.model, plan)
    conduct.bind(trainer, collator, lengths)
    with first_layers(trainer.model, alone=plan.shard_base):
        check_set_up(trainer, unpacked, compute=machine.compute)
    if spec.training.packing and not plan.shard_base:  # the fast path parts rows by itself
        _refuse_if_rows_see_each_other(trainer, train_rows)
    batch_plan = _choose_path(trainer, plan, spec, machine, meter, stop, eval_rows)
    if batch_plan != (agreed := _of_first(ranks, batch_plan)):
        batch_plan = agreed or batch_plan
        _apply(trainer, batch_plan, spec)
    if batch_plan != plan.batch_plan:
        write_message(stage.smaller_plan, SmallerPlan(batch_plan=batch_plan))
    ranks.stop = stop  # from here on the others are told
    return _Attempt(
        run=home,
        folder=stage,
        spec=spec,
        plan=plan,
        batch_plan=batch_plan,
        machine=machine,
        meter=meter,
        stop=stop,
        progress=progress,
        conduct=conduct,
        trainer=trainer,
        ranks=ranks,
        notes=[],
    )


def _load(plan: TrainPlan, spec: JobSpec, machine: Any, ranks: Any) -> Any:
    """Load the base with a fresh adapter; of a shared one, what is this rank's goes to its card."""
    from runner.training.fit.model import Machine, add_adapter, base_cache_of, load_base
    from runner.training.fit.share_base import place_on_card, refuse

    def load(where: Any) -> Any:
        base = load_base(
            find_model(Path(plan.models_dir), spec.model),
            method=spec.method,
            machine=where,
            trust_remote_code=plan.trust_remote_code,
            cache=base_cache_of(plan, keeps=ranks.is_first),
        )
        return add_adapter(base, spec)

    if not plan.shard_base:
        return load(machine)
    if spec.method != "qlora":
        raise refuse("it is not in 4 bits")
    model = None
    for turn in range(ranks.size):
        # One after the other: the host need not hold a large base several times.
        if turn == ranks.rank:
            model = load(Machine(device="cpu", compute=machine.compute))
            place_on_card(model, ranks=ranks.size, device=machine.device)
        ranks.agree()
    return model


def _with_rate(spec: JobSpec, plan: TrainPlan) -> JobSpec:
    """Take the plan's learning rate, where small runs have chosen or try one."""
    if plan.learning_rate is None:
        return spec
    training = spec.training.model_copy(update={"learning_rate": plan.learning_rate})
    return spec.model_copy(update={"training": training})


def _choose_path(
    trainer: Any,
    plan: TrainPlan,
    spec: JobSpec,
    machine: Any,
    meter: Any,
    stop: Any,
    held_out: Any,
) -> BatchPlan:
    """Train on the fast path where that knows the model; give the plan that is in force then."""
    from runner.training.fit.fast_path import find
    from runner.training.ranks.together import Say

    trainer.fast = find(
        trainer,
        trainer.train_dataset,
        plan.batch_plan,
        meter,
        machine.compute,
        wanted=plan.fast,
        held_out=held_out,
        fp8=spec.speed == "fp8",
    )
    given, ranks = plan.batch_plan, trainer.ranks
    if Say.PLAIN in ranks.agree([Say.PLAIN] * (trainer.fast is None)) and trainer.fast is not None:
        print("Plain path: another card cannot train on the fast path.", flush=True)
        trainer.fast.leave()
        trainer.fast = None
    if trainer.fast is not None:
        trainer.fast.model.between_passes = stop.check
        _size_batches(trainer, given, spec)
        return given if given.layers_kept is None else trainer.fast.in_force(given)
    if given.layers_kept is None:
        return given
    plain = plan.plain_plan or _smallest(given)
    _apply(trainer, plain, spec)
    return plain


def _of_first(ranks: Any, plan: BatchPlan | None) -> BatchPlan | None:
    """Take the first rank's plan, where cards have not the same room."""
    said = ranks.first_says(plan.model_dump_json() if plan else "")
    return BatchPlan.model_validate_json(said) if said else None


def _smallest(plan: BatchPlan) -> BatchPlan:
    """Give the plain path's smallest plan: where nobody said what else fits."""
    rows = plan.effective_batch_size
    return BatchPlan(
        per_device_batch_size=1, gradient_accumulation_steps=rows, activation_checkpointing=True
    )


def _size_batches(trainer: Any, plan: BatchPlan, spec: JobSpec) -> None:
    """Let Trainer make the plan's micro-batches; the fast path cuts whole batches by itself."""
    arguments = trainer.args
    whole = trainer.fast is not None and spec.training.batch_size is None
    size = plan.effective_batch_size if whole else plan.per_device_batch_size
    arguments.per_device_train_batch_size = size
    arguments.gradient_accumulation_steps = plan.effective_batch_size // size
    trainer._train_batch_size = size  # noqa: SLF001  (tried: facts in docs)


def _refuse_if_rows_see_each_other(trainer: Any, rows: Any) -> None:
    """Try it on the model that will train: not every architecture minds where a row begins."""
    from runner.training.data.pack import attends_across

    joined = [i for i, lengths in enumerate(rows["seq_lengths"]) if len(lengths) > 1]
    if not joined:
        return
    shortest = rows[min(joined, key=lambda i: sum(rows[i]["seq_lengths"]))]
    with trainer.compute_loss_context_manager():
        found = attends_across(trainer.model, shortest, trainer.data_collator.pad)
    if found:
        what = "this model mixes up rows that are packed into one sequence"
        raise ModelError(
            [Problem(field="training.packing", message=what, hint="Leave packing out.")]
        )


def _has_rows(run: RunFolder, name: str) -> bool:
    folder = run.prepared / name
    if not (folder / "state.json").is_file():
        return False
    from datasets import load_from_disk

    return len(load_from_disk(str(folder))) > 0


def _build_trainer(
    model: Any,
    tokenizer: Any,
    rows: Any,
    *,
    spec: JobSpec,
    plan: TrainPlan,
    machine: Any,
    conduct: Any,
) -> Any:
    from transformers import PrinterCallback
    from trl import SFTConfig

    from runner.training.fit.cut import CuttingTrainer
    from runner.training.fit.head import mend_head
    from runner.training.fit.schedule import warmup_steps
    from runner.training.fit.share_base import first_layers

    t = spec.training
    arguments = SFTConfig(
        output_dir=str(conduct.folder.root / "work"),
        max_steps=plan.total_steps,
        per_device_train_batch_size=plan.batch_plan.per_device_batch_size,
        gradient_accumulation_steps=plan.batch_plan.gradient_accumulation_steps,
        learning_rate=t.learning_rate,
        lr_scheduler_type=t.lr_scheduler,  # our own: see schedule.py
        warmup_steps=warmup_steps(plan.total_steps, t.warmup_ratio),
        weight_decay=t.weight_decay,
        max_grad_norm=t.max_grad_norm,
        optim="adamw_torch_fused" if machine.on_gpu else "adamw_torch",
        seed=t.seed,
        data_seed=t.seed,
        bf16=machine.compute == "bfloat16",
        fp16=machine.compute == "float16",
        use_cpu=not machine.on_gpu,
        # The rows are tokenised, masked and short enough already: TRL must not touch them.
        max_length=None,
        padding_free="seq_lengths" in rows.column_names,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,  # the row ids travel with the rows, up to our collator
        dataloader_num_workers=0,  # the collator's notes are made in this process, in order
        dataloader_pin_memory=machine.on_gpu and not plan.spare_host_memory,
        logging_steps=1,  # any other window is wrong after a resume
        logging_nan_inf_filter=False,  # a NaN must be seen
        # Our callback decides when to evaluate and save; Trainer's own loss depends on the batch.
        eval_strategy="no",
        save_strategy="no",
        restore_callback_states_from_checkpoint=False,
        router_aux_loss_coef=0.0,  # counted once a pass, padding included: see base_config.py
        report_to="none",
        disable_tqdm=True,
        **_checkpointing(plan.batch_plan.activation_checkpointing),
        activation_offloading=plan.batch_plan.activation_offloading,
    )
    trainer = CuttingTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[conduct],
    )
    with first_layers(trainer.model, alone=plan.shard_base):
        mend_head(trainer.model.get_base_model())
    trainer.know_trained()
    trainer.batch_plan = plan.batch_plan
    trainer.remove_callback(PrinterCallback)
    return trainer


def _checkpointing(on: bool) -> dict[str, Any]:  # noqa: FBT001
    """Name the setting as this version of transformers does: 5.23 renamed it."""
    from trl import SFTConfig

    names = {field.name for field in dataclasses.fields(SFTConfig)}
    how = {"use_reentrant": False}
    settings: dict[str, Any] = {"gradient_checkpointing": on}
    if "activation_checkpointing" in names:
        settings |= {"activation_checkpointing": on, "activation_checkpointing_kwargs": how}
    else:
        settings |= {"gradient_checkpointing_kwargs": how}
    return settings


def _apply(trainer: Any, plan: BatchPlan, spec: JobSpec) -> None:
    """Let a trainer that exists go on at another plan."""
    from trl.models import get_act_offloading_ctx_manager

    trainer.batch_plan = plan
    arguments = trainer.args
    if trainer.fast is not None and plan.layers_kept is None:
        print("Plain path: the fast path has no room for the longest row.", flush=True)
        trainer.fast.leave()
        trainer.fast = None
    if trainer.fast is not None:
        trainer.fast.take(plan)
    _size_batches(trainer, plan, spec)
    for name, value in _checkpointing(plan.activation_checkpointing).items():
        setattr(arguments, name, value)
    if plan.activation_offloading and not arguments.activation_offloading:
        arguments.activation_offloading = True
        trainer.maybe_activation_offload_context = get_act_offloading_ctx_manager(
            model=trainer.model
        )


def _fit(attempt: _Attempt) -> StageError | None:
    """Train until the end or until something is in the way; give what it was."""
    from runner.training.fit.memory import let_go

    resume = attempt.plan.resume_from
    checkpoint = str(attempt.run.checkpoints / resume) if resume else None
    while True:
        trouble = _try(attempt, checkpoint)
        attempt.trainer.model.zero_grad(set_to_none=True)
        let_go()  # only here: inside an except the error still holds the tensors
        if trouble != "probe":
            break
        attempt.meter.forget_peak()
        less = _of_first(attempt.ranks, _less(attempt))
        if less is None:
            return _out_of_memory(attempt)
        change = describe_change(attempt.batch_plan, less)
        print(f"the worst batch does not fit; {change}", flush=True)
        attempt.notes.append(change)
        attempt.batch_plan = less
        write_message(attempt.folder.smaller_plan, SmallerPlan(batch_plan=less))
        _apply(attempt.trainer, less, attempt.spec)
    if isinstance(trouble, StageError) and trouble.exit_code != ExitCode.DIVERGED:
        _save_last_step(attempt)  # useless weights would become the newest checkpoint
    return trouble if isinstance(trouble, StageError) else None


def _less(attempt: _Attempt) -> BatchPlan | None:
    # On a CPU the activations are in the host's memory already. Packed rows are all as long as the
    # longest, and are never cut apart by length.
    fast = attempt.trainer.fast
    if fast is not None:
        return fast.smaller(attempt.batch_plan, may_offload=attempt.machine.on_gpu)
    lengths = attempt.conduct.lengths
    if attempt.spec.training.packing:
        lengths = [max(lengths)]
    return smaller(attempt.batch_plan, may_offload=attempt.machine.on_gpu, lengths=lengths)


def _try(attempt: _Attempt, checkpoint: str | None) -> StageError | str | None:
    """Call the trainer once, and turn what it raises into words; nothing of the error survives."""
    from runner.training.fit.callbacks import ProbeDoesNotFit
    from runner.training.fit.memory import Lost, classify, plan_does_not_fit
    from runner.training.fit.stop import Interrupted

    try:
        attempt.trainer.train(resume_from_checkpoint=checkpoint)
    except ProbeDoesNotFit as error:
        traceback.clear_frames(error.__traceback__)
        return "probe"
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
        return _out_of_memory(attempt)
    return None


def _out_of_memory(attempt: _Attempt) -> StageError:
    progress = attempt.progress
    message = f"Memory ran out at {attempt.batch_plan}, after step {progress.step}."
    if progress.in_evaluation:
        message = f"Memory ran out in the held-out loss, after step {progress.step}."
    return StageError(
        message,
        exit_code=ExitCode.OUT_OF_GPU_MEMORY,
        kind="out_of_gpu_memory",
        advice="A smaller training.max_length or lora.r, or method: qlora, needs less."
        if _next_plan(attempt) is None
        else None,
    )


def _next_plan(attempt: _Attempt) -> BatchPlan | None:
    """Choose what the next attempt runs: an evaluation that failed does not speak against a plan.

    It is tried again at the start of the next attempt, where nothing else needs memory, and given
    up if it fails there: so this never goes round in circles.
    """
    return attempt.batch_plan if attempt.progress.in_evaluation else _less(attempt)


def _save_last_step(attempt: _Attempt) -> None:
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


def _answer(attempt: _Attempt, trouble: StageError | None, *, seconds: float) -> None:
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
            next_batch_plan=_next_plan(attempt)
            if trouble is not None and trouble.exit_code == ExitCode.OUT_OF_GPU_MEMORY
            else None,
            first_step=progress.first_step,
            last_step=progress.sealed_step,
            checkpoint=progress.sealed,
            best_checkpoint=attempt.run.checkpoint(best).name if best else None,
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


def _held_out(attempt: _Attempt) -> HeldOutLosses | None:
    """Give each held-out row's loss at the end of a small run."""
    found = attempt.conduct.last_held_out()
    return found and HeldOutLosses(sums=found.sums, tokens=found.counts)


def _in_fp8(attempt: _Attempt) -> bool:
    fast = attempt.trainer.fast
    return fast is not None and bool(fast.model.fp8)


def _exact_because(attempt: _Attempt) -> str | None:
    """Say why a run that asked for fp8 was trained without; None: it was not asked, or it was."""
    if attempt.spec.speed != "fp8" or _in_fp8(attempt):
        return None
    fast = attempt.trainer.fast
    return str(fast.exact_because) if fast is not None else "the run took the plain path"


def _environment(attempt: _Attempt) -> dict[str, Any]:
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
