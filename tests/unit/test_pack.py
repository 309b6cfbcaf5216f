"""`runner pack`: one archive whose hashes fit, with the licence and the verdict and no row."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from runner.cli import main
from runner.commands import pack as packing
from runner.commands.pack import pack
from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import read_record, write_record
from runner.errors import BusyError, RunnerError
from runner.files.durable import rename_durably
from runner.training.export.card import Card, write_card
from runner.training.export.merged_card import MergedCard, write_merged_card

RECORD = Path(__file__).parents[1] / "data" / "records" / "v2-7-handed-over.json"
ROW = "Mandant 4711"
WEIGHTS = "adapter_model.safetensors"
CARD = """\
---
base_model: org/name
---

# contracts

adapter = "/outputs/contracts/20261123T221005Z-k3f9/adapter"  # the folder of this file
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has succeeded, with rows in every folder that holds some."""
    fields = json.loads(RECORD.read_text())
    found = Outputs(tmp_path / "outputs").run(fields["job"], fields["run_id"])
    for folder in (found.adapter, found.data, found.prepared, found.evaluation):
        folder.mkdir(parents=True)
        if folder != found.adapter:
            (folder / "rows.jsonl").write_text(ROW)
    weights = os.urandom(100_000)
    sha256 = hashlib.sha256(weights).hexdigest()
    metrics = {**fields["metrics"], "adapter_files": {WEIGHTS: sha256, "README.md": "0" * 64}}
    metrics["eval_rows"] = 30
    (form,) = fields["handed_over"]["forms"]
    form["files"] = {"model.safetensors": sha256}
    changed = {"state": "succeeded", "next_stage": None, "metrics": metrics, "erased": None}
    found.record.write_text(json.dumps({**fields, **changed}))
    (found.adapter / "README.md").write_text(CARD)
    (found.adapter / WEIGHTS).write_bytes(weights)
    return found


def unpacked(archive: Path, to: Path) -> Path:
    """Unpack it and give its folder."""
    with tarfile.open(archive) as opened:
        opened.extractall(to, filter="data")
    (folder,) = to.iterdir()
    return folder


def test_its_hashes_fit_and_no_row_is_in_it(run: RunFolder, tmp_path: Path) -> None:
    """`sha256sum -c` agrees with every file; the card names licence, counts and verdict."""
    base = tmp_path / "models" / "base"
    base.mkdir(parents=True)
    (base / "LICENSE").write_text("You may.")
    (base / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# Base\n")
    target = tmp_path / "pack.tar"
    names = pack(run, target, base=base, merged=False)
    folder = unpacked(target, tmp_path / "out")
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, check=False, capture_output=True
    )
    assert checked.returncode == 0, checked.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(folder).as_posix() for path in files} == {*names, "SHA256SUMS"}
    assert not [path for path in files if ROW.encode() in path.read_bytes()]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in files)  # whoever unpacked it
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nbase_model: org/name\nlicense: apache-2.0\n---\n")
    assert "## Verdict" in card
    assert "; 30 held out." in card
    assert 'adapter = "adapter"  # beside this file' in card
    assert "/outputs/" not in card
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


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ("license: apache-2.0\n", "apache-2.0"),
        ("license:\n- mit\ntags:\n- text\n", "mit"),
        ("license:\n  - mit\n  - cc-by-4.0\n", "[mit, cc-by-4.0]"),
        ("license: other\nlicense_name: llama3.1\n", "llama3.1"),
    ],
)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_the_licence_is_read_however_the_card_was_written(
    run: RunFolder, tmp_path: Path, fields: str, named: str, ends: str
) -> None:
    """A list of one, several, or a card that was saved on Windows, with its mark at the start."""
    base = tmp_path / "base"
    base.mkdir()
    card = f"---\nlanguage: en\n{fields}---\n# Base\n".replace("\n", ends)
    (base / "README.md").write_bytes((b"\xef\xbb\xbf" if ends != "\n" else b"") + card.encode())
    pack(run, tmp_path / "x.tar", base=base, merged=False)
    text = (unpacked(tmp_path / "x.tar", tmp_path / "out") / "README.md").read_text()
    assert f"Of the base model: `{named}`, as its card says" in text


def test_only_what_the_run_made_goes_in(run: RunFolder, tmp_path: Path) -> None:
    """Notes that somebody keeps beside the weights may hold rows."""
    (run.adapter / "notes.txt").write_text(ROW)
    (run.adapter / "sub").mkdir()
    (run.adapter / "sub" / WEIGHTS).write_text(ROW)
    assert ROW.encode() not in packed(run, tmp_path)


@pytest.mark.parametrize("merged", [False, True])
def test_its_commands_are_for_whoever_gets_it(
    run: RunFolder,
    tmp_path: Path,
    merged: bool,  # noqa: FBT001
) -> None:
    """The lines of the real cards: no folder of this box is in them, but for the base model's."""
    at_box = run.merged if merged else run.adapter
    at_box.mkdir(exist_ok=True)
    (at_box / "model.safetensors").write_bytes((run.adapter / WEIGHTS).read_bytes())
    of_both: dict[str, Any] = {
        "job": run.job,
        "run_id": run.run_id,
        "folds_system": False,
        "system_prompt": None,
    }
    if merged:
        text = write_merged_card(
            MergedCard(
                model="org/name",
                base="original",
                bytes=1,
                folder=str(run.merged),
                figures=None,
                reference=None,
                other=None,
                within=None,
                rows=0,
                **of_both,
            )
        )
    else:
        text = write_card(
            Card(
                base="org/name",
                hub_id=None,
                model="name",
                base_folder=Path("/models/name"),
                adapter=run.adapter,
                config={"r": 16},
                facts={},
                end_tokens=("</s>",),
                **of_both,
            )
        )
    (at_box / "README.md").write_text(text)
    pack(run, tmp_path / "x.tar", base=None, merged=merged)
    card = (unpacked(tmp_path / "x.tar", tmp_path / "out") / "README.md").read_text()
    assert "BOX_DIR" in text
    assert "BOX_DIR" not in card
    assert "outputs" not in card
    command = shlex.split(next(one for one in card.splitlines() if "vllm serve" in one))
    assert (command[2] == "merged") if merged else (command[-1] == f"{run.job}=adapter")


