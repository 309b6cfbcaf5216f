"""A rank ends, fails or runs alone at any place: the run goes on, each step once, as one card's.

On a CPU, in fp32, over gloo, as in test_ranks.py.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ranks_box import FromStep, Ranks, is_gone, rank_pid
from train_box import SPEC, STEPS, Run, assert_same_curve

from runner.exit_codes import ExitCode

pytestmark = pytest.mark.long
CLOSE = 1e-5


@dataclass(frozen=True)
class At:
    """Something that happens in a rank at one place, once."""

    place: str
    what: Callable[[], None]
    step: int = 4

    def __call__(self) -> None:
        """Arrange it."""
        from runner.training.fit import answer, callbacks
        from runner.training.fit.callbacks import Conduct
        from runner.training.ranks.together import Ranks as Together

        if self.place == "start":
            self.what()
        elif self.place == "meeting":
            self._before(Together, "__init__", lambda *_: True)
        elif self.place == "begin":
            self._before(Conduct, "on_train_begin", lambda *_: True)
        elif self.place == "evaluation":
            self._before(callbacks, "measured_together", self._now)
        elif self.place == "save":
            self._before(
                Conduct, "on_save", lambda _, __, state, *___: state.global_step == self.step
            )
        elif self.place == "sum":
            self._before(Together, "sum_up", self._counted())
        elif self.place == "end":
            self._before(answer, "write_message", lambda *_: True)

    def _before(self, owner: Any, name: str, is_time: Callable[..., bool]) -> None:
        inner = getattr(owner, name)

        def call(*given: Any, **more: Any) -> Any:
            if is_time(*given):
                self.what()
            return inner(*given, **more)

        setattr(owner, name, call)

    def _counted(self) -> Callable[..., bool]:
        calls = [0]

        def is_time(*_: Any) -> bool:
            calls[0] += 1
            return calls[0] == self.step

        return is_time

    def _now(self, *_: Any) -> bool:
        return True


def killed() -> None:
    """End as the kernel's killer does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def killed_after(attempt: str) -> None:
    """End so when the first rank is gone, and its launcher knows."""
    pid = (Path(attempt) / "pid").read_text()
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.05)
    killed()


def raises() -> None:
    """A defect."""
    raise ValueError("a defect")


def full() -> None:
    """The disk is full."""
    raise OSError(errno.ENOSPC, "No space left on device")


def goes_on(run: Run, undisturbed: Run) -> None:
    """The next attempt ends well, with one card's losses from where it began."""
    status, result = run.train(4, ranks=2, trouble=Ranks())
    assert (status, result.last_step) == (ExitCode.OK, STEPS), run.log()
    first = result.first_step or STEPS + 1
    losses = [line["loss"] for line in run.lines(run.number) if "loss" in line]
    assert losses == pytest.approx(
        [line["loss"] for line in undisturbed.curve()][first - 1 :], rel=CLOSE
    )
    wanted = undisturbed.result(1)
    assert result.best_checkpoint == wanted.best_checkpoint
    assert result.best_eval_loss == pytest.approx(wanted.best_eval_loss, rel=CLOSE)


@pytest.mark.parametrize(
    ("place", "rank"),
    [("meeting", 1), ("evaluation", 0), ("evaluation", 1), ("save", 0), ("sum", 0), ("end", 0)],
)
def test_a_rank_that_is_killed(run: Run, undisturbed: Run, place: str, rank: int) -> None:
    """No other one waits for it, and nothing that it left is taken for whole."""
    attempt = run.start(4, ranks=2, trouble=Ranks({rank: At(place, killed)}))
    assert attempt.wait() == -signal.SIGKILL, attempt.log()
    assert all(is_gone(rank_pid(run.stage().root, one)) for one in (0, 1))
    goes_on(run, undisturbed)


