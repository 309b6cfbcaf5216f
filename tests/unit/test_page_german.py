"""The page in German: whatever it refuses, and whatever a finding says, is said in German."""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_runs import make_run, record
from starlette.testclient import TestClient
from test_language import sentences_of

from runner.contract.findings import read_findings
from runner.contract.states import State
from runner.errors import Problem
from runner.language.speaker import ENGLISH, Language, Speaker
from runner.language.translate import translated
from runner.office.app import make_app
from runner.office.box import Box
from runner.report.findings import finding_of
from runner.training.checks.at_prepare import write_bad_rows

GERMAN = Speaker(Language.GERMAN)
ROOT = Path(__file__).parents[2] / "runner"
SAID = (
    *(ROOT / "office" / f"{name}.py" for name in ("look", "pieces", "upload", "pages/drop")),
    *(ROOT / "contract" / f"{name}.py" for name in ("promotions", "record_head")),
    ROOT / "commands" / "cancel.py",
)
"""Modules whose refusals a person meets on the page."""
NOT_FOR_PEOPLE = {"its last line names no run"}
"""Of a file that is read again by whoever catches it."""
ENGLISH_WORDS = re.compile(
    r"\b(the|and|is|are|not|with|that|this|of|it|be|has|have|from|which|or|for|you|can|file)\b"
)
IDS = [f"202611{day}T120000Z-k3f{day % 10}" for day in (12, 13, 14, 15)]


def said_by(path: Path) -> set[str]:
    """List the sentences that a module puts into an error or its advice."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and (
            ast.unparse(node.func).endswith("Error") or ast.unparse(node.func) == "_no_room"
        ):
            given = [*node.args, *(k.value for k in node.keywords if k.arg == "advice")]
            found |= set().union(*map(sentences_of, given))
    return found


@pytest.mark.parametrize("path", SAID, ids=lambda path: path.stem)
def test_no_refusal_of_the_page_stays_english(path: Path) -> None:
    """Each sentence that its code may say stands in the table."""
    sentences = said_by(path)
    assert sentences
    assert {one for one in sentences if translated(one, GERMAN) is None} <= NOT_FOR_PEOPLE


@pytest.fixture
def page(tmp_path: Path) -> Iterator[TestClient]:
    """The page of a box, to a German reader: one result, one run that waits, a damaged one."""
    names = ("jobs", "outputs", "models", "page")
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "outputs" / ".runner" / "requests").mkdir(parents=True)
    torn = tmp_path / "models" / "torn"
    torn.mkdir()
    (torn / "config.json").write_text("{")
    data = tmp_path / "jobs" / "data"
    data.mkdir()
    (data / "a.csv").write_text("Frage,Antwort\nx,y\n")
    (data / "empty.csv").write_text("")
    outputs = tmp_path / "outputs"
    make_run(outputs, record(run_id=IDS[0]))
    make_run(
        outputs,
        record(run_id=IDS[1], state=State.QUEUED, ended_at=None, verdict=None, metrics={}),
    )
    make_run(outputs, record(run_id=IDS[2])).record.write_text("{torn")
    newer = make_run(outputs, record(run_id=IDS[3])).record
    newer.write_text(json.dumps(json.loads(newer.read_text()) | {"schema_version": 999, "job": 1}))
    app = make_app(Box(**{f"{name}_dir": tmp_path / name for name in names}))
    key = app.state.keys.make()
    headers = {"origin": "http://localhost", "accept": "text/html", "accept-language": "de"}
    with TestClient(app, base_url="http://localhost", headers=headers) as client:
        client.cookies["box_session"] = app.state.keys.open_session(key)
        yield client


FORM = {"name": "x", "model": "small", "data": "data/a.csv"}


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/upload", {"files": {"file": ("a.exe", b"x")}}),
        ("/upload", {"files": {"file": ("a.docx", b"x")}}),
        ("/upload", {"files": {"file": ("a.csv", b"")}}),
        ("/upload", {"files": {"file": ("", b"")}, "data": {"model": "x"}}),
        ("/upload", {"content": b"x"}),
        ("/upload/pieces?name=a.csv&size=999999999999999", {}),
        ("/upload/pieces?name=a.csv&size=0", {}),
        ("/upload/pieces?name=&size=1", {}),
        ("/drop/look", {"data": FORM}),
        ("/drop/look", {"data": FORM | {"model": "torn"}}),
        ("/drop/look", {"data": FORM | {"model": "../x"}}),
        ("/drop/look", {"data": FORM | {"model": ""}}),
        ("/drop/look", {"data": FORM | {"data": ""}}),
        ("/drop/look", {"data": FORM | {"data": "../x.csv"}}),
        ("/drop/look", {"data": FORM | {"data": "data/none.csv"}}),
        ("/drop/look", {"data": FORM | {"data": "data/empty.csv"}}),
        ("/drop/look", {"data": FORM | {"notes": "a\0"}}),
        ("/drop/look", {"data": FORM | {"notes": "a" * 20000}}),
        (f"/runs/contracts/{IDS[0]}/cancel", {}),
        (f"/runs/contracts/{IDS[1]}/promote", {}),
        (f"/runs/contracts/{IDS[2]}/cancel", {}),
        (f"/runs/contracts/{IDS[3]}/promote", {}),
        ("/jobs/contracts/rollback", {}),
        ("/sign-in", {"data": {"key": "wrong"}}),
        ("/nothing", {}),
    ],
)
def test_what_is_refused_is_refused_in_german(page: TestClient, path: str, sent: dict) -> None:
    """What is wrong and what to do, with names and paths as they are."""
    answer = page.post(path, **sent)
    assert answer.status_code >= 400
    assert 'lang="de"' in answer.text
    main = html.unescape(re.sub(r"<[^>]+>", " ", answer.text.partition("<main")[2]))
    assert ENGLISH_WORDS.findall(main) == [], main


def test_the_state_of_a_run_is_said_in_german(page: TestClient) -> None:
    """Within a sentence, too."""
    answer = page.post(f"/runs/contracts/{IDS[1]}/promote")
    assert f"contracts/{IDS[1]} ist nicht gelungen: {GERMAN('state_queued')}" in answer.text


def test_a_damaged_run_is_told_of_in_german(page: TestClient) -> None:
    """What could be recovered of it, and that the rest could not."""
    answer = page.get(f"/runs/contracts/{IDS[2]}")
    main = html.unescape(re.sub(r"<[^>]+>", " ", answer.text.partition("<main")[2]))
    assert ENGLISH_WORDS.findall(main) == [], main


@pytest.mark.parametrize(
    "message",
    [
        "the file has no rows",
        "the row has no answer",
        "the file is not a spreadsheet that can be read",
    ],
)
def test_rows_that_cannot_be_used_are_told_of_in_german(message: str, tmp_path: Path) -> None:
    """On the page before a start and in the report: a refusal's words, made a sentence there."""
    write_bad_rows([Problem(message=message, file="a.csv", line=3)], tmp_path / "f.json")
    (found,) = read_findings(tmp_path / "f.json")
    english, german = (finding_of(found, speak)["message"] for speak in (ENGLISH, GERMAN))
    assert (english.text, english.lang) == (f"{message[:1].upper()}{message[1:]}.", "")
    plain = translated(message, GERMAN)
    assert plain
    assert (german.text, german.lang) == (f"{plain[:1].upper()}{plain[1:]}.", "")
