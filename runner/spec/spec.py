"""The job spec: every field, its default and its range; `runner schema` prints it.

Two fields are enough, ``model`` and ``data``. Reading a spec from untrusted bytes, with line
numbers and hints, is spec/read_spec.py's work. Field names follow Hugging Face, PEFT and TRL.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from runner.contract.model_kind import Method
from runner.contract.rates import MOST_RATES
from runner.spec.checks import Checks
from runner.spec.evaluation import EvaluationWish
from runner.spec.export import ExportWish

DEFAULT_EFFECTIVE_BATCH_SIZE = 16  # examples per optimizer step
DEFAULT_EPOCHS = 2.0
FEW_ROWS = 1000
"""Fewer of them make so few steps that a small batch and a third epoch help: on 443 and 800 rows
each alone was better on held-out rows at every one of three seeds (docs/measurements.md, our
defaults beside the published rules)."""
_BATCH_OF_FEW, _EPOCHS_OF_FEW = 8, 3.0
MOST_GPUS = 64
"""Cards of one job: no machine has more, and a larger number is a slip."""


Rate = Annotated[float, Field(gt=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def fields_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Give a section's fields by the names that people write: ``try`` is a word of Python's."""
    return {info.alias or name: info for name, info in section.model_fields.items()}


class Lora(_Section):
    """The adapter's shape; names and meaning are those of PEFT's ``LoraConfig``."""

    r: int = Field(16, ge=1, le=512, description="Rank of the adapter's matrices.")
    alpha: float = Field(
        32.0, gt=0, le=4096, description="Scale: the adapter's output is multiplied by alpha / r."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: str | list[str] = Field(
        "all-linear",
        description="Layers that get an adapter: 'all-linear' or a list such as [q_proj, v_proj].",
    )
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(r) instead of alpha / r.")


class Columns(_Section):
    """Which columns of the data hold what: a name, or a text with names in braces."""

    prompt: str | None = Field(
        None, max_length=2000, description="The question: Frage, or '{clause} {question}'."
    )
    completion: str | None = Field(
        None, max_length=2000, description="The answer, which is learned."
    )
    system: str | None = Field(
        None, max_length=2000, description="What stands before the conversation."
    )
    messages: str | None = Field(
        None, max_length=200, description="A conversation: the column with its messages."
    )
    text: str | None = Field(None, max_length=2000, description="A text that is learned whole.")


class Training(_Section):
    """How the adapter is trained."""

    epochs: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Passes over the data (default 2; 3 where fewer than 1,000 rows are trained "
        "on). Not with max_steps.",
    )
    max_steps: int | None = Field(
        None, ge=1, description="Optimizer steps to train for. Not together with epochs."
    )
    effective_batch_size: int | None = Field(
        None,
        ge=1,
        le=65536,
        description="Examples per optimizer step (default 16; 8 "
        "where fewer than 1,000 rows are trained on for whole epochs).",
    )
    batch_size: int | None = Field(
        None, ge=1, le=4096, description="Examples per pass on the card; chosen when left out."
    )
    gradient_accumulation: int | None = Field(
        None, ge=1, le=65536, description="Passes per optimizer step; chosen when left out."
    )
    learning_rate: float = Field(2e-4, gt=0, le=1, description="Peak learning rate.")
    lr_scheduler: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="Share of the steps that warm up.")
    max_length: Annotated[int, Field(ge=16, le=1_048_576)] | Literal["auto"] = Field(
        "auto", description="Longest row in tokens; 'auto' covers the longest row that fits."
    )
    weight_decay: float = Field(0.01, ge=0, le=10, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, le=1000, description="Gradient norm is clipped here.")
    activation_checkpointing: bool | Literal["auto"] = Field(
        "auto", description="Trade time for memory; 'auto' switches it on where it is needed."
    )
    packing: bool = Field(
        False, description="Join short rows into sequences of max_length; each sees only itself."
    )
    seed: int = Field(42, ge=0, le=2**32 - 1, description="Seed of everything random.")
    eval_steps: int | None = Field(
        None,
        ge=1,
        description="Measure the held-out loss every so many steps (default: 8 to 10 times).",
    )
    save_steps: int | None = Field(
        None, ge=1, description="Checkpoint every so many steps (and at least every 10 minutes)."
    )


