"""Epochs and batch where a spec leaves them to the box: by how many rows are trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.contract.record import read_record
from runner.spec.as_chosen import as_chosen
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec

RECORD = Path(__file__).parent.parent / "data/records/v2-9-cleared.json"


def spec(training: str = "") -> JobSpec:
    """Read a spec with these settings of the training."""
    text = f"model: m\ndata: d.jsonl\ntraining: {{{training}}}\n"
    return read_spec(text.encode(), file_name="job.yaml")


@pytest.mark.parametrize(
    ("training", "rows", "epochs", "batch"),
    [
        ("", 999, 3, 8),
        ("", 1000, 2, 16),
        ("", 1, 3, 8),
        ("epochs: 1", 500, 1, 8),
        ("effective_batch_size: 32", 500, 3, 32),
        ("batch_size: 2", 500, 3, 16),  # a limit of rows at once is a word about the batch
        ("gradient_accumulation: 16", 500, 3, 16),
        ("batch_size: 2, gradient_accumulation: 3", 500, 3, 6),
        ("max_steps: 40", 500, 2, 16),  # who counts steps counts rows with them
    ],
)
def test_few_rows_get_more_steps(training: str, rows: int, epochs: float, batch: int) -> None:
    """Unless the spec says otherwise."""
    found = spec(training).for_rows(rows)
    assert (found.epochs, found.effective_batch_size) == (epochs, batch)


def test_the_record_keeps_the_batch() -> None:
    """What prepare chose is what a run is trained with, and what an older runner chose stays."""
    record = read_record(RECORD)
    for batch in (8, 16):
        assert (
            as_chosen(spec(), record.but(effective_batch_size=batch)).effective_batch_size == batch
        )
    named = as_chosen(spec("batch_size: 4"), record.but(effective_batch_size=8))
    assert named.effective_batch_size == 16
    assert as_chosen(spec(), record.but(effective_batch_size=None)).effective_batch_size == 16
