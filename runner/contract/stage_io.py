"""plan.json and result.json: what the daemon asks of a stage, and what a stage answers.

The daemon writes plans and reads results; a stage reads its plan and writes its result. Paths in a
plan are absolute. A stage finds its run folder from its own (`RunFolder.containing`).
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.contract.batch import BatchPlan
from runner.contract.evaluation import Evaluation
from runner.contract.findings import DataFinding
from runner.contract.handed_over import HandedOver
from runner.contract.model_kind import Method
from runner.contract.rates import HeldOutLosses
from runner.contract.record import DataChange, DataFile, ErrorFacts, ModelFacts, Replay
from runner.contract.start_choice import StartChoice
from runner.errors import DamagedError
from runner.files.durable import write_json
from runner.files.plain import read_plain

MESSAGE_BYTES = 64 * 1024 * 1024
"""A larger plan or result is not ours."""

PARENT = "RUNNER_DAEMON_PID"
"""Variable of a stage's environment: who started it, and without whom it must not run."""

STACK_SIGNAL = signal.SIGUSR1
"""Asks a stage for the stacks of all its threads, in its log."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class StagePlan(_Message):
    """What every stage is told."""

    models_dir: str
    trust_remote_code: bool = False
    """The box owner's setting; never a spec's."""
    device: str = "auto"
    """``auto`` takes the GPU where torch sees one; ``cpu`` does not look."""
    method: Method | None = None
    """What was chosen where the spec says `method: auto`; None: nothing yet."""
    compute: str = "auto"
    """``auto``: bf16 where the machine has it; ``float32``: for tests that compare losses."""
    base_cache: str | None = None
    """Where base models are kept in 4 bits, outputs/.runner/bases; None: they are made anew."""
    leave_bytes: int = 0
    """What a stage leaves free of the disk when it keeps something that it need not keep."""


class PreparePlan(StagePlan):
    """Snapshot, check, tokenise."""

    jobs_dir: str
    spec_folder: str = "."
    """Where the spec was dropped, relative to the inbox: data paths start there."""
    known_data: tuple[str, ...] = ()
    """Data folders of earlier runs, to hard-link files with the same content from."""
    gpu_memory_bytes: int | None = None
    """What a run may use on this box's card; None: unknown or no card."""
    no_fp8: str | None = None
    """Why this box's card cannot compute in fp8."""
    token_cache: str | None = None
    """Where the tokens of earlier runs are, outputs/.runner/tokens; None: they are made anew."""
    earlier_runs: tuple[str, ...] = ()
    """Prepare folders of the job's earlier runs, oldest first, to say what is new in the data."""
    replay_from: str | None = None
    """Folder of the run whose adapter is gone on from, where some of its rows are learned again;
    with ``start_from: auto`` of the one whose adapter is in use: prepare decides."""
    evaluation_tasks: str = ""
    """The box owner's folder of tasks of lm-evaluation-harness; empty: there is none."""
    try_model: bool = True
    """Put model and adapter together without weights, too; a preview does without, to be quick."""


class PrepareResult(_Message):
    """What the rest of the run needs to know about its data and model."""

    data: tuple[DataFile, ...] = ()
    model: ModelFacts | None = None
    train_rows: int = 0
    """Rows trained on (sequences, when packed)."""
    eval_rows: int = 0
    eval_tokens: int = 0
    """Tokens of the held-out rows, prompt included; 0 in what an older runner left, too."""
    left_out_rows: int = 0
    """Rows longer than ``max_length``; never cut in silence."""
    train_tokens: int = 0
    """Tokens in one epoch, prompt included."""
    learned_tokens: int = 0
    """Tokens in one epoch that the loss counts."""
    longest: int = 0
    """Longest row kept, in tokens."""
    max_length: int = 0
    chat_template: str = ""
    """``model's own`` or ``ChatML``, as the record tells it."""
    end_tokens: tuple[str, ...] = ()
    """Tokens that were learned as the end of an answer, as the tokenizer spells them."""
    folds_system: bool = False
    """The template has no system role: system prompts stand before the first question."""
    total_steps: int = 0
    """Optimizer steps of the whole run."""
    effective_batch_size: int | None = None
    """Examples in each of them."""
    trainable_parameters: int | None = None
    """Counted on the model itself; None: it was not tried."""
    fast: bool = False
    """On a card it may train on the fast path; the last word has the check at set-up."""
    plain_because: str | None = None
    """What the fast path does not know of it."""
    start: StartChoice | None = None
    """Whether it goes on from the adapter in use; None: the box had nothing to choose."""
    replay: Replay | None = None
    """Old rows that are learned again; None: none were asked for."""
    data_change: DataChange | None = None
    """How the rows differ from those of the job's last run; None: there was none."""
    shortfalls: tuple[str, ...] = ()
    findings: tuple[DataFinding, ...] = ()
    """What the checks say of the data; `prepared/findings.json` has the same."""
    row_numbered: tuple[str, ...] = ()
    """Files whose places are row numbers: in them no line of text can be pointed at."""
    error: ErrorFacts | None = None


