"""Names of runs and jobs as people type them: one that fits nothing acts on nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import made_runs
import pytest

from runner import cli
from runner.commands.erase import runs_named
from runner.commands.find_run import NoSuchRunError, find_job, find_run
from runner.contract.layout import Outputs

OF_LETTERS = "20261126T130000Z-zzzz"


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    """A box with two runs of one job, and one of another."""
    for job, run_id in (
        ("contracts", made_runs.ID),
        ("contracts", "20261126T120000Z-abcd"),
        ("letters", OF_LETTERS),
    ):
        made_runs.make_run(tmp_path / "outputs", made_runs.record(job=job, run_id=run_id))
    return Outputs(tmp_path / "outputs")


@pytest.mark.parametrize("name", [f"contracts/{OF_LETTERS}", "contracts/zzzz", "nope/zzzz"])
def test_a_run_of_another_job_is_not_the_one_meant(outputs: Outputs, name: str) -> None:
    """It may be erased or put into use: the job that is named counts, and the run's is told."""
    for find in (find_run, find_job, runs_named):
        with pytest.raises(NoSuchRunError, match="no job or run is called") as refused:
            find(outputs, name)
        assert f"Did you mean letters/{OF_LETTERS}?" in str(refused.value.advice)


def test_a_job_in_another_ones_folder_is_none(outputs: Outputs) -> None:
    """`runner erase contracts/letters` is a slip of the hand, and erases neither."""
    for find in (find_run, find_job, runs_named):
        with pytest.raises(NoSuchRunError) as refused:
            find(outputs, "contracts/letters")
        assert "Did you mean letters?" in str(refused.value.advice)


@pytest.mark.parametrize(
    "name",
    ["letters", "Letters/", "./letters", "../letters", "outputs/letters", "/x/outputs/letters"],
)
def test_a_path_that_a_shell_completes_names_its_job(outputs: Outputs, name: str) -> None:
    """The outputs folder's own name is no job's."""
    assert find_run(outputs, name).run_id == OF_LETTERS
    assert find_job(outputs, name) == "letters"


def test_a_run_in_its_jobs_folder_is_found(outputs: Outputs) -> None:
    """By its whole id, by its end, and where its job is written otherwise."""
    for name in (f"letters/{OF_LETTERS}", "letters/zzzz", "outputs/Letters/zzzz/", "zzzz"):
        assert find_run(outputs, name).run_id == OF_LETTERS


def test_the_same_id_in_two_jobs_is_told_apart(outputs: Outputs) -> None:
    """A copy of a run's folder under another name has its id."""
    made_runs.make_run(outputs.root, made_runs.record(job="copy", run_id=OF_LETTERS))
    assert find_run(outputs, "letters/zzzz").job == "letters"
    assert find_run(outputs, "copy/zzzz").job == "copy"


TAKE_A_RUN = ["logs", "cancel", "evaluate", "export", "rate", "promote", "pack", "erase", "try"]
ODD = ["", " ", "/", "../x", "ünïcode", "x" * 300, "a\nb\x1b[2J", "nope"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("show", name) for name in ODD),
        *(("rollback", name) for name in ODD),
        *((command, "nope") for command in TAKE_A_RUN),
    ],
)
def test_what_fits_nothing_is_said_with_what_there_is(
    outputs: Outputs, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    """Every command that takes a run's or a job's name says it alike, in two short lines."""
    with pytest.raises(SystemExit) as ended:
        cli.main([command, name, "--outputs-dir", str(outputs.root)])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (1, "")
    first, second = said.err.splitlines()
    assert first.startswith("runner: no job or run is called '")
    assert len(first) < 150
    assert (
        second == "Jobs with runs here: contracts, letters. `runner status --all` lists the runs."
    )
    assert first.isprintable()


def test_the_nearest_job_is_named(outputs: Outputs) -> None:
    """One slip in the name."""
    with pytest.raises(NoSuchRunError) as refused:
        find_run(outputs, "contrats")
    assert str(refused.value.advice).startswith("Did you mean contracts? ")


def test_where_nothing_has_run_yet_it_says_what_makes_a_run(tmp_path: Path) -> None:
    """`runner show` right after `runner submit`, while no daemon runs."""
    for find in (find_run, find_job):
        with pytest.raises(NoSuchRunError) as refused:
            find(Outputs(tmp_path), "contracts")
        assert "`runner watch`" in str(refused.value.advice)


def test_a_hundred_jobs_are_not_all_listed(tmp_path: Path) -> None:
    """Twenty, and how many more there are."""
    outputs = Outputs(tmp_path)
    for number in range(100):
        outputs.run(f"job-{number}", made_runs.ID).root.mkdir(parents=True)
    with pytest.raises(NoSuchRunError, match="called 'x'") as refused:
        find_run(outputs, "x")
    assert "and 80 more." in str(refused.value.advice)


def test_a_rollback_of_a_run_names_its_job(outputs: Outputs) -> None:
    """What is rolled back is a job's; one that never promoted anything has no history to name."""
    with pytest.raises(NoSuchRunError, match="'zzzz' is a run") as refused:
        find_job(outputs, "zzzz")
    assert str(refused.value.advice) == "Its job is letters."


def test_a_rollback_where_nothing_was_promoted_says_so(
    outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file is named that is not there."""
    with pytest.raises(SystemExit):
        cli.main(["rollback", "letters", "--outputs-dir", str(outputs.root)])
    said = capsys.readouterr().err
    assert said.startswith("runner: No adapter of letters has been promoted yet")
    assert "promotions.jsonl" not in said
    assert "`runner show letters`" in said


@pytest.mark.parametrize("command", ["validate", "check", "preview", "plan", "submit"])
@pytest.mark.parametrize(
    ("name", "what", "mend"),
    [
        ("contrats.yaml", "the spec contrats.yaml is not there", "did you mean contracts.yaml?"),
        ("contracts", "the spec contracts is not there", "did you mean contracts.yaml?"),
        ("letters.yml", "the spec letters.yml is not there", "did you mean jobs/letters.yaml?"),
        ("", ". is a folder", "specs in .: contracts.yaml"),
        ("empty", "empty is a folder", "give the path of a job spec, such as jobs/contracts.yaml"),
        ("../x.yaml", "the spec ../x.yaml is not there", "give the path of a job spec"),
        ("x" * 300, f"the spec {'x' * 80}… is not there", "specs in .: contracts.yaml"),
        ("table.csv", "a job spec's name ends in .yaml, .yml or .json", "rename it"),
    ],
)
def test_a_spec_that_is_not_there_is_named_with_the_nearest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
    what: str,
    mend: str,
) -> None:
    """A slip in the name, a job's name, a folder, a spec that was dropped already."""
    here = tmp_path / "here"
    for path in ("here/contracts.yaml", "here/jobs/letters.yaml", "here/table.csv"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("model: m\ndata: c.jsonl\n")
    (here / "empty").mkdir()
    (here / "models").mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(SystemExit) as ended:
        cli.main([command, name])
    said = "".join(itertools.chain(*capsys.readouterr()))
    assert ended.value.code == 1
    assert what in said
    assert mend in said
    assert "Traceback" not in said


def test_a_verb_that_is_not_there_is_named_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`runner staus` is a slip; what Compose alone calls is not offered."""
    for typed, meant in (("staus", "'status'"), ("check-bix", "'check'"), ("logs2", "'logs'")):
        with pytest.raises(SystemExit) as ended:
            cli.main([typed])
        said = capsys.readouterr().err
        assert ended.value.code == 2
        assert f"No such command '{typed}'. Did you mean {meant}?" in said
