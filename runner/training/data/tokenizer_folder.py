"""Tokenizer folder: read as its tokenizer.json says; written as the base's files, little changed.

What is written is what people load the adapter with, in tools that are older or other than ours. So
the base model's own files are copied, and only what was chosen is changed in them: the end token,
the padding token, and a chat template where the model had none. generation_config.json says where
generation has to stop.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from runner.training.data.template import Template

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
GENERATION = "generation_config.json"
_MAP = "special_tokens_map.json"
_PROCESSORS = "chat_template.json"  # written by processors of transformers before 4.50
_OWN_FILES = (
    TOKENIZER,
    "chat_template.jinja",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
_LEFT_BEHIND = ("backend", "is_local", "local_files_only", "name_or_path", "tokenizer_file")
"""Settings of the process that saved a tokenizer, which transformers 5 writes down with it."""
_V5_CLASS, _ANY_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
"""transformers 5 calls a tokenizer that is all tokenizer.json by a name that 4 does not know; both
know the other."""
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer as its tokenizer.json has it, where there is one; and its chat template.

    Models that also read pictures may keep that in chat_template.json, read by processors alone.
    """
    tokenizer = _load(folder, trust_remote_code=trust_remote_code)
    kept_apart = _read(folder / _PROCESSORS).get("chat_template")
    if not tokenizer.chat_template and isinstance(kept_apart, str):
        tokenizer.chat_template = kept_apart
    return tokenizer


def damaged_file(folder: Path) -> str | None:
    """Name the first of a tokenizer's files that is not JSON, with the line; None: all are.

    Libraries say of such a file only "Expecting value: line 2", and not which it is.
    """
    for name in (TOKENIZER, CONFIG, _MAP, "added_tokens.json", "vocab.json", _PROCESSORS):
        try:
            json.loads((folder / name).read_bytes())
        except OSError:
            continue  # not there, or told by whoever reads it
        except json.JSONDecodeError as error:
            return f"{name} is not valid JSON from line {error.lineno} on"
        except ValueError:
            return f"{name} is not valid JSON: it is no UTF-8"
    return None


def _load(folder: Path, *, trust_remote_code: bool) -> Any:
    """Load a tokenizer as its tokenizer.json has it, where there is one.

    AutoTokenizer of transformers 5 goes by a class's name, and some of those classes bring rules of
    their own: a `qwen2` model with another tokenizer.json is then read in other tokens than the
    model was trained on. (It also imports torch, which takes seconds.)
    """
    if (folder / TOKENIZER).is_file():
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if tokenizer.eos_token is not None:
            return tokenizer
        # Older models leave their end token to the class of their tokenizer, GPT-2 for one.
        for name, token in _tokens_of_class(folder, trust_remote_code=trust_remote_code).items():
            if getattr(tokenizer, name) is None:
                setattr(tokenizer, name, token)
        return tokenizer
    return _load_by_class(folder, trust_remote_code=trust_remote_code)


def _load_by_class(folder: Path, *, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trust_remote_code
    )


def _tokens_of_class(folder: Path, *, trust_remote_code: bool) -> dict[str, str]:
    try:
        found = _load_by_class(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError):
        return {}  # tokenizer.json alone does as well
    named = {name: getattr(found, name) for name in _NAMED}
    return {name: token for name, token in named.items() if token is not None}


def write_tokenizer(template: Template, base: Path, target: Path) -> None:
    """Write what was encoded with: the base's files, the end and pad tokens, where to stop.

    Args:
        template: after every row was encoded, so that the ends that are learned are known.
        base: the base model's folder.
        target: a folder; what lies there is replaced.
    """
    template.stop_where_answers_end()
    tokenizer = template.tokenizer
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in _OWN_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, target / name)
    if not (target / TOKENIZER).is_file():
        tokenizer.backend_tokenizer.save(str(target / TOKENIZER))
    chosen = {
        name: str(token)
        for name in ("eos_token", "pad_token")
        if (token := getattr(tokenizer, name)) is not None
    }
    config = _read(base / CONFIG)
    special = _read(base / _MAP)
    has_own = (target / "chat_template.jinja").is_file() or "chat_template" in config
    given = template.chat_template != "model's own" or not has_own
    if given and isinstance(tokenizer.chat_template, str):
        chosen["chat_template"] = tokenizer.chat_template
        (target / "chat_template.jinja").write_text(tokenizer.chat_template)
    _write(target / CONFIG, _changed(config, chosen, class_name=type(tokenizer).__name__))
    if special:
        known = {name: token for name, token in chosen.items() if name != "chat_template"}
        _write(target / _MAP, _with(special, known))
    _write(target / GENERATION, _generation(template, base))


def _changed(config: dict[str, Any], chosen: dict[str, str], *, class_name: str) -> dict[str, Any]:
    """Change a base's tokenizer_config.json: what was chosen, and what older tools cannot read."""
    kept = {key: value for key, value in config.items() if key not in _LEFT_BEHIND}
    named = kept.get("tokenizer_class") or class_name
    if named == _V5_CLASS or kept.pop("auto_map", None):
        named = _ANY_CLASS  # a class in code of its own is not copied: tokenizer.json says it all
    kept["tokenizer_class"] = named
    if named == _ANY_CLASS:
        # transformers 4 gives token_type_ids otherwise, which no model that writes text takes.
        kept.setdefault("model_input_names", ["input_ids", "attention_mask"])
    more = kept.get("extra_special_tokens")
    if isinstance(more, list):  # transformers 5's form; 4 wants an object here
        del kept["extra_special_tokens"]
        kept["additional_special_tokens"] = [
            *kept.get("additional_special_tokens", ()),
            *more,
        ]
    return _with(kept, chosen)


def _with(config: dict[str, Any], chosen: dict[str, str]) -> dict[str, Any]:
    """Set what differs; a token is written as text or as an object with its text in it."""
    changed = dict(config)
    for name, token in chosen.items():
        found = config.get(name)
        if (found.get("content") if isinstance(found, dict) else found) != token:
            changed[name] = token
    return changed


def _generation(template: Template, base: Path) -> dict[str, Any]:
    """Give the base's generation_config.json with the ends that were learned before its own."""
    config, model = _read(base / GENERATION), _read(base / "config.json")
    config.pop("_from_model_config", None)  # transformers would put the model's own values back
    ends = [*template.ends, template.tokenizer.eos_token_id]
    for found in (config.get("eos_token_id"), model.get("eos_token_id")):
        ends += found if isinstance(found, list) else [found]
    config["eos_token_id"] = list(dict.fromkeys(end for end in ends if isinstance(end, int)))
    if template.tokenizer.pad_token_id is not None:
        config["pad_token_id"] = template.tokenizer.pad_token_id
    if template.tokenizer.bos_token_id is not None:
        config.setdefault("bos_token_id", template.tokenizer.bos_token_id)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
