"""Model shape: the sizes in config.json that a model's memory follows from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "vocabulary": ("vocab_size",),
}
"""What each size is called in the configs of the model families."""


_UNGATED = frozenset(
    {
        "bloom",
        "codegen",
        "falcon",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "mpt",
        "nemotron",
        "phi",
        "starcoder2",
    }
)
"""Families whose MLP has two matrices, up and down, where most have a gate as a third."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One linear layer of a block, as its adapter sees it."""

    name: str
    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Weights, without a bias: those are too few to matter."""
        return self.inputs * self.outputs


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder of equal blocks, as nearly all causal language models are."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    """Input and output embeddings are one tensor."""
    linears: tuple[Linear, ...]
    """Of one block; they are quantised and get adapters."""
    expert_parameters: int = 0
    """Of one block's experts beyond the linears; libraries keep them in 16 bits, unadapted."""

    @property
    def attention(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_size

    @property
    def kv(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * self.head_size

    @property
    def block_parameters(self) -> int:
        """Weights of one block's linear layers."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """Of the embeddings and the head: they stay in 16 bits."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All of them."""
        blocks = self.layers * (self.block_parameters + self.expert_parameters + 2 * self.hidden)
        return blocks + self.embedding_parameters + self.hidden


def read_shape(config: dict[str, Any]) -> ModelShape | None:
    """Read the sizes out of a config; None where it names them in no way known here."""
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {**config, **text}
    sizes = {name: _first(config, *keys) for name, keys in _NAMES.items()}
    hidden, layers, heads, vocabulary = (sizes[name] for name in _NAMES)
    if hidden is None or layers is None or heads is None or vocabulary is None:
        return None
    kv_heads = _first(config, "num_key_value_heads", "num_kv_heads") or heads
    head_size = _first(config, "head_dim") or max(1, hidden // heads)
    gated = (
        _first(config, "n_embd", "ffn_dim") is None  # GPT-2's kind and OPT's have two matrices
        and config.get("model_type") not in _UNGATED
    )
    intermediate = _first(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts") or 0
    expert_size = _first(config, "moe_intermediate_size") or intermediate
    wide = heads * head_size
    narrow = kv_heads * head_size
    linears = [
        Linear(name="q_proj", inputs=hidden, outputs=wide),
        Linear(name="k_proj", inputs=hidden, outputs=narrow),
        Linear(name="v_proj", inputs=hidden, outputs=narrow),
        Linear(name="o_proj", inputs=wide, outputs=hidden),
    ]
    if not experts:
        linears += [
            *([Linear(name="gate_proj", inputs=hidden, outputs=intermediate)] if gated else []),
            Linear(name="up_proj", inputs=hidden, outputs=intermediate),
            Linear(name="down_proj", inputs=intermediate, outputs=hidden),
        ]
    used = _first(config, "num_experts_per_tok", "moe_topk") or 1
    return ModelShape(
        hidden=hidden,
        intermediate=expert_size * used if experts else intermediate,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        vocabulary=vocabulary,
        # Config classes leave out what is their default: most tie nothing, small ones say so.
        tied=config.get("tie_word_embeddings") is True,
        linears=tuple(linears),
        expert_parameters=3 * hidden * expert_size * experts,
    )


def _first(config: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
