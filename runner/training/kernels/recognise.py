"""Which models the fast path knows: told by the structure of their layers, not by their names.

Every weight of the model must be one that was understood; norms, gates and positions are tried on
numbers. What is not understood gives a reason, and the model trains on the plain path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from runner.training.kernels import rmsnorm
from runner.training.kernels.adapter import Adapter, Lora
from runner.training.kernels.attention import Heads
from runner.training.kernels.glu import Gate
from runner.training.kernels.layer import Layer
from runner.training.kernels.nf4 import unreadable
from runner.training.kernels.projection import Buffers, Group, Projection
from runner.training.kernels.rmsnorm import Norm
from runner.training.kernels.rope import Turns

_CLOSE = 2e-2  # relative: bf16 rounds at 4e-3 and twice; another formula is off by far more


class NotRecognised(Exception):  # noqa: N818  (a finding)
    """The model has something that the fast path does not know; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A recognised model."""

    embed: Any
    """The module itself: some scale what they give."""
    layers: tuple[Layer, ...]
    last_norm: Norm
    head: torch.Tensor
    adapter: Adapter
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A decoder layer's modules, before anything is changed about them."""

    first_norm: Norm
    second_norm: Norm
    qkv: tuple[Projection, ...]
    out: tuple[Projection, ...]
    gate_up: tuple[Projection, ...]
    down: tuple[Projection, ...]
    heads: Heads
    head_norms: tuple[Norm, Norm] | None
    gate: Gate


def recognise(model: Any, *, dtype: torch.dtype, longest: int) -> Parts:
    """Take a PEFT model apart.

    Args:
        model: the PEFT model.
        dtype: what it computes in.
        longest: tokens of the longest row.

    Raises:
        NotRecognised: it holds something unknown; nothing was changed.
    """
    understood = _understand(model, dtype, longest)
    head, blocks = understood.head, understood.blocks
    inner = model.get_base_model().model
    turns = _turns(inner.rotary_emb, longest, dtype, blocks[0].heads.size, head.device)

    adapter, buffers = Adapter(dtype, head.device), Buffers()
    layers = tuple(
        Layer(
            first_norm=block.first_norm,
            second_norm=block.second_norm,
            qkv=Group("qkv", block.qkv, adapter, buffers),
            out=Group("out", block.out, adapter, buffers),
            gate_up=Group("gate_up", block.gate_up, adapter, buffers),
            down=Group("down", block.down, adapter, buffers),
            heads=block.heads,
            head_norms=block.head_norms,
            gate=block.gate,
            turns=turns,
        )
        for block in blocks
    )
    adapter.finish()
    return Parts(
        embed=inner.embed_tokens,
        layers=layers,
        last_norm=understood.last_norm,
        head=head,
        adapter=adapter,
        dtype=dtype,
    )


def obstacle(model: Any, *, longest: int) -> str | None:
    """Say what the fast path does not know of a model without weights; None: it may know it all.

    Numbers are tried later, on the weights: what looks right here may still be refused.
    """
    try:
        _understand(model, model.get_output_embeddings().weight.dtype, longest)
    except NotRecognised as error:
        return str(error)
    return None


@dataclass(frozen=True, kw_only=True)
class _Understood:
    """A model's parts, before anything is changed about them."""

    blocks: list[_Block]
    last_norm: Norm
    head: torch.Tensor


def _understand(model: Any, dtype: torch.dtype, longest: int) -> _Understood:
    base = model.get_base_model()
    inner = getattr(base, "model", None)
    if inner is None or not all(hasattr(inner, n) for n in ("embed_tokens", "layers", "norm")):
        raise NotRecognised("its parts have unusual names")
    _refuse_settings(base.config, longest)
    known: set[int] = set()
    _known(inner.embed_tokens, known)
    head = _head(base, dtype, known)
    last_norm = _norm(inner.norm, dtype, known)
    blocks = [_block(layer, base.config, dtype, known) for layer in inner.layers]
    if any(id(weight) not in known for weight in model.parameters()):
        name = next(n for n, weight in model.named_parameters() if id(weight) not in known)
        raise NotRecognised(f"the weight {name.removeprefix('base_model.model.')}")
    if len({block.heads.size for block in blocks}) > 1:
        raise NotRecognised("heads of different sizes")
    return _Understood(blocks=blocks, last_norm=last_norm, head=head)


