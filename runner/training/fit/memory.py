"""Out of memory: what ran out, card or host, and how much was used.

By exception type first, then by message: libraries wrap an allocator's failure in errors of theirs.
"""

from __future__ import annotations

import errno
import gc
import os
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

from runner.files.unreadable import is_of_storage

_GIB = 1024**3


class Lost(StrEnum):
    """What an attempt died of, where it is the machine's doing."""

    GPU_MEMORY = "gpu memory"
    HOST_MEMORY = "host memory"
    GPU = "gpu"
    DISK = "disk"
    STORAGE = "storage"


# Each entry names its origin and has a test.
GPU_MEMORY = (
    r"CUDA out of memory",  # torch's allocator
    r"HIP out of memory",
    r"CUDA error: out of memory",  # the runtime, outside torch's allocator
    r"CUDA driver error: out of memory",  # the driver, which maps torch's expandable segments
    r"CUDA_ERROR_OUT_OF_MEMORY",  # the driver's name for it
    r"cudaErrorMemoryAllocation",
    r"CUBLAS_STATUS_ALLOC_FAILED",  # cuBLAS makes its workspace late
    r"CUBLAS_STATUS_NOT_INITIALIZED",  # what cuBLAS says when its handle does not fit
    r"CUDNN_STATUS_ALLOC_FAILED",
    r"CUDNN_STATUS_INTERNAL_ERROR_(?:HOST|DEVICE)_ALLOCATION_FAILED",
    r"CUSOLVER_STATUS_ALLOC_FAILED",
    r"CUSPARSE_STATUS_ALLOC_FAILED",
    r"NVML_SUCCESS == r INTERNAL ASSERT FAILED",  # torch fails while it words an out-of-memory
    r"Error out of memory at line \d+ in file .*csrc",  # bitsandbytes' paged buffers
    r"Triton Error \[CUDA\]: out of memory",
    r"Cuda failure (?:\d+ )?'out of memory'",  # NCCL's buffers
)
HOST_MEMORY = (
    r"DefaultCPUAllocator: can't allocate memory",
    r"DefaultCPUAllocator: not enough memory",  # Windows' wording
    r"unable to mmap \d+ bytes",
    r"Cannot allocate memory",  # strerror(ENOMEM)
    r"std::bad_alloc",
    r"pin_memory.*failed to allocate",
    r"CUDAHostAlloc",
)
GPU_LOST = (
    r"GPU is lost",
    r"fallen off the bus",
    r"CUDA error: unspecified launch failure",
    r"CUDA error: unknown error",
    r"CUDA error: hardware stack error",
    r"CUDA error: no CUDA-capable device",
    r"CUDA error: initialization error",
    r"uncorrectable ECC error",
    r"CUDA driver initialization failed",
    r"NVML_ERROR_GPU_IS_LOST",
)
_MESSAGES = {
    kind: re.compile("|".join(patterns), re.IGNORECASE)
    for kind, patterns in (
        (Lost.GPU_MEMORY, GPU_MEMORY),
        (Lost.GPU, GPU_LOST),
        (Lost.HOST_MEMORY, HOST_MEMORY),
    )
}
# A ValueError or KeyError may quote anything, a row of data included: not evidence.
_SPEAKING_OF_MACHINES = (RuntimeError, OSError, ImportError, AssertionError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__cause__, one.__context__]


def classify(error: BaseException) -> Lost | None:
    """Say what ran out or went away; None: something else is wrong."""
    found = {_classify_one(one) for one in _chain(error)}
    for kind in (Lost.GPU_MEMORY, Lost.GPU, Lost.HOST_MEMORY, Lost.DISK, Lost.STORAGE):
        if kind in found:
            return kind
    return None


def _classify_one(error: BaseException) -> Lost | None:
    name = type(error).__name__
    if name == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        return Lost.GPU_MEMORY
    if isinstance(error, MemoryError):
        return Lost.HOST_MEMORY
    if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT):
        return Lost.HOST_MEMORY if error.errno == errno.ENOMEM else Lost.DISK
    if isinstance(error, OSError) and is_of_storage(error):
        return Lost.STORAGE
    if not isinstance(error, _SPEAKING_OF_MACHINES) and name != "SafetensorError":
        return None
    text = str(error)
    for kind, wording in _MESSAGES.items():
        if wording.search(text):
            return kind
    if "No space left on device" in text:
        return Lost.DISK
    return None


