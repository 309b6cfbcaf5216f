"""No module imports upwards: what lies below never knows of what lies above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2] / "runner"
LAYERS = (
    ("errors", "words", "clock", "exit_codes"),
    ("language",),
    ("files",),
    ("contract",),
    ("notices",),
    ("spec",),
    ("forecast",),
    ("card",),
    ("training",),
    ("daemon", "doctor", "report"),
    ("agent",),
    ("commands",),
    ("office",),
    ("cli",),
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
APART = ("daemon", "doctor", "report")
SAME_HEIGHT_APART = {(one, other) for one in APART for other in APART if one != other}


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Give the rooms that a module imports from, wherever in it, and the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "runner" and rest:
                yield rest.split(".")[0], node.lineno


def test_nothing_imports_upwards() -> None:
    """Each room knows those below it alone, and the daemon and the doctor not each other."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for other, line in imports_of(path):
            upwards = HEIGHT.get(other, 0) > HEIGHT.get(room, len(LAYERS))
            if upwards or (room, other) in SAME_HEIGHT_APART:
                found.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
    assert not found
