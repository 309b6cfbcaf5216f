"""Turns a place in a run into a real failure there: what `train_box` arranges in the child.

Memory runs out as it does on a full machine: the process may take no more pages, and the stack's
own allocator fails. What failed is let go of before anything is saved, and so is the limit.
"""

from __future__ import annotations

import math
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
_BLOCK = 64 * 2**20  # more than the allocator has at hand


def run_out_of_memory() -> None:
    """Let the allocator fail, and keep on failing."""
    import torch

    resource.setrlimit(resource.RLIMIT_DATA, (1, resource.RLIM_INFINITY))
    torch.empty(_BLOCK)


def around(owner: Any, name: str, before: Callable[..., None]) -> None:
    """Have ``before`` called with the arguments of every call of a function."""
    inner = getattr(owner, name)

    def call(*args: Any, **more: Any) -> Any:
        before(*args, **more)
        return inner(*args, **more)

    setattr(owner, name, call)


def give_back_when_let_go(*, in_evaluation: bool = False) -> None:
    """Lift the limit when the recipe lets go (and, ``in_evaluation``, when that backs off)."""
    import runner.training.fit.callbacks
    import runner.training.fit.heldout
    import runner.training.fit.memory

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, NO_LIMIT)

    around(runner.training.fit.memory, "let_go", lift)
    around(runner.training.fit.callbacks, "let_go", lift)
    if in_evaluation:
        around(runner.training.fit.heldout, "let_go", lift)


@dataclass(frozen=True)
class KernelFails:
    """Half way back through the last micro-batch of a step a kernel raises; later ones do, too."""

    step: int

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit.cut import CuttingTrainer
        from runner.training.fit.fast_path import FastPath
        from runner.training.kernels import layer

        step, micro_batches, layers, fails = [0], [0], [0], [False]

        def begins(trainer: Any, _: Any, inputs: dict[str, Any], *__: Any) -> None:
            if trainer.fast is None:
                print(f"plainly {len(inputs['input_ids'])} rows", flush=True)
            now = trainer.state.global_step + 1
            micro_batches[0] = micro_batches[0] + 1 if now == step[0] else 1
            step[0], layers[0] = now, 0
            last = micro_batches[0] == trainer.args.gradient_accumulation_steps
            fails[0] = now > self.step or (now == self.step and last)

        def back(*_: Any) -> None:
            layers[0] += 1
            if fails[0] and layers[0] == 2:
                raise RuntimeError("misaligned address")

        around(CuttingTrainer, "training_step", begins)
        around(layer, "_attention_back", back)
        around(FastPath, "leave", lambda *_: print("it lets go of the card", flush=True))


