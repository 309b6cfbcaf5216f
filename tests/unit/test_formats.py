"""Reads rows of every kind of file and format, and finds all that is wrong in one pass."""

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from runner.training.data.findings import Findings
from runner.training.data.formats import detect, to_conversations
from runner.training.data.row import Row
from runner.training.data.rows import read_rows

ANSWERED = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def read(tmp_path, name, content):
    """Read one file; give its rows and problems."""
    path = tmp_path / "copy"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    findings = Findings()
    return read_rows(path, shown_as=name, findings=findings), findings.problems


def convert(*values, data_format="auto", system_prompt=None):
    """Turn values into conversations; give them and the problems."""
    rows = [Row(file="f", line=n, value=value) for n, value in enumerate(values, start=1)]
    findings = Findings()
    found = to_conversations(
        rows, data_format=data_format, system_prompt=system_prompt, findings=findings
    )
    return found, findings.problems


GOOD = {
    "JSON Lines": ("a.jsonl", '{"text": "ä"}\n\n{"text": "b"}', [1, 3]),
    "byte-order mark": (
        "a.jsonl",
        b'\xef\xbb\xbf{"text": "\xc3\xa4"}\r\n{"text": "b"}\r\n',
        [1, 2],
    ),
    "array": ("a.json", '[\n {"text": "ä"},\n {"text":\n "b"}]\n', [2, 3]),
    "lines named .json": ("a.json", '{"text": "ä"}\n{"text": "b"}', [1, 2]),
    "CSV": ("a.csv", 'text\n"ä"\n"b"\n', [2, 3]),
    "CSV of Excel": ("a.csv", "\ufefftext;more\r\nä;x\r\nb;y\r\n", [2, 3]),
    "TSV": ("a.tsv", "text\tmore\nä\tx\nb\ty\n", [2, 3]),
}


@pytest.mark.parametrize("case", GOOD)
def test_every_kind_of_file_is_read_with_its_lines(case, tmp_path):
    """Each row knows the line at which it begins."""
    name, content, lines = GOOD[case]
    rows, problems = read(tmp_path, name, content)
    assert not problems
    assert [row.line for row in rows] == lines
    assert rows[0].value["text"] == "ä"


def test_a_line_break_in_a_quoted_csv_text_keeps_lines_right(tmp_path):
    """The row after a text of two lines is told by its true line."""
    rows, _ = read(tmp_path, "a.csv", 'text\n"one\ntwo"\nthree\n')
    assert [row.line for row in rows] == [2, 4]


def test_parquet_is_read(tmp_path):
    """Rows are counted from 1; nested messages arrive whole."""
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist([{"messages": ANSWERED}] * 2), path)
    rows, problems = read(tmp_path, "a.parquet", path.read_bytes())
    assert not problems
    assert [(row.line, row.value["messages"]) for row in rows] == [(1, ANSWERED), (2, ANSWERED)]