def plan_does_not_fit(lost: Lost | None, *, on_gpu: bool) -> bool:
    """Whether a smaller batch plan helps: on a CPU the model's memory is the host's."""
    return lost is Lost.GPU_MEMORY or (lost is Lost.HOST_MEMORY and not on_gpu)


def let_go() -> None:
    """Give back what nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Meter:
    """Reads what this process takes of the card; on a CPU every reading is None."""

    def __init__(
        self,
        *,
        on_gpu: bool,
        cap_bytes: int | None = None,
        beside: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the context, measure it, and set the cap.

        Args:
            on_gpu: whether there is a card.
            cap_bytes: what this process may take of it; None: all.
            beside: takes what else lies outside the allocator; counted with the context.
        """
        self.on_gpu, self.cap_bytes = on_gpu, cap_bytes
        self.context_bytes = 0
        self._confined = self._lifted = False
        self.notes: dict[str, dict[str, int]] = {}
        """Peaks by when they were noted."""
        if not on_gpu:
            return
        import torch

        before = _used_by_all()
        torch.zeros(1, device="cuda")
        beside()
        after = _used_by_all()
        if before is not None and after is not None:
            self.context_bytes = max(0, after - before - torch.cuda.memory_reserved())
        self.confine(None)

    def confine(self, allocator_bytes: int | None) -> None:
        """Let the allocator reserve no more than this, or (None) than the cap: never above it."""
        if not self.on_gpu:
            return
        import torch

        total = torch.cuda.get_device_properties(0).total_memory
        cap = total if self.cap_bytes is None else max(1, self.cap_bytes - self.context_bytes)
        left = cap if allocator_bytes is None or self._lifted else min(cap, allocator_bytes)
        self._confined = left < cap
        torch.cuda.set_per_process_memory_fraction(min(1.0, left / total))

    def lift(self) -> bool:
        """Let the allocator reserve up to the cap from now on; False: it could already.

        What is confined to a forecast can run out of it by holes alone, on a card with room.
        """
        if not self._confined:
            return False
        self._lifted = True
        self.confine(None)
        print(
            "GPU memory: what was forecast did not suffice; up to the card's limit is taken.",
            flush=True,
        )
        return True

    def note(self, when: str) -> None:
        """Log the peak up to here, and what is left of what this process may take."""
        if not self.on_gpu:
            return
        import torch

        peak, allocated = self.peak_bytes() or 0, self.peak_allocated_bytes() or 0
        self.notes[when] = {"peak_bytes": peak, "allocated_bytes": allocated}
        limit = self.cap_bytes or torch.cuda.get_device_properties(0).total_memory
        print(
            f"GPU memory {when}: {peak / _GIB:.2f} GiB at most, {allocated / _GIB:.2f} of it in "
            f"use; {(limit - peak) / _GIB:.2f} GiB of {limit / _GIB:.2f} were never needed",
            flush=True,
        )

    def forget_peak(self) -> None:
        """Measure from here on: the plan that the peak was measured at did not fit."""
        if self.on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def now_bytes(self) -> int | None:
        """Reserved now, plus the context."""
        if not self.on_gpu:
            return None
        import torch

        return int(torch.cuda.memory_reserved()) + self.context_bytes

    def peak_bytes(self) -> int | None:
        """Reserved at most so far, plus the context."""
        if not self.on_gpu:
            return None
        import torch

        return int(torch.cuda.max_memory_reserved()) + self.context_bytes

    def peak_allocated_bytes(self) -> int | None:
        """Allocated at most so far, without the context."""
        if not self.on_gpu:
            return None
        import torch

        return int(torch.cuda.max_memory_allocated())


def _used_by_all() -> int | None:
    """Memory in use on the card, by everybody; a context made in between shows as the difference.

    Per-process readings would be exact, but carry host process ids that a container cannot match.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
            handle: Any
            if visible.startswith("GPU-"):
                handle = pynvml.nvmlDeviceGetHandleByUUID(visible)
            else:
                handle = pynvml.nvmlDeviceGetHandleByIndex(int(visible or 0))
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # no NVML: the context is then counted as nothing, and the log shows 0
        return None