class TrainPlan(StagePlan):
    """One attempt, or the small run of a learning rate."""

    number: int
    batch_plan: BatchPlan
    total_steps: int
    resume_from: str | None = None
    """Name of a verified checkpoint under the run's checkpoints/, or None for a start at step 0."""
    start_adapter: str | None = None
    """Folder of the adapter whose weights are the first ones, where nothing is resumed; None:
    fresh ones."""
    learning_rate: float | None = None
    """The peak; None: the spec's."""
    is_trial: bool = False
    """It is the small run of a learning rate: of the adapter, only its held-out losses are kept."""
    gpu_memory_bytes: int | None = None
    """Cap on this process's GPU memory; None: the whole card."""
    seconds_left: float | None = None
    """What is left of ``limits.hours``; the attempt ends itself then, with its best adapter."""
    checkpoint_seconds: float = 600.0
    """A checkpoint falls at least this often."""
    spare_host_memory: bool = False
    """The machine's own memory ran out before: make do with less, at the cost of time."""
    plain_plan: BatchPlan | None = None
    """Where ``batch_plan`` is one of the fast path: what to run if that is not taken."""
    fast: bool | None = None
    """Train on the fast path; None: on a card (without one it is slow, and for tests); False: an
    attempt before this one failed, and the plain path is better known."""
    ranks: int = 1
    """Processes that train side by side, one a card: as many as CUDA_VISIBLE_DEVICES has entries.
    The numbers of ``batch_plan`` are those of one rank, but the effective batch is the step's,
    whatever the ranks. Without a card they compute on the CPU, over gloo: for tests."""
    shard_base: bool = False
    """Each rank keeps a share of the base's 4-bit weights, and layers are gathered for their use:
    for a base that one card has no room for. The adapter is whole on every rank."""
    probe: bool | None = None
    """Try the worst batch before step 1; None: on a card. (Without one it is the kernel that ends a
    process that takes too much: no allocator says no, and a probe would find nothing out.)"""


class SmallerPlan(_Message):
    """What an attempt leaves in `smaller_plan.json` when it cuts its batch plan in mid-attempt.

    The way back of a batch plan from the child while that runs: the daemon looks for the file in
    each round and writes the plan into the record, so that people need not wait for the result. An
    attempt that dies without a result has run this plan, and the next one starts from it.
    """

    batch_plan: BatchPlan
    left_fast_path: bool = False
    """The fast path failed in the middle of training, and this is a plan of the plain one."""


class TrainResult(_Message):
    """How an attempt ended."""

    outcome: str
    batch_plan: BatchPlan
    """The plan at the end; smaller than the attempt's plan where the probe halved it."""
    next_batch_plan: BatchPlan | None = None
    """After an out-of-memory: what the next attempt should run; None: nothing smaller is left."""
    first_step: int | None = None
    last_step: int = 0
    """The last finished optimizer step that a durable checkpoint covers (or the run's last)."""
    checkpoint: str | None = None
    """The newest verified checkpoint's name."""
    best_checkpoint: str | None = None
    """The one with the lowest held-out loss; without held-out rows, the last."""
    best_eval_loss: float | None = None
    """Nats per token, weighted by token."""
    peak_gpu_memory_bytes: int | None = None
    """Allocator's reserved maximum plus the context."""
    peak_gpu_allocated_bytes: int | None = None
    metrics: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    held_out: HeldOutLosses | None = None
    """Of a small run, each held-out row's loss at its end."""
    shortfalls: tuple[str, ...] = ()
    findings: tuple[DataFinding, ...] = ()
    """What the base model's loss on rows says of them; of the attempt that measured it alone."""
    error: ErrorFacts | None = None


