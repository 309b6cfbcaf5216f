"""Turns hypothesis's choices into hostile inputs: good files mutated, known tricks, noise."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from runner.spec.spec import JobSpec, Limits, Lora, Training, Try, fields_of

FIELDS = [
    *fields_of(JobSpec),
    *(f"training.{name}" for name in Training.model_fields),
    *(f"lora.{name}" for name in Lora.model_fields),
    *(f"limits.{name}" for name in Limits.model_fields),
    *(f"try.{name}" for name in Try.model_fields),
]
GOOD = (
    *(("training.epochs", "3"), ("training.learning_rate", "1e-4"), ("lora.r", "8")),
    *(
        ("format", "alpaca"),
        ("method", "lora"),
        ("notes", "it's for: contracts"),
        ("priority", "5"),
    ),
    *(("eval_split", "5%"), ("limits.hours", "8h"), ("limits.gpu_memory_gib", "20 GiB")),
    *(
        ("training.packing", "yes"),
        ("lora.target_modules", "[q_proj, v_proj]"),
        ("name", "Überall"),
    ),
)
"""Fields and values that a spec may well hold."""
NUMBERS = (
    *("0", "-1", "1e-4", "2E400", "1e-400", ".5", "5.", "0x1F", "0o17", "1_000", "1,000", "١٢"),
    *(".inf", "-.INF", ".nan", "9" * 20, "9" * 5000, "1e999999999", "-0", "+3", "1:30:00"),
    *("8h", "90min", "24 GiB", "5%", "∞", "1e18", "18446744073709551616", "3.0000000000000001"),
)
WORDS = (
    *("true", "no", "NULL", "~", "auto", "qlora", "alpaca", "2026-11-24", "9999-99-99T99:99:99Z"),
    *("data/a.jsonl", "../a", "/etc/passwd", "C:\\a", "a/../b", "*.jsonl", "http://x/y", "org/m"),
    *("\u202eevil", "\u0000", "\ufeff", "\ud83d\ude00", "é", "e\u0301", "x" * 3000, "con", " "),
)
BOMB_MEGABYTES, BOMB_CODECS = (1, 64, 1024), ("none", "zstd")
TRICKS = (
    *("&a [*a, *a]", "*a", "<<: *a", "!!python/object/apply:os.system [x]", "!!binary aGk=", "!x"),
    *(
        "--- ",
        "...\n",
        "%YAML 1.2\n---\n",
        "%TAG ! x\n",
        "? [a]\n: b\n",
        "- - - -",
        "{",
        "}",
        "[",
        "]",
    ),
    *(
        "|\n  text\n",
        ">-\n text\n",
        "'",
        '"',
        '"\\uD800"',
        '"\\x00"',
        "#",
        ": ",
        "\t",
        "\r",
        "\x85",
    ),
    *("\u2028", "\x00", "\x1b[2J", "a: b: c", "- ", "? ", ",", "@", "`", "!!merge", "|99\n", "\n"),
    *("!!int 'x'", "!!float .inf", "=", "<<: [*a, {b: c}]", "key: &k\n", "\ufffe", "\u0085"),
)
_scalars = st.one_of(
    st.sampled_from(NUMBERS + WORDS), st.integers().map(str), st.floats().map(repr), st.text()
)


def _yaml(fields: list[tuple[str, str]]) -> str:
    """Write fields as a person would, sections and all."""
    lines: list[str] = []
    for name, value in fields:
        section, _, inner = name.rpartition(".")
        lines.append(f"{section}:\n  {inner}: {value}" if section else f"{name}: {value}")
    return "\n".join(lines) + "\n"


def _json(fields: list[tuple[str, str]]) -> str:
    tree: dict[str, Any] = {}
    for name, value in fields:
        section, _, inner = name.rpartition(".")
        inside = tree.setdefault(section, {}) if section else tree
        if isinstance(inside, dict):
            inside[inner] = value
    return json.dumps(tree)


_good = st.just([("model", "m"), ("data", "a.jsonl")])
_fields = st.lists(
    st.tuples(st.sampled_from(FIELDS), st.one_of(_scalars, st.sampled_from(TRICKS))), max_size=12
)
_written = st.builds(lambda good, more: good + more, st.one_of(_good, st.just([])), _fields)
_well = st.lists(st.sampled_from(GOOD), unique=True).map(
    lambda more: [("model", "m"), ("data", "a.jsonl"), *more]
)
_nearly = st.builds(
    lambda good, one: [*good, *one],
    _well,
    st.lists(_fields, max_size=1).map(lambda some: some[0][:1] if some else []),
)
_repeated = st.builds(
    lambda what, times, end: what * times + end,
    st.sampled_from((*TRICKS, "a: ", "{a: ", "[", "- ", "a: b\n", "- 1\n", "&a ", "x", "\\", "? ")),
    st.integers(1, 20_000),
    st.sampled_from(("", "]", "}", "\n", ": x")),
)
_soup = st.lists(st.sampled_from(TRICKS + NUMBERS + WORDS + tuple(FIELDS)), max_size=30).map(
    "".join
)
_laughs = st.integers(1, 30).map(
    lambda n: (
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, n))
    )
)


def _encoded(text: str, encoding: str) -> bytes:
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")


def _mutated(content: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for at, gone, new in cuts:
        where = at % (len(content) + 1)
        content = content[:where] + new + content[where + gone :]
    return content


_cuts = st.lists(
    st.tuples(st.integers(0, 2**16), st.integers(0, 40), st.binary(max_size=8)), max_size=4
)
_ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252")


def _hostile(texts: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    encoded = st.builds(_encoded, texts, st.sampled_from(_ENCODINGS))
    return st.one_of(encoded, st.builds(_mutated, encoded, _cuts), st.binary(max_size=400))


_specs = st.tuples(
    _hostile(
        st.one_of(
            _well.map(_yaml),
            _nearly.map(_yaml),
            _written.map(_yaml),
            _written.map(_json),
            _soup,
            _repeated,
            _laughs,
        )
    ),
    st.sampled_from(("a.yaml", "a.yml", "a.json", "b--20261123T221005Z-k3f9.yaml", "\u202e.yaml")),
)

_json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.just("x" * 999),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=10,
)
_COLUMNS = (
    *("instruction", "output", "input", "system", "prompt", "completion", "messages"),
    *("conversations", "text", "role", "content", "from", "value", "", "\x00", "name"),
)
_turns = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(("user", "assistant", "system", "tool", 1, None)),
            "from": st.sampled_from(("human", "gpt", "nobody", [])),
            "content": st.one_of(st.text(max_size=9), _json_values),
            "value": st.one_of(st.text(max_size=9), _json_values),
        },
    ),
    max_size=4,
)
_row = st.one_of(
    st.dictionaries(
        st.sampled_from(_COLUMNS), st.one_of(st.text(max_size=9), _json_values, _turns)
    ),
    _json_values,
)
_words = st.text(min_size=1, max_size=30).filter(str.strip)
_good_rows = st.one_of(
    st.lists(st.fixed_dictionaries({"instruction": _words, "output": _words}), min_size=1),
    st.lists(st.fixed_dictionaries({"prompt": _words, "completion": _words}), min_size=1),
    st.lists(st.fixed_dictionaries({"text": _words}), min_size=1),
    st.lists(
        st.builds(
            lambda ask, say: {
                "messages": [
                    {"role": "user", "content": ask},
                    {"role": "assistant", "content": say},
                ]
            },
            _words,
            _words,
        ),
        min_size=1,
    ),
)
_good_lines = _good_rows.map(lambda rows: "\n".join(map(json.dumps, rows)))
_good_array = _good_rows.map(lambda rows: json.dumps(rows, indent=1))
_BROKEN = (
    *("{", "}", "[]", "null", "NaN", "{} {}", '{"a": 1e999}', '{"a": ' + "9" * 5000 + "}", "\x00"),
    *('{"text": "\\ud800"}', '{"text": "a", "text": "b"}', "[" * 3000, '{"a":' * 3000, "\ufeff{}"),
    *('{"text": "\u2028"}', "{'a': 1}", '{"a": 1,}', "//", '"', '{"text": Infinity}', "-", "1e5"),
)
_line = st.one_of(_row.map(json.dumps), st.sampled_from(_BROKEN), st.text(max_size=30))
_lines = st.builds(
    lambda lines, end: end.join(lines),
    st.lists(_line, max_size=12),
    st.sampled_from(("\n", "\r\n", "\n\n", "\r", "\u2028", "")),
)
_arrays = st.builds(
    lambda rows, end: "[" + ",\n".join(rows) + end,
    st.lists(_line),
    st.sampled_from(("]", "", ",]")),
)
_csv = st.builds(
    lambda cells, mark: "\n".join(mark.join(row) for row in cells),
    st.lists(
        st.lists(
            st.one_of(
                st.sampled_from((*_COLUMNS, '"', '""', '"a\nb"', '"a', "a;b", "x" * 9999, "\r")),
                st.text(max_size=6),
            ),
            max_size=5,
        ),
        max_size=8,
    ),
    st.sampled_from((",", ";", "\t")),
)
_many = st.builds(
    lambda what, times: what * times,
    st.sampled_from(("[", "{", '{"a":', "[[],", '"', ",", ";\n", "\n", "{}\n", "a,b\n", '"a"\n')),
    st.integers(1, 50_000),
)


def _parquet(rows: list[dict[str, Any]], codec: str, cuts: list[tuple[int, int, bytes]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    try:
        parquet.write_table(pa.Table.from_pylist(rows), sink, compression=codec)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return b"PAR1PAR1"
    return _mutated(sink.getvalue().to_pybytes(), cuts)


BOMBS: dict[tuple[int, str], bytes] = {}
"""Filled by whoever draws data, from another process: to make one takes much memory."""


def bomb(megabytes: int, codec: str) -> bytes:
    """Make a small Parquet file that unpacks to so many megabytes; it takes them to make it."""
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    column = pa.DictionaryArray.from_arrays(
        pa.array([0] * megabytes * 16, pa.int32()), ["x" * 2**16]
    )
    parquet.write_table(pa.table({"text": column}), sink, compression=codec)
    return bytes(sink.getvalue().to_pybytes())


_parquets = st.one_of(
    st.builds(
        _parquet,
        st.lists(
            st.dictionaries(
                st.sampled_from(_COLUMNS[:9]), st.one_of(st.text(max_size=9), st.integers(), _turns)
            ),
            max_size=4,
        ),
        st.sampled_from(("none", "snappy", "gzip", "zstd")),
        _cuts,
    ),
    st.deferred(lambda: st.sampled_from(list(BOMBS.values()))),
)
_data = st.one_of(
    st.tuples(
        _hostile(st.one_of(_good_lines, _good_lines, _lines, _many)),
        st.sampled_from(("a.jsonl", "a.ndjson", "a.json")),
    ),
    st.tuples(_hostile(st.one_of(_good_array, _arrays, _many, _lines)), st.just("a.json")),
    st.tuples(_hostile(st.one_of(_csv, _csv, _many)), st.sampled_from(("a.csv", "A.TSV"))),
    st.tuples(_parquets, st.just("a.parquet")),
    st.tuples(st.binary(max_size=200), st.sampled_from(("a.parquet", "a.txt", "a", ".jsonl"))),
)


@st.composite
def specs(draw: st.DrawFn) -> tuple[bytes, str]:
    """Draw bytes and the name of the file they are dropped as."""
    return draw(_specs)  # a function of its own: its strategies' names fill a screen


@st.composite
def data(draw: st.DrawFn) -> tuple[bytes, str]:
    """Draw bytes and the name of the data file that holds them."""
    return draw(_data)


def records(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Mutate a good record: fields missing, strange, extra; then bytes torn, cut, repeated."""
    times = st.sampled_from(
        ("2026-11-24T20:00:00Z", "2026-11-24T20:00:00", "0001-01-01T00:00:00+14:00", 1e300, -1, "")
    )
    strange = st.one_of(
        _json_values,
        times,
        st.sampled_from(("1e999", 10**400, -(10**30), True, {}, [[]], "queued", "succeeded")),
    )
    attempt = st.fixed_dictionaries({}, optional=dict.fromkeys(good["attempts"][0], strange))
    changes = st.dictionaries(
        st.sampled_from([*good, "new_field", ""]),
        st.one_of(strange, st.lists(st.one_of(attempt, st.just(good["attempts"][0])), max_size=3)),
        max_size=2,
    )
    gone = st.sets(st.sampled_from(list(good)), max_size=1)
    states = st.sampled_from(("queued", "training", "succeeded", "failed", "interrupted"))

    def build(change: dict[str, Any], without: set[str], state: str) -> str:
        fields = {**good, "state": state, **change}
        return json.dumps({k: v for k, v in fields.items() if k not in without})

    texts = st.builds(build, changes, gone, states)
    plain = texts.map(str.encode)
    return st.one_of(plain, plain, st.builds(_mutated, plain, _cuts), _hostile(_many))