def _refuse_settings(config: Any, longest: int) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") in ("dynamic", "longrope"):
        raise NotRecognised("positions that depend on the length of a row")
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, name, None):
            raise NotRecognised("capped logits")
    if getattr(config, "attention_dropout", 0):
        raise NotRecognised("dropout in attention")
    chunk = getattr(config, "attention_chunk_size", None)
    if chunk is not None and longest > chunk:
        raise NotRecognised("attention in chunks")


def _known(module: Any, known: set[int]) -> Any:
    known.update(id(weight) for weight in module.parameters())
    return module


def _head(base: Any, dtype: torch.dtype, known: set[int]) -> torch.Tensor:
    head = base.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None or not hasattr(head, "weight"):
        raise NotRecognised("its head")
    if head.weight.dtype != dtype:
        raise NotRecognised(f"a head in {str(head.weight.dtype).removeprefix('torch.')}")
    _known(head, known)
    return head.weight.data


def _block(layer: Any, config: Any, dtype: torch.dtype, known: set[int]) -> _Block:
    for name in ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm"):
        if not hasattr(layer, name):
            raise NotRecognised(f"layers without {name}")
    attention, mlp = layer.self_attn, layer.mlp
    qkv = _projections(attention, ("qkv_proj",), ("q_proj", "k_proj", "v_proj"), known)
    out = _projections(attention, ("o_proj",), ("dense",), known)
    gate_up = _projections(mlp, ("gate_up_proj",), ("gate_proj", "up_proj"), known)
    down = _projections(mlp, ("down_proj",), ("down_proj",), known)
    heads = _heads(attention, config, qkv, out)
    if out[0].outputs != qkv[0].inputs or sum(p.outputs for p in gate_up) != 2 * down[0].inputs:
        raise NotRecognised("an MLP or an output of unusual width")
    head_norms = None
    if hasattr(attention, "q_norm"):
        head_norms = (
            _norm(attention.q_norm, dtype, known),
            _norm(attention.k_norm, dtype, known),
        )
        if any(norm.weight.numel() != heads.size for norm in head_norms):
            raise NotRecognised("norms across heads")
    for module in layer.modules():
        if isinstance(module, torch.nn.Dropout) and module.p:
            raise NotRecognised("dropout")
    return _Block(
        first_norm=_norm(layer.input_layernorm, dtype, known),
        second_norm=_norm(layer.post_attention_layernorm, dtype, known),
        qkv=qkv,
        out=out,
        gate_up=gate_up,
        down=down,
        heads=heads,
        head_norms=head_norms,
        gate=_gate(getattr(mlp, "act_fn", getattr(mlp, "activation_fn", None))),
    )


def _projections(
    parent: Any, joined: tuple[str, ...], apart: tuple[str, ...], known: set[int]
) -> tuple[Projection, ...]:
    names = joined if hasattr(parent, joined[0]) else apart
    if not all(hasattr(parent, name) for name in names):
        raise NotRecognised(f"layers without {' and '.join(apart)}")
    found = tuple(_projection(getattr(parent, name), known) for name in names)
    if len({(one.inputs, one.weight.dtype) for one in found}) > 1:
        raise NotRecognised("projections of different kinds side by side")
    return found


def _projection(module: Any, known: set[int]) -> Projection:
    base = getattr(module, "base_layer", module)
    weight = getattr(base, "weight", None)
    if weight is None:
        raise NotRecognised(f"a {type(base).__name__}")
    if weight.dtype == torch.uint8:
        reason = unreadable(weight)
        if reason is not None:
            raise NotRecognised(reason)
        outputs, inputs = weight.quant_state.shape
    elif weight.dim() == 2 and weight.is_floating_point():
        outputs, inputs = weight.shape
    else:
        raise NotRecognised(f"a {type(base).__name__}")
    _known(module, known)
    return Projection(
        weight=weight,
        bias=getattr(base, "bias", None),
        outputs=int(outputs),
        inputs=int(inputs),
        lora=None if base is module else _lora(module),
    )


