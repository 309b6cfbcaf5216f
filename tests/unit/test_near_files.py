"""What the box says of a path at which nothing lies, from what lies near it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.files.beneath import Folder
from runner.spec.near_files import Similar, similar_file


def found(root: Path, path: str, *there: str) -> Similar | None:
    """Look for a path in a folder that holds these files."""
    for name in there:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    with Folder.open(root) as folder:
        return similar_file(folder, path)


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("data/contracts.jsonl", "data/Contracts.JSONL"),
        ("Data/contracts.jsonl", "data/contracts.jsonl"),
        ("DATA/AKTEN.CSV", "data/akten.csv"),
        ("contracts.jsonl", "CONTRACTS.jsonl"),
        ("data/VERTRÄGE.jsonl", "data/verträge.jsonl"),
        ("data/vertra\u0308ge.JSONL", "data/verträge.jsonl"),
        ("data/strasse.jsonl", "data/Straße.jsonl"),
        ("data/akten 12.jsonl", "data/akten\u00a012.jsonl"),
        ("data/akten%2012.jsonl", "data/akten 12.jsonl"),
        ("data/2025/Fälle/a.jsonl", "Data/2025/FÄLLE/A.jsonl"),
        ("data/x.Jsonl", "data/x.jsonl"),
    ],
)
def test_another_case_is_the_same_file_to_windows(tmp_path: Path, path: str, there: str) -> None:
    """Such a path will never come: the file that was meant is named."""
    similar = found(tmp_path, path, there)
    assert similar == Similar(path=there, same=True)
    name = there.rpartition("/")[2]
    assert f"there is a {name}" in similar.advice(path).replace("\\xa0", "\u00a0")
    assert "did you mean that?" in similar.advice(path)


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("data/contracts.jsonl", "data/contract.jsonl"),
        ("data/contracts.json", "data/contracts.jsonl"),
        ("data/contracts.jsonl", "data/contracts.jsonl.txt"),
        ("data/contracts.csv", "data/contracts.xlsx"),
        ("data/contracts", "data/contracts.jsonl"),
        ("data/akten", "data/akten #12.jsonl"),
        ("data/contracts.jsonl", "contracts.jsonl"),
        ("contracts.jsonl", "data/contracts.jsonl"),
        ("data/contracts.jsonl", "Akten/2025/contracts.jsonl"),
        ("data/akten_12.jsonl", "data/akten-12.jsonl"),
        ("data/vertraege.jsonl", "data/verträge.jsonl"),
    ],
)
def test_a_near_name_is_pointed_out(tmp_path: Path, path: str, there: str) -> None:
    """A slip, another ending, another folder: it may still come, so it is only pointed out."""
    assert found(tmp_path, path, there) == Similar(path=there, same=False)


def test_a_file_that_is_not_read_comes_with_what_to_save_it_as(tmp_path: Path) -> None:
    """Whoever meant the Excel file is told how to save it."""
    similar = found(tmp_path, "data/a.csv", "data/a.xls")
    assert similar is not None
    assert ".xls files are not read: save it as .xlsx" in similar.advice("data/a.csv")


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("data/week-08.jsonl", "data/week-07.jsonl"),
        ("data/contracts.jsonl", "data/~$contracts.jsonl"),
        ("data/contracts.jsonl", "data/invoices.jsonl"),
        ("data/contracts.jsonl", "done/contracts.jsonl"),
        ("data/contracts.jsonl", "data/contracts.jsonl.part"),
    ],
)
def test_what_was_surely_not_meant_is_not_spoken_of(tmp_path: Path, path: str, there: str) -> None:
    """Last week's file, editors' leftovers, the runner's own folders, other names."""
    assert found(tmp_path, path, there) is None


def test_a_link_leads_nowhere(tmp_path: Path) -> None:
    """Nothing outside the share is ever named."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "Secret.jsonl").write_text("x")
    share = tmp_path / "share"
    share.mkdir()
    (share / "data").symlink_to(outside)
    assert found(share, "data/secret.jsonl") is None


@pytest.mark.parametrize("there", ["data/a.jsonl ", "data/ a.jsonl"])
def test_a_name_with_a_blank_at_its_edge_is_to_be_renamed(tmp_path: Path, there: str) -> None:
    """A spec cannot name it: blanks around a path are not read."""
    similar = found(tmp_path, "data/a.jsonl", there)
    assert similar is not None
    assert similar.same
    advice = similar.advice("data/a.jsonl")
    assert advice.endswith("rename it to a.jsonl, and write data/a.jsonl")


def test_a_spec_beside_the_inbox_is_to_be_moved_into_it(tmp_path: Path) -> None:
    """A path that begins with jobs/ would be refused next: what is offered can be written."""
    similar = found(tmp_path, "data/a.jsonl", "jobs/data/a.jsonl")
    assert similar is not None
    advice = similar.advice("data/a.jsonl")
    assert advice.endswith("Then move the spec into jobs/, and write data/a.jsonl")
