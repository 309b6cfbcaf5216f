"""Version of this image: that of the runner's own sources and of the libraries that train.

A run must not begin on one version and go on by another in silence; so boxes that work together
compare this word (docs/cluster.md).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

from runner import __version__

STACK = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets")
_ROOT = Path(__file__).parents[1]
_SOURCES = (".py", ".toml", ".txt")


@functools.cache
def image_version() -> str:
    """Give the version, such as ``0.1.0-3f9c22ab``; read once, some 500 small files."""
    digest = hashlib.sha256(platform.python_version().encode())
    for name in STACK:
        try:
            digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
        except importlib.metadata.PackageNotFoundError:
            continue
    for path in sorted(_ROOT.rglob("*")):
        if path.suffix in _SOURCES and path.is_file():
            digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{__version__}-{digest.hexdigest()[:8]}"
