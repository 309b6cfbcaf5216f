"""Set up an attempt: its spec and rows, the model with its adapter, the trainer, the path.

Imports stand within functions, in the order that memory is measured in.
"""

from __future__ import annotations

import gc
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.contract.batch import BatchPlan, smaller
from runner.contract.checkpoints import read_manifest, verified
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.measure_when import ROWS_AT_ONCE, measured_steps
from runner.contract.models import find_model
from runner.contract.stage_io import (
    PrepareResult,
    SmallerPlan,
    TrainPlan,
    read_message,
    write_message,
)
from runner.errors import ModelError, Problem, StageError
from runner.exit_codes import ExitCode
from runner.spec.spec import JobSpec
from runner.training.fit.attempt import Attempt
from runner.training.fit.build_trainer import apply_plan, build_trainer, size_batches
from runner.training.fit.row_lengths import row_lengths
from runner.training.import_stack import TRAINS, import_stack
from runner.training.ranks.place import Place, folder_of

if TYPE_CHECKING:
    from runner.training.fit.callbacks import Wishes
    from runner.training.fit.progress import Progress


def set_up(folder: Path, place: Place | None) -> Attempt:
    """Prepare the attempt whose plan lies in ``folder``, up to its first step.

    Args:
        folder: the stage's.
        place: of this process among several ranks; None: it trains alone.

    Raises:
        StageError: its checkpoint is damaged, or another rank has ended.
        ModelError: the model cannot be trained as the spec asks.
    """
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

    import_stack(*TRAINS)
    from transformers import set_seed

    from runner.training.data.tokenizer_folder import load_tokenizer
    from runner.training.fit.callbacks import Conduct
    from runner.training.fit.collator import RowNotingCollator
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
    unpacked, train_rows, eval_rows = _read_rows(run, packing=spec.training.packing)
    tokenizer = load_tokenizer(run.prepared / "tokenizer")

    set_seed(spec.training.seed)  # the adapter's first weights are drawn from it
    model = _load(plan, spec, machine, ranks)
    meter.note("after loading")

    progress = _progress(plan, len(train_rows), home)
    lengths = row_lengths(train_rows)
    conduct = Conduct(
        run=home,
        folder=stage,
        spec=spec,
        progress=progress,
        wishes=_wishes(
            plan,
            spec,
            epochs=plan.total_steps / progress.steps_per_epoch,
            on_gpu=machine.on_gpu,
            tokens=(sum(lengths), sum(row_lengths(eval_rows)) if eval_rows else 0),
        ),
        stop=stop,
        meter=meter,
        eval_rows=eval_rows,
    )
    trainer = build_trainer(
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
    batch_plan = _agree_on_plan(
        trainer, _choose_path(trainer, plan, spec, machine, meter, stop, eval_rows), spec
    )
    if batch_plan != plan.batch_plan:
        write_message(stage.smaller_plan, SmallerPlan(batch_plan=batch_plan))
    ranks.stop = stop  # from here on the others are told
    return Attempt(
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


def _read_rows(run: RunFolder, *, packing: bool) -> tuple[Any, Any, Any | None]:
    """Read the rows to learn, as they are and as they are trained on, and those held out."""
    from datasets import load_from_disk

    from runner.training.data.pack import pack

    held_out = load_from_disk(str(run.prepared / "eval")) if _has_rows(run, "eval") else None
    rows = load_from_disk(str(run.prepared / "train"))
    known = {"input_ids", "labels", "row"}
    rows = rows.remove_columns([name for name in rows.column_names if name not in known])
    if not packing:
        return rows, rows, held_out
    prepared = read_message(StageFolder(run.prepared).result, PrepareResult)
    return rows, pack(rows, prepared.max_length), held_out


def _progress(plan: TrainPlan, rows: int, home: RunFolder) -> Progress:
    """Begin before step 1, or go on from a checkpoint.

    Raises:
        StageError: it is damaged.
    """
    from runner.training.fit.progress import Progress

    progress = Progress(
        steps_per_epoch=math.ceil(rows / plan.batch_plan.effective_batch_size),
        total_steps=plan.total_steps,
    )
    name = plan.resume_from
    if name is None:
        return progress
    checkpoint = home.checkpoints / name
    if not verified(checkpoint):
        raise StageError(
            f"Checkpoint {name} is damaged.",
            exit_code=ExitCode.UNEXPECTED,
            kind="damaged",
            advice="Check the disk under outputs/, then drop the spec again.",
        )
    progress.resume(read_manifest(checkpoint), name)
    if progress.best_step and not verified(home.checkpoint(progress.best_step)):
        progress.best_step = progress.best_eval_loss = None  # torn, and set aside
    return progress


def _wishes(
    plan: TrainPlan, spec: JobSpec, *, epochs: float, on_gpu: bool, tokens: tuple[int, int]
) -> Wishes:
    """Say when to evaluate, save and end.

    Args:
        plan: the attempt's.
        spec: the job's.
        epochs: that the run has in all.
        on_gpu: it trains on a card.
        tokens: of the rows to learn and of those held out.
    """
    from runner.training.fit.callbacks import Wishes

    return Wishes(
        measured_steps=measured_steps(
            plan.total_steps,
            every=plan.total_steps if plan.is_trial else spec.training.eval_steps,
            trained_tokens=tokens[0] * epochs,
            held_out_tokens=tokens[1],
        ),
        save_steps=spec.training.save_steps,
        checkpoint_seconds=plan.checkpoint_seconds,
        seconds_left=plan.seconds_left,
        probe=on_gpu if plan.probe is None else plan.probe,
        eval_batch_size=max(ROWS_AT_ONCE, plan.batch_plan.per_device_batch_size),
        single_rows=not plan.is_trial,
    )


def _load(plan: TrainPlan, spec: JobSpec, machine: Any, ranks: Any) -> Any:
    """Load the base with a fresh adapter; of a shared one, what is this rank's goes to its card."""
    from runner.training.fit.model import add_adapter, base_cache_of, load_base
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
            model = load(machine.host)
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
        size_batches(trainer, given, spec)
        return given if given.layers_kept is None else trainer.fast.in_force(given)
    plain = plain_plan(plan)
    if plain != given:
        apply_plan(trainer, plain, spec)
    return plain


def _agree_on_plan(trainer: Any, own: BatchPlan, spec: JobSpec) -> BatchPlan:
    """Take the first rank's plan, where another one came to another."""
    agreed = of_first(trainer.ranks, own)
    if agreed is None or agreed == own:
        return own
    apply_plan(trainer, agreed, spec)
    return agreed


def of_first(ranks: Any, plan: BatchPlan | None) -> BatchPlan | None:
    """Take the first rank's plan, where cards have not the same room."""
    said = ranks.first_says(plan.model_dump_json() if plan else "")
    return BatchPlan.model_validate_json(said) if said else None


def plain_plan(plan: TrainPlan) -> BatchPlan:
    """Give the plain path's plan; where nobody said what fits, its smallest."""
    if plan.batch_plan.layers_kept is None:
        return plan.batch_plan
    if plan.plain_plan is not None:
        return plan.plain_plan
    rows = plan.batch_plan.effective_batch_size
    return BatchPlan(
        per_device_batch_size=1, gradient_accumulation_steps=rows, activation_checkpointing=True
    )


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
