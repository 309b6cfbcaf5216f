"""The page's answers to what it should not stumble over: an app in this process, real folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from runner.office.app import make_app
from runner.office.box import Box
from runner.office.who import WRONG_KEYS


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """An empty box."""
    names = ("jobs", "outputs", "models", "page")
    for name in names:
        (tmp_path / name).mkdir()
    return Box(**{f"{name}_dir": tmp_path / name for name in names})


@pytest.fixture
def page(box: Box) -> Iterator[TestClient]:
    """Its page, to one who is signed in."""
    app = make_app(box)
    key = app.state.keys.make()
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        client.cookies["box_session"] = app.state.keys.open_session(key)
        client.headers["origin"] = "http://localhost"
        yield client


def test_a_name_that_is_no_text_is_listed(box: Box, page: TestClient) -> None:
    """A share may hold any bytes: one such file keeps nobody from the list."""
    folder = box.jobs_dir / "data" / "api"
    folder.mkdir(parents=True)
    id_ = "file-0123456789abcdef01234567"
    (folder / f"{id_}-\udcff.jsonl").write_bytes(b"{}")
    answer = page.get("/v1/files")
    assert (answer.status_code, [one["id"] for one in answer.json()["data"]]) == (200, [id_])
    assert page.get(f"/v1/files/{id_}").json()["filename"] == "\udcff.jsonl"


def test_looking_at_where_the_key_is_asked_for_is_no_wrong_key(page: TestClient) -> None:
    """HEAD, too: a foreign page could keep people out with it."""
    page.cookies.clear()
    found = {page.head("/sign-in").status_code for _ in range(2 * WRONG_KEYS)}
    assert found == {200}
