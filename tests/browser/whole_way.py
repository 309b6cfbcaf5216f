"""A person's whole way through the page, by whatever door: from an upload to a verdict and use."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from chromium import Page
from office_page import Office
from report_pages import ROWS, SCREENSHOTS

from runner.contract.layout import Outputs

DESKTOP = (1280, 800)


def sign_in(opened: Page, served: Office) -> None:
    """Sign in by the keyboard alone."""
    opened.go(f"{served.address}/sign-in")
    opened.until("document.activeElement.id === 'key'")  # the focus comes with the first paint
    opened.write(served.key)
    opened.press("Enter")
    opened.until("location.pathname === '/' && document.readyState === 'complete'")


def speak(opened: Page, language: str) -> None:
    """Set the browser's language."""
    opened.send("Network.setExtraHTTPHeaders", headers={"Accept-Language": language})


def write_table(folder: Path) -> Path:
    """Write a person's table: questions and answers, under German names."""
    table = folder / "Mandanten.csv"
    with table.open("w", newline="") as file:
        rows = [(row["instruction"], row["output"]) for row in ROWS]
        csv.writer(file).writerows([("Frage", "Antwort"), *rows])
    return table


def walk(page: Page, served: Office, table: Path, *, pictures: str) -> None:
    """Sign in, bring a table, look at it, start, follow, read the verdict, put it into use.

    Args:
        page: a browser's new page.
        served: the page of a box with one model, whose daemon works.
        table: what `write_table` wrote.
        pictures: how the names of pictures begin.
    """
    SCREENSHOTS.mkdir(exist_ok=True)
    page.send("Network.clearBrowserCookies")
    speak(page, "de")
    page.looks(*DESKTOP)
    sign_in(page, served)
    page.go(f"{served.address}/drop")
    page.choose_file("#file", table)
    page.ask("document.querySelector('main form button').click()")
    page.until("location.pathname === '/drop/job' && document.querySelector('#prompt')")
    assert "Frage" in page.ask("document.querySelector('table').innerText")
    page.picture(SCREENSHOTS / f"{pictures}-set-up.png")
    page.ask("document.querySelector('main form button').click()")
    page.until("document.querySelector('.actions button')", 300)
    assert page.ask("document.querySelectorAll('mark').length") > 0
    page.picture(SCREENSHOTS / f"{pictures}-look.png")
    page.ask("document.querySelector('.actions button').click()")
    page.until("location.search.startsWith('?dropped=mandanten')")
    # From here on nothing is loaded again: what happens is shown as it happens.
    page.until("document.querySelector('.part a[href^=\"/runs/mandanten\"]')", 120)
    page.picture(SCREENSHOTS / f"{pictures}-jobs.png")
    page.ask("document.querySelector('.part a[href^=\"/runs/mandanten\"]').click()")
    page.until("location.pathname.startsWith('/runs/mandanten/') && document.querySelector('h1')")
    page.until("document.querySelector('.part .sample')", 600)
    page.picture(SCREENSHOTS / f"{pictures}-result.png")
    assert "Vorher und nachher" in page.ask("document.body.innerText")
    assert page.complaints == []
    outputs = Outputs(served.folder / "outputs")
    (run,) = (run for run in outputs.runs() if run.job == "mandanten")
    if page.ask("!!document.querySelector('form[action$=promote]')"):
        page.ask("document.querySelector('form[action$=promote] button').click()")
        page.until("document.querySelector('.done')")
    end = time.monotonic() + 120
    while not outputs.current("mandanten").is_symlink():  # the daemon does what was asked
        assert time.monotonic() < end
        time.sleep(0.2)
    assert outputs.current("mandanten").readlink().name == run.run_id
    page.go(f"{served.address}{page.ask('location.pathname')}")
    assert "Der Adapter dieses Laufs ist in Gebrauch" in page.ask("document.body.innerText")
    page.until("document.querySelector('a[href$=\"adapter/adapter_model.safetensors\"]')")
    page.picture(SCREENSHOTS / f"{pictures}-in-use.png")
    page.ask("document.querySelector('iframe').scrollIntoView()")
    time.sleep(1)  # a picture is all that this is for
    page.picture_of_view(SCREENSHOTS / f"{pictures}-report.png")
    assert page.dialogs == []
    assert {url.split("/")[2] for url in page.requests if "://" in url} == {
        served.address.split("/")[2]
    }
