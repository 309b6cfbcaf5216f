"""Paths and model names as people really write them: what each answer says to write instead."""

from __future__ import annotations

import pytest

from runner.errors import Problem, SpecError
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec
from runner.spec.spec_text import is_json_spec, is_text_spec


def read(text: str, *there: str) -> JobSpec:
    """Read a spec beside which these files lie."""
    return read_spec(text.encode(), file_name="job.yaml", exists=lambda path: path in there)


def only(text: str, *there: str) -> Problem:
    """Give the one problem of a spec."""
    with pytest.raises(SpecError) as caught:
        read(text, *there)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("lines", "whole", "line"),
    [
        ("data: data/akten #12.jsonl", "data/akten #12.jsonl", 2),
        ("data: data/akten  #12.jsonl", "data/akten  #12.jsonl", 2),
        ("data: data/Fall # 7.csv", "data/Fall # 7.csv", 2),
        ("data: #12.jsonl", "#12.jsonl", 2),
        ("data:\n  - a.jsonl\n  - akten #3.JSONL", "akten #3.JSONL", 4),
        ("data:\n- #3.jsonl", "#3.jsonl", 3),
        ("data: ok.jsonl\neval_data: akten #12.parquet", "akten #12.parquet", 3),
        ("data: Mandat #1 und #2.json", "Mandat #1 und #2.json", 2),
        ("data: akten #12.xlsx", "akten #12.xlsx", 2),
        ("data: data/v1.2 #3.tsv", "data/v1.2 #3.tsv", 2),
    ],
)
def test_a_path_that_a_remark_cuts_off_is_refused_with_quotes(
    lines: str, whole: str, line: int
) -> None:
    """YAML reads nothing after ` #`: the answer says so, and gives the path in quotes."""
    problem = only(f"model: m\n{lines}\n")
    assert "what follows a # is a remark" in problem.message
    assert problem.hint == f'put the path in quotes: "{whole}"'
    assert problem.line == line
    name = whole.rpartition("/")[2]
    assert f"a file {name} lies there" in (only(f"model: m\n{lines}\n", whole).hint or "")


def test_a_list_in_brackets_that_a_remark_cuts_off_says_so() -> None:
    """The bracket that closes the list is a part of the remark."""
    problem = only("model: m\ndata: [a.jsonl, akten #12.jsonl]\n")
    assert "what follows a # is a remark" in problem.message
    assert problem.line == 2


@pytest.mark.parametrize(
    "line",
    [
        "data: d.jsonl # the new ones",
        "data: d.jsonl # was old.jsonl",
        "data: d.jsonl #12.jsonl",
        "data: 'akten #12.jsonl'",
        "data: akten#12.jsonl",
        "data: d.jsonl # see readme.txt",
    ],
)
def test_remarks_beside_a_whole_path_stay_remarks(line: str) -> None:
    """A path with its ending is whole; what follows a # says nothing about it."""
    assert read(f"model: m\n{line}\n").data[0].endswith(".jsonl")


def test_a_whole_path_gives_way_to_the_file_that_lies_there() -> None:
    """Where only the longer name exists, it was meant."""
    assert "lies there" in (
        only("model: m\ndata: d.jsonl #2.jsonl\n", "d.jsonl #2.jsonl").hint or ""
    )


