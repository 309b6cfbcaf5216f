"""`speed: fp8`: products in eight bits on torch references, and which cards are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_models import learned, make, plain_step, rows, take_grads

from runner.contract.fp8_cards import fp8_obstacle
from runner.errors import SpecError
from runner.forecast.passes import Passes
from runner.spec.read_spec import read_spec
from runner.training.kernels import fp8, nf4
from runner.training.kernels.check import ALLOWED_IN_FP8, check
from runner.training.kernels.fast_model import FastModel
from runner.training.kernels.not_recognised import NotRecognised
from runner.training.kernels.recognise import recognise

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, about each other


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Give the relative distance."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def in_fp8(model: Any, *, kept: int | None = None) -> FastModel:
    """Set the fast path up with products in eight bits."""
    parts = recognise(model, dtype=torch.float32, longest=64)
    parts.use_fp8()
    passes = Passes(most_tokens=70, layers_kept=kept, budget_bytes=None, chunk=16)
    return FastModel(parts=parts, passes=passes, fp8=True)


def test_a_line_does_not_mind_its_neighbours() -> None:
    """Each is scaled by its own largest: one that is a million times larger changes no other."""
    torch.manual_seed(0)
    x, weight = torch.randn(20, 64), torch.randn(48, 64)
    scales = fp8.scales_of(weight)
    eighth = (weight / scales.rows[:, None]).to(fp8.FP8)
    wanted = x.double() @ weight.double().t()
    found = fp8.product(x, eighth, scales.rows, fp8.Scratch())
    assert 1e-3 < off(found, wanted) < 0.06
    x[3] *= 1e6
    x[4] = 0
    again = fp8.product(x, eighth, scales.rows, fp8.Scratch())
    assert torch.equal(again[5:], found[5:])
    assert off(again[3], 1e6 * wanted[3]) < 0.06
    assert torch.equal(again[4], torch.zeros(48))


def test_lines_have_one_place() -> None:
    """Products of a run take no memory but once: each in turn writes where the last one did."""
    scratch = fp8.Scratch()
    first, _ = fp8.lines(torch.randn(20, 64), scratch)
    place = first.data_ptr()
    smaller, _ = fp8.lines(torch.randn(7, 32), scratch)
    assert smaller.data_ptr() == place
    larger, _ = fp8.lines(torch.randn(40, 64), scratch)
    assert larger.shape == (40, 64)
    again, _ = fp8.lines(torch.randn(20, 64), scratch)
    assert again.data_ptr() == larger.data_ptr()


@pytest.mark.parametrize("shapes", [[(256, 64), (256, 64)], [(128, 64), (80, 64)]])
def test_weights_are_unpacked_both_ways(shapes: list[tuple[int, int]]) -> None:
    """By rows for the way forward, turned and by columns for the way back: what bitsandbytes has.

    A number of four bits of mantissa is off by a sixteenth of itself at most.
    """
    import bitsandbytes

    torch.manual_seed(0)
    dense = [torch.randn(*shape) * torch.logspace(-3, 0, shape[0])[:, None] for shape in shapes]
    weights = [
        bitsandbytes.nn.Params4bit(
            one, requires_grad=False, quant_type="nf4", compress_statistics=True
        ).to("cpu")
        for one in dense
    ]
    read = bitsandbytes.functional.dequantize_4bit
    wanted = torch.cat([read(weight.data, weight.quant_state) for weight in weights])
    scales, pieces = fp8.scales_of(wanted), nf4.stack(weights)
    height, width = wanted.shape
    forward = torch.empty(height, width, dtype=fp8.FP8)
    fp8.unpack(pieces, forward, scales.rows, turned=False)
    back = torch.empty(width, height, dtype=fp8.FP8)
    fp8.unpack(pieces, back, scales.columns, turned=True)
    assert torch.isfinite(forward.float()).all()
    assert torch.isfinite(back.float()).all()
    near = {"rtol": 1 / 16, "atol": float(scales.rows.max()) * 2**-9}
    torch.testing.assert_close(forward.float() * scales.rows[:, None], wanted, **near)
    near["atol"] = float(scales.columns.max()) * 2**-9
    torch.testing.assert_close((back.float() * scales.columns[:, None]).t(), wanted, **near)


@pytest.mark.parametrize(
    ("family", "kept"), [("llama", None), ("llama", 0), ("qwen2", 1), ("gemma2", 1), ("granite", 1)]
)
def test_gradients_are_near_peft_s(family: str, kept: int | None) -> None:
    """In eight bits and not in more, and no further than that: biases, norms behind, factors."""
    model = make(family)
    batch = rows(37, 20, 64)
    wanted_loss, wanted = plain_step(model, batch)
    fast = in_fp8(model, kept=kept)
    loss = float(fast.train_on(batch, learned(batch)))
    found = take_grads(model)
    apart = sum(float((found[name] - wanted[name]).norm()) ** 2 for name in wanted) ** 0.5
    size = sum(float(grad.norm()) ** 2 for grad in wanted.values()) ** 0.5
    assert 5e-3 < apart / size < 0.3
    assert loss == pytest.approx(wanted_loss, rel=0.05)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_product_that_is_added_by_a_factor(scale: float) -> None:
    """Granite's: by hand, what is added is the factor times base, bias and adapter, each whole."""
    model = make("granite")
    group = in_fp8(model).parts.layers[0].down
    adapter, bias = group.adapter, group.bias
    assert adapter is not None
    assert bias is not None
    (lora,) = adapter.loras
    torch.manual_seed(0)
    x, residual = torch.randn(20, group.inputs), torch.randn(20, group.outputs)
    found = group.forward(x, residual.clone(), scale=scale)
    wanted = x.double() @ group.weight().double().t() + bias
    of_lora = lora.scale * (x.double() @ lora.down.double().t() @ lora.up.double().t())
    assert off(found - residual, scale * (wanted + of_lora)) < 0.06
    adapter.up.zero_()
    without = group.forward(x, residual.clone(), scale=scale)
    assert off(found - without, scale * of_lora) < 1e-5  # the adapter's part is exact
    x.zero_()
    assert off(group.forward(x, residual.clone(), scale=scale) - residual, scale * bias) < 1e-5


