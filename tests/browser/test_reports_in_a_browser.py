"""Reports as their readers see them, in a real browser: figures, safety, access, phone, print."""

from __future__ import annotations

import json
import re
import subprocess
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from axe import fetch
from chromium import Browser, Page
from report_pages import SCREENSHOTS, Pages

NAMES = ("contracts", "too-fast", "broken", "too-much", "training", "out-of-memory", "hostile")
FILES = (*(f"{name}-{language}" for name in NAMES for language in ("en", "de")), "index")
DESKTOP, PHONE = (1280, 800), (360, 740)
pytestmark = pytest.mark.timeout(1800)


def _axe() -> str:
    """Give the source of axe-core, or say that nothing is looked at."""
    try:
        return fetch()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"ACCESSIBILITY WAS NOT LOOKED AT: axe-core cannot be fetched ({error})")


@pytest.fixture(params=FILES)
def page(request: pytest.FixtureRequest, browser: Browser, pages: Pages) -> Page:
    """Each page, opened."""
    opened = browser.open(pages.files[request.param])
    opened.looks(*DESKTOP)
    opened.name = request.param  # type: ignore[attr-defined]
    yield opened
    opened.close()


def test_no_script_runs_nothing_is_asked_for_and_nothing_is_wrong(page: Page) -> None:
    """One request, for the page itself; a console without a word; no dialog; the title is ours."""
    assert [url[:5] for url in page.requests] == ["file:"]
    assert page.complaints == []
    assert page.dialogs == []
    assert page.ask("document.title") != "x"
    assert (
        page.ask("document.querySelectorAll('script, img, iframe, object, [onload]').length") == 0
    )
    assert page.ask("document.styleSheets.length") == 1


def test_its_headings_and_landmarks_are_in_order(page: Page) -> None:
    """One h1, no level left out, one main, a language, a title, every table with a caption."""
    levels = page.ask("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.ask("document.querySelectorAll('main').length") == 1
    assert page.ask("document.documentElement.lang") in ("en", "de")
    assert page.ask("[...document.querySelectorAll('table')].every(t => t.caption)")
    assert page.ask("[...document.querySelectorAll('th')].every(t => t.scope)")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_never_scrolls_sideways(page: Page, size: tuple[int, int]) -> None:
    """The page fits its width on a desk and on a phone; only tables scroll within themselves."""
    page.looks(*size)
    assert page.ask("document.documentElement.scrollWidth") <= size[0]
    page.ask("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.ask("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(page: Page, *, dark: bool) -> None:
    """No rule of axe-core is broken: contrast, names, roles, tables, landmarks, focus."""
    source = _axe()
    page.looks(*DESKTOP, dark=dark)
    page.ask("document.querySelectorAll('details').forEach(d => { d.open = true })")
    page.ask(source + "\n;0")
    found = page.ask(
        "axe.run({resultTypes: ['violations']}).then(r => r.violations.map("
        "v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 150)).join(' | ')))"
    )
    assert found == []


def test_pictures_are_kept(page: Page) -> None:
    """Each page on a desk, in the dark and on a phone, for people to look at."""
    SCREENSHOTS.mkdir(exist_ok=True)
    for name, size, dark in (
        ("desk", DESKTOP, False),
        ("dark", DESKTOP, True),
        ("phone", PHONE, False),
    ):
        page.looks(*size, dark=dark)
        target = SCREENSHOTS / f"{page.name}-{name}.png"  # type: ignore[attr-defined]
        page.picture(target)
        assert target.stat().st_size > 10_000


def test_it_reads_the_same_without_scripts(page: Page) -> None:
    """Whoever has switched scripts off misses nothing."""
    with_scripts = page.ask("document.body.innerText")
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.go(page.requests[0])
    page.send("Emulation.setScriptExecutionDisabled", value=False)
    assert page.ask("document.body.innerText") == with_scripts


def test_it_prints_on_a4(page: Page) -> None:
    """Some pages of A4 with text on each; not one per row, and nothing cut off at the side."""
    content = page.printed()
    assert content.startswith(b"%PDF")
    boxes = re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", content)
    assert 1 <= len(boxes) <= 25
    assert all(abs(float(w) - 595) < 3 and abs(float(h) - 842) < 3 for w, h in boxes)
    assert len(zlib.compress(content)) > 3000


def test_the_keyboard_reaches_the_result_first(page: Page) -> None:
    """The first Tab shows the way past the page's head, and Enter takes it."""
    page.press("Tab")
    assert page.ask("document.activeElement.className") == "skip"
    assert page.ask("document.activeElement.getBoundingClientRect().left") >= 0
    page.press("Enter")
    assert page.ask("location.hash") in ("#result", "#runs")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "hostile"])