def packed(run: RunFolder, tmp_path: Path) -> bytes:
    """Pack the adapter and give the archive's bytes."""
    pack(run, tmp_path / "x.tar", base=None, merged=False)
    return (tmp_path / "x.tar").read_bytes()


def test_what_another_has_begun_meanwhile_stays(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once an archive has its name, the next one may be under way beside it."""

    def rename(source: Path, target: Path) -> None:
        rename_durably(source, target)
        source.write_text("of the next")

    monkeypatch.setattr(packing, "rename_durably", rename)
    packed(run, tmp_path)
    assert (tmp_path / ".tmp-x.tar").read_text() == "of the next"


def test_merged_weights_go_with_their_own_card(run: RunFolder, tmp_path: Path) -> None:
    """Whoever gets them has no adapter/: the lines load the folder that is there."""
    run.merged.mkdir()
    text = (
        '---\nlibrary_name: transformers\n---\n\nfolder = "/x/merged"  # the folder of this file\n'
    )
    (run.merged / "README.md").write_text(text)
    (run.merged / "model.safetensors").write_bytes((run.adapter / WEIGHTS).read_bytes())
    names = pack(run, tmp_path / "pack.tar", base=None, merged=True)
    assert "merged/model.safetensors" in names
    assert not [name for name in names if name.startswith("adapter/")]
    card = (unpacked(tmp_path / "pack.tar", tmp_path / "out") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n---\n")
    assert 'folder = "merged"  # beside this file' in card


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_weights_are_not_handed_on(run: RunFolder, tmp_path: Path, damage: str) -> None:
    """Hashes of what is there now would fit, and the weights would not be those of the run."""
    if damage == "gone":
        (run.adapter / WEIGHTS).unlink()
    else:
        (run.adapter / WEIGHTS).write_bytes(b"other")
    with pytest.raises(RunnerError, match=f"adapter/{WEIGHTS} is not as it was made"):
        pack(run, tmp_path / "pack.tar", base=None, merged=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]


def test_what_was_erased_is_said_to_be(run: RunFolder, tmp_path: Path) -> None:
    """Not that the run has succeeded, and not how to make again what cannot be made any more."""
    record = read_record(run.record)
    erased = {"at": "2026-11-27T10:00:00.000Z", "by": "anna", "adapter": True}
    write_record(run.record, record.but(erased=erased))
    shutil.rmtree(run.adapter)
    for merged in (False, True):
        with pytest.raises(RunnerError, match="erased on 2026-11-27, as anna asked") as refused:
            pack(run, tmp_path / "pack.tar", base=None, merged=merged)
        assert refused.value.advice is None
    write_record(run.record, record.but(erased={**erased, "adapter": False}))
    with pytest.raises(RunnerError, match="its rows were erased, so none are made"):
        pack(run, tmp_path / "pack.tar", base=None, merged=True)


def test_a_run_that_did_not_succeed_is_not_handed_on(run: RunFolder, tmp_path: Path) -> None:
    """A folder that looks like an adapter is not one before the run has ended well."""
    record = read_record(run.record)
    write_record(run.record, record.but(state="failed"))
    with pytest.raises(RunnerError, match="no adapter that could be packed: failed"):
        pack(run, tmp_path / "pack.tar", base=None, merged=False)


@pytest.mark.parametrize("to", ["nowhere", "/dev/full/x"])
def test_a_place_that_is_none_is_said_in_a_sentence(
    run: RunFolder,
    tmp_path: Path,
    to: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A stick that is not there, by the command itself: no trace of the program."""
    outputs = run.root.parents[1]
    where = ["--outputs-dir", str(outputs), "--models-dir", str(tmp_path)]
    with pytest.raises(SystemExit, match="1"):
        main(["pack", run.run_id, "--to", str(tmp_path / to), *where])
    assert "runner: There is no folder" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half archive under any name; the disk is made full by hand, for no small one is here."""
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
    stick = tmp_path / "stick"
    stick.mkdir()
    where = ["--outputs-dir", str(run.root.parents[1]), "--models-dir", str(tmp_path)]
    with pytest.raises(SystemExit, match="1"):
        main(["pack", run.run_id, "--to", str(stick), *where])
    assert list(stick.iterdir()) == []


def test_a_disk_without_room_is_refused_with_the_numbers(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before gigabytes are written to a stick that cannot hold them."""
    free = Mock(free=50_000)
    monkeypatch.setattr(shutil, "disk_usage", Mock(return_value=free))
    with pytest.raises(RunnerError, match="The archive takes") as refused:
        pack(run, tmp_path / "x.tar", base=None, merged=False)
    assert str(tmp_path) in refused.value.message
    assert not list(tmp_path.glob("*.tar")) + list(tmp_path.glob(".tmp*"))


@pytest.mark.parametrize(("code", "says"), [(errno.EFBIG, "FAT32"), (errno.ENOSPC, "--to")])
def test_a_stick_that_takes_no_more_is_named(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, says: str
) -> None:
    """A write's error names no file; FAT32, as sticks are sold, holds no merged 8B."""
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(code, os.strerror(code))))
    with pytest.raises(RunnerError, match=r"x\.tar could not be written") as said:
        pack(run, tmp_path / "x.tar", base=None, merged=False)
    assert says in (said.value.advice or "")


