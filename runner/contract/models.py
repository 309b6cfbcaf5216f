"""Base models on the box: find the one that a spec names, and check that it is whole and usable.

No torch here: a folder is judged by its config.json and by the headers of its safetensors files.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from runner.contract.model_kind import Method, adapter_base, kind_problem, language_part
from runner.contract.record import ModelFacts
from runner.errors import ModelError, Problem
from runner.words import visible

_CONFIG_BYTES = 4 * 1024 * 1024  # configs are a few KB; index files of large models under 1 MB
_HEADER_BYTES = 100 * 1024 * 1024  # the limit that safetensors itself sets
DEMO_MODEL = "smollm2-135m-instruct"
"""What `runner fetch demo` puts on the box."""
_DEMO_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
FETCHED = "runner-fetched.json"  # beside a fetched model: which one it is on the hub
_LFS = b"version https://git-lfs"
_POINTER = "{} is not the file itself: the folder was copied with git, without git-lfs"
_FETCH = "Fetch it again with: {}"
_IMAGE_PREFIX = "/opt/runner"  # where the Dockerfile puts the packages
_INDEX = "model.safetensors.index.json"
_PLAIN_NUMBERS = ("BF16", "F16", "F32")
"""Of tensors whose shape in the file is the layer's; quantised ones are packed."""
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})


def _refuse(name: str, message: str, *, hint: str | None = None) -> ModelError:
    return ModelError([Problem(field="model", found=name, message=message, hint=hint)])


def fetch_command(name: str) -> str:
    """Give the command that brings a model; a name without its organisation is no hub id."""
    hub_id = name if "/" in name else f"ORGANISATION/{name}"
    if sys.prefix == _IMAGE_PREFIX:  # the runner there has no network: a service of its own has
        return f"docker compose run --rm fetch {hub_id}"
    return "runner fetch demo" if name == DEMO_MODEL else f"runner fetch {hub_id}"


