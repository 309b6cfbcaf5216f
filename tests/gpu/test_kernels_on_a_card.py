"""The fast path's kernels on a card: bitsandbytes' own weights, and gradients near fp32's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from runner.forecast.passes import Passes
from runner.training.kernels import (
    attention,
    dropout,
    fp8,
    glu,
    loss,
    nf4,
    packed_attention,
    rmsnorm,
    rope,
)
from runner.training.kernels.check import check
from runner.training.kernels.fast_model import FastModel
from runner.training.kernels.heads import Heads
from runner.training.kernels.recognise import recognise
from runner.training.kernels.rows import lay_out

CUDA = "cuda"
BF16 = torch.bfloat16
FURTHER = 1.1  # than PEFT's own bf16, from the same gradients in fp32
ROWS = (700, 64, 300)
VOCABULARY = 32000


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Give the relative distance."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def quantised(outputs: int, inputs: int) -> Any:
    """Make an NF4 weight as a model's loading does."""
    import bitsandbytes

    weight = 0.02 * torch.randn(outputs, inputs, dtype=BF16, device=CUDA)
    return bitsandbytes.nn.Params4bit(
        weight, requires_grad=False, quant_type="nf4", compress_statistics=True
    ).to(CUDA)


@pytest.mark.parametrize("shapes", [[(4096, 4096), (1024, 4096), (1024, 4096)], [(70, 192)]])
def test_unpacked_weights_are_those_of_bitsandbytes(shapes: list[tuple[int, int]]) -> None:
    """Not one of the weights that a run computes with differs from what the plain path uses."""
    import bitsandbytes

    torch.manual_seed(0)
    weights = [quantised(*shape) for shape in shapes]
    for weight in weights:
        weight.quant_state.dtype = BF16
    wanted = torch.cat(
        [bitsandbytes.functional.dequantize_4bit(w.data, w.quant_state) for w in weights]
    )
    found = torch.full_like(wanted, float("nan"))
    at = 0
    for piece in nf4.stack(weights):
        piece.unpack_into(found[at : at + piece.rows])
        at += piece.rows
    differs = float((found != wanted).float().mean())
    assert differs == 0, f"{differs:.2e} of the weights differ"
    again = torch.cat(
        [bitsandbytes.functional.dequantize_4bit(w.data, w.quant_state) for w in weights]
    )
    assert torch.equal(again, wanted)  # the modules' own views still read the same


def test_norms() -> None:
    """Lines and heads; Llama's, Gemma's and LayerNorm with a bias, forward and back."""
    for late, shape in ((False, (37, 4096)), (True, (37, 3072)), (False, (37, 8, 128))):
        for centred in (False, True):
            width = shape[-1]
            norm = rmsnorm.Norm(
                weight=torch.randn(width, device=CUDA).abs() + 0.5,
                eps=1e-5,
                late=late,
                bias=torch.randn(width, device=CUDA) if centred else None,
                centred=centred,
            )
            x, grad, more = (torch.randn(shape, device=CUDA, dtype=BF16) for _ in range(3))
            x += 0.5
            plain = rmsnorm.forward(x, norm)
            assert off(plain, rmsnorm.reference(x, norm)) < 3e-3
            wanted = rmsnorm.backward_reference(x.float(), norm, grad.float())
            found, _ = rmsnorm.backward(x, norm, grad)
            assert off(found, wanted) < 5e-3
            if len(shape) == 2:
                assert off(rmsnorm.forward(x, norm, residual=more), plain + more) < 5e-3
                found, again = rmsnorm.backward(x, norm, grad, residual=more, again=True)
                assert off(found, wanted + more) < 5e-3
                assert again is not None
                assert torch.equal(again, plain)


