"""A decoder layer's modules, told apart by their structure: projections, heads, norms, gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from runner.training.kernels.adapter import Lora
from runner.training.kernels.glu import Gate
from runner.training.kernels.heads import Heads
from runner.training.kernels.nf4 import unreadable
from runner.training.kernels.not_recognised import NotRecognised
from runner.training.kernels.projection import Projection
from runner.training.kernels.recognise_norm import norm_of
from runner.training.kernels.rmsnorm import Norm

_NORMS = (
    # Gemma 2 and 3: around both halves
    (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    # GLM 4: likewise, by other names
    (
        "input_layernorm",
        "post_self_attn_layernorm",
        "post_attention_layernorm",
        "post_mlp_layernorm",
    ),
    # OLMo 2: behind both halves
    (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    # Llama and most: before both halves
    ("input_layernorm", None, "post_attention_layernorm", None),
)
"""Names of the norms before and behind attention, before and behind the MLP. A layer is of the
first kind whose norms it has all; a norm that is left over is a weight that nobody knows."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A decoder layer's modules, before anything is changed about them."""

    first_norm: Norm | None
    out_norm: Norm | None
    second_norm: Norm | None
    down_norm: Norm | None
    added: float
    qkv: tuple[Projection, ...]
    out: tuple[Projection, ...]
    gate_up: tuple[Projection, ...]
    down: tuple[Projection, ...]
    heads: Heads
    head_norms: tuple[Norm, Norm] | None
    gate: Gate


def block_of(layer: Any, config: Any, dtype: torch.dtype, known: set[int], number: int) -> Block:
    """Take a layer apart.

    Args:
        layer: the model's own.
        config: the model's.
        dtype: what it computes in.
        known: ids of weights that were understood; those of this layer are added.
        number: which layer it is.

    Raises:
        NotRecognised: it holds something unknown.
    """
    for name in ("self_attn", "mlp"):
        if not hasattr(layer, name):
            raise NotRecognised(f"layers without {name}")
    attention, mlp = layer.self_attn, layer.mlp
    qkv = _projections(attention, ("qkv_proj",), ("q_proj", "k_proj", "v_proj"), known)
    out = _projections(attention, ("o_proj",), ("dense",), known)
    gate_up = _projections(mlp, ("gate_up_proj",), ("gate_proj", "up_proj"), known)
    down = _projections(mlp, ("down_proj",), ("down_proj",), known)
    heads = _heads(attention, config, qkv, out, number)
    if out[0].outputs != qkv[0].inputs or sum(p.outputs for p in gate_up) != 2 * down[0].inputs:
        raise NotRecognised("an MLP or an output of unusual width")
    for module in layer.modules():
        if isinstance(module, torch.nn.Dropout) and module.p and not _of_lora(layer, module):
            raise NotRecognised("dropout")
    first, behind, second, last = _norms(layer, qkv[0].inputs, dtype, known)
    added = float(getattr(layer, "residual_multiplier", 1.0))
    if added != 1 and behind is not None:
        raise NotRecognised("norms and a factor behind attention")
    return Block(
        first_norm=first,
        out_norm=behind,
        second_norm=second,
        down_norm=last,
        added=added,
        qkv=qkv,
        out=out,
        gate_up=gate_up,
        down=down,
        heads=heads,
        head_norms=_head_norms(attention, heads, dtype, known),
        gate=_gate(getattr(mlp, "act_fn", getattr(mlp, "activation_fn", None))),
    )


def note(module: Any, known: set[int]) -> None:
    """Note that a module's weights are understood."""
    known.update(id(weight) for weight in module.parameters())


def _of_lora(layer: Any, dropout: Any) -> bool:
    """Whether it is an adapter's: that is looked at where the adapter is."""
    return any(
        dropout in module.values()
        for name, module in layer.named_modules()
        if name.endswith("lora_dropout")
    )