def hub_id(folder: Path, name: str) -> str | None:
    """Give the name of a model on the Hugging Face hub, where it is known.

    Args:
        folder: the model's on this box.
        name: what a spec calls it: a hub id, or a name of the box's own.
    """
    try:
        fetched = json.loads((folder / FETCHED).read_bytes())
        if isinstance(fetched["id"], str):
            return fetched["id"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # it came here in another way
    if name == DEMO_MODEL:
        return _DEMO_HUB_ID
    return name if name.count("/") == 1 else None


def models_on_box(models_dir: Path) -> list[str]:
    """List the names under which models can be used: ``name`` or ``org/name``."""
    found = [
        path.parent.relative_to(models_dir).as_posix()
        for pattern in ("*/config.json", "*/*/config.json")
        for path in models_dir.glob(pattern)
    ]
    return sorted(name for name in found if not name.startswith("."))


def find_model(models_dir: Path, name: str, *, method: Method | None = None) -> Path:
    """Give the folder of a base model that is on the box and can be fine-tuned.

    Args:
        models_dir: the box's models folder.
        name: as a spec has it.
        method: the spec's; None where none is known yet.

    Raises:
        ModelError: it is not there (names ``runner fetch``), is no causal language model, has no
            whole safetensors weights, or leads outside the models folder.
    """
    parts = PurePosixPath(name).parts
    odd = any(part in ("..", "/") or part.startswith(".") for part in parts)
    if not 1 <= len(parts) <= 2 or odd or "\\" in name or "\0" in name:
        raise _refuse(
            name,
            "this is not the name of a model",
            hint="Write a name under models/, or a hub id such as org/name.",
        )
    folder = models_dir.joinpath(*parts)
    if not folder.is_dir():
        near = difflib.get_close_matches(name, models_on_box(models_dir), n=1)
        raise _refuse(
            name,
            "the model is not on this box",
            hint=(f"Did you mean {near[0]}? Otherwise fetch" if near else "Fetch")
            + f" it with: {fetch_command(name)}",
        )
    _refuse_links_that_leave(models_dir, folder, name)
    if not (folder / "config.json").is_file() and any(folder.glob("*.gguf")):
        raise _refuse(
            name,
            "this folder holds a model for llama.cpp and Ollama (.gguf), which cannot be trained",
            hint=f"Fetch the original model (safetensors) with: {fetch_command(name)}",
        )
    if adapter_base(folder):
        raise _refuse(
            name,
            "this folder holds an adapter (adapter_config.json), not a base model",
            hint="Name the base model that the adapter was made for.",
        )
    if (folder / "adapter_config.json").is_file():
        # transformers would go by it and load the base that the adapter names, not this folder.
        raise _refuse(
            name,
            "this folder holds a base model and an adapter (adapter_config.json) beside it",
            hint="Move adapter_config.json and adapter_model.safetensors into a folder of their "
            "own; what is left is the base model.",
        )
    files = sorted(path.name for path in folder.iterdir())
    problem = kind_problem(name, read_config(folder, name), files=files, method=method)
    if problem is not None:
        raise ModelError([problem])
    _require_whole_weights(folder, name)
    if _is_pointer(folder / "tokenizer.json"):
        what = _POINTER.format("tokenizer.json")
        raise _refuse(name, what, hint=_FETCH.format(fetch_command(name)))
    return folder


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Read a model's config.json."""
    return _read_json(folder / "config.json", name)


def longest_context(config: dict[str, Any]) -> int | None:
    """Give the number of tokens that the model was built for, where its config says so."""
    text = config.get("text_config")  # where a model also reads pictures
    for part in (text if isinstance(text, dict) else {}, config):
        for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
            value = part.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def table_of_words(config: dict[str, Any]) -> int | None:
    """Give the number of tokens that the model has a row for, where its config says so."""
    text = config.get("text_config")  # where a model also reads pictures
    for part in (text if isinstance(text, dict) else {}, config):
        value = part.get("vocab_size")
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def unknown_layers(folder: Path, name: str, wanted: str | list[str]) -> Problem | None:
    """Refuse names in ``lora.target_modules`` that no layer has, where the weight files tell.

    Only where layers are called as Llama's are and there are no experts: other weights may get
    other names when they are loaded. Prepare tries every model exactly.
    """
    if isinstance(wanted, str):
        return None
    tensors = [key for path in weight_files(folder, name) for key in _read_header(path, name)]
    if (part := language_part(read_config(folder, name))) is not None:
        within = part.path.removesuffix(".model").rsplit(".", 1)[-1]  # in old layouts, too
        tensors = [key for key in tensors if f"{within}." in key] or tensors
    layers = {key.removesuffix(".weight").rsplit(".", 1)[-1] for key in tensors}
    if "q_proj" not in layers or any(".experts." in key for key in tensors):
        return None
    parts = {part for key in tensors for part in key.split(".")}
    missing = [one for one in wanted if one.rsplit(".", 1)[-1] not in parts | {"lm_head"}]
    if not missing:
        return None
    known = sorted(layer for layer in layers if layer.endswith("_proj"))
    near = [(one, difflib.get_close_matches(one, known, n=1)) for one in missing]
    meant = ", ".join(f"{found[0]} instead of {one}" for one, found in near if found)
    return Problem(
        field="lora.target_modules",
        found=", ".join(missing),
        message=f"the model has no layer named {', '.join(missing)}; its layers are "
        + ", ".join(known),
        hint=(f"Did you mean {meant}? " if meant else "") + "Or write all-linear.",
    )


def describe_model(folder: Path, name: str) -> ModelFacts:
    """Say which model this is; the hash covers config, weight names, sizes, headers."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    parameters = 0
    for path in weight_files(folder, name):
        header = _read_header(path, name)
        digest.update(f"\n{path.name} {path.stat().st_size} ".encode())
        digest.update(hashlib.sha256(json.dumps(header, sort_keys=True).encode()).digest())
        parameters += sum(
            math.prod(tensor["shape"]) for key, tensor in header.items() if key != "__metadata__"
        )
    config = read_config(folder, name)
    revision = config.get("_commit_hash")
    return ModelFacts(
        id=name,
        revision=revision if isinstance(revision, str) else None,
        sha256=digest.hexdigest(),
        architecture=config["architectures"][0],
        parameters=parameters,
    )


def _refuse_links_that_leave(models_dir: Path, folder: Path, name: str) -> None:
    """Links within models/ are the hub cache's habit; one that leads out could read anything."""
    root = models_dir.resolve()
    for path in (folder, *folder.iterdir()):
        if not path.resolve().is_relative_to(root):
            raise _refuse(
                name,
                f"{path.name!r} is a link that leaves the models folder",
                hint="Copy the model itself into the models folder.",
            )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(visible, names[:3])) + more


