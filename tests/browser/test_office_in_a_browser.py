"""The page on the office network as people meet it, in a real browser: look, keys, phone, a job."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from chromium import Browser, Page
from made_runs import make_hostile_run
from office_page import Office, office, process
from relay import bad_line
from report_pages import MODEL, ROWS, SCREENSHOTS, Pages
from test_reports_in_a_browser import DESKTOP, PHONE, _axe
from whole_way import sign_in, speak, walk, write_table

from runner.contract.layout import Outputs, RunFolder

pytestmark = pytest.mark.timeout(1800)
WAYS = ("jobs", "job", "result", "training", "hostile", "failed", "compare", "drop", "set-up")
OTHERS = ("models", "schedules", "doctor", "nothing", "sign-in")


@pytest.fixture(scope="module")
def box(
    real_runs: dict[str, RunFolder], pages: Pages, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A box with real results, a run that trains, and one in which every text is hostile."""
    folder = tmp_path_factory.mktemp("office")
    real = real_runs["contracts"].root.parents[2]
    for name in ("models", "outputs"):
        shutil.copytree(real / name, folder / name, symlinks=True, dirs_exist_ok=True)
    data = folder / "jobs" / "data"
    data.mkdir(parents=True)
    with (data / "Verträge.csv").open("w", newline="") as file:
        rows = [(row["instruction"], row["output"]) for row in ROWS]
        csv.writer(file).writerows([("Frage", "Antwort"), *rows])
    outputs = Outputs(folder / "outputs")
    training = pages.runs["training"]
    shutil.copytree(training.root, outputs.root / "leases" / training.run_id)
    _renamed(outputs.root / "leases" / training.run_id, "leases")
    again = outputs.root / "contracts" / "20260102T030405Z-aaaa"
    shutil.copytree(real_runs["contracts"].root, again)
    _renamed(again, "contracts")
    make_hostile_run(folder / "outputs")
    return folder


