"""Holds docs/architecture.md to the files that there are."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()


def test_the_file_map_is_fresh():
    """Every module stands in the map with its first sentence; `.ci/file-map --write` renews it."""
    script = [sys.executable, str(REPOSITORY / ".ci" / "file-map")]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert printed.strip() in PAGE, "run: .ci/file-map --write"


def test_every_module_says_what_it_turns_into_what():
    """The map is of use because each line of it ends as a sentence."""
    lines = re.findall(r"^\| `(\S+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(lines) > 50
    assert [name for name, sentence in lines if not sentence.endswith((".", "?"))] == []


def test_the_ten_questions_lead_to_files_that_exist() -> None:
    """A newcomer's questions are answered by a file's name."""
    named = re.findall(r"^\| Where .*\? \| `(\S+)` \|$", PAGE, re.MULTILINE)
    assert len(named) == 10
    assert [name for name in named if not (REPOSITORY / "runner" / name).is_file()] == []