class Limits(_Section):
    """What a run may take of the box."""

    gpu_memory_gib: float | None = Field(
        None, gt=0, le=1024, description="GPU memory the run may use, in GiB."
    )
    hours: float | None = Field(
        None, gt=0, le=8760, description="Training ends here with its best adapter; '8h' works."
    )
    disk_gib: float | None = Field(
        None, gt=0, le=1_000_000, description="Disk space the run may use, in GiB."
    )


class Resources(_Section):
    """What a run's training is given of the box."""

    gpus: Annotated[int, Field(ge=1, le=MOST_GPUS)] | Literal["auto"] = Field(
        1,
        description="Cards that it trains on at once; 'auto': one, or as many as it needs to fit.",
    )


class Try(_Section):
    """What is tried in small runs before the training, which then takes what did best."""

    learning_rate: list[Rate] | None = Field(
        None,
        min_length=1,
        max_length=MOST_RATES,
        description="Peak learning rates: each is tried in a small run of its own; the one with "
        "the lowest held-out loss is trained with, where the difference is beyond chance.",
    )
    hours: float | None = Field(
        None,
        gt=0,
        le=8760,
        description="Time for the small runs and the training together; a third of it is for the "
        "small runs. '6h' works.",
    )


Format = Literal["auto", "alpaca", "prompt-completion", "messages", "sharegpt", "text"]


class Promote(_Section):
    """When a run's adapter takes the place of the one in use (outputs/JOB/current)."""

    when: Literal["better", "always", "never", "approved"] = Field(
        "better",
        description="better: when it beats the one in use (a first one: the base model) on the "
        "same held-out rows; approved: when a person says so.",
    )
    metric: str | None = Field(
        None, max_length=100, description="The score that decides (default: the verdict's)."
    )
    margin: float | None = Field(
        None, ge=0, le=1000, description="It must be better by so much, in the score's own unit."
    )


