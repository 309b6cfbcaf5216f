"""Text of a data file: lines that alone are wanted are the lines that reading all of them gives."""

from __future__ import annotations

import random
from io import BytesIO

import pytest

from runner.training.data.findings import Findings
from runner.training.data.text_source import BLOCK, TextSource


def _text(dice: random.Random) -> bytes:
    """Write some blocks of lines: short, long and empty ones, accents, a last one without end."""
    lines: list[str] = []
    for _ in range(7000):
        lines.append("ä€x"[dice.randrange(3)] * dice.choice([0, 3, 200, 2000]))
        if dice.random() < 0.001:
            lines.append("y" * (BLOCK + 7))
    return "\n".join([*lines, "the end"]).encode()


@pytest.mark.parametrize("count", [0, 1, 30, 3000])
def test_wanted_lines_are_those_of_the_whole(count: int) -> None:
    """Wherever they lie: at the beginning, across blocks, at the end."""
    dice = random.Random(count)
    text = _text(dice)
    lines = text.decode().split("\n")
    wanted = (
        {1, len(lines)} | {dice.randint(1, len(lines)) for _ in range(count)} if count else set()
    )
    wanted |= {n + k for n, line in enumerate(lines, 1) if len(line) > BLOCK for k in (0, 1)}
    found = dict(TextSource(BytesIO(text), "x.jsonl", Findings(), only=wanted).lines())
    assert found == {number: lines[number - 1] for number in wanted if number <= len(lines)}


def test_blocks_without_a_wanted_line_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first, which says of what kind the file is."""
    decoded: list[int] = []
    whole = TextSource._decode

    def decode(self: TextSource, block: bytes, line: int) -> str:
        decoded.append(line)
        return whole(self, block, line)

    monkeypatch.setattr(TextSource, "_decode", decode)
    text = b"x" * 99 + b"\n"
    source = TextSource(BytesIO(text * 50_000), "x.jsonl", Findings(), only={49_000})
    assert dict(source.lines()) == {49_000: "x" * 99}
    assert len(decoded) == 2
    assert decoded[0] == 1
