"""Which failures a smaller batch plan can mend, told by type and by every wording met."""

from __future__ import annotations

import errno

import pytest

from runner.training.memory import Lost, classify, plan_does_not_fit

GPU = Lost.GPU_MEMORY
HOST = Lost.HOST_MEMORY


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), GPU),
        (RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."), GPU),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), GPU),
        (RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"), GPU),
        (RuntimeError("cudaErrorMemoryAllocation"), GPU),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), GPU),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"), GPU),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), GPU),
        (RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), GPU),
        (RuntimeError("CUSOLVER_STATUS_ALLOC_FAILED"), GPU),
        (RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAlloc"'), GPU),
        (RuntimeError("Error out of memory at line 78 in file /src/csrc/ops.cu"), GPU),
        (RuntimeError("Triton Error [CUDA]: out of memory"), GPU),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), HOST),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), HOST),
        (RuntimeError("unable to mmap 4096 bytes from file: Cannot allocate memory"), HOST),
        (RuntimeError("std::bad_alloc"), HOST),
        (MemoryError(), HOST),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), HOST),
        (ImportError("libx.so: failed to map segment: Cannot allocate memory"), HOST),
        (OSError(errno.ENOSPC, "No space left on device"), Lost.DISK),
        (RuntimeError("CUDA error: unspecified launch failure"), Lost.GPU),
        (RuntimeError("GPU is lost. Reboot the system"), Lost.GPU),
        (ValueError("the row says: CUDA out of memory"), None),
        (RuntimeError("out of memory is a chapter of the manual"), None),
        (KeyError("std::bad_alloc"), None),
    ],
)
def test_each_wording_is_known(error: Exception, lost: Lost | None) -> None:
    """Out of memory is recognised in each form the stack words it; look-alikes are not."""
    assert classify(error) is lost


def test_a_wrapped_failure_is_found() -> None:
    """A library's own error does not hide the allocator's."""
    wrapped = ValueError("could not load")
    wrapped.__cause__ = MemoryError()
    assert classify(wrapped) is HOST


def test_a_smaller_plan_helps_where_the_model_lives() -> None:
    """On a CPU the host's memory is what the plan must fit; beside a card it is another failure."""
    assert plan_does_not_fit(HOST, on_gpu=False)
    assert not plan_does_not_fit(HOST, on_gpu=True)
    assert plan_does_not_fit(GPU, on_gpu=True)
    assert not plan_does_not_fit(Lost.DISK, on_gpu=False)
    assert not plan_does_not_fit(None, on_gpu=True)