BAD = {
    "UTF-16": ("a.jsonl", '{"text": "x"}'.encode("utf-16"), "UTF-16", 1, 1),
    "Latin-1": ("a.jsonl", b'{"text": "a"}\n{"text": "\xe4"}\n{"text": "\xf6"}', "not UTF-8", 2, 2),
    "bad lines": ("a.jsonl", '{"a": 1}\n{\n{"a": 2}\n}', "not valid JSON", 2, 2),
    "deep": ("a.jsonl", "[" * 100_000, "not valid JSON", 1, 1),
    "array cut": ("a.json", '[\n{"a": 1},\n{"a": ', "not valid JSON", 3, 1),
    "array without comma": ("a.json", '[{"a": 1}\n{"a": 2}]', "not valid JSON", 2, 1),
    "after the array": ("a.json", "[{}]\n[{}]", "more after", 2, 1),
    "no array": ("a.json", '"x"', "neither", 1, 1),
    "columns": ("a.csv", "a,b\n1,2\n1\n1,2,3\n", "number of columns", 3, 2),
    "quote": ("a.csv", 'a,b\n1,"2\n', "quote", 2, 1),
    "same column": ("a.csv", "a,a\n1,2\n", "same name", 1, 1),
    "empty": ("a.jsonl", "", "no rows", None, 1),
    "only a header": ("a.csv", "a,b\n", "no rows", None, 1),
    "Parquet": ("a.parquet", b"PAR1 not really", "not valid Parquet", None, 1),
    "kind": ("a.xls", b"PK", "not read", None, 1),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_told_with_line_and_count(case, tmp_path):
    """One problem a kind, at its first line."""
    name, content, message, line, count = BAD[case]
    _, problems = read(tmp_path, name, content)
    assert [(p.file, p.line, p.count) for p in problems] == [(name, line, count)]
    assert message in problems[0].message


@given(st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv"]))
def test_no_bytes_break_the_readers(tmp_path_factory, content, name):
    """Any bytes give rows or problems, never an exception."""
    rows, problems = read(tmp_path_factory.getbasetemp(), name, content)
    assert rows or problems


ROWS = {
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "prompt-completion": {"prompt": "q", "completion": "a"},
    "messages": {"messages": ANSWERED},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
}


@pytest.mark.parametrize("name", ROWS)
def test_every_format_becomes_the_same_messages(name):
    """A format is detected by its columns, and can be named."""
    assert detect(ROWS[name]) == name
    for data_format in ("auto", name):
        (found,), problems = convert(ROWS[name], data_format=data_format)
        assert not problems
        assert list(found.messages) == ANSWERED


def test_text_is_kept_whole():
    """It has no messages: all of it is learned."""
    (found,), _ = convert({"text": "all of it"})
    assert (found.text, found.messages) == ("all of it", ())


def test_the_input_of_alpaca_follows_the_instruction():
    """Both are the question."""
    (found,), _ = convert({"instruction": "Sum up:", "input": "long", "output": "a"})
    assert found.messages[0]["content"] == "Sum up:\n\nlong"


def test_prompts_may_be_messages():
    """TRL's conversational prompt-completion."""
    (found,), problems = convert({"prompt": ANSWERED[:1], "completion": ANSWERED[1:]})
    assert not problems
    assert list(found.messages) == ANSWERED


def test_the_system_prompt_yields_to_the_rows_own():
    """It is put only before conversations that have none."""
    own = [{"role": "system", "content": "mine"}, *ANSWERED]
    found, _ = convert({"messages": own}, {"messages": ANSWERED}, system_prompt="the spec's")
    assert [c.messages[0]["content"] for c in found] == ["mine", "the spec's"]


def talk(*roles):
    """Make a row of messages by their roles."""
    return {"messages": [{"role": role, "content": "SECRET"} for role in roles]}


UNUSABLE = {
    "ends with a question": (talk("user", "assistant", "user"), "no answer"),
    "only a question": (talk("user"), "no answer"),
    "nothing": (talk(), "no messages"),
    "only a system message": (talk("system"), "no messages"),
    "begins with an answer": (talk("assistant"), "begin with the user"),
    "two questions": (talk("user", "user", "assistant"), "follow each other"),
    "system late": (talk("user", "system", "assistant"), "elsewhere than first"),
    "tool": (talk("user", "tool", "assistant"), "nothing called the tool"),
    "no list": ({"messages": {"a": "SECRET"}}, "not a list"),
    "text for a list": ({"messages": "SECRET"}, "not valid JSON"),
    "no message": ({"messages": ["SECRET"]}, "not a message"),
    "empty answer": (
        {"messages": [ANSWERED[0], {"role": "assistant", "content": ""}]},
        "no answer: it is empty",
    ),
    "picture": (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWERED[1]]},
        "other than text",
    ),
    "calls": (
        {"messages": [ANSWERED[0], {"role": "assistant", "tool_calls": [{"SECRET": 1}]}]},
        "tools",
    ),
    "odd role": ({"messages": [{"role": 3, "content": "SECRET"}]}, "role"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_rows_that_cannot_be_learned_are_told_without_their_content(case):
    """Each with its line and what it lacks."""
    value, message = UNUSABLE[case]
    found, problems = convert({"messages": ANSWERED}, value)
    assert len(found) == 1
    assert [p.line for p in problems] == [2]
    assert message in problems[0].message
    assert "SECRET" not in str(problems[0])


def test_mixed_formats_are_named():
    """The fewer rows are the odd ones; the first of each kind is told with its count."""
    _, problems = convert(ROWS["alpaca"], {"text": "x"}, ROWS["alpaca"], {"text": "y"}, {"z": 1})
    assert [(p.line, p.count) for p in problems] == [(2, 2), (5, 1)]
    assert "text" in problems[0].message
    assert "alpaca" in problems[0].message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["role", "from", "content", "value", "type", "text"]), inner
            )
        ),
    ),
    st.sampled_from(["messages", "conversations", "prompt", "text", "instruction"]),
)
def test_no_value_breaks_the_formats(value, column):
    """Whatever JSON stands in a row, it is a conversation or a problem."""
    row = json.loads(json.dumps({column: value, "output": value, "completion": value}))
    found, problems = convert(row)
    assert bool(found) != bool(problems)