@pytest.mark.parametrize(
    ("value", "write"),
    [
        ('"\\"data/x.jsonl\\""', "write data/x.jsonl without these quotes"),
        ("“data/x.jsonl”", "write data/x.jsonl without these quotes"),
        ("„data/x.jsonl“", "write data/x.jsonl without these quotes"),
        ("‘data/x.jsonl’", "write data/x.jsonl without these quotes"),
        ("«data/x.jsonl»", "write data/x.jsonl without these quotes"),
        ("'''data/x.jsonl'''", "write data/x.jsonl without these quotes"),
        ("a.jsonl, b.jsonl", '["a.jsonl", "b.jsonl"]'),
        ("a.jsonl b.jsonl", '["a.jsonl", "b.jsonl"]'),
        ("a.jsonl; data/b c.csv", '["a.jsonl", "data/b c.csv"]'),
        ("a.jsonl und b.jsonl", '["a.jsonl", "b.jsonl"]'),
        ("a.jsonl and b.jsonl and c.jsonl", '["a.jsonl", "b.jsonl", "c.jsonl"]'),
        ("a.jsonl\n  b.jsonl", '["a.jsonl", "b.jsonl"]'),
        ("a.jsonl - b.jsonl", '["a.jsonl", "b.jsonl"]'),
        ('"[a.jsonl, b.jsonl]"', '["a.jsonl", "b.jsonl"]'),
        ("a.jsonl+b.jsonl", '["a.jsonl", "b.jsonl"]'),
        ("data\\x.jsonl", "write data/x.jsonl"),
        (r"C:\Users\anna\x.jsonl", "then write data/x.jsonl"),
        (r"\\server\finetuning\jobs\data\x.jsonl", "write data/x.jsonl (paths start"),
        (r"Z:\jobs\data\x.jsonl", "write data/x.jsonl (paths start"),
        ("Z:/Jobs/x.jsonl", "write x.jsonl (paths start"),
        ("/jobs/data/x.jsonl", "write data/x.jsonl (paths start"),
        ("/srv/box/jobs/data/x.jsonl", "write data/x.jsonl (paths start"),
        ("smb://server/jobs/data/x.jsonl", "write data/x.jsonl (paths start"),
        ("file:///Z:/jobs/data/x.jsonl", "write data/x.jsonl (paths start"),
        ("https://drive.example.org/x.jsonl?dl=1", "then write data/x.jsonl"),
        ("/home/anna/x.jsonl", "then write data/x.jsonl"),
        ("~/x.jsonl", "then write data/x.jsonl"),
        ("../x.jsonl", "then write data/x.jsonl"),
        ("jobs/data/x.jsonl", "write data/x.jsonl"),
        ("./Jobs/x.jsonl", "write x.jsonl"),
        ("done/x.jsonl", "another folder: data/x.jsonl"),
        ("data/x.zip", "unpack it into data/"),
        ("data/x.xls", "save it as .xlsx"),
        ("data/*/x.jsonl", "write it into the file's name only"),
        ("data/Vertrag.docx", "CSV UTF-8"),
        ("data/x.jsonl.txt", "ends in .jsonl"),
    ],
)
def test_a_path_that_can_never_come_says_what_to_write(value: str, write: str) -> None:
    """Quotes, several in one, other computers' paths, the jobs folder itself, wrong kinds."""
    problem = only(f"model: m\ndata: {value}\n")
    assert write in (problem.hint or ""), problem
    assert problem.line == 2


@pytest.mark.parametrize(
    "value",
    [
        "O'Brien.jsonl",
        "Müller, Meier & Co.jsonl",
        "a und b.jsonl",
        "x.jsonl.old.jsonl",
        "“A” b.csv",
    ],
)
def test_odd_names_that_may_exist_are_left_alone(value: str) -> None:
    """A name with a comma, an apostrophe or the word "und" is a name."""
    assert read(f'model: m\ndata: "{value}"\n').data == [value]


def test_blanks_around_a_path_are_nobodys_name() -> None:
    """Pasted blanks, the ones that do not break included, are taken away."""
    assert read('model: m\ndata: "\u00a0data/x.jsonl "\n').data == ["data/x.jsonl"]


