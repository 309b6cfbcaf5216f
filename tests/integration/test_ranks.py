"""Several ranks train as one card does: same rows, rates and losses, whatever happens to one."""

from __future__ import annotations

from pathlib import Path

import pytest
from ranks_box import Ranks
from train_box import EFFECTIVE, STEPS, Run, assert_same_curve

from runner.exit_codes import ExitCode

pytestmark = pytest.mark.long


def test_two_ranks_are_as_one(run: Run, undisturbed: Run) -> None:
    """Two ranks give one rank's curve, held-out losses and result."""
    status, result = run.train(4, ranks=2, trouble=Ranks())
    assert status == ExitCode.OK, run.log()
    assert result.last_step == STEPS
    assert_same_curve(run.curve(), undisturbed.curve(), rel=1e-5)
