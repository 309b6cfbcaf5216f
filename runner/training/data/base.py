"""Base model as far as preparing asks: its folder, its config, its tokenizer with the template.

What is wrong with it is told together with what is wrong with the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.contract.evaluation_tasks import tasks_problems
from runner.contract.fp8_cards import FP8_HINT
from runner.contract.llama_cpp import gguf_problem
from runner.contract.models import fetch_command, find_model, read_config, table_of_words
from runner.contract.stage_io import PreparePlan
from runner.errors import ModelError, Problem, SpecError
from runner.forecast.model_shape import read_shape
from runner.forecast.what_fits import cap_problem
from runner.spec.spec import JobSpec
from runner.training.data.template import Template
from runner.training.data.tokenizer_folder import damaged_file, load_tokenizer
from runner.training.export.refuse_early import refused_export


@dataclass(frozen=True, kw_only=True)
class Base:
    """The base model as far as its tokenizer and config say."""

    folder: Path
    config: dict[str, Any]
    load: Callable[[], Template]

    @cached_property
    def template(self) -> Template:
        """Load the tokenizer where it is needed: that takes a second and a half.

        Raises:
            ModelError: it cannot be used.
        """
        return self.load()


def find_base(
    spec: JobSpec, plan: PreparePlan, *, file: str, of_export: tuple[JobSpec, Path]
) -> tuple[Base | None, ModelError | None]:
    """Find the model; what is wrong with it is told together with what is wrong with the data.

    ``of_export``: the spec, with its method still left to the box where it is, and the outputs.
    """
    try:
        model = find_model(Path(plan.models_dir), spec.model, method=spec.named_method)
        config = read_config(model, spec.model)
    except ModelError as error:
        return None, error
    if too_low := cap_problem(spec, read_shape(config)):
        raise SpecError([replace(too_low, file=file)])
    if wrong := tasks_problems(spec.evaluation.tasks or (), plan.evaluation_tasks):
        raise SpecError([replace(one, file=file) for one in wrong])
    field = spec.export.gguf_field
    if field and (cannot := gguf_problem(field, config)):
        raise SpecError([replace(cannot, file=file)])
    wish, outputs = of_export
    if refused := refused_export(wish, model, config, outputs):
        raise SpecError([replace(refused, file=file)])
    if spec.speed == "fp8" and plan.no_fp8:
        what = Problem(field="speed", found="fp8", message=plan.no_fp8, hint=FP8_HINT)
        raise SpecError([replace(what, file=file)])

    def load() -> Template:
        return Template(
            _load_tokenizer(model, plan, name=spec.model),
            name=spec.model,
            embedding_rows=table_of_words(config),
        )

    return Base(folder=model, config=config, load=load), None


def with_template(
    base: Base | None, unusable: ModelError | None
) -> tuple[Base | None, ModelError | None]:
    """Load the base's tokenizer; what is wrong with it is told together with the data's faults."""
    try:
        if base is not None:
            _ = base.template
    except ModelError as error:
        return None, error
    return base, unusable


def _load_tokenizer(model: Path, plan: PreparePlan, *, name: str) -> Any:
    """Load a model's tokenizer.

    Raises:
        ModelError: a file or a library that it needs is missing; transformers says which.
    """
    try:
        return load_tokenizer(model, trust_remote_code=plan.trust_remote_code)
    except (ValueError, ImportError, KeyError, TypeError, OSError) as error:
        library = " ".join(str(error).split())[:300].replace(str(model), name)
        said = damaged_file(model) or library
        what = f"the model's tokenizer cannot be read: {said}"
        again = f"Fetch the model again ({fetch_command(name)}), or choose one with tokenizer.json."
        problem = Problem(field="model", found=name, message=what, hint=again)
        raise ModelError([problem]) from error