def test_a_backslash_in_double_quotes_is_explained() -> None:
    """One is no escape, one a line break: both answers say to write a slash."""
    for path in (r'"data\contracts.jsonl"', r'"data\new.jsonl"', r'"data\0.jsonl"'):
        assert "write / instead of \\" in (only(f"model: m\ndata: {path}\n").hint or ""), path


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("./models/smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("models/smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("models/org/name", "org/name"),
        ("./name", "name"),
        ("././models//name/", "name"),
        ("name/", "name"),
        ("org/name/", "org/name"),
        ("https://huggingface.co/Org/Name", "Org/Name"),
        ("https://huggingface.co/Org/Name/", "Org/Name"),
        ("https://huggingface.co/Org/Name/tree/main", "Org/Name"),
        ("https://huggingface.co/Org/Name?library=transformers", "Org/Name"),
        ("http://www.huggingface.co/Org/Name#usage", "Org/Name"),
        ("huggingface.co/Org/Name", "Org/Name"),
        ("hf.co/Org/Name", "Org/Name"),
        ("“Org/Name”", "Org/Name"),
        ("'\"name\"'", "name"),
        ("' name '", "name"),
    ],
)
def test_a_model_written_another_way_is_taken_as_meant(value: str, name: str) -> None:
    """The folder with its path, a slash at the end, the hub's page: all mean one model."""
    assert read(f"model: {value}\ndata: d\n").model == name


@pytest.mark.parametrize(
    ("value", "write"),
    [
        ("/models/name", "write name"),
        ("/srv/box/models/org/name", "write org/name"),
        (r"C:\box\models\name", "write name"),
        (r"\\server\models\org\name", "write org/name"),
        (r".\models\name", "write name"),
        (r"models\name", "write name"),
        (r"org\name", "write org/name"),
        ("https://example.org/a/b", "a hub id such as org/name"),
        ("a/b/c", "a hub id such as org/name"),
        ("../name", "a hub id such as org/name"),
        ("llama.gguf", "a hub id such as org/name"),
    ],
)
def test_what_the_answer_says_of_a_model_is_right_the_first_time(value: str, write: str) -> None:
    """Whoever writes what the answer says is not refused again."""
    hint = only(f"model: {value}\ndata: d\n").hint or ""
    assert write in hint
    if not hint.startswith("write a hub id"):
        read(f"model: {hint.removeprefix('write ')}\ndata: d\n")


@pytest.mark.parametrize(
    "text",
    [
        '{"model": "m", "data": "d",}',
        '{"model": "m" "data": "d"}',
        "{model: 'm', data: 'd'}",
        "{'model': 'm', 'data': 'd'}",
        '{"model": "m, "data": "d"}',
        '{\n  "model": "m"\n  "data": "d"\n}',
        "{“model”: “m”, “data”: “d”}",
        '{"model": "m", "data": ["a", "b"}',
        '{"model": "m", "data": "d"',
        "model: m\ndata: d\n",
        '{"model": "m", "data": "C:\\x"}',
    ],
)
def test_a_json_spec_with_a_slip_is_answered(text: str) -> None:
    """A comma too many, other quotes, no quotes, YAML under that ending: meant as a spec."""
    assert is_json_spec(text.encode())
    with pytest.raises(SpecError) as caught:
        read_spec(text.encode(), file_name="job.json")
    assert caught.value.problems[0].hint


@pytest.mark.parametrize(
    "text",
    [
        '{"model": "m", "data": "d"}\n{"model": "m", "data": "e"}\n',
        '[{"model": "m", "data": "d"},]',
        '{"rows": [1, 2,]}',
        '{"messages": []}',
        "",
    ],
)
def test_json_data_in_the_root_is_left_alone(text: str) -> None:
    """Rows and tables are no spec, slips or not."""
    assert not is_json_spec(text.encode())


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("model: m\ndata: d\n", True),
        ("# mine\r\nmodel : m\r\nDATA: x\r\ndata: d\r\n", True),
        ("\ufeffmodel: m\ndata:\n  - d\n\tname: x\n", True),
        ('{"model": "m", "data": "d"}', True),
        ("Liebe Kollegen, model: ist egal\n", False),
        ("model: m\n", False),
        ("", False),
    ],
)
def test_a_text_file_that_holds_a_spec_is_known(text: str, *, spec: bool) -> None:
    """Notepad saves a spec as .txt; notes that speak of models are no spec."""
    assert is_text_spec(text.encode()) is spec