def _renamed(run: Path, job: str) -> None:
    record = json.loads((run / "run.json").read_text()) | {"job": job, "run_id": run.name}
    (run / "run.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def served(box: Path) -> Iterator[Office]:
    """Its page."""
    with office(box) as found:
        yield found


@pytest.fixture
def page(browser: Browser, served: Office) -> Iterator[Page]:
    """A browser's page, signed in by the form."""
    opened = browser.blank()
    opened.send("Network.clearBrowserCookies")
    opened.looks(*DESKTOP)
    sign_in(opened, served)
    yield opened
    opened.close()


def way(box: Path, name: str) -> str:
    """Give the address of a page by a short name."""
    outputs = Outputs(box / "outputs")
    newest = {job.name: outputs.run_ids(job.name)[-1] for job in outputs.job_folders()}
    hostile = outputs.run_ids("contracts")
    made = next(one for one in hostile if one.startswith("20261126T110000Z"))
    result = next(one for one in reversed(hostile) if one != made)
    return {
        "jobs": "/",
        "job": "/jobs/contracts",
        "result": f"/runs/contracts/{result}",
        "training": f"/runs/leases/{newest['leases']}",
        "hostile": f"/runs/contracts/{made}",
        "failed": f"/runs/too-much/{newest['too-much']}",
        "compare": f"/jobs/contracts/compare?a={result}&b=20260102T030405Z-aaaa",
        "drop": "/drop",
        "set-up": f"/drop/job?model={MODEL}&data={quote('data/Verträge.csv')}",
        "models": "/models",
        "schedules": "/schedules",
        "doctor": "/doctor",
        "nothing": "/there-is-nothing",
        "sign-in": "/sign-in",
    }[name]


@pytest.mark.parametrize("name", [*WAYS, *OTHERS])
def test_every_page_is_sound(page: Page, served: Office, box: Path, name: str) -> None:
    """No word on the console, no dialog, no other host; axe-core finds nothing, in light and dark.

    In both languages; nothing is wider than a phone; pictures are kept for people to look at.
    """
    SCREENSHOTS.mkdir(exist_ok=True)
    if name == "sign-in":
        page.send("Network.clearBrowserCookies")
    for language in ("en", "de"):
        speak(page, language)
        page.complaints.clear()
        page.go(served.address + way(box, name))
        assert page.ask("document.documentElement.lang") == language
        assert page.ask("document.title") != "x"
        for label, size, dark in (
            ("desk", DESKTOP, False),
            ("dark", DESKTOP, True),
            ("phone", PHONE, False),
        ):
            page.looks(*size, dark=dark)
            page.picture(SCREENSHOTS / f"office-{name}-{language}-{label}.png")
            assert page.ask("document.documentElement.scrollWidth") <= size[0]
            page.ask("document.querySelectorAll('details').forEach(d => { d.open = true })")
            page.ask(_axe() + "\n;0")
            found = page.ask(
                "axe.run({iframes: false, resultTypes: ['violations']}).then(r => r.violations.map("
                "v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 150)).join()))"
            )
            assert found == [], (language, label)
        wanted = ["404"] if name == "nothing" else []
        assert [re.findall(r"\d{3}", one) for one in page.complaints] == [[w] for w in wanted]
    assert page.dialogs == []
    hosts = {re.match(r"\w+://[^/]*", url)[0] for url in page.requests if "://" in url}  # type: ignore[index]
    assert hosts == {served.address}


def test_the_report_is_read_within_the_page(page: Page, served: Office, box: Path) -> None:
    """In a frame that may do nothing; its style holds by its own policy."""
    page.complaints.clear()
    page.go(served.address + way(box, "result"))
    page.until("document.querySelector('iframe').contentDocument === null")  # another origin
    assert page.complaints == []
    page.go(served.address + way(box, "result") + "/report.html")
    assert page.ask("origin") == "null"
    assert page.ask("getComputedStyle(document.querySelector('.card')).borderLeftWidth") != "0px"
    assert page.complaints == []


def test_everything_can_be_reached_without_scripts(page: Page, served: Office, box: Path) -> None:
    """Pages read the same, and forms are sent as forms."""
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    for name in ("jobs", "result", "training", "drop", "set-up"):
        page.go(served.address + way(box, name))
        page.send("Emulation.setScriptExecutionDisabled", value=False)
        assert len(page.ask("document.querySelector('main').innerText")) > 100
        page.send("Emulation.setScriptExecutionDisabled", value=True)


def test_focus_is_seen_and_the_first_stop_skips_to_the_content(page: Page, served: Office) -> None:
    """By Tab alone, with an outline wherever one is."""
    page.go(served.address + "/")
    page.press("Tab")
    assert page.ask("document.activeElement.className") == "skip"
    seen = []
    for _ in range(12):
        page.press("Tab")
        seen.append(page.ask("getComputedStyle(document.activeElement).outlineStyle"))
    assert set(seen) <= {"solid", "auto"}


def test_a_forms_way_from_a_foreign_page_is_barred(page: Page, served: Office) -> None:
    """The browser of somebody who is signed in, led to a page of another site."""
    page.go("data:text/html,<form method=post></form>")
    page.ask(
        f"(document.forms[0].action = '{served.address}/sign-out', document.forms[0].submit())"
    )
    page.until("document.body && document.body.innerText.includes('another site')")
    page.go(served.address + "/")
    assert page.ask("location.pathname") == "/"  # still signed in


def put_model(folder: Path, tiny_model: Path) -> None:
    """Make a box that has a model and nothing else."""
    model = folder / "models" / MODEL
    model.mkdir(parents=True)
    for file in tiny_model.iterdir():
        os.link(file, model / file.name)
    (folder / "jobs").mkdir()


def test_an_upload_over_a_bad_line_goes_on_by_itself(
    browser: Browser, tiny_model: Path, tmp_path: Path
) -> None:
    """Cut in the middle of each third, the person does nothing, and the file is what it was."""
    put_model(tmp_path, tiny_model)
    table = tmp_path / "line.csv"
    rows = [(f"Question {n}?", f"{n} " + os.urandom(2000).hex()) for n in range(7000)]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("Question", "Answer"), *rows])
    assert table.stat().st_size > 24 * 1024 * 1024  # more than three pieces
    page = browser.blank()
    page.send("Network.clearBrowserCookies")
    with (
        office(tmp_path) as served,
        bad_line(served.address, after_bytes=5 * 1024 * 1024, cuts=3) as line,
    ):
        page.go(f"{line.address}/sign-in")
        page.until("document.activeElement.localName === 'input'")  # the key is asked for there
        page.write(served.key)
        page.press("Enter")
        page.until("location.pathname === '/' && document.readyState === 'complete'")
        page.go(f"{line.address}/drop")
        page.choose_file("#file", table)
        page.ask("document.querySelector('main form button').click()")
        page.until("document.querySelector('[data-progress] p').innerText.includes('lost')", 60)
        page.looks(*DESKTOP)
        page.picture(SCREENSHOTS / "office-upload-cut-off.png")
        page.until("location.pathname === '/drop/job' && document.querySelector('#prompt')", 180)
        assert line.done == 3
        page.close()
    assert (tmp_path / "jobs" / "data" / "line.csv").read_bytes() == table.read_bytes()


def test_a_persons_whole_way(browser: Browser, tiny_model: Path, tmp_path: Path) -> None:
    """Sign in, bring a table, look at it, start, follow, read the verdict, put it into use."""
    put_model(tmp_path, tiny_model)
    with process(tmp_path, "watch"), office(tmp_path) as served:
        page = browser.blank()
        walk(page, served, write_table(tmp_path), pictures="office-way")
        page.close()
