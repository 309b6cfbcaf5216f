"""Choose a run's method before its first attempt, where its spec says `method: auto`."""

from __future__ import annotations

from pathlib import Path

from runner.card.host_memory import read_host_memory
from runner.contract.layout import RunFolder
from runner.contract.method_choice import MethodChoice
from runner.contract.model_kind import kind_problem
from runner.contract.models import read_config
from runner.errors import InputError
from runner.forecast.choose_method import choose_for_processor, choose_method
from runner.forecast.work import Box, Work
from runner.spec.as_chosen import method_of_run
from runner.spec.spec import JobSpec


def method_for(
    spec: JobSpec,
    work: Work | None,
    box: Box,
    *,
    models_dir: Path,
    on_card: bool,
    goes_on_from: RunFolder | None = None,
    in_use: RunFolder | None = None,
) -> MethodChoice | None:
    """Choose; None: the spec names a method, or one was chosen before.

    Args:
        spec: as it was dropped, or as chosen.
        work: what is trained; None: the model's config tells too little.
        box: what is known of the card and of what may be used of it.
        models_dir: where the base is.
        on_card: there is a card, known or not.
        goes_on_from: the run whose adapter it starts from; None: a fresh one.
        in_use: the run whose adapter it is compared with: on the same base, or it would be unfair.
    """
    if spec.method != "auto":
        return None
    if goes_on_from is not None:
        return MethodChoice(method=method_of_run(goes_on_from), why="goes_on")
    if spec.speed == "fp8":
        return MethodChoice(method="qlora", why="fp8")
    if _is_packed(models_dir, spec):
        return MethodChoice(method="qlora", why="base")
    if in_use is not None and method_of_run(in_use) == "qlora":
        return MethodChoice(method="qlora", why="as_in_use")
    if work is None or (on_card and box.gpu_memory_bytes is None):
        return MethodChoice(method="qlora", why="unknown")
    if not on_card:
        machine = read_host_memory()
        return choose_for_processor(work, machine.limit_bytes or machine.total_bytes)
    switch = spec.training.activation_checkpointing
    return choose_method(
        work,
        box,
        batch_size=spec.batch_size_limit,
        checkpointing=None if switch == "auto" else switch,
    )


def _is_packed(models_dir: Path, spec: JobSpec) -> bool:
    """Whether the base itself comes in 4 bits, which training in 16 refuses."""
    try:
        config = read_config(models_dir / spec.model, spec.model)
    except (InputError, OSError, ValueError):
        return False  # training says what is wrong with it
    in_16, in_4 = (kind_problem(spec.model, config, method=one) for one in ("lora", "qlora"))
    return in_16 is not None and in_4 is None
