"""The spec of a run as it is trained: with what the box chose where the spec leaves it to it."""

from __future__ import annotations

from runner.contract.record import RunRecord
from runner.spec.spec import JobSpec


def as_chosen(spec: JobSpec, record: RunRecord) -> JobSpec:
    """Give a run's spec with the effective batch and the method that its record names.

    Before its first attempt nothing is chosen. A run with attempts whose record names none was
    trained by a runner whose default was qlora.
    """
    spec = spec.with_batch(record.effective_batch_size)
    if record.method is not None:
        return spec.with_method(record.method.method)
    return spec.with_method(None) if record.attempts else spec
