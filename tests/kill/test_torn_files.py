"""Turns torn and empty files, as a power cut leaves them, into runs that end as if whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from figures import Figures
from kill_box import AtPoint, KillBox

from runner.files.durable import TEMPORARY_PREFIX

_BEFORE_A_RENAME = [
    ("daemon", "file written", "spec.yaml", 1),
    ("daemon", "file written", "run.json", 2),
    ("daemon", "file written", "plan.json", 2),
    ("daemon", "answer written", None, 2),
    ("child", "file written", "result.json", 2),
    ("child", "file written", "manifest.json", 2),
    ("child", "data copied", None, 1),
    ("child", "checkpoint synced", None, 2),
    ("child", "adapter synced", None, 1),
]


def tear(path: Path, *, keep: float) -> None:
    """Cut a file as if its last blocks had not reached the disk."""
    path.chmod(0o640)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * keep))


class _TornBox(KillBox):
    """Tears whatever was not renamed yet, each time it was killed."""

    keep = 0.5
    torn = 0

    def after_kill(self) -> None:
        """Tear all that is unfinished."""
        for root in (self.jobs, self.outputs.root):
            for path in root.rglob("*"):
                unfinished = any(
                    part.startswith(TEMPORARY_PREFIX) or part == "work" for part in path.parts
                )
                if unfinished and path.is_file():
                    tear(path, keep=self.keep)
                    self.torn += 1


@pytest.mark.parametrize("keep", [0.5, 0.0], ids=["torn", "empty"])
@pytest.mark.parametrize(("side", "point", "what", "index"), _BEFORE_A_RENAME)
def test_a_file_torn_before_its_rename_is_never_used(
    tmp_path: Path,
    *,
    side: str,
    point: str,
    what: str | None,
    index: int,
    keep: float,
    figures: Figures,
) -> None:
    """Whatever stood beside is swept; what stood under the name before is what counts."""
    box = _TornBox(tmp_path / "box", jobs=1)
    box.keep = keep
    one = AtPoint(side=side, point=point, what=what, victims="both", index=index)  # type: ignore[arg-type]
    box.live([one])
    assert box.torn > 0
    assert box.lost() == []
    figures.count("torn or empty before a rename", box.torn)


class _RottenBox(KillBox):
    """Tears a file that was durable once: a disk that lied, or that is failing."""

    pattern = ""
    keep = 0.5

    def after_kill(self) -> None:
        """Tear the newest file of the pattern."""
        found = sorted(self.outputs.root.glob(self.pattern))
        tear(found[-1], keep=self.keep)


@pytest.mark.parametrize("keep", [0.5, 0.0], ids=["torn", "empty"])
@pytest.mark.parametrize("name", ["state", "adapter_model.safetensors", "manifest.json"])
def test_a_torn_checkpoint_is_set_aside_and_the_one_before_is_used(
    tmp_path: Path, name: str, keep: float, figures: Figures
) -> None:
    """The run goes on from the last good checkpoint and ends with the same weights."""
    box = _RottenBox(tmp_path / "box", jobs=1)
    box.keep_checkpoints = True
    box.pattern, box.keep = f"job0/*/attempts/*/checkpoints/step-00000006/{name}", keep
    box.live([AtPoint(side="child", point="checkpoint named", victims="both", index=2)])
    lost = [line for line in box.lost() if "ran again behind checkpoint" not in line]
    assert lost == []
    first = next(r for r in box.records() if r.job == "job0").attempts[0]
    assert first.last_step == 3
    assert list(box.outputs.root.glob("job0/*/checkpoints/torn-step-00000006-*"))
    figures.count("torn or empty under a durable name")


def test_a_checkpoint_torn_before_its_export_is_trained_again(
    tmp_path: Path, figures: Figures
) -> None:
    """The last checkpoint of a finished training is lost: the steps since the one before it are."""
    box = _RottenBox(tmp_path / "box", jobs=1)
    box.pattern = "job0/*/checkpoints/step-00000012/state"
    box.live([AtPoint(side="child", point="adapter begun", victims="both")])
    assert [line for line in box.lost() if "ran again behind checkpoint" not in line] == []
    (record,) = box.records()
    assert [(a.outcome, a.last_step) for a in record.attempts] == [
        ("damaged", 9),
        ("succeeded", 12),
    ]
    assert "goes on from step 9" in " ".join(record.shortfalls)
    figures.count("torn or empty under a durable name")


@pytest.mark.parametrize("keep", [0.5, 0.0], ids=["torn", "empty"])
@pytest.mark.parametrize(
    ("side", "point", "pattern"),
    [
        ("daemon", "stage recorded", "job0/*/prepared/plan.json"),
        ("daemon", "stage ended", "job0/*/prepared/result.json"),
        ("child", "checkpoint named", "job0/*/attempts/01-*/plan.json"),
        ("child", "adapter named", "job0/*/attempts/01-*/result.json"),
        ("child", "adapter named", "job0/*/adapter/adapter_model.safetensors"),
        ("child", "checkpoint named", "job0/*/spec.yaml"),
    ],
)
def test_a_message_torn_under_its_name_is_made_again(
    tmp_path: Path, *, side: str, point: str, pattern: str, keep: float, figures: Figures
) -> None:
    """Plans, results, the spec's copy and an adapter that is not recorded yet are made anew."""
    box = _RottenBox(tmp_path / "box", jobs=1)
    box.pattern, box.keep = pattern, keep
    box.live([AtPoint(side=side, point=point, victims="both")])  # type: ignore[arg-type]
    assert box.lost() == []
    figures.count("torn or empty under a durable name")
