"""GPU memory: how much of the card is free, and which programs hold the rest.

    python -m runner.card.memory

Asked in a new process each time: a driver's library that was loaded before an update tells of the
past, and one that hangs must not hang whoever asks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from runner.card.ask import environment_of

if TYPE_CHECKING:
    from runner.forecast.work import Box

GIB = 1024**3
ANSWER_SECONDS = 20.0  # a driver that takes longer is not well; the attempt itself will tell
SMALL_SHARE = 0.15  # of a card: a desktop's share, which a run lives beside rather than waits for
_SAME_BYTES = 64 * 1024**2  # less than this is nobody's: the driver's own

# Dense 16-bit operations of one multiprocessor in one clock, sums in fp32, and its CUDA cores.
_RATES = {
    (7, 0): (1024, 64),
    (7, 5): (512, 64),
    (8, 0): (2048, 64),
    (8, 6): (512, 128),
    (8, 9): (512, 128),
    (9, 0): (4096, 128),
    (10, 0): (8192, 128),
    (12, 0): (512, 128),
}


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that has memory of the card."""

    pid: int
    name: str
    held_bytes: int


@dataclass(frozen=True, kw_only=True)
class GpuMemory:
    """One card, as the driver shows it."""

    name: str
    total_bytes: int
    free_bytes: int
    flops: float | None
    bf16: bool = True
    """It computes in bf16 by itself: compute capability 8.0 and newer, Ampere on."""
    capability: str | None = None
    """Compute capability, such as ``8.6``; None: the driver does not tell."""
    holders: tuple[Holder, ...] = ()
    """Largest first; in a container the driver may name none, or not those outside."""

    @property
    def used_bytes(self) -> int:
        """What somebody holds, the driver included."""
        return self.total_bytes - self.free_bytes

    @property
    def is_shared(self) -> bool:
        """Another program holds more than a run should live beside."""
        return self.used_bytes > SMALL_SHARE * self.total_bytes

    def held_by(self) -> str:
        """Name who holds how much."""
        held = [one for one in self.holders if one.held_bytes >= _SAME_BYTES]
        who = ", ".join(f"{h.name} (process {h.pid}) {h.held_bytes / GIB:.1f} GiB" for h in held)
        return f"held by {who}" if who else "the driver does not show by whom"

    def box(self, *, budget_bytes: int | None, **known: Any) -> Box:
        """Say what a forecast needs to know; small holders are lived with, not waited for."""
        # Not at the top: each question to the driver is a process, and this was half its time.
        from runner.forecast.work import Box  # noqa: PLC0415

        beside = 0 if self.is_shared else self.used_bytes
        return Box(
            gpu_name=self.name,
            gpu_memory_bytes=self.total_bytes - beside,
            budget_bytes=budget_bytes,
            flops=self.flops,
            bf16=self.bf16,
            **known,
        )


def read_gpu(card: str | None = None) -> GpuMemory | None:
    """Ask about a card, or the first one that is seen; None: there is none, or no answer."""
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "runner.card.memory"],
            env=environment_of(card),
            capture_output=True,
            timeout=ANSWER_SECONDS,
            check=True,
        ).stdout
        return from_json(json.loads(answer))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, KeyError):
        return None


def from_json(found: dict[str, Any] | None) -> GpuMemory | None:
    """Read what the child printed."""
    if not found:
        return None
    holders = tuple(Holder(**one) for one in found.pop("holders"))
    return GpuMemory(**found, holders=holders)


def ask_driver(nvml: Any) -> GpuMemory | None:
    """Ask the driver; ``nvml`` is the module ``pynvml``."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        handle = _first_visible(nvml)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return GpuMemory(
            name=_text(nvml.nvmlDeviceGetName(handle)),
            total_bytes=int(memory.total),
            free_bytes=int(memory.free),
            flops=_flops(nvml, handle),
            bf16=_bf16(nvml, handle),
            capability=_capability(nvml, handle),
            holders=_holders(nvml, handle),
        )
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _first_visible(nvml: Any) -> Any:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    return nvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)


def _holders(nvml: Any, handle: Any) -> tuple[Holder, ...]:
    held: dict[int, int] = {}
    for ask in (
        nvml.nvmlDeviceGetComputeRunningProcesses,
        nvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        try:
            for process in ask(handle):
                held[process.pid] = max(held.get(process.pid, 0), process.usedGpuMemory or 0)
        except nvml.NVMLError:  # not every card and container tells
            continue
    found = [Holder(pid=p, name=_name_of(nvml, p), held_bytes=int(b)) for p, b in held.items()]
    return tuple(sorted(found, key=lambda one: -one.held_bytes))


def _name_of(nvml: Any, pid: int) -> str:
    try:
        words = _text(nvml.nvmlSystemGetProcessName(pid)).split()
    except nvml.NVMLError:
        return "a program"
    # The first word alone: what follows may be anything, a key or a customer's name included.
    return os.path.basename(words[0]) if words else "a program"


def _flops(nvml: Any, handle: Any) -> float | None:
    try:
        capability = tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle))
        cores = nvml.nvmlDeviceGetNumGpuCores(handle)
        megahertz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
    except nvml.NVMLError:
        return None
    per_clock, cores_each = _RATES.get(capability, (512, 128))
    return float(cores / cores_each * per_clock * megahertz * 1e6)


def _bf16(nvml: Any, handle: Any) -> bool:
    try:
        major, _ = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    except nvml.NVMLError:
        return True
    return bool(major >= 8)


def _capability(nvml: Any, handle: Any) -> str | None:
    try:
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    except nvml.NVMLError:
        return None
    return f"{major}.{minor}"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    import pynvml

    answer = ask_driver(pynvml)
    print(json.dumps(answer and asdict(answer)))
