"""Large files are hashed beside the loop, once."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from runner.contract.checkpoints import MANIFEST, CheckpointFile, Manifest
from runner.contract.layout import Outputs, RunFolder
from runner.daemon import hashes as module
from runner.daemon.hashes import AT_ONCE_BYTES, Hashes, StillHashing
from runner.daemon.stages.resume_point import resume_point, torn_checkpoints

LARGE = AT_ONCE_BYTES + 1


class Asked:
    """Hashes, with an event for each file that is done."""

    def __init__(self) -> None:
        self.done = threading.Semaphore(0)
        self.hashes = Hashes(done=self.done.release)

    def wait(self) -> None:
        """Wait for one file."""
        assert self.done.acquire(timeout=60)

    def of(self, path: Path) -> str:
        """Ask, wait, ask again."""
        with pytest.raises(StillHashing):
            self.hashes.of(path)
        self.wait()
        return self.hashes.of(path)


def write(path: Path, byte: bytes, size: int = LARGE) -> str:
    """Write a file; give its hash."""
    path.write_bytes(byte * size)
    return hashlib.sha256(byte * size).hexdigest()


def test_a_small_file_is_hashed_at_once(tmp_path: Path) -> None:
    """It takes less time than a thread's answer."""
    wanted = write(tmp_path / "f", b"x", 1000)
    assert Hashes(done=lambda: None).of(tmp_path / "f") == wanted


def test_a_large_one_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks is not held up; the answer is remembered."""
    wanted, read = write(tmp_path / "f", b"x"), list[Path]()
    true_hash = module.sha256_of
    monkeypatch.setattr(module, "sha256_of", lambda path: read.append(path) or true_hash(path))
    asked = Asked()
    with pytest.raises(StillHashing):
        asked.hashes.of(tmp_path / "f")
    asked.wait()
    assert [asked.hashes.of(tmp_path / "f") for _ in range(3)] == [wanted] * 3
    assert read == [tmp_path / "f"]
    assert not asked.hashes.at_work


@pytest.mark.parametrize("change", ["content", "another file", "time"])
def test_a_file_that_changed_is_hashed_anew(tmp_path: Path, change: str) -> None:
    """Other content of the same size, another file under the name, or a time alone."""
    file, asked = tmp_path / "f", Asked()
    assert write(file, b"x") == asked.of(file)
    if change == "content":
        before = file.stat()
        wanted = write(file, b"y")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp --preserve does
    elif change == "another file":
        wanted = write(tmp_path / "other", b"z")
        (tmp_path / "other").rename(file)
    else:
        wanted = hashlib.sha256(b"x" * LARGE).hexdigest()
        os.utime(file)
    assert asked.of(file) == wanted


def test_a_file_that_went_meanwhile_is_an_error_as_ever(tmp_path: Path) -> None:
    """And no hash: whoever asked learns it like anybody who reads."""
    with pytest.raises(FileNotFoundError):
        Hashes(done=lambda: None).of(tmp_path / "nothing")


def sealed(run: RunFolder, step: int, byte: bytes) -> None:
    """Leave a checkpoint with one large file."""
    folder = run.checkpoint(step)
    folder.mkdir(parents=True)
    files = {"weights": CheckpointFile(sha256=write(folder / "weights", byte), bytes=LARGE)}
    (folder / MANIFEST).write_text(Manifest(step=step, files=files).model_dump_json())


def test_nothing_is_set_aside_before_all_is_known(tmp_path: Path) -> None:
    """A torn checkpoint and a good one before it: one answer names both, however long it takes."""
    run, asked = Outputs(tmp_path).run("job", "20261126T090000Z-k3f9"), Asked()
    sealed(run, 3, b"a")
    sealed(run, 6, b"b")
    write(run.checkpoint(6) / "weights", b"c")
    for _ in range(2):
        with pytest.raises(StillHashing):
            resume_point(run, asked.hashes.of)
        assert torn_checkpoints(run) == []
        asked.wait()
    found = resume_point(run, asked.hashes.of)
    assert (found.step, found.torn) == (3, ("step-00000006",))
