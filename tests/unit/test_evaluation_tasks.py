"""Tasks of lm-evaluation-harness: which are allowed, what is refused, how many items, a fall."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.contract import evaluation_tasks as allowed
from runner.contract.evaluation_tasks import MEND, VARIABLE, read_allowed, tasks_problems
from runner.contract.settings_table import SettingError, with_folders
from runner.doctor import evaluation_tasks as doctor
from runner.doctor.finding import Level
from runner.training.evaluate.forgetting import judge_share
from runner.training.evaluate.tasks import items_in_time, told_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What lies in folders of tasks: tasks, what they share, groups of them, and other things."""
    found = tmp_path / "tasks"
    (found / "below").mkdir(parents=True)
    (found / "b.yaml").write_text("# about it\ntask: 'clauses' # ours\ndataset_path: json\n")
    (found / "below" / "a.yaml").write_text("include: _shared.yaml\ntask: dates\n")
    (found / "below" / "b.yaml").write_text("task: clauses\n")
    (found / "below" / "_shared.yaml").write_text("output_type: multiple_choice\n  task: inner\n")
    (found / "group.yaml").write_text("group: both\ntask: [clauses, dates]\n")
    (found / "more.yaml").write_text("group: more\ntask: sums\n")
    (found / "code.yaml").write_text("task: coded\nclass: !function code.Task\n")
    (found / "old.yml").write_text("task: old\n")
    (found / "gone.yaml").symlink_to(found / "nowhere")
    return found


def test_the_files_say_which_tasks_there_are(folder: Path) -> None:
    """By name, wherever they lie below the folder; of two with one name the harness takes one."""
    assert read_allowed(folder) == {
        "clauses": folder / "b.yaml",
        "dates": folder / "below" / "a.yaml",
    }


def test_what_this_box_cannot_run_is_refused_with_what_it_can(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every unknown name at once, the names that there are, and what installs the harness."""
    monkeypatch.setattr(allowed, "harness_version", lambda: "0.4.13")
    assert tasks_problems(["clauses", "dates"], str(folder)) == []
    assert tasks_problems([], "") == []
    first, second = tasks_problems(["clause", "dates", "both"], str(folder))
    assert (first.field, first.found, first.allowed) == (
        "evaluation.tasks",
        "clause",
        "clauses, dates",
    )
    assert second.found == "both"
    for none in ("", None):
        (problem,) = tasks_problems(["dates"], none)
        assert VARIABLE in str(problem.hint)
    (problem,) = tasks_problems(["dates"], str(folder / "nowhere"))
    assert "cannot be read" in problem.message
    monkeypatch.setattr(allowed, "harness_version", lambda: None)
    (problem,) = tasks_problems(["dates"], str(folder))
    assert (problem.message, problem.hint) == (
        "lm-evaluation-harness is not installed on this box",
        MEND,
    )


def test_many_names_are_cut(tmp_path: Path) -> None:
    """The harness has 14,000 files: an answer is no list of them."""
    for n in range(23):
        (tmp_path / f"{n:02}.yaml").write_text(f"task: t{n:02}\n")
    assert allowed.shown_names(read_allowed(tmp_path)).endswith("t18, t19 and 3 more")


@pytest.mark.parametrize("place", ["jobs", "jobs/tasks", "outputs/a/b", "linked"])
def test_tasks_in_a_shared_folder_are_refused(tmp_path: Path, place: str) -> None:
    """Whoever has the share could have Python code of their own run."""
    shared = [tmp_path / name for name in ("jobs", "outputs", "models")]
    (tmp_path / "jobs" / "tasks").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "jobs" / "tasks")
    with pytest.raises(SettingError, match="lies in a shared folder"):
        with_folders(shared[0], shared[1], shared[2], evaluation_tasks=str(tmp_path / place))
    found = doctor.examine_tasks(str(tmp_path / place), *shared[:2])
    assert found.level is Level.TROUBLE
    own = str(tmp_path / "jobs-of-mine")
    made = with_folders(shared[0], shared[1], shared[2], evaluation_tasks=own)
    assert made.evaluation_tasks == own


def test_the_doctor_says_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder is no trouble; a folder that cannot be used is told with what helps."""
    assert doctor.examine_tasks("").level is Level.SKIPPED
    monkeypatch.setattr(doctor, "harness_version", lambda: None)
    found = doctor.examine_tasks(str(folder))
    assert (found.level, found.fix) == (Level.ADVICE, MEND)
    monkeypatch.setattr(doctor, "harness_version", lambda: "0.4.13")
    found = doctor.examine_tasks(str(folder))
    assert found.level is Level.OK
    assert "0.4.13 can run clauses, dates." in found.what
    assert "cannot be read" in doctor.examine_tasks(str(folder / "nowhere")).what
    (folder / "empty").mkdir()
    assert "has none" in doctor.examine_tasks(str(folder / "empty")).what


@pytest.mark.parametrize(
    ("items", "each", "seconds", "limit"),
    [
        (90, 0.01, 60, 90),  # all of them
        (2000, 0.01, 60, 400),
        (2000, 0.125, 75, 200),
        (2000, 0.125, 149, 200),
        (2000, 0.125, 150, 400),
        (90, 0.1, 20, 50),
        (7, 1.0, 21, 7),  # fewer than the fewest are all that there are
        (2000, 2.0, 60, 10),
    ],
)
def test_as_many_items_as_there_is_time_for(
    items: int, each: float, seconds: float, limit: int
) -> None:
    """Three passes: the adapter, its base, and the base once more for the noise."""
    assert items_in_time(items, seconds_each=each, seconds=seconds) == limit
    assert 3 * each * limit <= seconds


@pytest.mark.parametrize(("items", "seconds"), [(2000, 59), (2000, -1), (7, 41)])
def test_less_time_than_that_measures_nothing(items: int, seconds: float) -> None:
    """Two seconds an item, three passes."""
    with pytest.raises(TimeoutError):
        items_in_time(items, seconds_each=2.0, seconds=seconds)


def judged(fallen: int, *, noise: float = 0.0, lower: bool = False, items: int = 100) -> bool:
    """Let so many of some items be right before and wrong after, or the other way round."""
    before = [1.0] * items
    after = [0.0] * fallen + [1.0] * (items - fallen)
    if lower:
        before, after = [0.0] * items, [1 - score for score in after]
    axis = judge_share("task.x", before, after, noise=noise, lower_is_better=lower)
    assert axis.difference == pytest.approx(-fallen / items)
    assert (axis.items, axis.noise) == (items, noise)
    return axis.has_fallen


@pytest.mark.parametrize("lower", [False, True])
def test_a_task_falls_beyond_chance_noise_and_five_points(lower: bool) -> None:  # noqa: FBT001
    """As our own axes do; six items of six may still be chance, with an interval that says so."""
    assert judged(20, lower=lower)
    assert not judged(3, lower=lower, items=1000)  # beyond chance, and nobody would notice
    assert not judged(2, lower=lower, items=20)  # 10 points, and chance
    assert not judged(20, noise=0.3, lower=lower)
    assert not judged(20, noise=0.15, lower=lower)  # the interval reaches into the noise
    assert not judged(5, lower=lower, items=5)  # too few for any interval


def test_a_fall_is_told_by_the_tasks_name() -> None:
    """In the words of the other findings."""
    axis = judge_share("task.dates", [1.0] * 40, [0.0] * 20 + [1.0] * 20, noise=0.0)
    (said,) = told_of([axis])
    assert "worse at the task dates (1.00 before, 0.50 after)" in said
    assert told_of([judge_share("task.dates", [1.0] * 40, [1.0] * 40, noise=0.0)]) == []
