"""Heads of a layer's attention: how many, how wide, and what each token sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Heads:
    """How a layer's attention is made up."""

    q_heads: int
    kv_heads: int
    size: int
    scale: float
    window: int | None
    """Tokens that a token sees, itself included; None: all before it."""
    cap: float = 0.0
    """Scores go through ``cap`` × tanh(score / ``cap``) (Gemma 2); 0: they do not."""

    @property
    def width(self) -> int:
        """Columns of queries, keys and values side by side."""
        return (self.q_heads + 2 * self.kv_heads) * self.size

    def split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """View queries, keys and values: lines × heads × size."""
        q, k = self.q_heads * self.size, self.kv_heads * self.size
        parts = qkv[:, :q], qkv[:, q : q + k], qkv[:, q + k :]
        query, key, value = (part.view(qkv.shape[0], -1, self.size) for part in parts)
        return query, key, value
