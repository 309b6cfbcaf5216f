"""What `--json` prints where a command fails: one object with what went wrong and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_runs
import pytest

from runner import cli
from runner.contract.layout import Outputs

RUN_COMMANDS = "show logs cancel evaluate export rate promote rollback pack erase try"
SPEC_COMMANDS = "check preview plan submit"


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Any, Any, str]:
    """Run a command; give its exit status, its standard output as JSON, and what else it said."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    said = capsys.readouterr()
    return ended.value.code, json.loads(said.out), said.err


@pytest.mark.parametrize("command", [*RUN_COMMANDS.split(), *SPEC_COMMANDS.split()])
def test_an_error_is_json_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    """Of every command that takes --json: kind, message and advice; people read it as before."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    is_spec = command in SPEC_COMMANDS.split()
    status, found, said = call(capsys, command, "nope.yaml" if is_spec else "nope", "--json")
    assert status == 1
    assert found.keys() == {"error"}
    assert found["error"]["kind"] == ("bad_spec" if is_spec else "no_such_run")
    assert "nope" in found["error"]["message"]
    assert said.startswith(f"runner: {found['error']['message']}")
    if not is_spec:
        assert said.splitlines()[1] == found["error"]["advice"]


def test_a_call_that_is_wrong_is_told_as_json_and_keeps_its_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An option that is not there, an argument that is missing, a verb that is none."""
    for words in (["show", "--json"], ["show", "x", "--nope", "--json"], ["nope", "--json"]):
        status, found, said = call(capsys, *words)
        assert status == 2
        assert found["error"]["kind"] == "usage"
        assert f"Error: {found['error']['message']}" in said
        assert "--help` says how it is called." in found["error"]["advice"]


def test_a_disk_that_fails_is_told_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder where a record belongs."""
    run = made_runs.make_run(tmp_path, made_runs.record())
    run.record.unlink()
    run.record.mkdir()
    status, found, _ = call(capsys, "show", "contracts", "--json", "--outputs-dir", str(tmp_path))
    assert status == 1
    assert "run.json" in found["error"]["message"]


def test_what_could_not_be_erased_is_told_in_the_one_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some runs were erased and one was not: a script reads one object, and the status is 1."""
    outputs = Outputs(tmp_path)
    for run_id in (made_runs.ID, "20261126T120000Z-abcd"):
        made_runs.make_run(tmp_path, made_runs.record(run_id=run_id))
    outputs.run("contracts", made_runs.ID).record.write_text("{")
    words = ("erase", "contracts", "--yes", "--json", "--outputs-dir", str(tmp_path))
    status, found, _ = call(capsys, *words)
    assert status == 1
    assert found["runs"] == ["20261126T120000Z-abcd"]
    assert found["left"].keys() == {made_runs.ID}
    assert found["error"]["message"].startswith("NOT erased: ")


def test_what_goes_well_has_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record as it is, and status 0; a question called --json after -- is no option."""
    made_runs.make_run(tmp_path, made_runs.record())
    where = ("--outputs-dir", str(tmp_path))
    status, found, said = call(capsys, "show", "contracts", "--json", *where)
    assert (status, found["job"], said) == (0, "contracts", "")
    with pytest.raises(SystemExit):
        cli.main(["show", *where, "--", "--json"])
    assert "no job or run is called '--json'" in capsys.readouterr().err
