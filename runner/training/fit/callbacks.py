"""Trainer callbacks: metrics, held-out losses, checkpoints, the probe and a clean stop."""

# ruff: noqa: ARG002  (Trainer calls every event with the same arguments)

from __future__ import annotations

import json
import math
import time
import traceback
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import TrainerCallback

from runner.clock import now
from runner.contract.batch import worst_pass
from runner.contract.layout import RunFolder, StageFolder, checkpoint_name
from runner.contract.prune import prune
from runner.contract.row_losses import read_row_losses
from runner.errors import StageError
from runner.exit_codes import ExitCode
from runner.spec.spec import JobSpec
from runner.training.fit.checkpoint import seal, seal_again
from runner.training.fit.collator import RowNotingCollator
from runner.training.fit.heldout import HeldOut, held_out_loss, measured_together
from runner.training.fit.memory import Meter, classify, let_go, plan_does_not_fit
from runner.training.fit.progress import Progress
from runner.training.fit.random_state import RandomState
from runner.training.fit.row_lengths import row_lengths
from runner.training.fit.row_loss import adapter_off, row_losses
from runner.training.fit.stop import StopFlag
from runner.training.ranks.together import Ranks, Say

NOTED_STEPS = (0, 1, 9)  # of an attempt: memory grows in the first two, and then should not
DIVERGED_WINDOW = 10  # steps
DIVERGED_FACTOR = 1.5  # times the loss of guessing every token, ln(vocabulary): worse than chance


