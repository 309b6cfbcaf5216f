"""Doctor: could anything leave the box?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.contract.stage_environment import environment
from runner.doctor.finding import Finding, Level

_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_WHY = "Nothing leaves the box: stages are set to stay offline, and their container has no network."


@dataclass(frozen=True, kw_only=True)
class Offline:
    """What there is."""

    missing: tuple[str, ...] = ()
    """Switches that a stage would not be given."""
    networks: tuple[str, ...] = ()
    """Network devices, the loopback aside."""
    tokens: tuple[str, ...] = ()
    """Variables of this process that hold a hub token; stages do not get them."""
    in_container: bool = False


def read_offline(
    inherited: Mapping[str, str], *, in_container: bool, root: Path = Path("/")
) -> Offline:
    """Build a stage's environment as the daemon does, and look at the network devices."""
    given = environment(inherited, home=Path("/"))
    try:
        devices = sorted(path.name for path in (root / "sys/class/net").iterdir())
    except OSError:
        devices = []
    return Offline(
        missing=tuple(name for name in _SWITCHES if given.get(name) != "1"),
        networks=tuple(name for name in devices if name != "lo"),
        tokens=tuple(name for name in _TOKENS if inherited.get(name)),
        in_container=in_container,
    )


def judge_offline(facts: Offline) -> Finding:
    """Decide whether the promise holds."""
    if facts.missing:
        return _finding(
            Level.TROUBLE,
            f"A stage would not be kept offline: {', '.join(facts.missing)} is not set.",
            "docker compose build && docker compose up -d    # this image's code was changed",
        )
    if facts.in_container and facts.networks:
        return _finding(
            Level.ADVICE,
            f"Stages are set to stay offline, but this container has a network "
            f"({', '.join(facts.networks)}).",
            "docker compose config | grep network_mode    # should say none",
        )
    if facts.tokens:
        return _finding(
            Level.ADVICE,
            f"{facts.tokens[0]} is set here; only `runner fetch` needs it; no stage gets it.",
            f"unset {facts.tokens[0]}",
        )
    if facts.in_container:
        return _finding(Level.OK, "Stages are set to stay offline, and there is no network.")
    return _finding(Level.OK, "Stages are set to stay offline.")


def _finding(level: Level, what: str, fix: str = "") -> Finding:
    return Finding(check="Offline", level=level, what=what, why=_WHY, fix=fix)
