"""Base cache: a model quantised once is the very same model when it is loaded again."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from train_box import Run

from runner.contract.base_entries import drop_bases, sweep_bases
from runner.training.fit.base_cache import BaseCache, keep
from runner.training.fit.model import Machine, load_base

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, about each other
MACHINE = Machine(device="cpu", compute="float32")


@pytest.fixture
def model(small_models: Path, tmp_path: Path) -> Path:
    """Give a model's folder that may be changed."""
    return Path(shutil.copytree(small_models / "small", tmp_path / "models" / "small"))


@pytest.fixture
def cache(tmp_path: Path) -> BaseCache:
    """Give an empty cache."""
    return BaseCache(folder=tmp_path / "bases", leave_bytes=0)


def load(model: Path, cache: BaseCache | None) -> Any:
    """Load the base as a run does; what is kept is on the disk afterwards."""
    import threading

    found = load_base(model, method="qlora", machine=MACHINE, cache=cache)
    for thread in threading.enumerate():
        if thread.name.startswith("keeps "):
            thread.join()
    return found


@pytest.fixture
def no_quantising(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function after which nothing can be quantised."""
    import bitsandbytes.functional

    def stop() -> None:
        def quantise(*_: Any, **__: Any) -> None:
            raise AssertionError("quantised again")

        monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", quantise)

    return stop


def assert_same(found: Any, wanted: Any) -> None:
    """Hold every weight, its scales, and an answer against another load's, bit for bit."""
    ours, theirs = found.state_dict(), wanted.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    kinds = [str(module) for module in found.modules()]
    assert kinds == [str(module) for module in wanted.modules()]
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(found(input_ids=ids).logits, wanted(input_ids=ids).logits)


def entries(cache: BaseCache) -> list[Path]:
    """List what lies in the cache."""
    return sorted(cache.folder.iterdir()) if cache.folder.exists() else []


def test_the_second_load_quantises_nothing_and_gives_the_same_model(
    model: Path, cache: BaseCache, no_quantising: Any
) -> None:
    """Weights, scales and answers are equal in every bit, and it is called what it was."""
    wanted = load(model, None)
    assert_same(load(model, cache), wanted)
    assert len(entries(cache)) == 1
    no_quantising()
    found = load(model, cache)
    assert_same(found, wanted)
    assert found.name_or_path == wanted.name_or_path == str(model)
    assert found.config.use_cache is False
    assert found.is_loaded_in_4bit
    assert found.generation_config.to_dict() == wanted.generation_config.to_dict()


def test_a_model_that_was_changed_is_quantised_anew(model: Path, cache: BaseCache) -> None:
    """Also by weights of the same size with the time of the old ones."""
    from safetensors.torch import load_file, save_file

    load(model, cache)
    (path,) = model.glob("*.safetensors")
    weights = {name: 1.5 * tensor for name, tensor in load_file(path).items()}
    before = path.stat()
    save_file(weights, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert_same(load(model, cache), load(model, None))
    assert len(entries(cache)) == 2


@pytest.mark.parametrize("damage", ["cut", "missing", "header", "facts"])
def test_a_damaged_entry_is_made_again(model: Path, cache: BaseCache, damage: str) -> None:
    """The run gets its model all the same, and the next one an entry that is whole."""
    wanted = load(model, cache)
    (entry,) = entries(cache)
    (path,) = entry.glob("model-*.safetensors")
    whole = path.read_bytes()
    if damage == "cut":
        os.truncate(path, path.stat().st_size - 1)
    elif damage == "missing":
        path.unlink()
    elif damage == "header":
        with path.open("r+b") as file:
            file.write(b"\xff" * 64)
    else:
        (entry / "facts.json").write_text("[]")
    assert_same(load(model, cache), wanted)
    assert entries(cache) == [entry]
    assert json.loads((entry / "facts.json").read_text())["files"][path.name] == len(whole)
    assert path.read_bytes() == whole
    assert_same(load(model, cache), wanted)


def test_nothing_is_kept_where_the_disk_is_short(
    model: Path, cache: BaseCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor where it cannot be written; the run goes on."""
    short = BaseCache(folder=cache.folder, leave_bytes=2**60)
    found = load(model, short)
    assert entries(cache) == []
    (tmp_path / "file").touch()
    blocked = BaseCache(folder=tmp_path / "file" / "bases", leave_bytes=0)
    assert keep(blocked, blocked.folder / "x", found, model) is None
    assert "could not be kept" in capsys.readouterr().out


def test_a_disk_that_fills_while_weights_are_written(
    model: Path, cache: BaseCache, capsys: pytest.CaptureFixture[str]
) -> None:
    """Safetensors has an error of its own for it: nothing is left, and the run goes on."""
    found = load(model, None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    try:
        assert keep(cache, cache.folder / "x", found, model) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert entries(cache) == []
    assert "could not be kept" in capsys.readouterr().out


def test_a_run_trains_on_the_entry_as_on_the_model(
    small_models: Path, prepared: Path, tmp_path: Path
) -> None:
    """Losses of two runs, without an entry and from one, are equal in every bit."""
    losses = []
    for number in range(2):
        run = Run(tmp_path / f"{number}", prepared, small_models)
        status, result = run.train(4, total_steps=2, base_cache=str(tmp_path / "bases"))
        assert status == 0, run.log()
        assert len(list((tmp_path / "bases").iterdir())) == 1
        losses.append([line["loss"] for line in run.lines(1) if "loss" in line])
        assert result.metrics["train_loss"] == losses[0][-1]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]


def an_entry(cache: Path, name: str, model: Path, *, used: float) -> Path:
    """Leave an entry that was used at a time."""
    entry = cache / name
    entry.mkdir(parents=True)
    facts = entry / "facts.json"
    facts.write_text(json.dumps({"folder": str(model), "files": {}}))
    os.utime(facts, (used, used))
    return entry


def test_those_used_last_are_kept(model: Path, tmp_path: Path) -> None:
    """Three of them; half-written ones, foreign files and those of models that are gone go."""
    cache = tmp_path / "bases"
    for number in range(5):
        an_entry(cache, f"e{number}", model, used=1000.0 + number)
    an_entry(cache, "gone", tmp_path / "no-model", used=9000.0)
    (cache / f".tmp-{'0' * 12}").mkdir()
    (cache / "a-file").touch()
    (cache / "no-entry").mkdir()
    sweep_bases(cache)
    assert sorted(path.name for path in cache.iterdir()) == ["e2", "e3", "e4"]
    assert drop_bases(cache) == 3
    assert list(cache.iterdir()) == []
    assert drop_bases(tmp_path / "nowhere") == 0
