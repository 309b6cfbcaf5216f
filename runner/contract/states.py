"""Names the states of a run and where each is shown under the inbox."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    PREPARING = "preparing"
    TRAINING = "training"
    EXPORTING = "exporting"
    EVALUATING = "evaluating"
    INTERRUPTED = "interrupted"
    """The daemon was stopped or the machine went down; the run goes on at the next start."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing will happen to the run any more."""
        return self in FINAL

    @property
    def folder(self) -> str:
        """The state folder under the inbox that shows a run in this state."""
        return _FOLDERS[self]


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.REJECTED, State.CANCELLED})

_FOLDERS = {
    State.QUEUED: "queued",
    State.PREPARING: "queued",  # the next job is prepared while another one trains
    State.TRAINING: "running",
    State.EXPORTING: "running",
    State.EVALUATING: "running",
    State.INTERRUPTED: "running",
    State.SUCCEEDED: "done",
    State.FAILED: "failed",
    State.REJECTED: "rejected",
    State.CANCELLED: "cancelled",
}


class Stage(StrEnum):
    """A child process of its own: ``python -m runner.training STAGE FOLDER``."""

    PREPARE = "prepare"
    RATES = "rates"
    """The small run of one of the learning rates that the spec's `try` names."""
    TRAIN = "train"
    EXPORT = "export"
    EVALUATE = "evaluate"
    HAND_OVER = "hand-over"
    """Makes what the spec's `export` asks for beside the adapter: merged weights, GGUF files."""


TRAINS = (Stage.RATES, Stage.TRAIN)
"""Stages whose child trains: they need the memory, take the time and leave checkpoints."""
