"""Planted faults of tests/mutation: each can still be planted in the code as it is now."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_LIST = """
import json, sys
sys.path.insert(0, sys.argv[1])
from run import MUTATIONS
print(json.dumps([[m.what, m.file, m.old, m.new, m.tests] for m in MUTATIONS]))
"""


def test_every_fault_finds_its_place_and_its_tests() -> None:
    """Code that moved takes its faults along, or a run of them would show nothing."""
    folder = str(REPOSITORY / "tests" / "mutation")
    words = [sys.executable, "-c", _LIST, folder]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    lost = []
    for what, file, old, new, tests in json.loads(listed):
        path = REPOSITORY / "runner" / file
        if not path.is_file() or old not in path.read_text() or old == new:
            lost.append(f"{what}: {file}")
        named = [word.split("::")[0] for word in tests if word.startswith("tests/")]
        lost += [f"{what}: {name}" for name in named if not (REPOSITORY / name).exists()]
    assert lost == []