@pytest.mark.parametrize(
    ("pairs", "neighbours"), [(64, False), (48, False), (16, False), (32, True), (64, True)]
)
def test_positions(pairs: int, neighbours: bool) -> None:  # noqa: FBT001
    """Queries and keys are turned, all of a head or a part of it; values are left alone."""
    heads = Heads(q_heads=8, kv_heads=2, size=128, scale=1.0, window=None)
    turns = rope.Turns(
        cos=torch.randn(64, pairs, device=CUDA),
        sin=torch.randn(64, pairs, device=CUDA),
        neighbours=neighbours,
    )
    position = torch.arange(50, device=CUDA, dtype=torch.int32)
    qkv = torch.randn(50, heads.width, device=CUDA, dtype=BF16)
    wanted = qkv.clone()
    rope._turn_reference(wanted, 10, 128, position, turns, sign=1.0)
    found = qkv.clone()
    rope.turn(found, 10, 128, position, turns)
    assert off(found, wanted) < 3e-3
    wanted = qkv.clone()
    rope._turn_reference(wanted, 10, 128, position, turns, sign=-1.0)
    assert off(rope.join_and_turn_back(heads.split(qkv), position, turns), wanted) < 3e-3


@pytest.mark.parametrize("gate", list(glu.Gate))
def test_gates(gate: glu.Gate) -> None:
    """SwiGLU and GeGLU, forward and back, at a width that fills no whole tile."""
    gate_up = torch.randn(33, 2 * 1500, device=CUDA, dtype=BF16)
    grad = torch.randn(33, 1500, device=CUDA, dtype=BF16)
    wanted = gate_up.float(), grad.float()
    glu._backward_reference(*wanted, gate)
    hidden = glu.forward(gate_up, gate)
    assert off(hidden, wanted[1]) < 5e-3
    again = glu.backward(gate_up, grad, gate)
    assert off(gate_up, wanted[0]) < 5e-3
    assert off(again, hidden) < 5e-3


def test_dropout() -> None:
    """The card drops just what torch's reference drops, key by key; the way back drops the same."""
    x, into = (torch.randn(37, 1500, device=CUDA, dtype=BF16) for _ in range(2))
    for seed in (1, 2**31 - 1):
        key = dropout.Draws(seed=seed).key(200, 3)
        kept = dropout._factors(x, 0.1, key, 5)
        found = dropout.dropped(x, 0.1, key, 5)
        assert torch.equal(found == 0, (kept == 0) | (x == 0))
        assert off(found, x.float() * kept.float()) < 5e-3
        added = into.clone()
        dropout.add_dropped(added, x, 0.1, key, 5)
        assert off(added, into.float() + x.float() * kept.float()) < 5e-3


@pytest.mark.parametrize(("factor", "cap"), [(1.0, 0.0), (0.125, 0.0), (2.0, 3.0)])
def test_loss(factor: float, cap: float) -> None:
    """Each line's loss, and the gradient where its logits were, also scaled or capped ones."""
    logits = torch.randn(9, 128256, device=CUDA, dtype=BF16)
    targets = torch.randint(0, 128256, (9,), device=CUDA)
    leaf = logits.float().requires_grad_()
    seen = factor * leaf
    seen = cap * torch.tanh(seen / cap) if cap else seen
    wanted = functional.cross_entropy(seen, targets, reduction="none")
    (slope,) = torch.autograd.grad(0.5 * wanted.sum(), leaf)
    found = torch.empty(9, device=CUDA)
    head = loss.Head(weight=logits, factor=factor, cap=cap)
    loss.cross_entropy(logits, targets, found, torch.tensor(0.5, device=CUDA), head)
    assert off(found, wanted.detach()) < 1e-5
    assert off(logits, slope) < 5e-3


@pytest.mark.parametrize("window", [None, 48])
def test_attention(window: int | None) -> None:
    """Rows side by side see their own past alone, or a window of it."""
    heads = Heads(q_heads=8, kv_heads=2, size=128, scale=0.07, window=window)
    ids = [torch.zeros(n, dtype=torch.int64) for n in (100, 37, 200)]
    rows = lay_out([(one, one) for one in ids], CUDA, fill=True)
    qkv = torch.randn(rows.tokens, heads.width, device=CUDA, dtype=BF16)
    out, kept = attention.forward(qkv, heads, rows)
    q, k, v = (part.float().requires_grad_() for part in heads.split(qkv))
    wanted = attention._reference(q, k, v, heads, rows)
    grad = torch.randn_like(out)
    grads = torch.autograd.grad(wanted, (q, k, v), grad.float())
    assert off(out, wanted) < 1e-2
    found = attention.backward(grad, qkv, out, kept, heads, rows)
    for one, right in zip(found, grads, strict=True):
        assert off(one, right) < 2e-2


