"""Turns what lies under models/ into a finding: is there a base model that a job could name?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.contract.errors import RunnerError
from runner.contract.models import fetch_command, find_model, models_on_box
from runner.doctor.finding import Finding, Level

_SHOWN = 3  # names in a sentence
_WHY = "Every job trains an adapter for a base model, which must be on the box: stages are offline."
_FETCH = "runner fetch demo    # or: docker compose run --rm fetch ORGANISATION/MODEL"


@dataclass(frozen=True, kw_only=True)
class BaseModels:
    """What there is."""

    usable: tuple[str, ...] = ()
    """Names that a spec may hold."""
    broken: tuple[tuple[str, str], ...] = ()
    """Names and what is wrong with them."""


def read_base_models(models_dir: Path) -> BaseModels:
    """Look at every folder that says it is a model."""
    usable, broken = [], []
    try:
        names = models_on_box(models_dir)
    except OSError:
        names = []  # its rights are another check's
    for name in names:
        try:
            find_model(models_dir, name)
            usable.append(name)
        except (RunnerError, OSError) as error:
            broken.append((name, str(error).split("\n")[0]))
    return BaseModels(usable=tuple(usable), broken=tuple(broken))


def judge_base_models(facts: BaseModels) -> Finding:
    """Decide whether a job would find its model."""
    if not facts.usable and not facts.broken:
        return _finding(Level.TROUBLE, "There is no base model on the box yet.", _FETCH)
    if facts.broken:
        name, problem = facts.broken[0]
        return _finding(
            Level.ADVICE if facts.usable else Level.TROUBLE,
            f"{name} cannot be used: {problem}",
            fetch_command(name),
        )
    names = ", ".join(facts.usable[:_SHOWN])
    more = len(facts.usable) - _SHOWN
    return _finding(Level.OK, names + (f" and {more} more." if more > 0 else "."))


def _finding(level: Level, what: str, mend: str = "") -> Finding:
    return Finding(check="Base models", level=level, what=what, why=_WHY, mend=mend)
