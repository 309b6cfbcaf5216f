"""`export:` in a spec: formats that exist, written as people write them."""

from __future__ import annotations

import pytest

from runner.errors import SpecError
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec

SPEC = "model: tiny\ndata: rows.jsonl\nexport: {}\n"


def read(export: str) -> JobSpec:
    """Read a spec with this in its `export`."""
    return read_spec(SPEC.format(export).encode(), file_name="x.yaml")


@pytest.mark.parametrize(
    ("written", "formats"),
    [
        ("{gguf: [q4_k_m, F16]}", ["q4_k_m", "f16"]),
        ("{gguf: Q4-K-M}", ["q4_k_m"]),
        ("{merged: yes}", None),
    ],
)
def test_formats_are_read_as_people_write_them(written: str, formats: list[str] | None) -> None:
    """One format needs no list, and case and hyphens do not count."""
    found = read(written).export
    assert found.gguf == formats
    assert found.needs_merged


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("{gguf: [q4_k_n]}", "q4_k_m"),
        ("{gguf: [q2_k]}", "f16, q8_0, q5_k_m, q4_k_m"),
        ("{gguf: [f16, F16]}", "twice"),
        ("{gguf: []}", "empty"),
        ("{merge: true}", "merged"),
        ("{merged: maybe}", "true or false"),
        ("yes", "settings of its own"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_list(written: str, says: str) -> None:
    """The message names the line, what was found, and what exists."""
    with pytest.raises(SpecError) as refused:
        read(written)
    (problem,) = refused.value.problems
    assert problem.line == 3
    said = f"{problem.message} {problem.hint} {problem.allowed}"
    assert says in said


def test_nothing_is_exported_unless_asked() -> None:
    """Without the block, a run makes its adapter alone."""
    spec = read_spec(b"model: tiny\ndata: rows.jsonl\n", file_name="x.yaml")
    assert not spec.export.asks
