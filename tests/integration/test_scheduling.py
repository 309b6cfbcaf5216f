"""docs/schedule.md, followed to the letter."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from daemon_box import REPOSITORY, Box, wait_until

from runner.contract.states import State
from runner.spec.names import is_spec_name

PAGE = (REPOSITORY / "docs" / "schedule.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_a_spec_is_dropped_again_and_again(tmp_path: Path) -> None:
    """Each call of the page's script is a run; nothing is left beside."""
    script = tmp_path / "drop-spec"
    script.write_text(block("sh"))
    script.chmod(0o755)
    box = Box(tmp_path)
    box.drop("contracts")
    kept = tmp_path / "contracts.yaml"
    os.rename(box.jobs / "contracts.yaml", kept)
    with box.watching():
        for week in (1, 2):
            subprocess.run([script, kept, box.jobs], check=True)
            states = [State.SUCCEEDED] * week
            wait_until(lambda want=states: [r.state for r in box.records()] == want)
    assert {record.job for record in box.records()} == {"contracts"}
    assert kept.exists()
    assert not [name for name in os.listdir(box.jobs) if name.startswith(".contracts")]


def test_what_lies_beside_is_no_spec() -> None:
    """However long the copy takes, the box does not take the half of it."""
    assert not is_spec_name(".contracts.yaml.4711")


def test_the_line_for_cron_calls_the_script() -> None:
    """Five times, a user, and the script's path as the page names it."""
    line = block("cron").splitlines()[1].split()
    assert line[:5] == ["0", "3", "*", "*", "0"]
    assert f"`{line[6]}`" in PAGE
    assert [Path(word).name for word in line[7:]] == ["contracts.yaml", "jobs"]
