"""The driver's answer: what each of its errors means for the box, in one table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

NO_ANSWER = -1
"""Not an NVML code: the driver did not answer in time."""


class Gpu(StrEnum):
    """How the card is."""

    WELL = "well"
    NONE = "none"
    """There is none, and nothing says that there should be."""
    LOST = "lost"
    """It was there, or should be. A container that starts anew may get it back."""
    REBOOT = "reboot"
    """Only the machine's restart brings it back."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One card."""

    name: str
    capability: str
    """Compute capability, such as ``8.9``."""
    uuid: str = ""
    """Empty: the driver does not tell."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a new process heard from the driver."""

    code: int = 0
    """NVML's own; 0: all is well."""
    text: str = ""
    """The error as NVML words it."""
    driver: str | None = None
    """The driver's version."""
    cards: tuple[Card, ...] = ()
    count: int = 0
    """How many cards the driver counts, also where one of them is lost."""

    def as_json(self) -> dict[str, Any]:
        """Give it to another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Answer:
        """Take it from another process."""
        return cls(**{**content, "cards": tuple(Card(**card) for card in content["cards"])})


NOBODY = Answer(code=12, text="NVML Shared Library Not Found")
"""The answer where no driver was ever installed."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an answer means."""

    gpu: Gpu
    message: str = ""
    """What is wrong, in a sentence; empty when nothing is."""
    fix: str = ""
    """The command, on the host."""


_RESTART = "docker compose restart runner"
_DEVICES = (
    "The container lost the right to its GPU devices, as it does when the host's systemd reloads "
    "(`systemctl daemon-reload`, a package update)"
)
_LOST: dict[int, tuple[str, str]] = {
    NO_ANSWER: ("The NVIDIA driver does not answer", "sudo reboot"),
    1: ("The NVIDIA driver could not be started", "nvidia-smi    # on the host; then: sudo reboot"),
    4: (_DEVICES, _RESTART),
    6: ("The GPU that this box was given is gone", "nvidia-smi -L    # on the host"),
    8: ("The GPU lacks power: its supply cables are not plugged in", "sudo poweroff"),
    9: (
        "The NVIDIA driver is not loaded, as after an update of the kernel",
        "sudo modprobe nvidia || sudo ubuntu-drivers install    # then: sudo reboot",
    ),
    10: ("The NVIDIA driver does not answer", "sudo reboot"),
    11: ("The GPU's interrupts do not arrive", "sudo dmesg | grep -i nvrm    # then: sudo reboot"),
    12: ("The NVIDIA driver's library is gone", _RESTART),
    15: (
        "The GPU has fallen off the bus (heat, power or a loose card)",
        "sudo dmesg | grep -i xid    # then: sudo reboot",
    ),
    16: ("The GPU must be reset", "sudo nvidia-smi --gpu-reset || sudo reboot"),
    17: (_DEVICES, _RESTART),
    28: ("The GPU that this box was given is gone", "nvidia-smi -L    # on the host"),
    999: (_DEVICES, _RESTART),
}
_MISMATCH = 18
_HARMLESS = {3, 13, 14, 22}  # a question that this card or driver cannot answer: but it answers
_NEVER_THERE = {9, 12}  # unless something says that there should be a card


def meaning(answer: Answer, *, expected: bool) -> Verdict:
    """Decide what an answer means.

    Args:
        answer: what a new process heard.
        expected: whether there should be a card: one was seen before, or the container was given
            one.
    """
    if answer.code == _MISMATCH:
        return Verdict(
            gpu=Gpu.REBOOT,
            message="The NVIDIA driver was updated while the old one still runs; "
            "reboot the machine",
            fix="sudo reboot",
        )
    if answer.code in _HARMLESS or (answer.code == 0 and answer.cards):
        return Verdict(gpu=Gpu.WELL)
    if not expected and (answer.code in _NEVER_THERE or answer.code == 0):
        return Verdict(gpu=Gpu.NONE)
    code = answer.code or 6  # the driver answers, and has no card
    message, fix = _LOST.get(code, ("The GPU cannot be reached", _RESTART))
    said = f" (NVML: {answer.text})" if answer.text else ""
    return Verdict(gpu=Gpu.LOST, message=message + said, fix=fix)
