"""Base cache: a model's 4-bit weights, quantised once, kept in outputs/.runner/bases.

Quantising reads 16 GB of an 8B model where 5 are needed. An entry's key names the model's files (by
size, time and place on the disk: any change to one makes another key), the settings of the
quantisation and the libraries. The weights are bitsandbytes' own, so an entry gives the very same
model. It may be deleted at any time; one that cannot be used is removed and made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract.base_entries import ENTRY_FACTS, make_room_for, read_entry_facts
from runner.files.durable import TEMPORARY_PREFIX, sync_folder, write_bytes
from runner.files.sweep import discard_folder
from runner.files.unreadable import is_of_storage

_VERSION = 1  # of an entry's own form
_LIBRARIES = ("torch", "transformers", "bitsandbytes", "safetensors", "accelerate")
_SHARD_BYTES = 512 * 1024**2
"""One file's: so much of the host's memory is taken while an entry is written."""
_GENERATION = "generation_config.json"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class BaseCache:
    """Where entries are, and what they leave free of the disk."""

    folder: Path
    leave_bytes: int
    keeps: bool = True
    """New entries are made; of several ranks the first alone makes them."""

    def entry(self, model: Path, facts: dict[str, Any]) -> Path:
        """Give the place of a model's entry, whether it is there or not."""
        return self.folder / entry_key(model, facts)


def entry_key(model: Path, settings: dict[str, Any]) -> str:
    """Name what quantised weights follow from."""
    facts = {
        "version": _VERSION,
        "libraries": [importlib.metadata.version(name) for name in _LIBRARIES],
        "config": hashlib.sha256((model / "config.json").read_bytes()).hexdigest(),
        "weights": [_identity(path) for path in sorted(model.glob("*.safetensors*"))],
        "settings": settings,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _identity(path: Path) -> tuple[str, int, int, int, int]:
    """Tell a file from any other content that it may get: nobody can set the time of a change."""
    facts = path.stat()
    return path.name, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def is_usable(entry: Path) -> bool:
    """Whether an entry is there, with each file as long as it was written; notes that it is used.

    One that is not whole is removed.
    """
    if not entry.exists():
        return False
    try:
        sizes = read_entry_facts(entry)["files"]
        if not isinstance(sizes, dict) or _INDEX not in sizes:
            raise ValueError("no files")
        if any((entry / name).stat().st_size != size for name, size in sizes.items()):
            raise ValueError("another size")
        with contextlib.suppress(OSError):
            os.utime(entry / ENTRY_FACTS)
    except (OSError, ValueError, KeyError) as error:
        if not is_of_storage(error):
            forget(entry)
        return False
    return True


def forget(entry: Path) -> None:
    """Remove an entry that cannot be used."""
    with contextlib.suppress(OSError):
        discard_folder(entry)


def keep(cache: BaseCache, entry: Path, model: Any, folder: Path) -> threading.Thread | None:
    """Write a model's weights as they are now; None: the disk has no room, or writing failed.

    Returns:
        What waits for the disk and then gives the entry its name: a run need not.
    """
    from safetensors import SafetensorError

    weights = model.state_dict()
    needed = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    beside = cache.folder / f"{TEMPORARY_PREFIX}{os.urandom(6).hex()}"
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        if not make_room_for(cache.folder, needed, leave=cache.leave_bytes):
            return None
        beside.mkdir()
        _write(beside, weights)
        if (folder / _GENERATION).is_file():
            shutil.copyfile(folder / _GENERATION, beside / _GENERATION)
    except (OSError, SafetensorError) as error:  # a full disk, above all: the run goes on without
        print(f"The 4-bit weights could not be kept ({type(error).__name__}).", flush=True)
        shutil.rmtree(beside, ignore_errors=True)
        return None
    thread = threading.Thread(
        target=_finish, args=(beside, entry, folder), name=f"keeps {entry.name}", daemon=True
    )
    thread.start()
    return thread


def _write(beside: Path, weights: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(weights)):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, beside / name, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, name)
    (beside / _INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _shards(weights: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Cut the weights into files, in the host's memory; a weight with two names is written once."""
    shard: dict[str, Any] = {}
    size, seen = 0, set()
    for name, tensor in weights.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.dtype)
        if tensor.numel() and place in seen:
            continue  # a tied head
        seen.add(place)
        shard[name] = tensor.detach().to("cpu").contiguous()
        size += tensor.numel() * tensor.element_size()
        if size >= _SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def _finish(beside: Path, entry: Path, folder: Path) -> None:
    """Give the entry its name once every byte is on the disk."""
    try:
        for path in beside.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sizes = {path.name: path.stat().st_size for path in beside.iterdir()}
        facts = {"folder": str(folder), "files": sizes}
        write_bytes(beside / ENTRY_FACTS, json.dumps(facts).encode())
        os.rename(beside, entry)
        sync_folder(entry.parent)
    except OSError:  # another run was quicker, or the disk failed: there is the model itself
        shutil.rmtree(beside, ignore_errors=True)