@pytest.mark.parametrize(
    ("q_heads", "kv_heads", "size"),
    [(32, 8, 128), (9, 3, 64), (7, 1, 128), (4, 4, 64), (16, 1, 64)],
)
def test_attention_over_heads_that_share_keys(q_heads: int, kv_heads: int, size: int) -> None:
    """Our own kernel, forward and back, as near to fp32 as flash is; rows of 1 to 700 tokens."""
    heads = Heads(q_heads=q_heads, kv_heads=kv_heads, size=size, scale=size**-0.5, window=None)
    rows = lay_out(
        [(torch.zeros(n, dtype=torch.int64),) * 2 for n in (1, 700, 64, 33)], CUDA, fill=True
    )
    qkv = torch.randn(rows.tokens, heads.width, device=CUDA, dtype=BF16)
    grad = torch.randn(rows.tokens, q_heads, size, device=CUDA, dtype=BF16)
    assert attention._takes_packed(qkv, heads, rows) == (torch.cuda.get_device_capability()[0] == 9)
    out, sums = packed_attention.forward(qkv, heads, rows)
    found = packed_attention.backward(grad, qkv, out, sums, heads, rows)
    with torch.enable_grad():
        parts = [part.float().detach().requires_grad_() for part in heads.split(qkv)]
        exact = attention._reference(parts[0], parts[1], parts[2], heads, rows)
        wanted = torch.autograd.grad(exact, parts, grad.float())
    assert off(out, exact) < 4e-3
    for one, other in zip(found, wanted, strict=True):
        assert off(one, other) < 6e-3
    again = packed_attention.backward(grad, qkv, out, sums, heads, rows)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


@pytest.mark.parametrize("filled", [False, True])
def test_attention_of_one_long_row(filled: bool) -> None:  # noqa: FBT001
    """On Hopper it is cuDNN's; filling behind the row changes nothing for the row."""
    tokens = 4160 if not filled else 4130
    heads = Heads(q_heads=8, kv_heads=2, size=128, scale=0.07, window=None)
    ids = torch.zeros(tokens, dtype=torch.int64)
    rows = lay_out([(ids, ids)], CUDA, fill=True)
    assert (rows.tokens, len(rows.ends)) == (4160, 3 if filled else 2)
    qkv = torch.randn(rows.tokens, heads.width, device=CUDA, dtype=BF16)
    out, kept = attention.forward(qkv, heads, rows)
    q, k, v = (part[:tokens].float().requires_grad_() for part in heads.split(qkv))
    alone = lay_out([(ids, ids)], CUDA, fill=False)
    wanted = attention._reference(q, k, v, heads, alone)
    grad = torch.randn_like(out)
    grad[tokens:] = 0
    grads = torch.autograd.grad(wanted, (q, k, v), grad[:tokens].float())
    assert off(out[:tokens], wanted) < 1e-2
    found = attention.backward(grad, qkv, out, kept, heads, rows)
    for one, right in zip(found, grads, strict=True):
        assert off(one[:tokens], right) < 2e-2


def test_a_long_row_through_the_host_has_the_same_gradients() -> None:
    """Tiles, copies beside the products, cuDNN's attention: as layers that keep everything."""
    dice = torch.Generator().manual_seed(1)
    rows = [torch.randint(10, 31000, (9000,), generator=dice) for _ in range(2)]
    model = build()
    parts = recognise(model, dtype=BF16, longest=9000)
    found = []
    for on_host in (False, True, True):
        most = 1024 if on_host else 9000
        passes = Passes(
            most_tokens=most, layers_kept=2, budget_bytes=None, chunk=512, on_host=on_host
        )
        FastModel(parts=parts, passes=passes).train_on(
            [(row, row) for row in rows], sum(row.numel() - 1 for row in rows)
        )
        found.append(grads_of(model))
    for name, grad in found[0].items():
        assert off(found[1][name], grad) < 3e-2, name
        assert torch.equal(found[1][name], found[2][name]) or off(found[2][name], grad) < 3e-2


