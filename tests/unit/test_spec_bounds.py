"""A spec that is made to be slow to read: the daemon's loop reads it, and is held up by none."""

from __future__ import annotations

import time

import pytest

from runner.daemon.inbox.view import SPEC_BYTES
from runner.spec.read_spec import SpecError, read_spec
from runner.spec.tree import MOST_VALUES

GOOD = "model: m\ndata: x.jsonl\n"
SLOW = {
    "short values in braces": GOOD + "training: {" + ", ".join(f"k{n}: {n}" for n in range(9999)),
    "short keys": GOOD + "".join(f"k{n}: {n}\n" for n in range(9999)),
    "files": "model: m\ndata: [" + ", ".join(f"f{n}.jsonl" for n in range(9999)),
    "modules": GOOD + "lora: {target_modules: [" + ", ".join(f"m{n}" for n in range(9999)),
    "lists in lists": "[" * SPEC_BYTES,
    "lists in blocks": "{a: [" * SPEC_BYTES,
    "brackets apart": "[ \n" * SPEC_BYTES,
    "lists of lists": "[a,[a,[a,[" * SPEC_BYTES,
    "tags": "!" * SPEC_BYTES,
    "remarks": GOOD + "# x\n" * SPEC_BYTES,
    "lines": GOOD + "system_prompt: |\n" + "  x\n" * SPEC_BYTES,
    "escapes": GOOD + 'system_prompt: "' + "\\n" * SPEC_BYTES,
    "blanks": "model: m\ndata:" + " " * SPEC_BYTES,
    "as many as may be": GOOD + "".join(f"k{n}: {n}\n" for n in range(MOST_VALUES // 2 - 5)),
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_spec_is_read_or_refused_at_once(kind: str) -> None:
    """64 KiB of anything take no round of the loop over 0.2 s, in time of a processor."""
    content = SLOW[kind].encode()[:SPEC_BYTES]
    took = []
    for _ in range(2):  # the better of two: other programs share the processor's caches
        began = time.thread_time()
        try:
            read_spec(content, file_name="x.yaml")
        except SpecError as error:
            assert error.message
        took.append(time.thread_time() - began)
    assert min(took) < 0.2


def test_too_many_values_are_refused_with_what_to_do() -> None:
    """Whoever writes rows into the spec learns where they go."""
    rows = "".join(f"  - {{prompt: q{n}, completion: a{n}}}\n" for n in range(400))
    with pytest.raises(SpecError, match="too many values") as refused:
        read_spec(f"{GOOD}rows:\n{rows}".encode(), file_name="x.yaml")
    assert "a data file" in refused.value.message