@pytest.mark.parametrize("fault", ["nothing", "scale", "neighbour"])
def test_the_check_notices_a_fault(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What eight bits cost passes the check at set-up; a scale, or another weight, does not."""
    model = make("llama")
    parts = recognise(model, dtype=torch.float32, longest=64)
    parts.use_fp8()
    unpack = fp8.unpack

    def faulty(pieces: Any, out: torch.Tensor, scales: torch.Tensor, *, turned: bool) -> None:
        if turned and fault == "scale":
            scales = torch.full_like(scales, float(scales.max()) * 3)
        unpack(pieces, out, scales, turned=turned)
        if turned and fault == "neighbour":
            out.copy_(out.float().roll(1, 0).to(fp8.FP8))

    monkeypatch.setattr(fp8, "unpack", faulty)

    def loss_of(row: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=row[None]).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum")

    ids = [one.tolist() for one, _ in rows(64, 40)]
    layers = model.get_base_model().model.layers
    found = check(parts, layers, ids, loss_of, allowed=ALLOWED_IN_FP8)
    assert found.fits == (fault == "nothing"), found


def test_what_is_measured_is_as_exact_as_ever() -> None:
    """Held-out rows are measured without fp8 in a run with it, and training goes on with it."""
    model = make("llama")
    batch = rows(37, 20, 64)
    plain = FastModel(
        parts=recognise(model, dtype=torch.float32, longest=64),
        passes=Passes(most_tokens=70, layers_kept=0, budget_bytes=None, chunk=16),
    )
    wanted = plain.measure(batch)
    fast = in_fp8(model)
    rough = fast.measure(batch)
    with fast.parts.exact():
        assert torch.equal(fast.measure(batch), wanted)
    assert torch.equal(fast.measure(batch), rough)
    assert not torch.equal(rough, wanted)


def test_sixteen_bits_are_not_multiplied_in_eight() -> None:
    """Weights that are not in four bits are left to the exact products, and nothing was changed."""
    model = make("llama", quantised=False)
    parts = recognise(model, dtype=torch.float32, longest=64)
    with pytest.raises(NotRecognised, match="not in 4 bits"):
        parts.use_fp8()
    assert fp8.unfit(4096, 1000)
    assert fp8.unfit(28672, 4096) is None


@pytest.mark.parametrize(
    ("name", "capability", "refused"),
    [
        ("NVIDIA GeForce RTX 3090", "8.6", True),
        ("NVIDIA A100-SXM4-80GB", "8.0", True),
        ("Tesla T4", "7.5", True),
        ("NVIDIA GeForce RTX 4090", "8.9", False),
        ("NVIDIA H100 80GB HBM3", "9.0", False),
        ("NVIDIA GeForce RTX 5090", "12.0", False),
        ("A card", None, False),
        (None, None, True),
    ],
)
def test_cards_without_it_are_refused_by_name(
    name: str | None,
    capability: str | None,
    refused: bool,  # noqa: FBT001
) -> None:
    """With the name and what would do; a card that does not say what it is has the last word."""
    said = fp8_obstacle(name, capability)
    assert bool(said) == refused
    if said and name:
        assert name in said
        assert str(capability) in said
        assert "8.9" in said


def test_it_is_for_qlora_alone() -> None:
    """With ``method: lora`` it says what to write; the default is exact."""
    spec = b"model: m\ndata: d.jsonl\nspeed: fp8\n"
    assert read_spec(spec, file_name="a.yaml").speed == "fp8"
    assert read_spec(b"model: m\ndata: d.jsonl\n", file_name="a.yaml").speed == "exact"
    with pytest.raises(SpecError, match="fp8 is for method: qlora"):
        read_spec(spec + b"method: lora\n", file_name="a.yaml")