def _read_json(path: Path, name: str) -> dict[str, Any]:
    again = _FETCH.format(fetch_command(name))
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            raise _refuse(name, f"{path.name} is far larger than such a file can be", hint=again)
        content = json.loads(path.read_bytes())
    except OSError:
        raise _refuse(name, f"the model's folder has no readable {path.name}", hint=again) from None
    except (ValueError, RecursionError):
        raise _refuse(name, f"{path.name} is not valid JSON", hint=again) from None
    if not isinstance(content, dict):
        raise _refuse(name, f"{path.name} is not a JSON object", hint=again)
    return content


def weight_files(folder: Path, name: str) -> list[Path]:
    """List the files that are loaded: those of the index, or the only one.

    A folder may hold the same weights a second time (Mistral's consolidated.safetensors): counted
    twice, a model would seem to need twice the memory.

    Raises:
        ModelError: one is missing, or no index says which files belong together.
    """
    again = _FETCH.format(fetch_command(name))
    index, whole = folder / _INDEX, folder / "model.safetensors"
    if index.exists():
        weight_map = _read_json(index, name).get("weight_map")
        wanted = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        if not wanted or any(not isinstance(w, str) or os.path.basename(w) != w for w in wanted):
            raise _refuse(name, "the list of weight files is not usable", hint=again)
        missing = sorted(w for w in wanted if not (folder / w).is_file())
        if missing:
            raise _refuse(name, f"weight files are missing, {missing[0]} first", hint=again)
        if not whole.is_file():  # transformers takes it before it looks at an index
            return [folder / w for w in sorted(wanted)]
    if whole.is_file():
        return [whole]
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if there:
        raise _refuse(
            name,
            f"the weights are there in part ({_named(there)}): a model has one file "
            "model.safetensors, or several with their list model.safetensors.index.json",
            hint=again,
        )
    suffixes = {path.suffix for path in folder.iterdir()}
    what = "only pickled weights, which can run code" if suffixes & _PICKLES else "no weights"
    if ".gguf" in suffixes:  # quantised for inference, and read by other programs
        what = "weights for llama.cpp and Ollama alone (.gguf)"
    raise _refuse(
        name,
        f"the model's folder has {what}; weights must be .safetensors",
        hint=f"Fetch a safetensors version of it with: {fetch_command(name)}",
    )


def _require_whole_weights(folder: Path, name: str) -> None:
    words = table_of_words(read_config(folder, name))
    tables = [
        tensor["shape"][0]
        for path in weight_files(folder, name)
        for key, tensor in _read_header(path, name).items()
        if key.endswith("embed_tokens.weight") and tensor["dtype"] in _PLAIN_NUMBERS
    ]
    if words is not None and len(tables) == 1 and tables[0] != words:
        raise _refuse(
            name,
            f"config.json says {words} tokens, and the weights have {tables[0]}: these are files "
            "of two models",
            hint=_FETCH.format(fetch_command(name)),
        )


def _is_pointer(path: Path) -> bool:
    """Whether a file is what git leaves in the place of a large one that it did not bring."""
    try:
        with path.open("rb") as file:
            return file.read(len(_LFS)) == _LFS
    except OSError:
        return False


def _read_header(path: Path, name: str) -> dict[str, Any]:
    """Read a safetensors header and check that the file is as long as the header says."""
    broken = _refuse(
        name,
        f"{path.name} is cut off or damaged",
        hint=_FETCH.format(fetch_command(name)),
    )
    if _is_pointer(path):
        raise _refuse(name, _POINTER.format(path.name), hint=_FETCH.format(fetch_command(name)))
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _HEADER_BYTES:
                raise broken
            header = json.loads(file.read(length))
        tensors = [tensor for key, tensor in header.items() if key != "__metadata__"]
        end = max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        if 8 + length + end != path.stat().st_size:
            raise broken
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError):
        raise broken from None
    return dict(header)