def test_a_disk_that_takes_no_more_at_the_last_byte_is_named(
    run: RunFolder, tmp_path: Path
) -> None:
    """A limit of the kernel's own: what is left to be written fails again when it is closed."""
    words = ["pack", run.run_id, "--outputs-dir", str(run.root.parents[1]), "--to", str(tmp_path)]
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
        f"from runner.cli import main; main({words!r})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ".tar could not be written" in ended.stderr
    assert "FAT32" in ended.stderr
    assert not list(tmp_path.glob("*.tar")) + list(tmp_path.glob(".tmp*"))


def test_weights_that_become_shorter_meanwhile_are_said_to_change(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export replaces merged/ while it is read: a sentence, and no archive."""
    monkeypatch.setattr(packing._Hashing, "read", lambda *_: b"")
    with pytest.raises(RunnerError, match="changed while it was being packed"):
        pack(run, tmp_path / "x.tar", base=None, merged=False)
    assert not list(tmp_path.glob("*.tar")) + list(tmp_path.glob(".tmp*"))


def test_what_a_kill_left_is_written_over(run: RunFolder, tmp_path: Path) -> None:
    """An archive of gigabytes that nobody finished does not stay on the stick beside the next."""
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / ".tmp-x.tar").write_bytes(b"half" * 100_000)
    pack(run, stick / "x.tar", base=None, merged=False)
    assert [path.name for path in stick.iterdir()] == ["x.tar"]
    assert unpacked(stick / "x.tar", tmp_path / "out").is_dir()


@pytest.mark.parametrize("lock", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_two_at_once_do_not_write_one_file(run: RunFolder, tmp_path: Path, lock: int) -> None:
    """The second is told, and the first one's archive is whole; no lock is shared."""
    with (tmp_path / ".tmp-x.tar").open("ab") as first:
        fcntl.flock(first, lock)
        with pytest.raises(BusyError, match=r"x\.tar is being written at this moment"):
            pack(run, tmp_path / "x.tar", base=None, merged=False)
        assert not (tmp_path / "x.tar").exists()
        assert (tmp_path / ".tmp-x.tar").exists()
