"""What the fast path does about a fault: the plain path takes over, unless that would not help."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kernel_models import make
from test_fast_set_up import PLAN, Card, data

from runner.errors import StageError
from runner.exit_codes import ExitCode
from runner.forecast.passes import Passes
from runner.training.fit import fast_path
from runner.training.fit.fast_path import FastPath, FastPathFailed
from runner.training.fit.memory import Meter
from runner.training.fit.stop import Interrupted
from runner.training.kernels.fast_model import FastModel
from runner.training.kernels.recognise import recognise

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, about each other
RAISED = (
    (RuntimeError("misaligned address"), FastPathFailed),
    (IndexError("7"), FastPathFailed),
    (Interrupted(), Interrupted),  # a person's wish
    (StageError("Rank 1 has ended.", exit_code=ExitCode.UNEXPECTED, kind="rank"), StageError),
    (MemoryError(), MemoryError),  # smaller passes help, not other ones
    (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
    (RuntimeError("CUDA error: unspecified launch failure"), RuntimeError),  # the card is gone
)


def one(**more: Any) -> FastPath:
    """Make a fast path without a model."""
    known = {"longest": 64, "batch_tokens": 64, "budget_bytes": None, "meter": Meter(on_gpu=False)}
    return FastPath(**(known | {"model": SimpleNamespace()} | more))


@pytest.mark.parametrize(("error", "raised"), RAISED)
def test_a_fault_in_training_is_told_from_what_no_other_path_helps(
    error: Exception, raised: type[Exception]
) -> None:
    """What is not the kernels' goes on as it is: a stop, the others' end, memory, a lost card."""

    def fail(*_: Any) -> None:
        raise error

    with pytest.raises(raised) as found:
        one(model=SimpleNamespace(train_on=fail)).train_on([], 1)
    assert type(found.value) is raised
    if raised is FastPathFailed:
        assert str(found.value) == type(error).__name__  # no word of a row


@pytest.mark.parametrize("what", ["train_on", "measure"])
def test_a_base_that_cards_share_has_no_plain_path(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fault ends the attempt: layers that wait on the host cannot be trained plainly."""

    def fail(*_: Any, **__: Any) -> None:
        raise IndexError

    monkeypatch.setattr(fast_path, "fast_held_out_loss", fail)
    fast = one(model=SimpleNamespace(train_on=fail), shares_base=True)
    with pytest.raises(IndexError):
        fast.train_on([], 1) if what == "train_on" else fast.measure([])
    assert fast.measures


def test_the_plain_path_gets_the_card_as_it_was() -> None:
    """The allocator's limit is the run's own again, and the words that go in are on the card."""
    moves: list[bool] = []
    parts = SimpleNamespace(keep_embedding_on_host=lambda *, on: moves.append(on))
    card = Card()
    card.confined = 7
    one(model=SimpleNamespace(parts=parts), meter=card).leave()
    assert card.confined == 0
    assert moves == [False]


def test_words_come_back_for_a_measurement_on_the_plain_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And passes are as small as the room without their place; the plan in force says so."""
    parts = recognise(make("llama"), dtype=torch.float32, longest=64)
    passes = Passes(most_tokens=1, layers_kept=None, budget_bytes=None, chunk=1)
    model = FastModel(parts=parts, passes=passes)
    fast = one(model=model, budget_bytes=2**30, meter=Card())
    plan = PLAN.model_copy(
        update={"tokens_per_pass": 64, "layers_kept": 0, "embedding_on_host": True}
    )
    fast.take(plan)
    assert fast.in_force(plan).embedding_on_host

    def fail(*_: Any, **__: Any) -> None:
        raise IndexError

    monkeypatch.setattr(FastModel, "measure", fail)
    assert fast.measure(data(64)) is None
    assert not fast.in_force(plan).embedding_on_host
    assert model.passes.budget_bytes == 2**30
