"""Makers: which function writes each form that serves a result, and which of its tools are missing.

A maker is given a `Source` and the path that it writes, beside the final name: the stage names it
(fsync, rename) once all is there. It measures what it wrote and says what it found as `Made`. It
raises `RunnerError` where the form cannot be made; the run stands then, with a named shortfall.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner.contract.handed_over import ADAPTER_GGUF, Figures
from runner.contract.layout import RunFolder
from runner.contract.stage_io import HandOverPlan
from runner.spec.spec import JobSpec

WHOLE = "f16"
"""Name of the format in 16 bits, from which llama.cpp makes the smaller ones."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a form is made from."""

    run: RunFolder
    spec: JobSpec
    plan: HandOverPlan
    base: Path
    """Folder of the base model, as it lies under models/."""
    adapter: Path
    """The run's adapter/."""
    model: Path | None
    """Base and adapter as one model in 16 bits, a Hugging Face folder; None: it was not made,
    for only the adapter's own form is asked for."""
    whole: Path | None = None
    """The GGUF file of ``model`` in 16 bits, from which the smaller formats are made: the first
    that needs it writes it; None: no such format is asked for."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a maker wrote and found."""

    figures: Figures | None = None
    """What it does on the held-out rows; None: not measured."""
    within: bool | None = None
    """Whether that is within the tolerance; None: not measured."""
    shortfalls: tuple[str, ...] = ()


Maker = Callable[[Source, Path], Made]

MODULES = {
    "f16": "runner.training.export.gguf",
    "q8_0": "runner.training.export.gguf",
    "q5_k_m": "runner.training.export.gguf",
    "q4_k_m": "runner.training.export.gguf",
    ADAPTER_GGUF: "runner.training.export.gguf",
}
"""The module of each form. It has ``maker(name) -> Maker``, and ``tools_missing(name)``, which says
what is missing in a sentence without its full stop, or gives None."""


def tools_missing(name: str) -> str | None:
    """Say which tool a form needs that this box lacks; None: it can be made."""
    if importlib.util.find_spec(MODULES[name]) is None:
        return "this version of the runner does not make GGUF files yet"
    found: str | None = importlib.import_module(MODULES[name]).tools_missing(name)
    return found


def maker_of(name: str) -> Maker:
    """Give the function that writes a form; its tools are there."""
    found: Maker = importlib.import_module(MODULES[name]).maker(name)
    return found
