"""The next step's rows are read while the card works on this one, each step's own all the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from runner.training.fit.cut import CuttingTrainer
from runner.training.ranks.together import Ranks


def trainer() -> Any:
    """Make one with what reading batches asks of it, and no model."""
    made: Any = object.__new__(CuttingTrainer)
    made.model_accepts_loss_kwargs, made.compute_loss_func = False, None
    made.args = type("Arguments", (), {"average_tokens_across_devices": False, "n_gpu": 1})()
    made.is_fsdp_xla_v2_enabled = False
    made.ranks = Ranks()
    return made


def batches(names: str, read: list[str]) -> Any:
    """Give micro-batches, and note when each is read; a batch's name is its first label."""
    for name in names:
        read.append(name)
        yield {"labels": torch.tensor([[ord(name)]])}


def names(samples: list[dict[str, torch.Tensor]]) -> str:
    """Name the micro-batches of a step."""
    return "".join(chr(int(one["labels"][0, 0])) for one in samples)


@pytest.mark.filterwarnings("ignore")
def test_each_step_gets_its_own_rows_and_they_are_read_before_it() -> None:
    """Five micro-batches by two, and another epoch: nothing is lost, changed or read between."""
    read: list[str] = []
    one = trainer()
    epoch = batches("ABCDE", read)
    found = []
    for wanted in (2, 2, 1):
        before = len(read)
        samples, _ = one.get_batch_samples(epoch, wanted, torch.device("cpu"))
        assert not found or len(read) == before  # but for the first step
        found.append(names(samples))
        for _micro_batch in samples:
            one._read_ahead()
    assert found == ["AB", "CD", "E"]
    samples, _ = one.get_batch_samples(batches("XY", read), 2, torch.device("cpu"))
    assert names(samples) == "XY"
    assert "".join(read) == "ABCDEXY"


def test_a_step_of_one_model_knows_what_is_trained_without_a_walk() -> None:
    """Gradients are forgotten and clipped as torch does it, those of trained weights alone."""
    holder = trainer()
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(requires_grad=False)
    holder.model = model
    holder.know_trained()
    model(torch.ones(1, 2)).sum().backward()
    weight = model[1].weight
    weight.grad = torch.ones(8)[:4].view(2, 2)  # a view, as the fast path's are
    assert [one.grad is not None for one in model.parameters()] == [False, False, True, True]
    model.zero_grad(set_to_none=False)
    assert float(weight.grad.abs().sum()) == 0
    model.zero_grad()
    assert all(one.grad is None for one in model.parameters())
