"""Doctor: is there a base model that a job could name?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.contract.models import fetch_command, find_model, models_on_box
from runner.doctor.finding import Finding, Level
from runner.errors import RunnerError

_SHOWN = 3  # names in a sentence
_WHY = "Every job trains an adapter for a base model, which must be on the box: stages are offline."
_FETCH = "runner fetch demo    # or any of the hub: runner fetch ORGANISATION/MODEL"
_FETCH_INTO_BOX = (
    "docker compose run --rm fetch HuggingFaceTB/SmolLM2-135M-Instruct    # a small one"
)


@dataclass(frozen=True, kw_only=True)
class BaseModels:
    """What there is."""

    usable: tuple[str, ...] = ()
    """Names that a spec may hold."""
    broken: tuple[tuple[str, str], ...] = ()
    """Names and what is wrong with them."""
    in_container: bool = False
    """No command reaches the hub from there; only the one on the host that starts another."""


def read_base_models(models_dir: Path, *, in_container: bool = False) -> BaseModels:
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
    return BaseModels(usable=tuple(usable), broken=tuple(broken), in_container=in_container)


def judge_base_models(facts: BaseModels) -> Finding:
    """Decide whether a job would find its model."""
    if not facts.usable and not facts.broken:
        fix = _FETCH_INTO_BOX if facts.in_container else _FETCH
        return _finding(Level.TROUBLE, "There is no base model on the box yet.", fix)
    if facts.broken:
        name, problem = facts.broken[0]
        return _finding(
            Level.ADVICE if facts.usable else Level.TROUBLE,
            f"{name} cannot be used: {problem}",
            f"docker compose run --rm fetch {name}" if facts.in_container else fetch_command(name),
        )
    names = ", ".join(facts.usable[:_SHOWN])
    more = len(facts.usable) - _SHOWN
    return _finding(Level.OK, names + (f" and {more} more." if more > 0 else "."))


def _finding(level: Level, what: str, fix: str = "") -> Finding:
    return Finding(check="Base models", level=level, what=what, why=_WHY, fix=fix)