def test_words_from_the_host_change_no_number() -> None:
    """With the table there and back again: the same losses and gradients, and its memory free."""
    dice = torch.Generator().manual_seed(1)
    rows = [torch.randint(10, 31000, (n,), generator=dice) for n in ROWS]
    model = build()
    parts = recognise(model, dtype=BF16, longest=max(ROWS))
    passes = Passes(most_tokens=2048, layers_kept=2, budget_bytes=None, chunk=512)
    fast = FastModel(parts=parts, passes=passes)
    table = VOCABULARY * 4096 * 2
    assert fast.sizes.embedding == table
    found = []
    for moved in (False, True, False):
        before = torch.cuda.memory_allocated()
        was = parts.embed.weight.device.type
        parts.keep_embedding_on_host(on=moved)
        now = parts.embed.weight.device.type
        assert now == ("cpu" if moved else "cuda")
        freed = before - torch.cuda.memory_allocated()
        assert freed == (0 if was == now else table if moved else -table)
        loss = fast.train_on([(row, row) for row in rows], sum(map(len, rows)))
        sums = fast.measure([(row, row) for row in rows])
        found.append((loss, sums, grads_of(model)))
    for loss, sums, grads in found[1:]:
        assert torch.equal(loss, found[0][0])
        assert torch.equal(sums, found[0][1])
        assert all(torch.equal(grads[name], grad) for name, grad in found[0][2].items())


def build(change: Callable[[Any], None] = lambda _: None, *, dropout_chance: float = 0.0) -> Any:
    """Make two layers of 8B's width, NF4 with an adapter whose B is not 0."""
    import bitsandbytes
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=4096,
        use_cache=False,
    )
    torch.manual_seed(0)
    with torch.device(CUDA):
        model = LlamaForCausalLM(config).to(BF16)
    for parent in [part for layer in model.model.layers for part in (layer.self_attn, layer.mlp)]:
        for name, linear in list(parent.named_children()):
            if isinstance(linear, torch.nn.Linear):
                new = bitsandbytes.nn.Linear4bit(
                    linear.in_features,
                    linear.out_features,
                    bias=False,
                    compute_dtype=BF16,
                    quant_type="nf4",
                    device="meta",
                )
                new.weight = bitsandbytes.nn.Params4bit(
                    linear.weight.data,
                    requires_grad=False,
                    quant_type="nf4",
                    compress_statistics=True,
                ).to(CUDA)
                setattr(parent, name, new)
    model.is_loaded_in_4bit = True
    adapter = LoraConfig(
        task_type="CAUSAL_LM", r=16, target_modules="all-linear", lora_dropout=dropout_chance
    )
    model = get_peft_model(model, adapter)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
            if "lora_B" in name:
                weight.data.normal_(std=0.002)
    change(model)
    return model


def in_fp32(model: Any) -> None:
    """Let the same weights be computed with in fp32."""
    for module in model.modules():
        if hasattr(module, "compute_dtype") and hasattr(module.weight, "quant_state"):
            module.compute_dtype = torch.float32
            module.weight.quant_state.dtype = torch.float32
    for weight in model.parameters():
        if weight.dtype == BF16:
            weight.data = weight.data.float()


def grads_of(model: Any) -> dict[str, torch.Tensor]:
    """Take the gradients away from a model."""
    found = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def plain(model: Any, rows: list[torch.Tensor], *, bf16: bool) -> dict[str, torch.Tensor]:
    """Train on rows as PEFT does, one by one."""
    items = sum(row.numel() - 1 for row in rows)
    for row in rows:
        with torch.autocast(CUDA, BF16, enabled=bf16):
            logits = model(input_ids=row[None].to(CUDA)).logits[0, :-1]
        target = row[1:].to(CUDA)
        (functional.cross_entropy(logits.float(), target, reduction="sum") / items).backward()
    return grads_of(model)


