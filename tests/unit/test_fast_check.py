"""The check at set-up: what computes something else than the model is not used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_models import make, rows

from runner.training.fit.fast_path import _longest_two
from runner.training.kernels import attention
from runner.training.kernels.check import Checked, check
from runner.training.kernels.glu import Gate
from runner.training.kernels.layer import Layer, LayerFunction
from runner.training.kernels.loss import HeadLoss
from runner.training.kernels.recognise import Parts, recognise

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, about each other


def checked(
    model: Any,
    change: Callable[[Parts], Parts] = lambda parts: parts,
    *,
    config: Any = None,
    dtype: torch.dtype = torch.float32,
) -> Checked:
    """Check a model against its recognised self, or against something changed."""

    def loss_of(row: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=row[None]).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum")

    parts = recognise(model, dtype=dtype, longest=64)
    ids = [one.tolist() for one, _ in rows(64, 40)]
    return check(change(parts), model.get_base_model().model.layers, ids, loss_of, config=config)


def in_last_layer(change: Callable[[Layer], Layer]) -> Callable[[Parts], Parts]:
    """Change the last layer alone."""

    def all_parts(parts: Parts) -> Parts:
        layers = (*parts.layers[:-1], change(parts.layers[-1]))
        return dataclasses.replace(parts, layers=layers)

    return all_parts


def scaled(layer: Layer) -> Layer:
    """Attend with another scale."""
    heads = dataclasses.replace(layer.heads, scale=1.5 * layer.heads.scale)
    return dataclasses.replace(layer, heads=heads)


def narrow(layer: Layer) -> Layer:
    """See only the last tokens."""
    return dataclasses.replace(layer, heads=dataclasses.replace(layer.heads, window=8))


def uncapped(layer: Layer) -> Layer:
    """Forget the cap on attention's scores."""
    return dataclasses.replace(layer, heads=dataclasses.replace(layer.heads, cap=0.0))


def turned_back(layer: Layer) -> Layer:
    """Turn queries and keys the other way."""
    return dataclasses.replace(
        layer, turns=dataclasses.replace(layer.turns, sin=layer.turns.sin.roll(1, 0))
    )


def gated(layer: Layer) -> Layer:
    """Use another gate."""
    return dataclasses.replace(layer, gate=Gate.GELU_TANH)


def without_bias(layer: Layer) -> Layer:
    """Forget a bias."""
    layer.qkv.bias = None
    return layer


def twice(parts: Parts) -> Parts:
    """Scale an adapter otherwise."""
    parts.adapter._scales = [2 * scale for scale in parts.adapter._scales]
    return parts


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "mistral", "phi3", "gemma2", "gemma3_text", "olmo2", "glm4"]
)
def test_known_families_pass(family: str) -> None:
    """Each is off by rounding alone, and its weights and gradients are as they were."""
    model = make(family, quantised=family in ("llama", "phi3"))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    found = checked(model)
    assert found.fits, found
    assert found.worst < 1e-4
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])
        assert weight.grad is None


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama", in_last_layer(scaled)),
        ("llama", in_last_layer(narrow)),
        ("llama", in_last_layer(turned_back)),
        ("llama", in_last_layer(gated)),
        ("qwen2", in_last_layer(without_bias)),
        ("gemma2", in_last_layer(uncapped)),
        ("llama", twice),
    ],
)
def test_a_fault_in_one_layer_is_found(family: str, change: Callable[[Parts], Parts]) -> None:
    """A layer of three that computes something else is found, even by what bf16 is allowed."""
    found = checked(make(family), change)
    assert not found.fits
    assert found.worst > 5e-3, found


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("granite", in_last_layer(lambda layer: dataclasses.replace(layer, added=1.0))),
        ("granite", lambda parts: dataclasses.replace(parts, embed_factor=1.0)),
        (
            "granite",
            lambda parts: dataclasses.replace(
                parts, head=dataclasses.replace(parts.head, factor=1.0)
            ),
        ),
        (
            "gemma2",
            lambda parts: dataclasses.replace(parts, head=dataclasses.replace(parts.head, cap=0.0)),
        ),
        ("olmo2", in_last_layer(lambda layer: dataclasses.replace(layer, down_norm=None))),
        ("smollm3", lambda parts: dataclasses.replace(parts, layers=with_positions(parts))),
    ],
)
def test_a_part_that_is_overlooked_is_found(family: str, change: Callable[[Parts], Parts]) -> None:
    """A factor, a cap, a norm, a layer without positions: without it, it is not the model."""
    found = checked(make(family, quantised=False), change)
    assert not found.fits
    assert found.worst > 5e-3, found


def test_a_fresh_adapter_is_compared_although_it_adds_nothing() -> None:
    """Before step 1 B is 0: a wrong scale of B, or a wrong A, would show in no number."""
    for fault in (twice, other_a):
        model = make("llama", quantised=False)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data.zero_()
        found = checked(model, fault)
        assert not found.fits
        assert found.worst > 0.1, found  # more than bf16 is allowed