def noted(*values):
    """Turn values into conversations; give what is said beside them."""
    rows = [Row(file="f", line=n, value=value) for n, value in enumerate(values, start=1)]
    findings = Findings()
    found = to_conversations(rows, data_format="auto", system_prompt=None, findings=findings)
    assert found or findings.problems
    return findings.notes


PAIR = {"prompt": "q", "completion": "a"}
WITHIN = {
    "weight": ({**PAIR, "metadata": {"weight": 0}}, "columns not read: metadata.weight"),
    "as JSON": ({**PAIR, "meta": '{"label": false}'}, "columns not read: meta.label"),
    "system": ({**PAIR, "metadata": {"System": "s"}}, "columns not read: metadata.System"),
    "of a message": (
        {"messages": [ANSWERED[0], {**ANSWERED[1], "metadata": {"train": False}}]},
        "message keys not read: metadata.train",
    ),
    "thinking of the user": (
        {"messages": [{**ANSWERED[0], "reasoning_content": "t"}, ANSWERED[1]]},
        "message keys not read: reasoning_content",
    ),
}


@pytest.mark.parametrize("case", WITHIN)
def test_what_is_not_read_where_it_stands_is_named(case):
    """A weight within metadata is not honoured, and nobody is left to think that it is."""
    value, note = WITHIN[case]
    assert noted(value) == [note]


def test_what_metadata_usually_holds_is_no_matter():
    """Sources and dates change nothing."""
    assert noted({**PAIR, "metadata": {"source": "s", "date": "2026-01-01", "weight": None}}) == []


@pytest.mark.parametrize("key", ["prefix", "refusal"])
def test_a_switch_that_is_off_refuses_nothing(key):
    """``prefix: false`` says that the answer is a whole one."""
    value = {"messages": [ANSWERED[0], {**ANSWERED[1], key: False}]}
    found, problems = convert(value)
    assert found
    assert not problems
    value["messages"][1][key] = True
    assert convert(value)[1]


BESIDE = {"weight": 0, "image": "a.png"}


@pytest.mark.parametrize("key", BESIDE)
def test_what_stands_beside_a_text_part_is_not_dropped(key):
    """A part with a weight of 0 would be learned, one with a picture be read without it."""
    part = {"type": "text", "text": "a", key: BESIDE[key]}
    found, problems = convert({"messages": [ANSWERED[0], {"role": "assistant", "content": [part]}]})
    assert not found
    assert key in problems[0].message
    part = {"type": "text", "text": "a", key: None}
    assert convert({"messages": [ANSWERED[0], {"role": "assistant", "content": [part]}]})[0]


def test_a_class_beside_a_question_is_said_to_be_the_answer():
    """The advice must be one that can be followed."""
    _, problems = convert({"question": "q", "label": "Mietrecht"})
    assert problems[0].hint.startswith("Rename label to answer.")


def test_two_texts_of_one_question_are_told_which_name_to_keep():
    """The word in the advice is a column's name."""
    _, problems = convert({"instruction": "q", "input": "i", "context": "c", "output": "a"})
    assert problems[0].hint.startswith("Keep one of them as input")


def test_columns_of_unlike_length_are_no_row(tmp_path):
    """Else the whole table would be learned as one question and one answer, in JSON."""
    for table in (
        {"prompt": ["q", "r"], "completion": ["a"]},
        {"prompt": {"0": "q", "1": "r"}, "completion": {"0": "a"}},
    ):
        rows, problems = read(tmp_path, "a.json", json.dumps(table))
        assert not rows
        assert "prompt, completion hold lists that are no table" in problems[0].message


def test_a_list_of_rows_under_a_name_of_its_own_is_pointed_at(tmp_path):
    """The file's owner reads which part of it to keep."""
    rows, _ = read(tmp_path, "a.json", json.dumps({"faqs": [PAIR], "edition": 1}))
    _, problems = convert(rows[0].value)
    assert problems[0].hint == "Write the list faqs as the whole file."