@pytest.mark.parametrize("language", ["en", "de"])
def test_the_first_screen_answers_both_questions(
    browser: Browser, pages: Pages, name: str, language: str
) -> None:
    """Is the model better, and would I use it? The answer stands on the first screen, with why."""
    page = browser.open(pages.files[f"{name}-{language}"])
    for width, height in (DESKTOP, PHONE):
        page.looks(width, height)
        bottom = page.ask("document.querySelector('.answers').getBoundingClientRect().bottom")
        assert bottom < height
        reason = page.ask("document.querySelector('.reason')?.getBoundingClientRect().top ?? 0")
        assert reason < height
    expected = {
        "contracts": ("Yes", "Ja"),
        "too-fast": ("No, it is worse", "Nein, es ist schlechter"),
        "broken": ("There is no new model.", "Es gibt kein neues Modell."),
        "too-much": ("There is no new model.", "Es gibt kein neues Modell."),
        "training": ("Not known yet", "Noch nicht bekannt"),
        "out-of-memory": ("Yes", "Ja"),
    }[name][language == "de"]
    assert page.ask("document.querySelector('.answers dd').innerText") == expected
    page.close()


@pytest.mark.parametrize("name", ["contracts", "too-fast", "training", "out-of-memory"])
def test_the_figures_in_the_charts_are_those_measured(
    browser: Browser, pages: Pages, name: str
) -> None:
    """Each chart's table holds metrics.jsonl, step by step, and each line has as many points."""
    run = pages.runs[name]
    lines = []
    bounds = {1: (1, 3), 2: (4, 6)} if name == "out-of-memory" else {1: (1, 10**9)}
    for number, (first, last) in bounds.items():
        text = (run.attempt_folders()[number - 1] / "metrics.jsonl").read_text()
        lines += [one for one in map(json.loads, text.splitlines()) if first <= one["step"] <= last]
    page = browser.open(pages.files[f"{name}-en"])
    rows = {
        chart: page.ask(
            f"[...document.querySelectorAll('#{chart} tbody tr')]"
            ".map(r => [...r.cells].map(c => c.textContent))"
        )
        for chart in ("loss", "rate", "speed")
    }
    wanted = {
        ("loss", 1): ("loss", 4),
        ("loss", 2): ("eval_loss", 4),
        ("rate", 1): ("learning_rate", None),
        ("speed", 1): ("tokens_per_second", 1),
    }
    for (chart, column), (key, places) in wanted.items():
        measured = {one["step"]: one[key] for one in lines if one.get(key) is not None}
        if column == 2 and not measured:
            continue
        shown = {int(row[0]): float(row[column]) for row in rows[chart] if row[column]}
        assert shown.keys() == measured.keys()
        for step, value in measured.items():
            tolerance = abs(value) * 6e-3 if places is None else 0.51 * 10**-places
            assert abs(shown[step] - value) <= tolerance
    points = page.ask(
        "document.querySelector('#loss .serie-0 path').getAttribute('d').split(/[ML ]+/).length"
    )
    steps = len({one["step"] for one in lines if "loss" in one})
    assert points in (steps * 1, steps + 1, steps * 2, steps * 2 + 1)
    assert page.ask("document.querySelectorAll('svg[role=img] > title').length") >= 3
    page.close()


FAULTY = """<!DOCTYPE html><html><head>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:">
</head><body><p style="color: #eee">pale</p><script>document.title = "x"</script>
<img src="http://127.0.0.1:9/x.png"><div><table width="3000"><tr><td>wide</td></tr></table></div>
</body></html>"""


def test_the_instruments_find_what_they_look_for(browser: Browser, tmp_path: Path) -> None:
    """A page with a script, a request, a style of its own and no name is caught by each of them."""
    faulty = tmp_path / "faulty.html"
    faulty.write_text(FAULTY)
    page = browser.open(faulty)
    page.looks(*PHONE)
    said = " ".join(page.complaints)
    assert "script" in said
    assert "style" in said
    assert "x.png" in " ".join([said, *page.requests])
    assert page.ask("document.documentElement.scrollWidth") > PHONE[0]
    page.ask(_axe() + "\n;0")
    found = page.ask("axe.run().then(r => r.violations.map(v => v.id))")
    assert {"document-title", "html-has-lang", "image-alt"} <= set(found)
    page.close()
