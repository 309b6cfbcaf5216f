"""The contract between the daemon and its stages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.clock import now
from runner.contract.batch import BatchPlan, describe_change, smaller
from runner.contract.layout import FILE_NAME_BYTES, claimed_name, job_name, new_run_id, run_id_of
from runner.contract.record import RunRecord, read_record, write_record
from runner.contract.states import State
from runner.errors import DamagedError, UnsafePathError
from runner.files.beneath import Folder
from runner.files.durable import write_json


def plans_after(size: int, steps: int) -> list[tuple[int, int]]:
    """Follow a plan down to batch 1."""
    plan: BatchPlan | None = BatchPlan(
        per_device_batch_size=size, gradient_accumulation_steps=steps, activation_checkpointing=True
    )
    found = []
    while plan and not plan.activation_offloading:
        found.append((plan.per_device_batch_size, plan.gradient_accumulation_steps))
        plan = smaller(plan)
    return found


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ((8, 2), [(8, 2), (4, 4), (2, 8), (1, 16)]),
        ((6, 1), [(6, 1), (3, 2), (1, 6)]),
        ((3, 4), [(3, 4), (1, 12)]),
        ((7, 1), [(7, 1), (1, 7)]),
        ((10, 1), [(10, 1), (5, 2), (2, 5), (1, 10)]),
    ],
)
def test_smaller_plans_keep_the_effective_batch(start, expected):
    """A plan that does not fit is cut smaller; the examples per optimizer step never change."""
    found = plans_after(*start)
    assert found == expected
    assert {size * steps for size, steps in found} == {start[0] * start[1]}


def test_batch_one_gets_checkpointing_then_offloading_then_an_end():
    """At batch 1 there are two more ways to save memory, in this order, and then no more."""
    plan = BatchPlan(per_device_batch_size=1, gradient_accumulation_steps=16)
    second = smaller(plan)
    assert second is not None
    assert second.activation_checkpointing
    assert not second.activation_offloading
    third = smaller(second)
    assert third is not None
    assert third.activation_offloading
    assert smaller(third) is None


def cut(size: int, steps: int, *, checkpointing: bool = False, offloading: bool = False):
    """Give a plan."""
    return BatchPlan(
        per_device_batch_size=size,
        gradient_accumulation_steps=steps,
        activation_checkpointing=checkpointing,
        activation_offloading=offloading,
    )


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (cut(8, 2), cut(4, 4), "halved: 8 × 2 → 4 × 4, same effective batch 16"),
        (cut(3, 4), cut(1, 12), "made smaller: 3 × 4 → 1 × 12, same effective batch 12"),
        (cut(4, 4), cut(1, 16), "made smaller: 4 × 4 → 1 × 16, same effective batch 16"),
        (
            cut(2, 8),
            cut(1, 16, checkpointing=True),
            "halved: 2 × 8 → 1 × 16 (activation checkpointing on), same effective batch 16",
        ),
        (
            cut(1, 16),
            cut(1, 16, checkpointing=True),
            "activation checkpointing switched on at 1 × 16, same effective batch 16",
        ),
        (
            cut(1, 16, checkpointing=True),
            cut(1, 16, checkpointing=True, offloading=True),
            "activation offloading switched on at 1 × 16, same effective batch 16",
        ),
    ],
)
def test_a_smaller_plan_is_described_for_people(before, after, words):
    """The user reads what was changed and what stayed."""
    assert describe_change(before, after) == words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("contracts", "contracts"),
        ("Verträge 2026!", "verträge-2026"),
        ("current", "job-current"),
        ("CON", "job-con"),
        ("com1.backup", "job-com1.backup"),
        ("../../etc", "etc"),
        ("   ", "job"),
        (".hidden.", "hidden"),
    ],
)
def test_job_names_are_safe_as_folders_everywhere(text, expected):
    """Any file name gives a folder name that Linux and Windows both take."""
    assert job_name(text) == expected


def test_claimed_names_fit_a_file_system_and_keep_their_run_id():
    """A name of 255 bytes, in any script, still carries its run id and room for the answer."""
    run_id = new_run_id()
    for stem in ("a" * 250, "契" * 83, "contracts"):
        name = claimed_name(f"{stem}.yaml", run_id)
        assert len(f"{name}.txt".encode()) <= FILE_NAME_BYTES
        assert run_id_of(name) == run_id


def test_a_record_comes_back_as_it_was_written(tmp_path: Path):
    """What an older runner does not know is kept; times are UTC."""
    record = RunRecord(
        job="contracts",
        run_id=new_run_id(),
        state=State.QUEUED,
        file_name="contracts.yaml",
        created_at=now(),
        spec_sha256="0" * 64,
    )
    path = tmp_path / "run.json"
    write_record(path, record)
    content = json.loads(path.read_text())
    assert content["created_at"].endswith("Z")
    content["from_the_future"] = {"kept": True}
    write_json(path, content)
    write_record(path, read_record(path).but(state=State.TRAINING))
    content = json.loads(path.read_text())
    assert content["state"] == "training"
    assert content["from_the_future"] == {"kept": True}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b"{}"])
def test_an_unreadable_record_is_named_and_left_alone(tmp_path: Path, content: bytes):
    """A damaged record never crashes the reader and is never overwritten by it."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        read_record(path)
    assert path.read_bytes() == content


def test_nothing_outside_the_folder_is_opened(tmp_path: Path):
    """Links at any component, climbing paths, pipes and folders are refused."""
    outside = tmp_path / "secret.txt"
    outside.write_text("secret")
    root = tmp_path / "jobs"
    (root / "data").mkdir(parents=True)
    (root / "data" / "good.jsonl").write_text("{}")
    (root / "link").symlink_to(outside)
    (root / "folder-link").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    with Folder.open(root) as folder:
        assert folder.read_file("data/good.jsonl", limit_bytes=10) == b"{}"
        for path in ("link", "folder-link/secret.txt", "../secret.txt", "/etc/passwd", "pipe"):
            with pytest.raises(UnsafePathError):
                folder.read_file(path, limit_bytes=10)
        with pytest.raises(UnsafePathError):
            folder.read_file("data", limit_bytes=10)


def test_a_move_never_replaces_a_persons_file(tmp_path: Path):
    """Moving onto a name that is taken fails and leaves both files as they were."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with Folder.open(tmp_path) as folder:
        with pytest.raises(FileExistsError):
            folder.move("a", folder, "b")
        folder.move("a", folder, "c")
    assert (tmp_path / "b").read_text() == "b"
    assert (tmp_path / "c").read_text() == "a"


def test_the_contract_never_imports_torch():
    """The daemon stays small: what both sides share brings no part of the training stack."""
    code = (
        "import sys, pkgutil, importlib, runner.contract as c\n"
        "for m in pkgutil.iter_modules(c.__path__, 'runner.contract.'):\n"
        "    importlib.import_module(m.name)\n"
        "print([m for m in ('torch','transformers','datasets','peft','trl') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
