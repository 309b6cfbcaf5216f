"""The law firm, with a real model: SmolLM2 learns the firm's form from real texts, on a processor.

Licences stand for the contracts, as in `benchmarks/law_firm.py`, which a card does in full. The
texts are fetched from the package index, by their hash: 26 MB that nothing else needs.

    make test-scenario
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from runner.contract.layout import Outputs
from runner.contract.models import DEMO_MODEL
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.training.packaged_model import prepare_demo_model

REPOSITORY = Path(__file__).parents[2]
LICENCES = (
    "licensedcode-data==32.1.0"
    " --hash=sha256:18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96\n"
)
ROWS, HELD_OUT = 48, 12  # three epochs are 18 steps of 8 rows
LONGEST = 700  # characters of a text


@pytest.fixture(scope="session")
def licences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of the package's licence texts."""
    folder = tmp_path_factory.mktemp("licences")
    wanted = folder / "wanted.txt"
    wanted.write_text(LICENCES)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    words = [*pip, "--no-deps", "--require-hashes", "-r", str(wanted), "-d", str(folder)]
    subprocess.run(words, check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".LICENSE") and "/licenses/" in name:
                (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


@pytest.fixture(scope="session")
def record(licences: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """Give the record of a run through the whole product."""
    folder = tmp_path_factory.mktemp("law-firm")
    prepare_demo_model(folder / "models" / DEMO_MODEL)
    words = [sys.executable, str(REPOSITORY / "benchmarks" / "law_firm.py")]
    words += ["--models", str(folder / "models"), "--licences", str(licences), "--rate", "1e-3"]
    words += ["--rows", str(ROWS), "--held-out", str(HELD_OUT), "--longest", str(LONGEST)]
    words += ["--box", str(folder / "box")]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    print(done.stdout)
    (run,) = Outputs(folder / "box" / "outputs").runs()
    return read_record(run.record)


@pytest.mark.timeout(2400)  # seconds: 674 and 542 were taken beside other work, 388 of a processor
def test_a_real_model_learns_the_firm_s_form(record: RunRecord) -> None:
    """Of texts that it never saw the base answers none in the form, the adapter nearly all."""
    assert record.state is State.SUCCEEDED
    assert record.evaluation is not None
    of = {one.name: one for one in record.evaluation.scores}
    assert of["in_form"].base == 0
    assert of["in_form"].adapter is not None
    assert of["in_form"].adapter >= 10 / HELD_OUT, json.dumps(of["in_form"].model_dump(mode="json"))
    fields = [one for name, one in of.items() if name.startswith("field.")]
    assert len(fields) == 5
    assert all((one.adapter or 0) > (one.base or 0) for one in fields)
    assert sum(one.adapter or 0 for one in fields) / len(fields) >= 0.6
    assert record.verdict is not None
    assert record.verdict.outcome.value == "better"
