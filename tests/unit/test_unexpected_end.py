"""Says why a stage ended unexpectedly, in the library's words where those cannot hold a row."""

import pytest

from runner.contract.states import Stage
from runner.training.__main__ import _machine_trouble


@pytest.mark.parametrize(
    ("stage", "said", "message"),
    [
        (Stage.TRAIN, "no kernel for this", "ended with ValueError: no kernel for this."),
        (Stage.TRAIN, "bad ids [12, 7, 9, 31, 5]", "ended with ValueError."),
        (Stage.TRAIN, "bad ids tensor([[12,7, 9,  31]])", "ended with ValueError."),
        (Stage.PREPARE, "cannot parse 'Frau Meier owes 3 EUR'", "ended with ValueError."),
        (Stage.TRAIN, "", "ended with ValueError."),
    ],
)
def test_the_library_is_quoted_only_where_it_saw_no_text(tmp_path, stage, said, message):
    """Training has token ids alone, and a message that lists numbers stays unsaid."""
    _, facts = _machine_trouble(ValueError(said), stage, tmp_path)
    assert facts.message == f"The {stage} stage {message}"
