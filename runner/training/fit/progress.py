"""Progress of an attempt: what survives it travels in each checkpoint's manifest.

Trainer knows nothing of batch plans that shrink or of attempts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.contract.checkpoints import Manifest
from runner.contract.findings import DataFinding
from runner.training.fit.random_state import RandomState


@dataclass(kw_only=True)
class Progress:
    """Where the attempt stands; the part that a resume needs goes into each checkpoint."""

    steps_per_epoch: int
    total_steps: int
    step: int = 0
    tokens_seen: int = 0
    evaluation_due: bool = False
    eval_loss: float | None = None
    best_step: int | None = None
    best_eval_loss: float | None = None
    sealed: str | None = None
    """The newest checkpoint."""
    sealed_step: int = 0
    boundary: RandomState | None = None
    """Random state at the end of the last finished step; None before the first of this attempt."""
    in_optimizer: bool = False
    """The weights may be half changed."""
    in_evaluation: bool = False
    """A held-out loss is being measured."""
    evaluates: bool = True
    """Held-out losses are measured; False once one did not fit with nothing beside it."""
    shortfalls: list[str] = field(default_factory=list)
    first_step: int | None = None
    out_of_time: bool = False
    losses: list[float] = field(default_factory=list)
    eval_losses: list[dict[str, float]] = field(default_factory=list)
    findings: tuple[DataFinding, ...] = ()
    """What this attempt's look at single rows says of them."""
    trained_tokens: int = 0
    trained_seconds: float = 0.0

    def manifest(self) -> Manifest:
        """Give what goes into a checkpoint of the present step."""
        return Manifest(
            step=self.step,
            tokens_seen=self.tokens_seen,
            evaluation_due=self.evaluation_due,
            evaluates=self.evaluates,
            eval_loss=self.eval_loss,
            best_step=self.best_step,
            best_eval_loss=self.best_eval_loss,
        )

    def resume(self, manifest: Manifest, name: str) -> None:
        """Take up where a checkpoint left off."""
        self.step = self.sealed_step = manifest.step
        self.tokens_seen = manifest.tokens_seen
        self.evaluation_due = manifest.evaluation_due
        self.evaluates = manifest.evaluates
        self.eval_loss = manifest.eval_loss
        self.best_step, self.best_eval_loss = manifest.best_step, manifest.best_eval_loss
        self.sealed = name
