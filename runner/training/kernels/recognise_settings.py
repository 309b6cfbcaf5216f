"""Settings of a model that the fast path does not do: known from its config alone."""

from __future__ import annotations

from typing import Any

from runner.training.kernels.not_recognised import NotRecognised

_REFUSED = {
    "attention_dropout": "dropout in attention",
    "clip_qkv": "clipped queries and keys (clip_qkv)",
}


def refuse_settings(config: Any, longest: int) -> None:
    """Refuse what no layer shows.

    Args:
        config: the text model's.
        longest: tokens of the longest row: what begins beyond it changes nothing.

    Raises:
        NotRecognised: with the setting.
    """
    for name, what in _REFUSED.items():
        if getattr(config, name, None):
            raise NotRecognised(what)
    for rope in rope_settings(config):
        _refuse_rope(config, rope, longest)
    chunk = getattr(config, "attention_chunk_size", None)
    if chunk is not None and longest > chunk:
        raise NotRecognised("attention in chunks")


def rope_settings(config: Any) -> list[dict[str, Any]]:
    """Give the settings of positions, of each kind of layer that has its own (Gemma 3)."""
    rope = getattr(config, "rope_parameters", None) or {}
    of_kinds = [one for one in rope.values() if isinstance(one, dict)]
    return of_kinds or [rope]


def _refuse_rope(config: Any, rope: dict[str, Any], longest: int) -> None:
    """Refuse positions that change with the length of a row, where a row is so long."""
    kind = rope.get("rope_type", "default")
    starts = rope.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    if kind == "dynamic":
        starts = config.max_position_embeddings  # the library's own measure, whatever is named
    elif kind != "longrope" and not rope.get("llama_4_scaling_beta"):
        return
    if starts is None or longest > starts:
        upto = "" if starts is None else f" beyond {starts:,} tokens"
        raise NotRecognised(f"positions that depend on the length of a row{upto}")
