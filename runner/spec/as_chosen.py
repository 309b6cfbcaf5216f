"""The spec of a run as it is trained: with what the box chose where the spec leaves it to it."""

from __future__ import annotations

from runner.contract.layout import RunFolder
from runner.contract.model_kind import Method
from runner.contract.record import RunRecord, read_record
from runner.errors import RunnerError
from runner.files.unreadable import require_storage
from runner.spec.read_spec import read_spec
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


def method_of_run(run: RunFolder) -> Method:
    """Tell what a run was trained with.

    Raises:
        UnreadableError: nobody can say now.
    """
    try:
        record = read_record(run.record)
        spec = read_spec(run.spec.read_bytes(), file_name=record.file_name)
        return as_chosen(spec, record).named_method or "qlora"
    except (OSError, RunnerError) as error:
        require_storage(error, run.root)
        return "qlora"  # what every run was, before there was a choice
