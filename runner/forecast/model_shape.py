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

_NORMS_BEHIND = frozenset(
    {"gemma2", "gemma3_text", "glm4", "olmo2", "olmo3", "exaone4", "flex_olmo"}
)
"""Families with a norm behind attention and behind the MLP: what it reads is kept, too."""

_HEADS_OF_GEMMA = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
_SIZE_OF_GEMMA = {"hidden_size": 2304, "intermediate_size": 9216, "tie_word_embeddings": True}
DEFAULTS: dict[str, dict[str, int | bool]] = {
    "gemma3_text": {
        **_SIZE_OF_GEMMA,
        **_HEADS_OF_GEMMA,
        "num_hidden_layers": 26,
        "vocab_size": 262208,
    },
    "gemma4_text": {
        **_SIZE_OF_GEMMA,
        **_HEADS_OF_GEMMA,
        "num_hidden_layers": 30,
        "vocab_size": 262144,
        "hidden_size_per_layer_input": 256,
    },
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    },
    "llama4_text": {
        "hidden_size": 5120,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 202048,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
    "qwen2": {
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 151936,
    },
    "qwen3_5_text": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 248320,
    },
}
"""What the config classes of transformers take where a config says nothing (a test compares them).
The text parts of Gemma 3 and of LLaVA on the hub name little more than what differs from these."""


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
    per_layer_embedding: int = 0
    """Width of a table of words that each layer has of its own, as in Gemma 4's small models."""
    norms_behind: bool = False
    """A norm stands behind attention and behind the MLP."""
    factor_behind: bool = False
    """What both give is multiplied before it is added (Granite)."""
    capped_scores: bool = False
    """Attention's scores are capped (Gemma 2)."""

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
        tables = self.hidden * (1 if self.tied else 2) + self.layers * self.per_layer_embedding
        return self.vocabulary * tables

    @property
    def parameters(self) -> int:
        """All of them."""
        blocks = self.layers * (self.block_parameters + self.expert_parameters + 2 * self.hidden)
        return blocks + self.embedding_parameters + self.hidden


def read_shape(config: dict[str, Any]) -> ModelShape | None:
    """Read the sizes out of a config; None where it names them in no way known here.

    Of a model that also reads pictures they are its language part's: the rest is loaded with it,
    but gone before the first batch.
    """
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {**config, **text}
    config = {**DEFAULTS.get(str(config.get("model_type")), {}), **config}
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
        per_layer_embedding=_first(config, "hidden_size_per_layer_input") or 0,
        capped_scores=bool(config.get("attn_logit_softcapping")),
        factor_behind=config.get("residual_multiplier", 1.0) != 1,
        norms_behind=config.get("model_type") in _NORMS_BEHIND,
        expert_parameters=3 * hidden * expert_size * experts,
    )


def _first(config: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
