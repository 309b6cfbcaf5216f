"""The learning rate of each step: no step is lost, none is faster than the peak."""

from __future__ import annotations

import math
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.training.fit.schedule import share_of_peak, warmup_steps


def rates(total: int, ratio: float, shape: str) -> list[float]:
    """Give every step's rate as a share of the peak."""
    warmup = warmup_steps(total, ratio)
    return [
        share_of_peak(done, total_steps=total, warmup=warmup, shape=shape) for done in range(total)
    ]


@given(st.integers(1, 400), st.floats(0, 0.999), st.sampled_from(["constant", "linear", "cosine"]))
def test_every_step_learns_and_one_has_the_peak(total: int, ratio: float, shape: str) -> None:
    """The rate is above 0 in each step, rises to the peak, and then never rises again."""
    found = rates(total, ratio, shape)
    assert all(0 < rate <= 1 for rate in found)
    top = found.index(1.0)
    assert top == min(math.ceil(ratio * total), total - 1)
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)


def test_the_shortest_runs_are_sane() -> None:
    """One step has the whole rate; of two, the first half of it, and then all."""
    assert rates(1, 0.03, "cosine") == [1.0]
    assert rates(2, 0.03, "cosine") == [0.5, 1.0]
    assert rates(4, 0.0, "linear") == [1.0, 0.75, 0.5, 0.25]
    assert rates(5, 0.4, "constant") == [1 / 3, 2 / 3, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("shape", ["constant_with_warmup", "linear", "cosine"])
def test_after_the_warm_up_it_is_the_library_s(shape: str) -> None:
    """From the peak on, each step has the rate that Trainer's users know by that name."""
    import torch
    from transformers import get_scheduler

    total, ratio = 40, 0.1
    weight = torch.nn.Parameter(torch.zeros(1))
    theirs = get_scheduler(
        shape,
        torch.optim.SGD([weight], lr=1.0),
        num_warmup_steps=warmup_steps(total, ratio),
        num_training_steps=total,
    )
    known = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no optimizer step in between
        for _ in range(total):
            known.append(theirs.get_last_lr()[0])
            theirs.step()
    ours = rates(total, ratio, shape.removesuffix("_with_warmup"))
    assert known[0] == 0.0
    assert ours[4:] == pytest.approx(known[4:])
    assert ours[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
