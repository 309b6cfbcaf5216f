"""Turns the retry table into what a user may rely on, row by row."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from runner.clock import now
from runner.contract.batch import BatchPlan
from runner.contract.layout import Outputs
from runner.contract.record import Attempt, RunRecord
from runner.contract.stage_io import SmallerPlan
from runner.contract.states import Stage, State
from runner.daemon.stages.judge_attempt import AttemptEnd, judge_attempt
from runner.daemon.stages.retry import (
    ASKED,
    RULES,
    WENT_DOWN,
    Next,
    after_attempt,
    after_stage,
    leaves_fast_path,
    rule_for,
    spares_host_memory,
    stalled,
)
from runner.exit_codes import ExitCode

PLAN = BatchPlan(per_device_batch_size=4, gradient_accumulation_steps=4)


def attempts(*ends: tuple[int, int, int]) -> list[Attempt]:
    """Make closed attempts from (exit code, first step, last step)."""
    return [
        Attempt(
            number=number,
            batch_plan=PLAN,
            started_at=now(),
            outcome="x",
            exit_code=code,
            first_step=first,
            last_step=last,
        )
        for number, (code, first, last) in enumerate(ends, start=1)
    ]


def test_every_exit_code_has_a_rule() -> None:
    """No way to end is forgotten."""
    assert set(RULES) == set(ExitCode)


@pytest.mark.parametrize(
    ("code", "then"),
    [
        (ExitCode.OK, Next.GO_ON),
        (ExitCode.UNEXPECTED, Next.SAME_PLAN),
        (ExitCode.BAD_INPUT, Next.REJECT),
        (ExitCode.OUT_OF_GPU_MEMORY, Next.SMALLER_PLAN),
        (ExitCode.OUT_OF_HOST_MEMORY, Next.SMALLER_FOOTPRINT),
        (ExitCode.INTERRUPTED, Next.SAME_PLAN),
        (ExitCode.GPU_LOST, Next.HOLD),
        (ExitCode.DIVERGED, Next.FAIL),
        (ExitCode.DISK_FULL, Next.HOLD),
        (-signal.SIGKILL, Next.SAME_PLAN),
        (-signal.SIGSEGV, Next.SAME_PLAN),
        (99, Next.SAME_PLAN),
    ],
)
def test_the_first_end_of_each_kind(code: int, then: Next) -> None:
    """What follows the first attempt that ends so."""
    assert after_attempt(code, attempts=attempts((code, 1, 0)), smaller_exists=True) is then


def test_out_of_memory_at_the_smallest_plan_fails() -> None:
    """Where there is no smaller plan, the run ends honestly."""
    code = ExitCode.OUT_OF_GPU_MEMORY
    ended = attempts((code, 1, 0))
    assert after_attempt(code, attempts=ended, smaller_exists=False) is Next.FAIL


@pytest.mark.parametrize(
    ("ends", "then"),
    [
        ([(-9, 1, 0), (-9, 1, 0)], Next.SAME_PLAN),
        ([(-9, 1, 0)] * 3, Next.FAIL),
        ([(-9, 1, 5), (-9, 6, 5), (-9, 6, 5)], Next.SAME_PLAN),
        ([(-9, 1, 5), (-9, 6, 5), (-9, 6, 5), (-9, 6, 5)], Next.FAIL),
        ([(-9, 1, 0), (-9, 1, 0), (-9, 1, 7)], Next.SAME_PLAN),
        ([(11, 1, 0), (11, 1, 0), (11, 1, 0), (-9, 1, 0)], Next.SAME_PLAN),
        ([(14, 1, 0), (14, 1, 0), (14, 1, 0), (-9, 1, 0)], Next.SAME_PLAN),
    ],
)
def test_three_without_a_new_durable_step_end_the_run(
    ends: list[tuple[int, int, int]], then: Next
) -> None:
    """Only attempts in a row that left nothing count, and those that the box spoilt do not."""
    assert after_attempt(-9, attempts=attempts(*ends), smaller_exists=True) is then


def host_memory(*spans: tuple[int, int]) -> list[Attempt]:
    """Make attempts that the kernel ended, from (first step, last step)."""
    killed = attempts(*[(-signal.SIGKILL, *span) for span in spans])
    return [a.model_copy(update={"outcome": "out of host memory"}) for a in killed]


@pytest.mark.parametrize(
    ("spans", "then"),
    [
        ([(1, 0)], Next.SMALLER_FOOTPRINT),
        ([(1, 0), (1, 0)], Next.FAIL),
        ([(1, 5), (6, 5)], Next.FAIL),
        ([(1, 5), (6, 9)], Next.SMALLER_FOOTPRINT),  # it gets somewhere: a run is not given up
    ],
)
def test_host_memory_is_given_one_more_try_that_spares_it(
    spans: list[tuple[int, int]], then: Next
) -> None:
    """A kernel kill for the machine's own memory is repeated once, unless the run moves."""
    ended = host_memory(*spans)
    assert spares_host_memory(ended)
    code = ExitCode.OUT_OF_HOST_MEMORY
    assert after_attempt(code, attempts=ended, smaller_exists=True) is then


