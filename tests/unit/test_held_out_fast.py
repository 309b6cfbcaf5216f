"""The held-out loss on the fast path: each row's sum is the plain path's, whatever the passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from kernel_models import learned, make, rows, take_grads

from runner.forecast.passes import Passes
from runner.training.evaluate.fast_loss import FastLoss
from runner.training.fit.fast_path import FastPath
from runner.training.fit.heldout import HeldOut
from runner.training.fit.heldout_fast import fast_held_out_loss
from runner.training.fit.memory import Meter
from runner.training.fit.row_lengths import row_lengths
from runner.training.fit.stop import Interrupted
from runner.training.kernels import fast_model, long_layer
from runner.training.kernels.fast_model import FastModel
from runner.training.kernels.recognise import recognise

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, about each other
LENGTHS = (37, 20, 64, 5, 50, 9)


def data(*lengths: int, silent: int = 5) -> Dataset:
    """Make a data set of rows; one of five tokens learns nothing."""
    return Dataset.from_list(
        [
            {"input_ids": ids.tolist(), "labels": labels.tolist()}
            for ids, labels in rows(*lengths, silent=silent)
        ]
    )


def plainly(model: Any) -> Any:
    """Give what measures rows by the model's own logits."""

    def measure(given: Dataset) -> HeldOut:
        sums, counts = [], []
        for row in given:
            ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
            with torch.no_grad():
                logits = model(input_ids=ids[None]).logits[0, :-1]
            total = torch.nn.functional.cross_entropy(
                logits, labels[1:], ignore_index=-100, reduction="sum"
            )
            sums.append(float(total))
            counts.append(learned([(ids, labels)]))
        total, tokens = sum(sums), sum(counts)
        return HeldOut(
            loss=total / tokens,
            tokens=tokens,
            batch_size=1,
            sums=tuple(sums),
            counts=tuple(counts),
        )

    return measure


def recognised(model: Any, most: int = 70) -> FastModel:
    """Set the fast path up."""
    passes = Passes(most_tokens=most, layers_kept=0, budget_bytes=None, chunk=7)
    return FastModel(parts=recognise(model, dtype=torch.float32, longest=64), passes=passes)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize(("most", "silent"), [(30, 5), (10_000, 5), (10_000, 0)])