@pytest.mark.parametrize("kept", [2, 1, 0])
def test_gradients_are_as_near_to_fp32_as_peft_s_own(kept: int) -> None:
    """Ours and PEFT's in bf16, held against PEFT's in fp32 from the same weights."""
    dice = torch.Generator().manual_seed(1)
    rows = [torch.randint(10, 31000, (n,), generator=dice) for n in ROWS]
    exact = plain(build(in_fp32), rows, bf16=False)
    model = build()
    theirs = plain(model, rows, bf16=True)
    parts = recognise(model, dtype=BF16, longest=max(ROWS))
    passes = Passes(most_tokens=2048, layers_kept=kept, budget_bytes=None, chunk=512)
    fast = FastModel(parts=parts, passes=passes)
    fast.train_on([(row, row) for row in rows], sum(row.numel() - 1 for row in rows))
    ours = grads_of(model)
    distances = [sorted(off(found[n], exact[n]) for n in exact) for found in (theirs, ours)]
    (their_median, their_worst), (our_median, our_worst) = (
        (one[len(one) // 2], one[-1]) for one in distances
    )
    print(f"median {our_median:.2e} (PEFT {their_median:.2e}), ", end="")
    print(f"worst {our_worst:.2e} (PEFT {their_worst:.2e})")
    assert our_median <= FURTHER * their_median
    assert our_worst <= FURTHER * their_worst


KINDS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 128},
    "gemma2": {
        "head_dim": 256,
        "attn_logit_softcapping": 0.5,
        "sliding_window": 32,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "gemma3_text": {"head_dim": 256, "sliding_window": 32, "sliding_window_pattern": 2},
    "phi3": {"partial_rotary_factor": 0.75},
    "granite": {"residual_multiplier": 0.22, "embedding_multiplier": 12.0, "logits_scaling": 8.0},
    "olmo": {},
    "olmo2": {},
    "stablelm": {"use_qkv_bias": True},
    "glm": {"head_dim": 128},
    "glm4": {"head_dim": 128},
    "smollm3": {"no_rope_layers": [1, 0]},
}
"""Two layers of each kind, narrow: every way through the kernels."""


@pytest.mark.parametrize("family", KINDS)
def test_each_kind_of_layer_passes_the_check(family: str) -> None:
    """In bf16 on the card, beside the model's own layers, as every run checks before step 1."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 1000, "hidden_size": 512, "intermediate_size": 1024}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**sizes, "pad_token_id": 0, **KINDS[family]})
    with torch.device(CUDA):
        attention_kind = "eager" if family == "gemma2" else "sdpa"  # which knows no cap
        model = AutoModelForCausalLM.from_config(
            config, dtype=BF16, attn_implementation=attention_kind
        )
        model.config.use_cache = False
        adapter = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
        model = get_peft_model(model, adapter)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
        elif "norm" in name:
            weight.data.add_(0.1 * torch.randn_like(weight))

    def loss_of(row: torch.Tensor) -> torch.Tensor:
        with torch.autocast(CUDA, BF16):
            logits = model(input_ids=row[None].to(CUDA)).logits[0, :-1]
        return functional.cross_entropy(logits.float(), row[1:].to(CUDA), reduction="sum")

    dice = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, 1000, (n,), generator=dice).tolist() for n in (96, 64)]
    parts = recognise(model, dtype=BF16, longest=96)
    found = check(parts, model.get_base_model().model.layers, ids, loss_of)
    print(f"{family}: off by {found.worst:.3f} ({found.where})")
    assert found.fits, found


def test_dropout_is_the_same_kept_or_made_again() -> None:
    """Layers that keep everything, make it again or go tile by tile drop the same numbers."""
    dice = torch.Generator().manual_seed(1)
    row = torch.randint(10, 31000, (9000,), generator=dice)
    model = build(dropout_chance=0.1)
    parts = recognise(model, dtype=BF16, longest=9000)
    found = []
    for kept, on_host in ((2, False), (0, False), (0, True), (2, False)):
        passes = Passes(
            most_tokens=1024 if on_host else 9000,
            layers_kept=kept,
            budget_bytes=None,
            chunk=512,
            on_host=on_host,
        )
        torch.manual_seed(len(found) // 3)  # the last one draws others
        FastModel(parts=parts, passes=passes).train_on([(row, row)], row.numel() - 1)
        found.append(grads_of(model))
    for name, grad in found[0].items():
        assert off(found[1][name], grad) < 3e-2, name
        assert off(found[2][name], grad) < 3e-2, name
        assert off(found[3][name], grad) > 5e-2, name


@pytest.mark.parametrize("most", [4096, 400])
def test_held_out_losses_are_peft_s(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row's sum, side by side or tile by tile, and with the adapter silent."""
    monkeypatch.setattr("runner.training.kernels.fast_model.measured_at_once", lambda *_: most)
    dice = torch.Generator().manual_seed(1)
    rows = [torch.randint(10, 31000, (n,), generator=dice) for n in ROWS]
    model = build()
    parts = recognise(model, dtype=BF16, longest=max(ROWS))
    passes = Passes(most_tokens=2048, layers_kept=2, budget_bytes=None, chunk=512)
    fast = FastModel(parts=parts, passes=passes)

    def plainly() -> list[float]:
        sums = []
        for row in rows:
            with torch.no_grad(), torch.autocast(CUDA, BF16):
                logits = model(input_ids=row[None].to(CUDA)).logits[0, :-1].float()
            sums.append(float(functional.cross_entropy(logits, row[1:].to(CUDA), reduction="sum")))
        return sums

    parts.adapter.refresh()
    found = fast.measure([(row, row) for row in rows]).tolist()
    assert found == pytest.approx(plainly(), rel=2e-3)
    parts.adapter.silence()
    found = fast.measure([(row, row) for row in rows]).tolist()
    with model.disable_adapter():
        assert found == pytest.approx(plainly(), rel=2e-3)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shapes", [[(4096, 4096), (1024, 4096), (1024, 4096)], [(80, 192)]])
def test_fp8_weights_are_the_reference_s(shapes: list[tuple[int, int]], turned: bool) -> None:  # noqa: FBT001
    """The kernel writes what torch rounds, but for the last bit of few."""
    pieces = nf4.stack([quantised(*shape) for shape in shapes])
    height, width = sum(shape[0] for shape in shapes), shapes[0][1]
    exact = torch.cat([nf4.unpack_reference(piece, torch.float32) for piece in pieces])
    scales = fp8.scales_of(exact)
    own = scales.columns if turned else scales.rows
    out = torch.empty((width, height) if turned else (height, width), dtype=fp8.FP8, device=CUDA)
    fp8.unpack(pieces, out, own, turned=turned)
    wanted = ((exact / own).t() if turned else exact / own[:, None]).to(fp8.FP8)
    assert float((out.float() != wanted.float()).float().mean()) < 1e-3
    assert off(out, wanted) < 1e-3


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(700, 4096, 28672), (37, 192, 80)])
def test_fp8_products(tokens: int, inputs: int, outputs: int) -> None:
    """Within what eight bits allow of the exact product, and the reference's nearly to the bit."""
    x = torch.randn(tokens, inputs, dtype=BF16, device=CUDA) * torch.rand(tokens, 1, device=CUDA)
    x = x.to(BF16)
    weight = 0.02 * torch.randn(outputs, inputs, device=CUDA)
    scales = fp8.scales_of(weight).rows
    eighth = (weight / scales[:, None]).to(fp8.FP8)
    found = fp8.product(x, eighth, scales, fp8.Scratch())
    assert off(found, x.float() @ weight.t()) < 0.06
    assert (
        off(found, fp8.product(x.cpu(), eighth.cpu(), scales.cpu(), fp8.Scratch()).to(CUDA)) < 5e-3
    )


def test_gradients_in_fp8() -> None:
    """Off from fp32 by a quarter where bf16 is off by a fortieth: what `speed: fp8` says it is."""
    dice = torch.Generator().manual_seed(1)
    rows = [torch.randint(10, 31000, (n,), generator=dice) for n in ROWS]
    exact = plain(build(in_fp32), rows, bf16=False)
    model = build()
    parts = recognise(model, dtype=BF16, longest=max(ROWS))
    parts.use_fp8()
    passes = Passes(most_tokens=2048, layers_kept=1, budget_bytes=None, chunk=512)
    fast = FastModel(parts=parts, passes=passes, fp8=True)
    fast.train_on([(row, row) for row in rows], sum(row.numel() - 1 for row in rows))
    ours = grads_of(model)
    distances = sorted(off(ours[name], exact[name]) for name in exact)
    print(f"median {distances[len(distances) // 2]:.2e}, worst {distances[-1]:.2e}")
    assert 0.05 < distances[len(distances) // 2] < 0.3
    assert distances[-1] < 0.5
