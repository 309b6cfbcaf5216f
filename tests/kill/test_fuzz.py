"""Turns ten thousand hostile inputs for each reader into ten thousand answers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_box import REPOSITORY
from figures import Figures

INPUTS = 10_000
PEAK_MIB = 256


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reader", ["spec", "data", "record"])
def test_every_input_gets_an_answer(
    reader: str, tmp_path: Path, share: float, figures: Figures
) -> None:
    """No spec, data file or record crashes its reader, takes a second, or more than 256 MB."""
    count, seed = max(500, round(INPUTS * share)), random.randrange(2**32)
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("fuzz_reader.py")),
            *(reader, str(count), str(seed), str(tmp_path)),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stdout[-2000:]}{done.stderr[-6000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["taken"] + found["refused"] >= count
    assert found["taken"] > 0
    assert found["peak_mib"] <= PEAK_MIB
    figures.count(f"inputs: {reader}", found["taken"] + found["refused"])
    figures.tell(
        f"fuzz: {reader}",
        f"{found['taken']} taken and {found['refused']} refused with reasons, slowest "
        f"{found['slowest_seconds']} s, peak {found['peak_mib']} MiB, without an answer: 0",
    )