class ProbeDoesNotFit(Exception):  # noqa: N818  (a finding)
    """The worst batch does not fit at this plan."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """When to evaluate, save and end."""

    measured_steps: frozenset[int]
    """After these the held-out loss is measured, and where the run ends."""
    save_steps: int | None
    checkpoint_seconds: float
    seconds_left: float | None
    probe: bool
    eval_batch_size: int
    single_rows: bool = True
    """Before step 1, look at what the base model expects of single rows."""


class Conduct(TrainerCallback):
    """Everything that happens around Trainer's steps."""

    def __init__(
        self,
        *,
        run: RunFolder,
        folder: StageFolder,
        spec: JobSpec,
        progress: Progress,
        wishes: Wishes,
        stop: StopFlag,
        meter: Meter,
        eval_rows: Any,
    ) -> None:
        """Take what the recipe has set up; `bind` gives the trainer."""
        self.run, self.folder, self.progress, self.wishes = run, folder, progress, wishes
        self.spec = spec
        self.stop, self.meter, self.eval_rows = stop, meter, eval_rows
        self.eval_batch_size = wishes.eval_batch_size
        self.metrics = folder.metrics.open("a", encoding="utf-8")
        stop.shows_life_in = folder.metrics
        self.started = self.last_save = self.last_step = time.monotonic()
        self.evaluation_seconds = 0.0  # the last one took so long
        self.held_out: HeldOut | None = None
        self.micro_batches = 0
        self.probed, self.looked = not wishes.probe, not wishes.single_rows

    def bind(self, trainer: Any, collator: RowNotingCollator, lengths: list[int]) -> None:
        """Give the trainer that this conducts, its collator and the train rows' lengths."""
        self.trainer, self.collator, self.lengths = trainer, collator, lengths
        self.ranks: Ranks = trainer.ranks
        trainer.collate, trainer.due = collator.with_lengths, self._due

    # Trainer's events, in the order in which they come.

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Probe, and make up for a held-out loss that an earlier attempt owes."""
        self._check_stop()
        self.collator.noted.clear()
        self.micro_batches = 0
        if not self.probed:
            self._probe()
            self.probed = True
            self.meter.note("in the probe")
        if not self.looked and self.ranks.is_first:
            with self.ranks.told():  # the others wait for it at the end of their first step
                self._look_at_single_rows(begins=state.global_step == 0)
            self.looked = True
        if self.progress.evaluation_due and state.global_step > 0:
            self._evaluate_what_is_owed()
            if self.ranks.is_first:
                self._reseal(state)
        self.last_step = time.monotonic()

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between micro-batches."""
        self.micro_batches += 1
        self._check_stop()

    def _check_stop(self) -> None:
        with self.ranks.told():
            self.stop.check()

    def _due(self) -> list[Say]:
        """Say what the clock asks for; of several ranks the first one's alone."""
        wishes, at = self.wishes, time.monotonic()
        if not self.ranks.is_first:
            return []
        out_of_time = wishes.seconds_left is not None and at - self.started > wishes.seconds_left
        save = at - self.last_save > wishes.checkpoint_seconds
        return [Say.OUT_OF_TIME] * out_of_time + [Say.SAVE] * save

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here the weights change."""
        self.progress.in_optimizer = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One optimizer step is finished: the boundary that a checkpoint may be made of."""
        progress, wishes = self.progress, self.wishes
        rows: list[Any] = []
        tokens = 0
        for _micro_batch in range(self.micro_batches + 1):
            more, count = self.collator.noted.popleft()
            rows += more
            tokens += count
        self.micro_batches = 0
        progress.step = state.global_step
        progress.first_step = progress.first_step or progress.step
        progress.tokens_seen += tokens
        progress.boundary = RandomState.capture()
        progress.in_optimizer = False
        if progress.step - progress.first_step in NOTED_STEPS:
            self.meter.note(f"after step {progress.step}")
        at = time.monotonic()
        seconds, self.last_step = at - self.last_step, at
        progress.trained_tokens += tokens
        progress.trained_seconds += seconds
        self.line = {"tokens_per_second": round(tokens / max(seconds, 1e-9), 1), "rows": rows}

        last = progress.step >= progress.total_steps
        due = self.trainer.agreed if self.ranks.size > 1 else self._due()
        if Say.OUT_OF_TIME in due and not last:
            progress.out_of_time = True
        ending = last or progress.out_of_time
        progress.evaluation_due = (
            self.eval_rows is not None
            and progress.evaluates
            and (ending or progress.step in wishes.measured_steps)
        )
        control.should_save = self.ranks.is_first and (
            ending
            or progress.evaluation_due
            or (wishes.save_steps is not None and progress.step % wishes.save_steps == 0)
            or Say.SAVE in due
        )
        control.should_training_stop = control.should_training_stop or ending

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Write the step's line; then, because a checkpoint should know it, the held-out loss."""
        if not logs or "loss" not in logs:
            return  # the summary at the end
        progress = self.progress
        loss, norm = float(logs["loss"]), _number(logs.get("grad_norm"))
        self._write(
            step=progress.step,
            epoch=round(progress.step / progress.steps_per_epoch, 6),
            loss=_number(loss),
            learning_rate=_number(logs.get("learning_rate")),
            grad_norm=norm,
            tokens_seen=progress.tokens_seen,
            gpu_memory_bytes=self.meter.now_bytes(),
            **self.line,
        )
        self._check_divergence(loss, norm, may_overflow=bool(args.fp16))
        self._check_stop()
        if progress.evaluation_due:
            self._evaluate_saved(args, state, control)
        self.last_step = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move what Trainer wrote to its place and trust it from now on."""
        progress = self.progress
        written = self.folder.root / "work" / f"checkpoint-{state.global_step}"
        progress.sealed = seal(written, self.folder.checkpoints, progress.manifest())
        progress.sealed_step = progress.step
        prune(self.folder.checkpoints, best_step=progress.best_step)
        self.last_save = self.last_step = time.monotonic()

    # What these do.

    def _evaluate_saved(self, args: Any, state: Any, control: Any) -> None:
        """Measure; first save, where the next checkpoint would otherwise come too late."""
        since = time.monotonic() - self.last_save
        late = since + self.evaluation_seconds > self.wishes.checkpoint_seconds
        early = late and self.ranks.is_first
        if early:
            # Private, but what the library's own signal checkpoint calls; it fires no on_save.
            self.trainer._save_checkpoint(self.trainer.model, trial=None)  # noqa: SLF001
            self.on_save(args, state, control)
            control.should_save = False
        self._evaluate()
        if early:
            self._reseal(state)
            prune(self.folder.checkpoints, best_step=self.progress.best_step)

    def _write(self, **line: Any) -> None:
        line["time"] = now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.metrics.write(json.dumps(line) + "\n")
        self.metrics.flush()

    def _check_divergence(self, loss: float, norm: float | None, *, may_overflow: bool) -> None:
        losses = self.progress.losses
        losses.append(loss)
        chance = math.log(max(2, self.trainer.model.config.get_text_config().vocab_size))
        recent = losses[-DIVERGED_WINDOW:]
        exploded = (
            len(recent) == DIVERGED_WINDOW
            and sum(recent) / len(recent) > DIVERGED_FACTOR * chance
            and recent[-1] > losses[0]
        )
        # With fp16 an overflowing gradient is the scaler's daily bread: the step is skipped.
        if not math.isfinite(loss) or (norm is None and not may_overflow) or exploded:
            raise _diverged(self.progress.step)

    def _evaluate_what_is_owed(self) -> None:
        """Measure what an earlier attempt could not; give up where not even this has the memory."""
        progress = self.progress
        try:
            self._evaluate()
            return
        except Exception as error:
            if not plan_does_not_fit(classify(error), on_gpu=self.meter.on_gpu):
                raise
            traceback.clear_frames(error.__traceback__)
        let_go()
        progress.evaluates = progress.evaluation_due = progress.in_evaluation = False
        progress.shortfalls.append(
            f"No held-out loss from step {progress.step} on: a held-out row needs more memory "
            "than there is, even alone."
        )

    def _evaluate(self) -> None:
        progress = self.progress
        progress.in_evaluation = True
        began = time.monotonic()
        found = measured_together(self.eval_rows, self._measure, self.ranks)
        progress.in_evaluation = False
        self.held_out, self.eval_batch_size = found, found.batch_size
        self.evaluation_seconds = time.monotonic() - began
        if not math.isfinite(found.loss):
            raise _diverged(progress.step)
        progress.evaluation_due = False
        progress.eval_loss = found.loss
        progress.eval_losses.append({"step": progress.step, "eval_loss": found.loss})
        if progress.best_eval_loss is None or found.loss < progress.best_eval_loss:
            progress.best_step, progress.best_eval_loss = progress.step, found.loss
        self._write(step=progress.step, eval_loss=found.loss)

    def last_held_out(self) -> HeldOut | None:
        """Give the last measurement of the held-out rows; one is made where an earlier attempt did.

        None: nothing is held out, or not even one row fits into memory.
        """
        if self.held_out is None and self.eval_rows is not None and self.progress.evaluates:
            self._evaluate()
        return self.held_out

    def _measure(self, rows: Any, *, worst_only: bool = False) -> HeldOut:
        """Measure held-out rows: on the fast path where the run is on it."""
        fast = self.trainer.fast
        how: dict[str, Any] = {"worst_only": worst_only, "check": self.stop.check}
        found = None if fast is None else fast.measure(rows, **how)
        if found is not None:
            return replace(found, batch_size=self.eval_batch_size)
        with self.trainer.compute_loss_context_manager():
            return held_out_loss(
                self.trainer.model,
                rows,
                self.collator.pad,
                batch_size=self._rows_at_once(rows, most=self.eval_batch_size),
                device=self.trainer.args.device,
                **how,
            )

    def _rows_at_once(self, rows: Any, *, most: int) -> int:
        """Read no more tokens at once than training does: then its memory is enough for both."""
        worst = worst_pass(self.lengths, self.trainer.batch_plan)
        room = len(worst) * self.lengths[worst[0]]
        return max(1, min(most, room // max(row_lengths(rows))))

    def _look_at_single_rows(self, *, begins: bool) -> None:
        """Measure what the base model expects of single rows; leave no trace in training."""
        if not begins:
            self.progress.findings = read_row_losses(self.run).findings
            return
        before = RandomState.capture()
        try:
            self.progress.findings = row_losses(
                self.run, self.folder, self.spec, self._base_loss, on_gpu=self.meter.on_gpu
            )
        finally:
            before.restore()

    def _base_loss(self, rows: Any) -> HeldOut:
        """Measure rows as the base has them, on the path that the run is on."""
        fast, model = self.trainer.fast, self.trainer.model
        found = None if fast is None else fast.measure(rows, base=True, check=self.stop.check)
        if found is not None:
            return found
        with self.trainer.compute_loss_context_manager(), adapter_off(model):
            return held_out_loss(
                model,
                rows,
                self.collator.pad,
                batch_size=self._rows_at_once(rows, most=self._side_by_side()),
                device=self.trainer.args.device,
                check=self.stop.check,
            )

    def _side_by_side(self) -> int:
        """Give how many rows' losses can be told apart: laid end to end, only one row's."""
        return 1 if self.trainer.args.padding_free else self.wishes.eval_batch_size

    def _reseal(self, state: Any) -> None:
        """Note a late evaluation in the manifest of the checkpoint it belongs to."""
        own = self.folder.checkpoints / checkpoint_name(state.global_step)
        source = own if own.exists() else self.run.checkpoint(state.global_step)
        seal_again(source, self.folder.checkpoints, self.progress.manifest())

    def _probe(self) -> None:
        """Try the longest rows together, as if in training; leave no trace.

        Raises:
            ProbeDoesNotFit: the plan is too large.
        """
        trainer = self.trainer
        before = RandomState.capture()
        try:
            with self.ranks.told(memory=False):
                fits = self._worst_fits()
        finally:
            trainer.model.zero_grad(set_to_none=True)
            trainer._metrics["train"].clear()  # noqa: SLF001  (no public way to forget a batch)
            trainer._metrics["eval"].clear()  # noqa: SLF001
            trainer._total_train_tokens = 0  # noqa: SLF001  (ours are counted in Progress)
            before.restore()
        if Say.DOES_NOT_FIT in self.ranks.agree([] if fits else [Say.DOES_NOT_FIT]):
            raise ProbeDoesNotFit
        let_go()

    def _worst_fits(self) -> bool:
        trainer = self.trainer
        worst = trainer.worst_rows(self.lengths)
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        held: list[Any] = []
        try:
            if self.progress.step == 0:  # the optimizer's two moments do not exist yet
                held = [torch.empty_like(p) for p in trained for _ in range(2)]
            inputs = self.collator.with_lengths([trainer.train_dataset[i] for i in worst])
            learned = (inputs["labels"][:, 1:] != -100).sum()
            trainer.current_gradient_accumulation_steps = 1
            trainer.training_step(trainer.model_wrapped, inputs, learned.to(trainer.args.device))
            if self.eval_rows is not None:
                self._probe_evaluation()
        except Exception as error:
            if not plan_does_not_fit(classify(error), on_gpu=self.meter.on_gpu):
                raise
            return False
        del held
        return True

    def _probe_evaluation(self) -> None:
        """Find the batch that the longest held-out rows fit with, beside the gradients."""
        self.trainer.model.zero_grad(set_to_none=False)
        try:
            self.eval_batch_size = self._measure(self.eval_rows, worst_only=True).batch_size
        except Exception as error:
            if not plan_does_not_fit(classify(error), on_gpu=self.meter.on_gpu):
                raise
            traceback.clear_frames(error.__traceback__)
            self.eval_batch_size = 1  # a smaller plan for training would be no help


def _number(value: Any) -> float | None:
    """Give a finite number; None for what JSON cannot say."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _diverged(step: int) -> StageError:
    return StageError(
        f"The loss became useless (not a number, or worse than guessing) at step {step}.",
        exit_code=ExitCode.DIVERGED,
        kind="diverged",
        advice="Lower training.learning_rate (a third of what it was) and drop the spec again; "
        "look at the data if it happens again.",
    )
