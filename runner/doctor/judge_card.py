"""Doctor: what torch and bitsandbytes did on the card: kind, library, numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from runner.doctor.finding import Finding, Level

_TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 3e-2}
"""Rounding stays below a third of these; a wrong code or order of weights is off by more than 1."""
_WHY_CARD = "A card that torch was not built for runs none of its kernels."
_WHY_LIBRARY = "QLoRA keeps the base model in 4 bits through it; without it jobs cannot use that."
_WHY_PRODUCT = "This is the computation that training repeats; wrong here, every adapter is wrong."
_IMAGE = "docker compose build && docker compose up -d    # its torch fits its bitsandbytes"


@dataclass(frozen=True, kw_only=True)
class Product:
    """NF4 products, each compared with plain arithmetic in double precision."""

    compute: str
    """The number format."""
    forward_error: float
    """Norm of the difference over norm of the reference, as training multiplies."""
    gradient_error: float
    one_row_error: float
    """As answering multiplies, token by token."""

    @property
    def worst(self) -> float:
        """The largest error; what is not a number counts as wrong without bound."""
        errors = (self.forward_error, self.gradient_error, self.one_row_error)
        return max(error if error == error else float("inf") for error in errors)  # noqa: PLR0124


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the child saw."""

    torch: str
    cuda: str | None = None
    """None: this torch computes on CPUs only."""
    architectures: tuple[str, ...] = ()
    """What torch has kernels for: ``sm_89`` is a program, ``compute_90`` can become one."""
    name: str | None = None
    capability: str | None = None
    """None: the product ran on the CPU."""
    unreachable: str | None = None
    """Why a torch with CUDA found no card."""
    bitsandbytes: str | None = None
    library: str = ""
    """The file that bitsandbytes loaded; empty: none."""
    library_has_cuda: bool = False
    product: Product | None = None
    error: str | None = None
    """What ended the test before its end."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> CardFacts:
        """Read what the child printed."""
        product = content.get("product")
        content = {
            **content,
            "architectures": tuple(content.get("architectures", ())),
            "product": Product(**product) if product else None,
        }
        return cls(**content)


def runs_on(capability: str, architectures: tuple[str, ...]) -> bool:
    """Whether a list such as ``sm_80 sm_90 compute_90`` has something for a card.

    A program runs on cards of its own major version and a minor one that is not older; ``compute_``
    is compiled anew for any newer card; a letter (``sm_90a``) binds it to that very version.
    """
    major, _, minor = capability.partition(".")
    card = (int(major), int(minor))
    for name in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name)
        if found is None:
            continue
        kind, built = found[1], (int(found[2]), int(found[3]))
        if found[4] == "a" and built == card:
            return True
        if found[4] == "a":
            continue
        if kind == "compute" and not found[4] and card >= built:
            return True
        if card[0] == built[0] and card[1] >= built[1]:
            return True
    return False


def judge_card(facts: CardFacts, *, card_answers: bool) -> list[Finding]:
    """Decide whether the card, or the CPU in its place, computes what training needs.

    Args:
        facts: what the child saw.
        card_answers: whether the driver shows a card that should be used.
    """
    found = []
    if card_answers and facts.cuda:
        found.append(_judge_architecture(facts))
        if facts.capability is None or found[-1].level is Level.TROUBLE:
            return found
    found.append(_judge_library(facts))
    if found[-1].level is not Level.TROUBLE:
        found.append(_judge_product(facts))
    return found


def _judge_architecture(facts: CardFacts) -> Finding:
    def finding(level: Level, what: str, fix: str = "") -> Finding:
        return Finding(check="Card", level=level, what=what, why=_WHY_CARD, fix=fix)

    if facts.capability is None:
        return finding(
            Level.TROUBLE,
            f"The driver shows a card, but torch cannot reach it: {facts.unreachable}.",
            "sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm    # after a sleep; or reboot",
        )
    kind = f"{facts.name} (sm_{facts.capability.replace('.', '')})"
    if not runs_on(facts.capability, facts.architectures):
        return finding(
            Level.TROUBLE,
            f"torch {facts.torch} has no kernels for {kind}, only {' '.join(facts.architectures)}.",
            "nvidia-smi --query-gpu=name,compute_cap --format=csv    # needs another card or torch",
        )
    return finding(Level.OK, f"{kind} is one that torch {facts.torch} was built for.")


def _judge_library(facts: CardFacts) -> Finding:
    def finding(level: Level, what: str, fix: str = "") -> Finding:
        return Finding(check="bitsandbytes", level=level, what=what, why=_WHY_LIBRARY, fix=fix)

    if facts.bitsandbytes is None:
        return finding(Level.TROUBLE, f"It cannot be loaded: {facts.error}.", _IMAGE)
    if not facts.library or (facts.capability and not facts.library_has_cuda):
        wanted = f"CUDA {facts.cuda}" if facts.capability else "this CPU"
        return finding(
            Level.TROUBLE,
            f"bitsandbytes {facts.bitsandbytes} has no library for {wanted}"
            + (f"; it loaded {facts.library}." if facts.library else "."),
            _IMAGE,
        )
    return finding(Level.OK, f"bitsandbytes {facts.bitsandbytes} loaded {facts.library}.")


def _judge_product(facts: CardFacts) -> Finding:
    def finding(level: Level, what: str, fix: str = "") -> Finding:
        return Finding(check="NF4 product", level=level, what=what, why=_WHY_PRODUCT, fix=fix)

    where = "card" if facts.capability else "CPU"
    if facts.product is None:
        fix = "sudo dmesg | grep -i nvrm    # then: sudo reboot" if facts.capability else _IMAGE
        return finding(Level.TROUBLE, f"The {where} could not compute it: {facts.error}.", fix)
    worst, allowed = facts.product.worst, _TOLERANCE.get(facts.product.compute, 1e-2)
    numbers = f"off by {worst:.1e} in {facts.product.compute} ({allowed:.0e} is allowed)"
    if worst > allowed:
        fix = (
            "sudo dmesg | grep -i xid; sudo nvidia-smi --gpu-reset" if facts.capability else _IMAGE
        )
        return finding(Level.TROUBLE, f"The {where} computes it wrongly: {numbers}.", fix)
    return finding(Level.OK, f"The {where} computes it as plain arithmetic does: {numbers}.")