def test_each_row_has_its_own_sum(
    family: str, most: int, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the rows' order, alone, together, or tile by tile; and nothing of a gradient is left.

    Also where a row's first token has to tell the second one.
    """
    monkeypatch.setattr(fast_model, "measured_at_once", lambda *_: most)
    monkeypatch.setattr("runner.training.fit.heldout_fast.measured_at_once", lambda *_: most)
    monkeypatch.setattr(long_layer, "TILE", 24)
    model, given = make(family, quantised=False), data(*LENGTHS, silent=silent)
    wanted, found = plainly(model)(given), fast_held_out_loss(recognised(model), given)
    assert found.counts == wanted.counts
    assert found.sums == pytest.approx(wanted.sums, rel=1e-5)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert take_grads(model) == {}


def test_passes_shrink_where_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to a row alone; no row is measured twice or left out."""
    model, given = make("llama", quantised=False), data(*LENGTHS)
    wanted = plainly(model)(given)
    real, sizes = FastModel.measure, []

    def measure(self: FastModel, batch: Any) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 1 and sum(ids.numel() for ids, _ in batch) > 40:
            raise MemoryError
        return real(self, batch)

    monkeypatch.setattr(FastModel, "measure", measure)
    found = fast_held_out_loss(recognised(model), given)
    assert found.sums == pytest.approx(wanted.sums, rel=1e-5)
    assert max(sizes) > 1


def test_the_evaluate_stage_measures_with_and_without_the_adapter() -> None:
    """As PEFT has it at the time; rows longer than were foreseen go the plain way."""
    model, given = make("llama", quantised=False), data(*LENGTHS[:5])
    plain = plainly(model)
    asked = []

    def noted(rows_: Dataset) -> HeldOut:
        asked.append(len(rows_))
        return plain(rows_)

    fast = FastLoss(model, noted, on_gpu=False)
    with model.disable_adapter():
        before, wanted_before = fast(given), plain(given)
    after, wanted = fast(given), plain(given)
    assert before.sums == pytest.approx(wanted_before.sums, rel=1e-5)
    assert after.sums == pytest.approx(wanted.sums, rel=1e-5)
    assert before.sums != pytest.approx(wanted.sums, rel=1e-5)
    assert asked == [2]  # the check's two rows alone
    longer = data(100)
    assert fast(longer).loss == pytest.approx(plain(longer).loss, rel=1e-5)
    model.add_adapter("current", model.peft_config["default"])
    model.set_adapter("current")
    assert fast(given).sums == pytest.approx(plain(given).sums, rel=1e-5)
    assert asked == [2, 1, 5]


def test_the_base_is_measured_without_the_adapter_that_trains() -> None:
    """As PEFT has it without; in 16 bits also where training is in fp8, and training goes on."""
    model, given = make("llama"), data(*LENGTHS)
    one = recognised(model)
    one.parts.use_fp8()
    fast = FastPath(
        model=one, longest=64, batch_tokens=64, budget_bytes=None, meter=Meter(on_gpu=False)
    )
    plain = plainly(model)
    with model.disable_adapter():
        wanted = plain(given)
    found = fast.measure(given, base=True, check=lambda: None)
    assert found is not None
    assert found.sums == pytest.approx(wanted.sums, rel=1e-5)
    adapted = plain(given)
    assert found.sums != pytest.approx(adapted.sums, rel=1e-5)
    after = fast.measure(given)
    assert after is not None
    assert after.sums == pytest.approx(adapted.sums, rel=1e-5)


def test_the_evaluate_stage_says_why_it_measures_plainly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is not known, and one that computes otherwise, are measured all the same."""
    given = data(*LENGTHS[:3])
    unknown = make("llama", quantised=False, hidden_act="relu")
    assert FastLoss(unknown, plainly(unknown), on_gpu=False)(given).tokens
    assert "another gate" in capsys.readouterr().out
    model = make("llama", quantised=False)
    monkeypatch.setattr(FastModel, "measure", lambda _, batch: torch.full((len(batch),), 9.0))
    found = FastLoss(model, plainly(model), on_gpu=False)(given)
    assert found.loss == pytest.approx(plainly(model)(given).loss)
    assert "computes otherwise" in capsys.readouterr().out


def test_lengths_come_from_offsets() -> None:
    """Of a whole data set and of chosen rows, in their order."""
    given = data(7, 6, 9, 5)
    assert row_lengths(given) == [7, 6, 9, 5]
    assert row_lengths(given.select([2, 0])) == [9, 7]
    assert row_lengths(given.select([])) == []


def test_a_fault_while_measuring_costs_speed_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training the plain path takes over, with a line; a lack of memory is told as such."""
    model, given = make("llama", quantised=False), data(*LENGTHS[:3])
    one = FastPath(
        model=recognised(model),
        longest=64,
        batch_tokens=64,
        budget_bytes=None,
        meter=Meter(on_gpu=False),
    )

    def fail(error: type[Exception]) -> None:
        def measure(*_: Any) -> torch.Tensor:
            raise error

        monkeypatch.setattr(FastModel, "measure", measure)

    fail(MemoryError)
    with pytest.raises(MemoryError):
        one.measure(data(64))
    fail(Interrupted)
    with pytest.raises(Interrupted):
        one.measure(given)
    fail(IndexError)
    assert one.measure(given) is None
    assert "Held-out loss: plain path, the fast one failed (IndexError)" in capsys.readouterr().out
    monkeypatch.undo()
    assert one.measure(given) is None  # it is not tried again
