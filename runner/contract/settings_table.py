"""Settings table: every setting of the box with its variable, its default and what it may be.

Made from `Settings` itself, so that none can be forgotten: a field ``stall_seconds`` is set by
``RUNNER_STALL_SECONDS`` in .env, or by ``runner watch --set stall_seconds=900``.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from runner.contract.evaluation_tasks import NOT_SHARED, shared_tasks
from runner.contract.gpus import ALLOWED as GPUS_ALLOWED
from runner.contract.gpus import read_gpus
from runner.contract.hours import ALLOWED as HOURS_ALLOWED
from runner.contract.hours import read_hours
from runner.contract.settings import Settings
from runner.errors import RunnerError
from runner.words import visible

PREFIX = "RUNNER_"
APART = (
    "jobs_dir",
    "outputs_dir",
    "models_dir",
    "cache_dir",
    "once",
    "stage_command",
    "report_command",
)
"""Not in the table: folders are given by options and by the image; the last three are for tests and
for one who works a queue off by hand."""
DEVICES = ("auto", "cpu", "cuda")
LANGUAGES = ("en", "de")
CLUSTER = ("on", "others")
LEASE = (10.0, 3600.0)
"""Seconds. Each side looks twice a second, and six times a lease it says that it is there: with a
shorter one a slow share ends trainings; with a longer one a new box is seen, and a lost one given
up, hours late."""
CHOICES = {"device": DEVICES, "language": LANGUAGES, "cluster": CLUSTER}
"""Settings that take one of a few words."""
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class SettingError(RunnerError):
    """A setting of the box cannot be used."""

    kind = "bad_setting"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of the box."""

    name: str
    """The field of `Settings`."""
    default: Any
    allowed: str
    """In words."""
    kind: Any
    """Its type."""

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default as it stands in .env.example."""
        if self.default is None:
            return ""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def read(self, text: str) -> Any:
        """Read a value; an empty one is the default.

        Raises:
            ValueError: it is not allowed.
        """
        text = text.strip()
        if not text:
            return self.default
        if self.name in CHOICES:
            if text not in CHOICES[self.name]:
                raise ValueError
            return text
        if self.name == "hours":
            read_hours(text)
        if self.name == "gpus":
            read_gpus(text)
        if self.kind is str:
            return text
        if self.kind in (bool, bool | None):
            return _yes_or_no(text)
        value = self.kind(text)
        if self.name == "lease_seconds" and not LEASE[0] <= value <= LEASE[1]:
            raise ValueError
        if not math.isfinite(value) or value < 0 or (self.kind is float and value == 0):
            raise ValueError
        return value


def _yes_or_no(text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise ValueError
    return text.lower() in _YES


def _allowed(name: str, kind: Any) -> str:
    if name in CHOICES:
        return " or ".join(CHOICES[name])
    if name == "hours":
        return HOURS_ALLOWED
    if name == "gpus":
        return GPUS_ALLOWED
    if name == "lease_seconds":
        return f"a number from {LEASE[0]:g} to {LEASE[1]:g}"
    if kind in (bool, bool | None):
        return "true or false" + (", or nothing" if kind is not bool else "")
    if kind is float:
        return "a number above 0"
    return "a whole number, 0 or more" if kind is int else "any text"


def table() -> Sequence[Setting]:
    """List every setting, in the order of `Settings`."""
    kinds = typing.get_type_hints(Settings)
    return [
        Setting(
            name=field.name,
            default=field.default,
            kind=kinds[field.name],
            allowed=_allowed(field.name, kinds[field.name]),
        )
        for field in fields(Settings)
        if field.name not in APART
    ]


def read_settings(environment: Mapping[str, str], given: Sequence[str] = ()) -> dict[str, Any]:
    """Read what the environment and ``NAME=VALUE`` words set; the words win.

    Raises:
        SettingError: a value is not allowed, or a name is none; all of them are named.
    """
    found: dict[str, Any] = {}
    problems = []
    by_name = {one.name: one for one in table()}
    asked = [(one, one.variable, environment.get(one.variable, "")) for one in by_name.values()]
    for word in given:
        name, equals, value = word.partition("=")
        setting = by_name.get(name.strip().lower().removeprefix(PREFIX.lower()))
        if setting is None or not equals:
            known = ", ".join(by_name)
            problems.append(f"--set {visible(word)}: give NAME=VALUE; names are {known}")
        else:
            asked.append((setting, f"--set {setting.name}", value))
    for setting, where, text in asked:
        try:
            value = setting.read(text)
        except (ValueError, OverflowError):
            default = setting.default_text or "nothing"
            problems.append(
                f"{where} is {visible(text)!r}; allowed is {setting.allowed} (default: {default})"
            )
            continue
        if text.strip():
            found[setting.name] = value
    if problems:
        raise SettingError(
            "\n".join(problems),
            advice="Change it in .env (.env.example explains each setting), then start the box "
            "again: docker compose up -d",
        )
    return found


def with_folders(jobs_dir: Path, outputs_dir: Path, models_dir: Path, **changes: Any) -> Settings:
    """Make the settings of a box from its folders and what was set; None sets nothing.

    Raises:
        SettingError: the tasks lie where others may write.
    """
    if wrong := shared_tasks(changes.get("evaluation_tasks") or "", jobs_dir, outputs_dir):
        raise SettingError(wrong, advice=NOT_SHARED)
    return Settings(
        jobs_dir=jobs_dir.absolute(),
        outputs_dir=outputs_dir.absolute(),
        models_dir=models_dir.absolute(),
        **{name: value for name, value in changes.items() if value is not None},
    )
