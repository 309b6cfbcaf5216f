"""A part of the evaluation that fails costs itself, and nothing else."""

from __future__ import annotations

import errno

import pytest

from runner.training.evaluate.attempt import attempt


def fail(error: Exception) -> None:
    """Fail."""
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a row of the data"), "(ValueError)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: tried"), "(memory ran out)"),
    ],
)
def test_what_fails_is_said_and_the_rest_goes_on(
    error: Exception, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the kind of the error; no word of a row is in it or in the log."""
    (found,) = attempt("answers", lambda: fail(error), on_gpu=False)
    assert said in found
    assert "a row of the data" not in found + capfd.readouterr().err


def test_a_machine_in_trouble_is_not_hidden() -> None:
    """On a full disk the stage is tried again, as always."""
    with pytest.raises(OSError, match="full"):
        attempt("answers", lambda: fail(OSError(errno.ENOSPC, "full")), on_gpu=True)


def test_what_succeeds_says_nothing() -> None:
    """No sentence where nothing fell short."""
    done: list[int] = []
    assert attempt("recital", lambda: done.append(1), on_gpu=False) == []
    assert done == [1]