def other_a(parts: Parts) -> Parts:
    """Take another A in the copies of the last layer's down_proj."""
    copies = parts.layers[-1].down.adapter
    assert copies is not None
    refresh = parts.adapter.refresh

    def then_roll() -> None:
        refresh()
        copies.down.copy_(copies.down.roll(1, 1))

    parts.adapter.refresh = then_roll  # type: ignore[method-assign]
    return parts


def test_a_fault_is_more_than_what_bf16_is_allowed() -> None:
    """Cards compute in it: an honest model passes there, and one with a fault does not."""

    def model() -> Any:
        found = make("llama", quantised=False).to(torch.bfloat16)
        for name, weight in found.named_parameters():
            if "lora" in name:
                weight.data = weight.data.float()
        return found

    honest = checked(model(), dtype=torch.bfloat16)
    assert honest.fits, honest
    assert honest.worst > 1e-3  # it is not fp32
    found = checked(model(), twice, dtype=torch.bfloat16)
    assert not found.fits, found


def test_rows_that_see_each_other_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows are compared side by side: one alone would look right."""
    right = attention._reference

    def joined(*given: Any) -> torch.Tensor:
        *others, laid = given
        return right(*others, dataclasses.replace(laid, ends=(0, laid.tokens)))

    monkeypatch.setattr(attention, "_reference", joined)
    found = checked(make("llama", quantised=False))
    assert found.worst > 0.1, found


@pytest.mark.parametrize("keeps", [True, False])
def test_both_ways_back_are_compared(keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """Of layers that keep everything, and of those that make it again."""
    right = LayerFunction.backward

    def wrong(ctx: Any, grad: torch.Tensor) -> Any:
        found, *nothing = right(ctx, grad)
        return (1.5 * found if ctx.keep is keeps else found), *nothing

    monkeypatch.setattr(LayerFunction, "backward", staticmethod(wrong))
    found = checked(make("llama", quantised=False))
    assert found.worst > 0.1, found


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_the_head_is_compared_both_ways(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is off alone, and a gradient that is off alone."""
    right = getattr(HeadLoss, way)

    def wrong(ctx: Any, *given: Any) -> Any:
        found = right(ctx, *given)
        return 1.5 * found if way == "forward" else (1.5 * found[0], *found[1:])

    monkeypatch.setattr(HeadLoss, way, staticmethod(wrong))
    found = checked(make("llama", quantised=False))
    assert found.worst > 0.1, found
    assert found.where == ("the loss" if way == "forward" else "the head")


def test_an_output_that_is_no_number_is_found() -> None:
    """One token of one layer, forward alone: gradients that are right do not make up for it."""

    def not_a_number(layer: Layer) -> Layer:
        inner = layer.down.forward

        def forward(*given: Any, **how: Any) -> torch.Tensor:
            found = inner(*given, **how)
            found[3] = torch.nan
            return found

        layer.down.forward = forward  # type: ignore[method-assign]
        return layer

    assert not checked(make("llama", quantised=False), in_last_layer(not_a_number)).fits


@pytest.mark.parametrize(("layer", "own"), [("last", None), ("first", 100)])
def test_a_window_wider_than_the_rows_is_compared(layer: str, own: int | None) -> None:
    """A layer that sees all where the model's sees a window, and the other way round."""
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    model = make(
        "qwen2", quantised=False, sliding_window=100, use_sliding_window=True, layer_types=kinds
    )
    config = model.get_base_model().config

    def change(parts: Parts) -> Parts:
        at = 0 if layer == "first" else -1
        heads = dataclasses.replace(parts.layers[at].heads, window=own)
        layers = list(parts.layers)
        layers[at] = dataclasses.replace(layers[at], heads=heads)
        return dataclasses.replace(parts, layers=tuple(layers))

    assert checked(model, change).fits  # its rows are shorter than the window
    found = checked(model, change, config=config)
    assert not found.fits
    assert found.worst > 5e-3, found
    assert checked(model, config=config).fits
    assert config.sliding_window == 100


def test_the_longest_rows_are_compared() -> None:
    """A row of one token attends to itself alone: any scale, any window and any turn would pass."""
    from datasets import Dataset

    short = Dataset.from_dict({"input_ids": [[7], [8], [4, 5, 6], [1] * 9, [2] * 5, [3] * 9]})
    assert _longest_two(short) == [[1] * 9, [3] * 9]
    assert _longest_two(short.select([0])) == [[7]]


def with_positions(parts: Parts) -> tuple[Layer, ...]:
    """Give every layer the first one's positions."""
    return tuple(dataclasses.replace(one, turns=parts.layers[0].turns) for one in parts.layers)