def _lora(module: Any) -> Lora:
    if list(module.lora_A) != ["default"] or getattr(module, "lora_variant", None):
        raise NotRecognised("another kind of adapter than plain LoRA")
    down, up = module.lora_A["default"], module.lora_B["default"]
    if up.bias is not None or module.merged:
        raise NotRecognised("another kind of adapter than plain LoRA")
    dropout = module.lora_dropout["default"]
    if getattr(dropout, "p", 0.0):
        raise NotRecognised("lora.dropout above 0")
    return Lora(down=down.weight, up=up.weight, scale=float(module.scaling["default"]))


def _heads(
    attention: Any, config: Any, qkv: tuple[Projection, ...], out: tuple[Projection, ...]
) -> Heads:
    size = int(getattr(attention, "head_dim", 0))
    total = sum(one.outputs for one in qkv)
    if size < 16 or size > 256 or size % 16:
        raise NotRecognised(f"heads of size {size}")
    q_heads = out[0].inputs // size
    kv_heads = (total // size - q_heads) // 2
    if kv_heads < 1 or (q_heads + 2 * kv_heads) * size != total or q_heads % kv_heads:
        raise NotRecognised("an unusual number of heads")
    window = getattr(attention, "sliding_window", getattr(config, "sliding_window", None))
    return Heads(
        q_heads=q_heads,
        kv_heads=kv_heads,
        size=size,
        scale=float(getattr(attention, "scaling", size**-0.5)),
        window=window,
    )


@torch.no_grad()
def _norm(module: Any, dtype: torch.dtype, known: set[int]) -> Norm:
    """Find out by numbers how a norm goes: small ones, so that its epsilon shows."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if weight is None or eps is None or weight.dim() != 1:
        raise NotRecognised(f"a norm of the kind {type(module).__name__}")
    if weight.is_meta:  # nothing to try
        _known(module, known)
        return Norm(weight=weight.data, eps=float(eps), late=False)
    generator = torch.Generator().manual_seed(0)
    x = 1e-3 * torch.randn(4, weight.numel(), generator=generator).to(weight.device)
    x = x.to(dtype)
    wanted = module(x).float()
    for offset in (0.0, 1.0):
        norm = Norm(weight=weight.data.float() + offset, eps=float(eps), late=offset != 0.0)
        found = rmsnorm.reference(x, norm).float()
        if bool((found - wanted).norm() <= _CLOSE * wanted.norm()):
            _known(module, known)
            return norm
    raise NotRecognised(f"a norm of the kind {type(module).__name__}")


@torch.no_grad()
def _gate(act: Any) -> Gate:
    x = torch.linspace(-4, 4, 33)
    if act is None:
        raise NotRecognised("an MLP without a gate")
    wanted = act(x)
    for gate, found in (
        (Gate.SILU, functional.silu(x)),
        (Gate.GELU_TANH, functional.gelu(x, approximate="tanh")),
    ):
        if torch.allclose(wanted, found, atol=1e-5):
            return gate
    raise NotRecognised("another gate than SiLU or GELU")


@torch.no_grad()
def _turns(module: Any, longest: int, dtype: torch.dtype, size: int, device: Any) -> Turns:
    positions = torch.arange(max(64, longest), device=device)[None]
    cos, sin = module(torch.zeros(1, 1, 1, dtype=dtype, device=device), positions)
    half = size // 2
    if cos.shape[-1] != size or not all(
        torch.equal(one[..., :half], one[..., half:]) for one in (cos, sin)
    ):
        raise NotRecognised("positions that turn only part of a head")
    return Turns(
        cos=cos[0, :, :half].float().contiguous(), sin=sin[0, :, :half].float().contiguous()
    )
