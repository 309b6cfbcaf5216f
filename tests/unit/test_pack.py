"""`runner pack`: one archive whose hashes fit, with the licence and the verdict and no row."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from runner.commands.pack import pack
from runner.contract.layout import Outputs, RunFolder
from runner.errors import RunnerError

RECORD = Path(__file__).parents[1] / "data" / "records" / "v2-7-handed-over.json"
ROW = "Mandant 4711"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has succeeded, with rows in every folder that holds some."""
    fields = json.loads(RECORD.read_text())
    found = Outputs(tmp_path / "outputs").run(fields["job"], fields["run_id"])
    for folder in (found.adapter, found.data, found.prepared, found.evaluation):
        folder.mkdir(parents=True)
        if folder != found.adapter:
            (folder / "rows.jsonl").write_text(ROW)
    found.record.write_text(json.dumps({**fields, "state": "succeeded", "next_stage": None}))
    (found.adapter / "README.md").write_text("---\nbase_model: org/name\n---\n\n# contracts\n")
    (found.adapter / "adapter_model.safetensors").write_bytes(os.urandom(100_000))
    return found


def test_its_hashes_fit_and_no_row_is_in_it(run: RunFolder, tmp_path: Path) -> None:
    """`sha256sum -c` agrees with every file; the card names licence, counts and verdict."""
    base = tmp_path / "models" / "base"
    base.mkdir(parents=True)
    (base / "LICENSE").write_text("You may.")
    (base / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# Base\n")
    target = tmp_path / "pack.tar"
    names = pack(run, target, base=base, merged=False)
    with tarfile.open(target) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    (folder,) = (tmp_path / "out").iterdir()
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, check=False, capture_output=True
    )
    assert checked.returncode == 0, checked.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(folder).as_posix() for path in files} == {*names, "SHA256SUMS"}
    assert not [path for path in files if ROW.encode() in path.read_bytes()]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nbase_model: org/name\nlicense: apache-2.0\n---\n")
    assert "## Verdict" in card
    assert (folder / "base-licence" / "LICENSE").read_text() == "You may."
    assert (folder / "adapter" / "adapter_model.safetensors").stat().st_size == 100_000


def test_what_is_not_there_is_refused(run: RunFolder, tmp_path: Path) -> None:
    """Merged weights that were never made are named, with how to make them; nothing is left."""
    with pytest.raises(RunnerError, match="no merged weights") as refused:
        pack(run, tmp_path / "pack.tar", base=None, merged=True)
    assert "runner export" in str(refused.value.advice)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]


def test_a_base_without_a_card_is_said_so(run: RunFolder, tmp_path: Path) -> None:
    """No licence is made up."""
    pack(run, tmp_path / "pack.tar", base=None, merged=False)
    with tarfile.open(tmp_path / "pack.tar") as archive:
        (card,) = [one for one in archive.getnames() if one.endswith("README.md")]
        file = archive.extractfile(card)
        assert file is not None
        assert "not named on the box" in file.read().decode()