def test_a_rank_that_is_killed_when_all_is_written(run: Run) -> None:
    """The first one writes what the run keeps: the training counts."""
    after = partial(killed_after, str(run.run.attempt(1)))
    status, result = run.train(4, ranks=2, trouble=Ranks({1: At("end", after)}))
    assert (status, result.outcome, result.last_step) == (ExitCode.OK, "succeeded", STEPS)


@pytest.mark.parametrize(
    ("place", "rank", "what", "code"),
    [
        ("meeting", 0, raises, ExitCode.UNEXPECTED),
        ("evaluation", 1, raises, ExitCode.UNEXPECTED),
        ("sum", 1, raises, ExitCode.UNEXPECTED),
        ("save", 0, full, ExitCode.DISK_FULL),
    ],
)
def test_a_rank_that_fails(
    run: Run, undisturbed: Run, place: str, rank: int, what: Callable[[], None], code: ExitCode
) -> None:
    """All end, and its reason is the stage's."""
    attempt = run.start(4, ranks=2, trouble=Ranks({rank: At(place, what)}))
    assert attempt.wait() == code, attempt.log()
    assert all(is_gone(rank_pid(run.stage().root, one)) for one in (0, 1))
    assert ("ValueError" in run.stage().result.read_text()) == (what is raises)
    goes_on(run, undisturbed)


def test_a_run_goes_on_with_fewer_and_more_ranks(run: Run, undisturbed: Run) -> None:
    """3, 2, 1 and 3 again, stopped in the middle of an epoch, with held-out losses in each."""
    for ranks, step in ((3, 2), (2, 5), (1, 9)):
        stop = FromStep(step, signal.SIGTERM)
        trouble = Ranks({ranks - 1: stop}) if ranks > 1 else stop
        status, result = run.train(4, ranks=ranks, trouble=trouble)
        assert (status, result.last_step) == (ExitCode.INTERRUPTED, step), run.log()
    status, result = run.train(4, ranks=3, trouble=Ranks())
    assert (status, result.last_step) == (ExitCode.OK, STEPS), run.log()
    assert_same_curve(run.curve(), undisturbed.curve(), rel=CLOSE)
    found, wanted = run.counted("eval_loss"), undisturbed.counted("eval_loss")
    assert [line["step"] for line in found] == [line["step"] for line in wanted]
    assert [line["eval_loss"] for line in found] == pytest.approx(
        [line["eval_loss"] for line in wanted], rel=CLOSE
    )
    assert result.best_checkpoint == undisturbed.result(1).best_checkpoint


def test_more_ranks_than_rows_of_any_step(
    tmp_path: Path, prepared: Path, small_models: Path
) -> None:
    """Whatever a plan says, ranks without a row have no part and hold nobody up."""
    shape: dict[str, Any] = {"effective": 2, "total_steps": 4}
    runs = [Run(tmp_path / str(ranks), prepared, small_models) for ranks in (1, 4)]
    assert runs[0].train(2, **shape)[0] == ExitCode.OK
    status, _ = runs[1].train(2, ranks=4, trouble=Ranks(), **shape)
    assert status == ExitCode.OK, runs[1].log()
    assert_same_curve(runs[1].curve(), runs[0].curve(), rel=CLOSE)


def test_one_row_a_step(tmp_path: Path, prepared: Path, small_models: Path) -> None:
    """Two ranks take it in no turns: one has it, and the other adds nothing."""
    shape: dict[str, Any] = {"effective": 1, "total_steps": 3}
    spec = SPEC.replace("effective_batch_size: 8", "effective_batch_size: 1")
    runs = [Run(tmp_path / str(ranks), prepared, small_models, spec) for ranks in (1, 2)]
    assert runs[0].train(1, **shape)[0] == ExitCode.OK
    status, _ = runs[1].train(1, ranks=2, trouble=Ranks(), **shape)
    assert status == ExitCode.OK, runs[1].log()
    assert_same_curve(runs[1].curve(), runs[0].curve(), rel=CLOSE)
