"""Doctor: the NVIDIA driver, and whether it is new enough for the CUDA of torch."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from runner.card.answer import Answer, Gpu, meaning
from runner.doctor.finding import Finding, Level

_NEEDED = {13: 580, 12: 525, 11: 450}
"""CUDA's major version → the oldest driver that runs all of its minor versions."""
_WHY = "The driver runs every kernel; one older than torch's CUDA loads none of them."
_INSTALL = (
    "sudo apt install nvidia-driver-{version} && sudo reboot"
    "    # Ubuntu; others: nvidia.com/drivers"
)


@dataclass(frozen=True, kw_only=True)
class Driver:
    """What there is."""

    wanted: bool = True
    """False: the box was told to compute on the CPU."""
    cards_on_bus: int = 0
    """NVIDIA's display and compute devices on the PCI bus, driver or not."""
    module: str | None = None
    """Version of the driver that the kernel runs."""
    answer: Answer
    """What the driver told a new process."""
    cuda: str | None = None
    """The CUDA that torch was built for; None: this torch computes on CPUs only."""
    in_container: bool = False


def read_module(root: Path = Path("/")) -> str | None:
    """Read the version of the driver that the kernel runs."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module\D*?(?:for \S+\s+)?(\d+\.\d+(?:\.\d+)?)", text)
    return found[1] if found else None


def read_cuda() -> str | None:
    """Read which CUDA torch was built for, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text()
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else None


def needed_driver(cuda: str) -> int:
    """Give the oldest driver for a CUDA version; CUDA of the future needs at least the newest."""
    return _NEEDED.get(int(cuda.partition(".")[0]), max(_NEEDED.values()))


def judge_driver(facts: Driver) -> Finding:
    """Decide whether the driver can run what torch was built for."""
    if not facts.wanted:
        return _finding(Level.SKIPPED, "This box computes on the CPU, as it was set to.")
    needed = needed_driver(facts.cuda) if facts.cuda else _NEEDED[13]
    version = facts.answer.driver or facts.module
    if version and int(version.partition(".")[0]) < needed:
        return _finding(
            Level.TROUBLE,
            f"Driver {version} is too old: CUDA {facts.cuda or '13.0'} needs {needed} or newer.",
            _INSTALL.format(version=needed),
        )
    verdict = meaning(facts.answer, expected=bool(facts.cards_on_bus))
    if verdict.gpu is Gpu.WELL:
        return _judge_torch(facts, version)
    if verdict.gpu is Gpu.NONE:
        return _finding(
            Level.ADVICE,
            "No NVIDIA card was found; jobs run on the CPU.",
            "lspci -d 10de:    # lists the machine's NVIDIA cards",
        )
    if facts.answer.code != 12:
        return _finding(Level.TROUBLE, verdict.message + ".", verdict.fix)
    if facts.module is None:
        return _finding(
            Level.TROUBLE,
            "There is an NVIDIA card, and no driver for it is loaded.",
            _INSTALL.format(version=needed),
        )
    if facts.in_container:
        return _finding(
            Level.UNKNOWN,
            f"Driver {facts.module} runs, but this container was given no card: "
            "from here nobody can tell whether it computes.",
            "docker compose run --rm runner doctor",
        )
    return _finding(
        Level.TROUBLE,
        f"Driver {facts.module} runs, but its library (libnvidia-ml.so) is not installed.",
        _INSTALL.format(version=facts.module.partition(".")[0]),
    )


def _judge_torch(facts: Driver, version: str | None) -> Finding:
    cards = ", ".join(card.name for card in facts.answer.cards) or "the card"
    if facts.cuda is None:
        return _finding(
            Level.ADVICE,
            f"{cards}: idle, for this torch computes on CPUs only.",
            "docker compose up -d    # its image has CUDA; or: pip install --force-reinstall torch",
        )
    return _finding(Level.OK, f"{cards}; driver {version} runs CUDA {facts.cuda}.")


def _finding(level: Level, what: str, fix: str = "") -> Finding:
    return Finding(check="Driver", level=level, what=what, why=_WHY, fix=fix)
