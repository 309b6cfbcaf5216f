"""Build the trainer of a plan, and let one that is there go on at another."""

from __future__ import annotations

import dataclasses
from typing import Any

from runner.contract.batch import BatchPlan
from runner.contract.stage_io import TrainPlan
from runner.spec.spec import JobSpec


def build_trainer(
    model: Any,
    tokenizer: Any,
    rows: Any,
    *,
    spec: JobSpec,
    plan: TrainPlan,
    machine: Any,
    conduct: Any,
) -> Any:
    """Give TRL's trainer, set up as the spec and the plan say, with our schedule and callbacks."""
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


def size_batches(trainer: Any, plan: BatchPlan, spec: JobSpec) -> None:
    """Let Trainer make the plan's micro-batches; the fast path cuts whole batches by itself."""
    arguments = trainer.args
    whole = trainer.fast is not None and spec.training.batch_size is None
    size = plan.effective_batch_size if whole else plan.per_device_batch_size
    arguments.per_device_train_batch_size = size
    arguments.gradient_accumulation_steps = plan.effective_batch_size // size
    trainer._train_batch_size = size  # noqa: SLF001  (tried: facts in docs)


def apply_plan(trainer: Any, plan: BatchPlan, spec: JobSpec) -> None:
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
    size_batches(trainer, plan, spec)
    for name, value in _checkpointing(plan.activation_checkpointing).items():
        setattr(arguments, name, value)
    if plan.activation_offloading and not arguments.activation_offloading:
        arguments.activation_offloading = True
        trainer.maybe_activation_offload_context = get_act_offloading_ctx_manager(
            model=trainer.model
        )