@dataclass(frozen=True)
class MemoryRunsOut:
    """Once, in the ``micro_batch``-th pass of a step: ``forward``, ``backward``, ``optimizer``."""

    where: str
    step: int
    micro_batch: int = 1

    def __call__(self) -> None:
        """Arrange it."""
        import torch
        from accelerate import Accelerator
        from trl import SFTTrainer

        give_back_when_let_go()
        passes: dict[int, int] = {}
        here: list[bool] = []

        def forward(trainer: Any, *_: Any, **__: Any) -> None:
            if not trainer.is_in_train:  # the check of the set-up computes losses, too
                return
            step = trainer.state.global_step + 1
            passes[step] = passes.get(step, 0) + 1
            now = (step, passes[step]) == (self.step, self.micro_batch)
            here[:] = [now]
            if now and self.where == "forward":
                run_out_of_memory()

        def backward(accelerator: Any, *_: Any, **__: Any) -> None:
            if here[0] and self.where == "backward":
                (model,) = accelerator._models
                weights = [weight for weight in model.parameters() if weight.requires_grad]
                # Half of the gradients of this pass are added to those of the passes before it.
                weights[len(weights) // 2].register_hook(lambda _: run_out_of_memory())

        def optimizer_step(optimizer: Any, *_: Any, **__: Any) -> None:
            if here[0] and self.where == "optimizer":
                here[0] = False
                (group, *_more) = optimizer.param_groups
                weights = group["params"]
                group["params"] = weights[: len(weights) // 2]
                optimizer.step()  # half of the weights are changed
                group["params"] = weights
                run_out_of_memory()

        around(SFTTrainer, "compute_loss", forward)
        around(Accelerator, "backward", backward)
        around(torch.optim.AdamW, "step", optimizer_step)


@dataclass(frozen=True)
class EvaluationRunsOut:
    """Once, in the evaluation after ``step``; with ``at_any_batch`` its own backoff is no help."""

    step: int
    at_any_batch: bool

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit.callbacks import Conduct

        give_back_when_let_go(in_evaluation=not self.at_any_batch)
        tried: list[int] = []

        def evaluate(conduct: Conduct) -> None:
            def forward(*_: Any) -> None:
                now = conduct.progress.in_evaluation and conduct.progress.step == self.step
                if now and (self.at_any_batch or not tried):
                    tried.append(1)
                    run_out_of_memory()

            conduct.trainer.model.register_forward_pre_hook(forward)

        around(Conduct, "_evaluate", evaluate)


@dataclass(frozen=True)
class KilledInEvaluation:
    """As a power cut would, in the evaluation after ``step``."""

    step: int

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit.callbacks import Conduct

        def evaluate(conduct: Conduct) -> None:
            if conduct.progress.step == self.step:
                os.kill(os.getpid(), signal.SIGKILL)

        around(Conduct, "_evaluate", evaluate)


@dataclass(frozen=True)
class RoomForHeldOut:
    """A machine that holds so many held-out rows at once; each failure is a line of the log."""

    rows: int

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit.callbacks import Conduct

        give_back_when_let_go(in_evaluation=True)

        def bind(conduct: Conduct, trainer: Any, *_: Any) -> None:
            def forward(model: Any, _: Any, given: dict[str, Any]) -> None:
                if not model.training and len(given["input_ids"]) > self.rows:
                    print(f"no room for held-out rows after step {conduct.progress.step}")
                    run_out_of_memory()

            trainer.model.register_forward_pre_hook(forward, with_kwargs=True)

        around(Conduct, "bind", bind)


@dataclass(frozen=True)
class RoomFor:
    """A machine that holds so many rows in training, and those only with ``checkpointing``."""

    rows: int
    checkpointing: bool = False

    def __call__(self) -> None:
        """Arrange it."""
        from trl import SFTTrainer

        give_back_when_let_go()

        def forward(trainer: Any, model: Any, inputs: Any, *_: Any, **__: Any) -> None:
            if not trainer.is_in_train:  # the check of the set-up: one row, before recomputing
                return
            recomputes = any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
            if len(inputs["input_ids"]) > self.rows or (self.checkpointing and not recomputes):
                run_out_of_memory()

        around(SFTTrainer, "compute_loss", forward)


@dataclass(frozen=True)
class NotANumber:
    """From ``step`` on one weight of the adapter is NaN, and with it every loss."""

    step: int

    def __call__(self) -> None:
        """Arrange it."""
        from trl import SFTTrainer

        def forward(trainer: Any, model: Any, *_: Any, **__: Any) -> None:
            if trainer.state.global_step + 1 == self.step:
                next(p for p in model.parameters() if p.requires_grad).data.view(-1)[0] = math.nan

        around(SFTTrainer, "compute_loss", forward)


@dataclass(frozen=True)
class DrawsAtRandom:
    """The model's own code leaves out half of what its layers compute, whatever its config says."""

    def __call__(self) -> None:
        """Arrange it."""
        from torch.nn.functional import dropout
        from transformers.models.llama.modeling_llama import LlamaMLP

        own = LlamaMLP.forward
        LlamaMLP.forward = lambda self, x: dropout(own(self, x), training=self.training)


@dataclass(frozen=True)
class StepGoesWrong:
    """Not a failure but a fault: the weights miss a step, or get it twice."""

    step: int
    times: int

    def __call__(self) -> None:
        """Arrange it."""
        import torch

        inner = torch.optim.AdamW.step
        taken: list[int] = []

        def step(optimizer: Any, *args: Any, **more: Any) -> Any:
            taken.append(1)
            for _ in range(self.times if len(taken) == self.step else 1):
                inner(optimizer, *args, **more)

        torch.optim.AdamW.step = step  # type: ignore[method-assign]
