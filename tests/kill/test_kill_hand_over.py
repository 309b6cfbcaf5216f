"""Kills while a result is handed over and older ones go: what is in use is whole, always."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from figures import Figures
from invariants import adapter_lost, all_of, leftovers, records, unreadable_logs
from kill_box import AtPoint, KillBox

from runner.contract.layout import RunFolder
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State

SPEC = "promote: {when: always}\nexport: {merged: true, gguf: [q8_0, q4_k_m]}\n"


class HandOverBox(KillBox):
    """A box with one job that is handed over in three forms, and keeps the rows of one run."""

    def fill(self) -> None:
        """Drop nothing yet."""
        (self.jobs / "job0.jsonl").write_text("rows")

    def settings(self) -> dict[str, Any]:
        """Let all large files of older runs go."""
        return {**super().settings(), "keep_runs": 1}

    def run_once(self, *kills: AtPoint) -> None:
        """Drop the job again, and live through the kills."""
        self.drop_spec("job0", SPEC)
        self.live(list(kills))

    def after_kill(self) -> None:
        """What is served at this moment is whole, and of one run."""
        assert in_use_lost(self) == []


def in_use_lost(box: KillBox) -> list[str]:
    """Adapter and every form of the run that `current` leads to are as its record says."""
    link = box.outputs.current("job0")
    if not os.path.lexists(link):
        return []
    run = box.outputs.run("job0", os.readlink(link))
    record = read_record(run.record)
    return [*adapter_lost(run, record), *forms_lost(run, record, may_be_gone=False)]


def forms_lost(run: RunFolder, record: RunRecord, *, may_be_gone: bool) -> list[str]:
    """Each form is whole, or, of a run that is not in use, gone."""
    weights = (run.adapter / "adapter_model.safetensors").read_bytes()
    lost = []
    for form in record.handed_over.forms if record.handed_over else ():
        path = run.root / form.path
        if may_be_gone and not path.exists():
            continue
        for name, sha256 in form.files.items():
            file = path / name if path.is_dir() else path
            content = file.read_bytes() if file.exists() else b""
            if hashlib.sha256(content).hexdigest() != sha256 or content != weights:
                lost.append(f"{run.run_id}: {form.path}/{name} is not what the record says")
    return lost


KILLS = (
    AtPoint(side="child", point="form begun", index=2, victims="both"),
    AtPoint(side="child", point="form synced", index=2, victims="both"),
    AtPoint(side="child", point="form named", index=1, victims="self"),
    AtPoint(side="daemon", point="stage ended", what="hand-over", victims="both"),
    AtPoint(side="daemon", point="promotion noted", victims="both"),
    AtPoint(side="daemon", point="current moved", victims="both"),
    AtPoint(side="daemon", point="rows cleared", victims="both"),
    AtPoint(side="daemon", point="files taken away", what="merged", victims="both"),
    AtPoint(side="daemon", point="files taken away", what="gguf", victims="both"),
    AtPoint(side="daemon", point="files deleted", victims="both"),
)


def test_what_is_in_use_is_whole_whatever_goes_down_when(tmp_path: Path, figures: Figures) -> None:
    """Adapter, merged and GGUF files change together; those of older runs are whole or gone."""
    box = HandOverBox(tmp_path / "box")
    box.run_once()
    box.run_once()
    for number, kill in enumerate(KILLS, start=1):
        box.run_once(kill)
        assert len(box.hits()) == number, kill
        assert in_use_lost(box) == [], kill
        found, unreadable = records(box.outputs)
        found.sort(key=lambda one: one[1].sequence)
        assert {record.state for _, record in found} == {State.SUCCEEDED}
        *older, before, newest = found
        assert os.readlink(box.outputs.current("job0")) == newest[0].run_id
        assert forms_lost(*before, may_be_gone=False) == []  # `rollback` brings it back
        for run, record in older:
            assert not run.merged.exists()
            assert not run.gguf.exists()
            assert record.cleared is not None
            assert adapter_lost(run, record) == []
        logs = unreadable_logs(box.outputs.root)
        assert all_of([unreadable, leftovers(box.jobs, box.outputs.root), logs]) == []
        going = box.outputs.going
        assert not going.exists() or not list(going.iterdir())
        figures.count("kills while results are handed over and old files go")