@pytest.mark.parametrize(
    ("code", "plainly"),
    [
        (ExitCode.UNEXPECTED, True),
        (-signal.SIGSEGV, True),
        (-signal.SIGKILL, False),
        (ExitCode.OUT_OF_GPU_MEMORY, False),
        (ExitCode.INTERRUPTED, False),
        (ExitCode.GPU_LOST, False),
    ],
)
def test_a_defect_that_ended_an_attempt_is_not_met_on_the_fast_path_again(
    code: int,
    plainly: bool,  # noqa: FBT001
) -> None:
    """It may be a kernel's; what the machine or a person did speaks against no path."""
    first = attempts((code, 1, 5))[0].model_copy(update={"outcome": rule_for(code).outcome})
    later = [first, *attempts((ExitCode.INTERRUPTED, 6, 9))]
    assert leaves_fast_path(later) is plainly
    assert leaves_fast_path(hung((1, 0)))


@pytest.mark.parametrize("left", [True, False])
def test_a_fast_path_that_failed_in_training_is_not_tried_again(
    tmp_path: Path,
    left: bool,  # noqa: FBT001
) -> None:
    """However the attempt that went on plainly ended, and whatever later ones did."""
    plain = SmallerPlan(batch_plan=PLAN, left_fast_path=left)
    record = RunRecord(
        job="job",
        run_id="20261123T221005Z-k3f9",
        state=State.TRAINING,
        file_name="job.yaml",
        created_at=now(),
        spec_sha256="",
        attempts=(Attempt(number=1, batch_plan=PLAN, started_at=now(), first_step=1),),
    )
    end = AttemptEnd(
        run=Outputs(tmp_path).run(record.job, record.run_id),
        record=record,
        code=ExitCode.INTERRUPTED,
        status=ExitCode.INTERRUPTED,
        asked=True,
        seconds=1.0,
        smaller_plan=plain,
    )
    closed = judge_attempt(end).attempt
    later = attempts((ExitCode.INTERRUPTED, 6, 9))
    assert leaves_fast_path([closed, *later]) is left


def hung(*spans: tuple[int, int], code: int = -signal.SIGKILL) -> list[Attempt]:
    """Make attempts that stood still, from (first step, last step)."""
    ended = attempts(*[(code, *span) for span in spans])
    return [a.model_copy(update={"outcome": "hung"}) for a in ended]


@pytest.mark.parametrize(
    ("ended", "then"),
    [
        (hung((1, 0)), Next.SAME_PLAN),
        (hung((1, 50)), Next.SAME_PLAN),
        (hung((1, 50), (51, 90)), Next.FAIL),
        ([*hung((1, 50)), *attempts((-9, 51, 60)), *hung((61, 90))], Next.FAIL),
        (hung((1, 50), code=ExitCode.INTERRUPTED), Next.SAME_PLAN),
        (hung((1, 50), (51, 60), code=ExitCode.INTERRUPTED), Next.FAIL),
    ],
)
def test_a_run_that_hangs_twice_fails(ended: list[Attempt], then: Next) -> None:
    """In a row or not; whether it left a checkpoint when asked, or had to be killed."""
    code = ended[-1].exit_code
    assert code is not None
    assert after_attempt(code, attempts=ended, smaller_exists=True) is then


@pytest.mark.parametrize(
    ("code", "tries", "then"),
    [
        (-signal.SIGKILL, 1, Next.SAME_PLAN),
        (-signal.SIGKILL, 2, Next.FAIL),
        (ExitCode.OK, 2, Next.GO_ON),  # it came to its end while it was being asked
    ],
)
def test_another_stage_that_hangs_twice_fails(code: int, tries: int, then: Next) -> None:
    """Once may be the driver's mood."""
    assert after_stage(Stage.EVALUATE, code, tries=tries, hung=True) is then


def test_stops_by_the_box_owner_do_not_count() -> None:
    """Restarting the daemon often must not fail a run."""
    ended = [a.model_copy(update={"reason": ASKED}) for a in attempts(*[(13, 1, 0)] * 5)]
    assert stalled(ended) == 0


def test_attempts_that_the_machine_went_down_under_do_not_count() -> None:
    """Two of them and a first failure of its own: that is tried again like any first failure."""
    fell = [a.model_copy(update={"reason": WENT_DOWN}) for a in attempts(*[(-9, 1, 0)] * 2)]
    ended = [*fell, *attempts((ExitCode.UNEXPECTED, 1, 0))]
    assert stalled(ended) == 1
    code = ExitCode.UNEXPECTED
    assert after_attempt(code, attempts=ended, smaller_exists=True) is Next.SAME_PLAN


@pytest.mark.parametrize(
    ("code", "tries", "then"),
    [
        (ExitCode.OK, 1, Next.GO_ON),
        (ExitCode.UNEXPECTED, 1, Next.SAME_PLAN),
        (ExitCode.UNEXPECTED, 2, Next.FAIL),
        (ExitCode.OUT_OF_GPU_MEMORY, 1, Next.FAIL),
        (-signal.SIGKILL, 2, Next.SAME_PLAN),
        (-signal.SIGKILL, 3, Next.FAIL),
        (ExitCode.BAD_INPUT, 1, Next.REJECT),
        (ExitCode.OUT_OF_HOST_MEMORY, 1, Next.SMALLER_FOOTPRINT),
        (ExitCode.OUT_OF_HOST_MEMORY, 2, Next.FAIL),
    ],
)
def test_other_stages(code: int, tries: int, then: Next) -> None:
    """The other stages are started again a few times, from their beginning."""
    assert after_stage(Stage.EXPORT, code, tries=tries) is then


def test_an_outcome_tells_a_kill_from_a_crash() -> None:
    """The record names what happened."""
    assert rule_for(-signal.SIGKILL).outcome == "killed"
    assert rule_for(-signal.SIGSEGV).outcome == "crashed"