class JobSpec(_Section):
    """A job spec, validated. Only ``model`` and ``data`` must be given."""

    model: str = Field(
        description="A model on the box: a name under models/, or a hub id fetched before."
    )
    data: list[str] = Field(
        min_length=1,
        description="A file of rows, a folder of them, a pattern such as data/2026-*.jsonl, or a "
        "list of these; paths start at the spec's folder.",
    )
    name: str = Field(description="The job's name (default: the file's name).")
    format: Format = Field("auto", description="How the rows are written; 'auto' looks.")
    columns: Columns = Field(
        default_factory=Columns, description="Which columns hold what, where 'auto' cannot know."
    )
    sheet: str | None = Field(
        None, max_length=200, description="The sheet of an Excel or ODS file (default: the first)."
    )
    system_prompt: str | None = Field(
        None, max_length=32_768, description="Put before every conversation that has none."
    )
    eval_data: list[str] | None = Field(
        None, min_length=1, description="Held-out rows from files of their own."
    )
    eval_split: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description="Share of the rows held out (default: 5%, at least 100 rows, at most 20%); "
        "0 switches it off.",
    )
    method: Literal["auto", "qlora", "lora"] = Field(
        "auto",
        description="qlora keeps the base model in 4 bits (NF4), lora in 16, as it is served "
        "later; auto takes 16 where that fits the card and takes at most half as long again.",
    )
    speed: Literal["exact", "fp8"] = Field(
        "exact",
        description="fp8 computes the base model's products in 8 bits: about a third "
        "faster with qlora, with less exact gradients; needs an RTX 4090, H100 or newer.",
    )
    lora: Lora = Field(default_factory=Lora, description="The adapter's shape.")
    training: Training = Field(default_factory=Training, description="How it is trained.")
    try_: Try | None = Field(
        None, alias="try", description="Learning rates that are tried before the training."
    )
    limits: Limits = Field(default_factory=Limits, description="What a run may take of the box.")
    resources: Resources = Field(
        default_factory=Resources, description="Cards that it trains on (default: one)."
    )
    checks: Checks = Field(
        default_factory=Checks, description="How serious what the checks of the data find is."
    )
    start_from: Literal["auto", "fresh", "current"] = Field(
        "auto",
        description="current: go on from the adapter in use (outputs/JOB/current) instead of a "
        "fresh one; its shape must be the same. auto: with a schedule, go on where the data has "
        "grown as far as that was measured to do better; else fresh.",
    )
    replay: float | None = Field(
        None,
        ge=0,
        le=1,
        description="With start_from: current: learn only new rows and this share of the old ones, "
        "which the adapter in use was trained on (default: all rows of the data).",
    )
    promote: Promote = Field(
        default_factory=Promote, description="When its adapter is put into use."
    )
    schedule: str | None = Field(
        None,
        max_length=200,
        description="Run again and again, at the box's own time: '0 2 * * sun' is every Sunday at "
        "02:00 (minute, hour, day of the month, month, day of the week). The spec then stays in "
        "jobs/scheduled/.",
    )
    when_missed: Literal["run", "skip"] = Field(
        "run", description="Whether a time at which the box was off is made up for, once."
    )
    when_data_changed: bool = Field(
        False, description="Skip a scheduled time when the data is what it was at the last run."
    )
    evaluation: EvaluationWish = Field(
        default_factory=EvaluationWish, description="How the adapter is measured after training."
    )
    export: ExportWish = Field(
        default_factory=ExportWish, description="What is made for serving it, beside the adapter."
    )
    priority: int = Field(0, ge=-100, le=100, description="Higher runs earlier.")
    notes: str | None = Field(None, max_length=10_000, description="Kept with the run.")

    @property
    def named_files(self) -> list[str]:
        """Every path that the spec names: data, held-out rows, and what the evaluation needs."""
        return [path for _, path in self.files_by_field]

    @property
    def files_by_field(self) -> list[tuple[str, str]]:
        """The same, each after the field that names it."""
        beside = [
            ("evaluation.json_schema", self.evaluation.schema_file),
            ("evaluation.general", self.evaluation.general),
        ]
        return [
            *(("data", path) for path in self.data),
            *(("eval_data", path) for path in self.eval_data or ()),
            *((field, path) for field, path in beside if path),
        ]

    @property
    def named_method(self) -> Method | None:
        """The method, unless it is left to the box."""
        return None if self.method == "auto" else self.method

    def with_method(self, chosen: Method | None) -> JobSpec:
        """Give the same spec with the method that was chosen for `auto`.

        Args:
            chosen: None: nothing was chosen, as before `auto` was the default: qlora.
        """
        if self.method != "auto":
            return self
        return self.model_copy(update={"method": chosen or "qlora"})

    @property
    def effective_batch_size(self) -> int:
        """Examples per optimizer step, from whichever fields the spec gave."""
        t = self.training
        if t.batch_size and t.gradient_accumulation:
            return t.batch_size * t.gradient_accumulation
        return t.effective_batch_size or DEFAULT_EFFECTIVE_BATCH_SIZE

    @property
    def batch_size_limit(self) -> int | None:
        """The most examples per pass, from whichever field says so; None: any."""
        t = self.training
        if t.batch_size is None and t.gradient_accumulation is not None:
            return self.effective_batch_size // t.gradient_accumulation
        return t.batch_size

    @property
    def rates_tried(self) -> list[float]:
        """Learning rates that are compared before the training; none: that was not asked for."""
        return (self.try_.learning_rate or []) if self.try_ else []

    @property
    def hours(self) -> float | None:
        """The time for all that is trained, small runs included; None: as long as it takes."""
        return (self.try_.hours if self.try_ else None) or self.limits.hours

    @property
    def leaves_start(self) -> bool:
        """Whether the box chooses what it starts from; a run without a schedule begins afresh."""
        return self.start_from == "auto" and self.schedule is not None

    @property
    def epochs(self) -> float:
        """Passes over the data when ``max_steps`` is not given."""
        return self.training.epochs or DEFAULT_EPOCHS

    @property
    def named_batch(self) -> int | None:
        """Examples per optimizer step, unless that is left to the box."""
        t = self.training
        given = t.batch_size or t.gradient_accumulation or t.effective_batch_size
        return self.effective_batch_size if given else None

    def for_rows(self, rows: int) -> JobSpec:
        """Give the same spec with what is left to the box chosen for so many rows trained on."""
        t = self.training
        if rows >= FEW_ROWS or t.max_steps is not None:
            return self
        training = t.model_copy(update={"epochs": t.epochs or _EPOCHS_OF_FEW})
        return self.model_copy(update={"training": training}).with_batch(_BATCH_OF_FEW)

    def with_batch(self, chosen: int | None) -> JobSpec:
        """Give the same spec with the effective batch that was chosen, unless it names one."""
        if chosen is None or self.named_batch is not None:
            return self
        training = self.training.model_copy(update={"effective_batch_size": chosen})
        return self.model_copy(update={"training": training})
