"""Which failures a smaller batch plan can mend, told by type and by every wording met."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import types

import pytest

from runner.training.fit.memory import (
    GPU_LOST,
    GPU_MEMORY,
    HOST_MEMORY,
    Lost,
    classify,
    plan_does_not_fit,
)

WORDINGS = {
    Lost.GPU_MEMORY: [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.00 GiB",
        "HIP out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA driver error: out of memory",
        "CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
        "cudaErrorMemoryAllocation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1131',
        "Error out of memory at line 78 in file /src/csrc/ops.cu",
        "Triton Error [CUDA]: out of memory",
        "ncclUnhandledCudaError: Call to CUDA function failed. Cuda failure 2 'out of memory'",
    ],
    Lost.HOST_MEMORY: [
        "DefaultCPUAllocator: can't allocate memory. Error code 12 (Cannot allocate memory)",
        "[enforce fail at alloc_cpu.cpp:83] DefaultCPUAllocator: not enough memory: you tried",
        "unable to mmap 4096 bytes from file </models/model.safetensors>: Cannot allocate memory",
        "std::bad_alloc",
        "pin_memory: failed to allocate 1048576 bytes",
        "CUDAHostAlloc failed",
    ],
    Lost.GPU: [
        "GPU is lost. Reboot the system to recover this GPU",
        "GPU at PCI:0000:01:00: GPU has fallen off the bus.",
        "CUDA error: unspecified launch failure",
        "CUDA error: unknown error",
        "CUDA error: hardware stack error",
        "CUDA error: no CUDA-capable device is detected",
        "CUDA error: initialization error",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA driver initialization failed, you might not have a CUDA gpu.",
        "NVML_ERROR_GPU_IS_LOST",
    ],
    None: [
        "out of memory is a chapter of the manual",
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "out of resource: shared memory, Required: 131072, Hardware limit: 101376",
        "CUBLAS_STATUS_EXECUTION_FAILED",
        "CUDNN_STATUS_NOT_SUPPORTED",
        "mat1 and mat2 shapes cannot be multiplied (4x8 and 16x4)",
        "the size of tensor a must match; memory format is channels_last",
        "unable to mmap the file",
        "the card's memory is fine",
    ],
}
PATTERNS = {Lost.GPU_MEMORY: GPU_MEMORY, Lost.HOST_MEMORY: HOST_MEMORY, Lost.GPU: GPU_LOST}


@pytest.mark.parametrize(
    ("text", "lost"), [(text, lost) for lost, texts in WORDINGS.items() for text in texts]
)
def test_each_wording_is_known(text: str, lost: Lost | None) -> None:
    """What ran out is recognised in each form the stack words it; look-alikes are not."""
    assert classify(RuntimeError(text)) is lost


@pytest.mark.parametrize(
    ("pattern", "lost"), [(p, lost) for lost, patterns in PATTERNS.items() for p in patterns]
)
def test_each_entry_of_the_list_is_needed(pattern: str, lost: Lost) -> None:
    """No entry stands in the list without a wording that it, and no other entry, recognises."""
    others = [p for p in PATTERNS[lost] if p != pattern]
    assert any(
        re.search(pattern, text, re.IGNORECASE)
        and not any(re.search(other, text, re.IGNORECASE) for other in others)
        for text in [*WORDINGS[lost], *ALONE.get(pattern, [])]
    )


ALONE = {  # where the usual text has two entries' wordings in it
    r"DefaultCPUAllocator: can't allocate memory": ["DefaultCPUAllocator: can't allocate memory"],
    r"unable to mmap \d+ bytes": ["unable to mmap 4096 bytes from file"],
    r"Cannot allocate memory": ["libx.so: failed to map segment: Cannot allocate memory"],
}


def _named(module: str, name: str, base: type[Exception] = Exception) -> type[Exception]:
    return types.new_class(name, (base,), exec_body=lambda ns: ns.update(__module__=module))


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (_named("torch", "OutOfMemoryError", RuntimeError)("x"), Lost.GPU_MEMORY),
        (_named("torch.cuda", "OutOfMemoryError", RuntimeError)("x"), Lost.GPU_MEMORY),
        (_named("database", "OutOfMemoryError")("x"), None),
        (MemoryError(), Lost.HOST_MEMORY),
        (OSError(errno.ENOMEM, "x"), Lost.HOST_MEMORY),
        (OSError(errno.ENOSPC, "x"), Lost.DISK),
        (OSError(errno.EDQUOT, "x"), Lost.DISK),
        (OSError(errno.EIO, "x"), Lost.STORAGE),
        (RuntimeError("[Errno 28] No space left on device"), Lost.DISK),
        (ImportError("libx.so: failed to map segment: Cannot allocate memory"), Lost.HOST_MEMORY),
        (_named("safetensors", "SafetensorError")("Cannot allocate memory"), Lost.HOST_MEMORY),
        (ValueError("the row says: CUDA out of memory"), None),
        (KeyError("std::bad_alloc"), None),
    ],
)
def test_the_type_comes_first(error: Exception, lost: Lost | None) -> None:
    """A type that means it needs no words, and one that may quote a row is not believed."""
    assert classify(error) is lost


def test_a_wrapped_failure_is_found() -> None:
    """A library's own error does not hide the allocator's, whichever way it is chained."""
    wrapped = ValueError("could not load")
    wrapped.__cause__ = MemoryError()
    assert classify(wrapped) is Lost.HOST_MEMORY
    during = ValueError("while cleaning up")
    during.__context__ = RuntimeError("CUDA out of memory")
    assert classify(during) is Lost.GPU_MEMORY
    wrapped.__cause__.__cause__ = wrapped  # a circle must not hold it up
    assert classify(wrapped) is Lost.HOST_MEMORY


def test_classifying_needs_no_torch() -> None:
    """An attempt that died while it imported the stack is told like any other."""
    source = "import runner.training.fit.memory, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_a_smaller_plan_helps_where_the_model_lives() -> None:
    """On a CPU the host's memory is what the plan must fit; beside a card it is another failure."""
    assert plan_does_not_fit(Lost.HOST_MEMORY, on_gpu=False)
    assert not plan_does_not_fit(Lost.HOST_MEMORY, on_gpu=True)
    assert plan_does_not_fit(Lost.GPU_MEMORY, on_gpu=True)
    assert not plan_does_not_fit(Lost.DISK, on_gpu=False)
    assert not plan_does_not_fit(None, on_gpu=True)