def _norms(
    layer: Any, width: int, dtype: torch.dtype, known: set[int]
) -> tuple[Norm | None, Norm | None, Norm | None, Norm | None]:
    for names in _NORMS:
        modules = [None if name is None else getattr(layer, name, None) for name in names]
        if all((one is None) == (name is None) for one, name in zip(modules, names, strict=True)):
            break
    else:
        raise NotRecognised("norms in unusual places")
    device = next(iter(layer.parameters())).device
    found: list[Norm | None] = []
    for module in modules:
        norm = None if module is None else norm_of(module, dtype, width, device)
        if module is not None:
            note(module, known)
        if norm is not None and norm.weight.numel() != width:
            raise NotRecognised("norms of unusual width")
        found.append(norm)
    return found[0], found[1], found[2], found[3]


def _head_norms(
    attention: Any, heads: Heads, dtype: torch.dtype, known: set[int]
) -> tuple[Norm, Norm] | None:
    if not hasattr(attention, "q_norm"):
        return None
    found = []
    for name, count in (("q_norm", heads.q_heads), ("k_norm", heads.kv_heads)):
        module = getattr(attention, name)
        norm = norm_of(module, dtype)
        if norm.weight.numel() not in (heads.size, count * heads.size):
            raise NotRecognised("norms of parts of heads")
        note(module, known)
        found.append(norm)
    return found[0], found[1]


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
    note(module, known)
    return Projection(
        weight=weight,
        bias=getattr(base, "bias", None),
        outputs=int(outputs),
        inputs=int(inputs),
        lora=None if base is module else _lora(module),
    )


def _lora(module: Any) -> Lora:
    if "default" not in module.lora_A or getattr(module, "lora_variant", None):
        raise NotRecognised("another kind of adapter than plain LoRA")
    down, up = module.lora_A["default"], module.lora_B["default"]
    if up.bias is not None or module.merged:
        raise NotRecognised("another kind of adapter than plain LoRA")
    dropout = module.lora_dropout["default"]
    if not isinstance(dropout, (torch.nn.Dropout, torch.nn.Identity)):
        raise NotRecognised("another kind of adapter than plain LoRA")
    return Lora(
        down=down.weight,
        up=up.weight,
        scale=float(module.scaling["default"]),
        dropout=float(getattr(dropout, "p", 0.0)),
    )


def _heads(
    attention: Any,
    config: Any,
    qkv: tuple[Projection, ...],
    out: tuple[Projection, ...],
    number: int,
) -> Heads:
    size = int(getattr(attention, "head_dim", 0))
    total = sum(one.outputs for one in qkv)
    if size < 16 or size > 256 or size % 16:
        raise NotRecognised(f"heads of size {size}")
    q_heads = out[0].inputs // size
    kv_heads = (total // size - q_heads) // 2
    if kv_heads < 1 or (q_heads + 2 * kv_heads) * size != total or q_heads % kv_heads:
        raise NotRecognised("an unusual number of heads")
    if not getattr(attention, "is_causal", True):
        raise NotRecognised("attention to later words")
    cap = getattr(attention, "attn_logit_softcapping", None)
    if not cap and getattr(config, "attn_logit_softcapping", None):
        raise NotRecognised("a cap on attention's scores that its layers do not name")
    return Heads(
        cap=float(cap or 0.0),
        q_heads=q_heads,
        kv_heads=kv_heads,
        size=size,
        scale=float(getattr(attention, "scaling", size**-0.5)),
        window=_window(attention, config, number),
    )


def _window(attention: Any, config: Any, number: int) -> int | None:
    """Give how many tokens a layer's words see: by its kind, by the layer, or by the config.

    The kind comes first: by it the model makes the layer's mask. EXAONE 4's layers that see
    everything name a window all the same.
    """
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[number] != "sliding_attention":
        return None
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window or None
    return getattr(config, "sliding_window", None) or None


@torch.no_grad()
def _gate(act: Any) -> Gate:
    x = torch.linspace(-4, 4, 33)
    if act is None:
        raise NotRecognised("an MLP without a gate")
    wanted = act(x)
    for gate, found in (
        (Gate.SILU, functional.silu(x)),
        (Gate.GELU_TANH, functional.gelu(x, approximate="tanh")),
        (Gate.GELU, functional.gelu(x)),
    ):
        if torch.allclose(wanted, found, atol=1e-5):
            return gate
    raise NotRecognised("another gate than SiLU or GELU")