class ExportPlan(StagePlan):
    """Make ``adapter/`` from a checkpoint."""

    checkpoint: str
    facts: dict[str, Any] = {}
    """The run's record so far, for the model card."""


class ExportResult(_Message):
    """What was exported."""

    files: dict[str, str] = {}
    """sha256 by file name within adapter/."""
    error: ErrorFacts | None = None


class EvaluatePlan(StagePlan):
    """Load ``adapter/`` as its user would, and measure it against the base model."""

    gpu_memory_bytes: int | None = None
    expected_eval_loss: float | None = None
    """What the best checkpoint reached in training; the exported adapter must reach it again."""
    current_adapter: str | None = None
    """Folder of the adapter in use, to be measured on the same rows; those that it was trained on
    are left out of the comparison. None: there is none, or it stands on another base."""
    alone: bool = False
    """It was asked for by `runner evaluate`, after the run's end."""
    base_shared_by: int = 1
    """Cards that shared the base in training. More than one: none has the room for it, so layers
    wait in host memory and come as they are needed."""
    noise_folder: str | None = None
    """Where the noise of what may be forgotten is kept, outputs/.runner/noise; None: nowhere."""
    evaluation_tasks: str = ""
    """The box owner's folder of tasks of lm-evaluation-harness; empty: there is none."""


class EvaluateResult(_Message):
    """Before and after."""

    eval_loss_before: float | None = None
    eval_loss_after: float | None = None
    """Nats per token. Where there are rows and no loss, it was not a number."""
    eval_tokens: int = 0
    uniform_loss: float | None = None
    """Nats per token of guessing each token of the base's vocabulary alike."""
    eval_rows: int = 0
    """Held-out rows measured; `evaluation/losses.json` has each one's losses."""
    rows_changed: int | None = None
    """Those whose loss is another with the adapter."""
    change_low: float | None = None
    """Where the change of the loss lies, with 95% confidence over the rows."""
    change_high: float | None = None
    adapter_is_zero: bool | None = None
    """Every B matrix of the adapter is zero: it adds nothing to any layer."""
    evaluation: Evaluation | None = None
    """Scores of generated answers, too; `evaluation/scores.jsonl` has each row's."""
    peak_gpu_memory_bytes: int | None = None
    shortfalls: tuple[str, ...] = ()
    error: ErrorFacts | None = None


class HandOverPlan(StagePlan):
    """Make what is served beside the adapter: merged weights, GGUF files."""

    merged: bool = False
    gguf: tuple[str, ...] = ()
    adapter_gguf: bool = False
    gpu_memory_bytes: int | None = None
    alone: bool = False
    """It was asked for by `runner export`, after the run's end."""
    facts: dict[str, Any] = {}
    """The run's record so far, for the model card."""


class HandOverResult(_Message):
    """What was made."""

    handed_over: HandedOver | None = None
    shortfalls: tuple[str, ...] = ()
    error: ErrorFacts | None = None


class StageFailure(_Message):
    """The result of a stage that ended early with a reason."""

    error: ErrorFacts


M = TypeVar("M", bound=_Message)


def write_message(path: Path, message: BaseModel) -> None:
    """Write a plan or a result durably."""
    write_json(path, message.model_dump(mode="json"))


def read_message(path: Path, kind: type[M]) -> M:
    """Read a plan or a result.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is not what it should be.
    """
    try:
        return kind.model_validate(json.loads(read_plain(path, limit_bytes=MESSAGE_BYTES)))
    except (ValueError, ValidationError, RecursionError) as error:
        raise DamagedError(
            f"{path.parent.name}/{path.name} cannot be read",
            advice="Check the disk under outputs/, then drop the spec again.",
        ) from error
