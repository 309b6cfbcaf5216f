"""Charts: measured series as inline SVG that needs no script, no style of its own and no colour.

Drawn by pygal, after a trial against matplotlib under the page's policy (``default-src 'none'``,
one hashed style sheet). pygal gives every line and label a class, so that one style sheet serves
light, dark and print; of its own it brings one style element, one script and a date in a comment,
which are left out here. matplotlib writes 39 style attributes in a chart of one line, which the
policy blocks, with fixed colours, and takes 2.7 s and 72 MB to import against 0.2 s and 12 MB; it
would bring 200 MB of packages. pygal's tree is changed before it is written out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

import pygal
from pygal.etree import etree
from pygal.style import Style

from runner.report.curve import Series

# pygal puts a hook of the style of Python 2 into every later import, for plugins of its own that
# nobody has; Python 3.11 warns of it at each import, and 3.12 ignores it.
sys.meta_path[:] = [hook for hook in sys.meta_path if type(hook).__name__ != "PluginImportFixer"]

# pygal takes lxml where it is installed, whose tree is another: lm-evaluation-harness brings it.
etree.to_etree()

WIDTH, HEIGHT = 440, 250  # user units; on a phone of 360 px its text has 10 px
_TEXT = 13
_KEPT_ATTRIBUTES = frozenset({"class", "d", "x", "y", "cx", "cy", "r", "transform"})
_DROPPED = frozenset({"defs", "script", "style", "desc", "title", "rect"})


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One series as a chart shows it."""

    name: str
    series: Series


def svg(
    name: str,
    drawn: Sequence[Drawn],
    *,
    title: str,
    description: str,
    say: Callable[[float], str],
) -> str:
    """Draw a chart.

    Args:
        name: unique on the page; ids are made from it.
        drawn: the lines.
        title: what a screen reader says first.
        description: what it says next: the chart in a sentence or two.
        say: words a value on the axis.
    """
    values = [value for one in drawn for _, value in one.series.points]
    steps = [step for one in drawn for step, _ in one.series.points]
    low, high = _around(min(values), max(values))
    if 0 < low < high / 2:
        low = 0.0  # a loss or a speed is seen against nothing, where that costs no detail
    chart = pygal.XY(
        width=WIDTH,
        height=HEIGHT,
        explicit_size=False,
        no_prefix=True,
        js=[],
        show_legend=False,
        show_dots=False,
        print_values=False,
        margin=4,
        xrange=(min(steps), max(steps)),
        range=(low, high),
        x_value_formatter=lambda step: f"{step:.0f}",
        value_formatter=say,
        style=Style(
            label_font_size=_TEXT,
            major_label_font_size=_TEXT,
            font_family="sans-serif",
            label_font_family="sans-serif",
            major_label_font_family="sans-serif",
        ),
    )
    chart.x_labels = ticks(min(steps), max(steps), whole=True)
    chart.y_labels = ticks(low, high)
    for one in drawn:
        single = len(one.series.points) == 1  # makes no line
        chart.add("", list(one.series.points), show_dots=single, dots_size=4)
    root: Any = chart.render_tree()
    _strip(root)
    root.attrib.clear()
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("viewBox", f"0 0 {WIDTH} {HEIGHT}")
    root.set("class", "chart")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(place, element)
    return ET.tostring(root, encoding="unicode", short_empty_elements=True)


def _strip(element: Any) -> None:
    """Leave out scripts, styles, comments, hover texts, and attributes not known to be mute."""
    for child in list(element):
        tag = child.tag if isinstance(child.tag, str) else "script"  # a comment has no name
        hidden = child.get("class", "").startswith("tooltip")
        if tag.rpartition("}")[2] in _DROPPED or hidden:
            element.remove(child)
            continue
        for attribute in [a for a in child.attrib if a not in _KEPT_ATTRIBUTES]:
            del child.attrib[attribute]
        _strip(child)


def _around(low: float, high: float) -> tuple[float, float]:
    """Leave some room around the values, so that a flat line is seen as one."""
    if low == high:
        room = abs(low) / 2 or 1.0
        return low - room if low < 0 else max(0.0, low - room), high + room
    return low, high


def ticks(low: float, high: float, *, most: int = 6, whole: bool = False) -> list[float]:
    """Choose round numbers between ``low`` and ``high``: 1, 2 or 5 times a power of 10 apart."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw * 0.999)
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]
