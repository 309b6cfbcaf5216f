"""Positions of a model's layers: their tables, and which numbers of a head turn together."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch

from runner.training.kernels.not_recognised import NotRecognised
from runner.training.kernels.rope import Turns


@torch.no_grad()
def turns_of(
    inner: Any, config: Any, longest: int, dtype: torch.dtype, device: Any
) -> list[Turns | None]:
    """Give each layer's positions; None: it knows none.

    Args:
        inner: the model without its head.
        config: its config.
        longest: tokens of the longest row.
        dtype: what it computes in.
        device: where its tables are to be.

    Raises:
        NotRecognised: heads turn in another way.
    """
    rotary = getattr(inner, "rotary_emb", None)
    if rotary is None:
        raise NotRecognised("positions of another kind")
    if any(one.is_meta for one in rotary.buffers()):
        rotary = type(rotary)(config)  # it has no weights: its numbers follow from the config
    by_kind = "layer_type" in inspect.signature(type(rotary).forward).parameters
    tables: dict[Any, Turns] = {}
    reads: dict[Any, bool] = {}
    found: list[Turns | None] = []
    for number, layer in enumerate(inner.layers):
        attention = layer.self_attn
        kind = _kind(config, attention, number) if by_kind else None
        if kind not in tables:
            arguments = {} if kind is None else {"layer_type": kind}
            tables[kind] = _table(rotary, arguments, attention, max(64, longest), dtype, device)
        like = _settings(attention)
        if like not in reads:
            reads[like] = _reads_positions(attention, config, number, 2 * tables[kind].pairs)
        found.append(tables[kind] if reads[like] else None)
    return found


def _settings(attention: Any) -> tuple[Any, ...]:
    """Give what a layer's attention may decide by: layers that have the same are alike."""
    kinds = (bool, int, float, str, type(None))
    plain = ((k, v) for k, v in vars(attention).items() if k != "layer_idx" and type(v) in kinds)
    return type(attention), *sorted(plain)


def _reads_positions(attention: Any, config: Any, number: int, width: int) -> bool:
    """Whether what a layer gives follows from the positions it is told (not all of EXAONE 4's).

    Autograd knows, of a like layer without weights. Where there is none the layer's own word
    counts (SmolLM 3 has one), and the check at set-up has the last.
    """
    try:
        with torch.device("meta"), torch.enable_grad():
            like = type(attention)(config, layer_idx=number)
            cos, sin = (torch.ones(1, 2, width, requires_grad=True) for _ in range(2))
            x = torch.ones(1, 2, config.hidden_size)
            out = like(x, position_embeddings=(cos, sin), attention_mask=None)[0]
            found = torch.autograd.grad(out.sum(), (cos, sin), allow_unused=True)
    except Exception:  # a module's own code may raise anything; its word counts then
        return bool(getattr(attention, "use_rope", True))
    return any(one is not None for one in found)


def _kind(config: Any, attention: Any, number: int) -> str:
    own = getattr(attention, "layer_type", None)
    return str(own or config.layer_types[number])


def _table(
    rotary: Any,
    arguments: dict[str, str],
    attention: Any,
    tokens: int,
    dtype: torch.dtype,
    device: Any,
) -> Turns:
    at = next((one.device for one in rotary.buffers()), device)
    positions = torch.arange(tokens, device=at)[None]
    cos, sin = rotary(torch.zeros(1, 1, 1, dtype=dtype, device=at), positions, **arguments)
    pairs, size = cos.shape[-1] // 2, attention.head_dim
    if cos.shape[-1] > size or cos.shape[-1] % 2:
        raise NotRecognised("positions of unusual width")
    neighbours = _turns_neighbours(attention, cos.shape[-1])
    doubled = all(
        torch.equal(one[..., :pairs], one[..., pairs:])
        or torch.equal(one[..., 0::2], one[..., 1::2])
        for one in (cos, sin)
    )
    if not doubled:
        raise NotRecognised("positions that turn each number of a head by itself")
    in_halves = torch.equal(cos[..., :pairs], cos[..., pairs:])
    own = slice(0, pairs) if in_halves else slice(0, None, 2)
    return Turns(
        cos=cos[0, :, own].float().contiguous().to(device),
        sin=sin[0, :, own].float().contiguous().to(device),
        neighbours=neighbours,
    )


def _turns_neighbours(attention: Any, width: int) -> bool:
    """Try the family's own function, where it has one, on numbers: halves or neighbours.

    A function that is of neither kind, or wants other arguments, is left to the check at set-up.
    """
    turn = getattr(sys.modules.get(type(attention).__module__), "apply_rotary_pos_emb", None)
    if turn is None:
        return False
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 1, width, generator=dice)
    angle = torch.linspace(0.1, 1.5, width // 2)
    cos, sin = (torch.cat((one, one))[None, None] for one in (angle.cos(), angle.sin()))
    try:
        turned = turn(x, x, cos, sin)[0]
    except (TypeError, RuntimeError, IndexError):
        return False
    a, b = x[..., 0::2], x[..., 1::2]
    wanted = torch.stack(
        (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1
    )
    return bool(torch.allclose(turned, wanted.flatten(-2), atol=1e-5))
