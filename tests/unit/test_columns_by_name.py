"""Reads the columns that the spec names, refuses those that are not there, and offers a guess."""

import json

import pytest

from runner.errors import SpecError
from runner.spec.read_spec import read_spec
from runner.training.data.findings import Findings
from runner.training.data.formats import convert, decide
from runner.training.data.rows import read_rows


def learn(tmp_path, name, content, spec):
    """Read a file as a spec says; give the messages of each row, and what was found."""
    path, findings = tmp_path / "copy", Findings()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    read = read_spec(f"model: m\ndata: d.jsonl\n{spec}".encode(), file_name="a.yaml")
    rows = read_rows(path, shown_as=name, findings=findings)
    rules = decide(
        rows,
        data_format=read.format,
        system_prompt=read.system_prompt,
        columns=read.columns,
        findings=findings,
    )
    found = [convert(row, n, rules, findings) for n, row in enumerate(rows)]
    return [c and [(m["role"], m["content"]) for m in c.messages] for c in found], findings


CLAUSES = "Klausel;Sachfrage;Ergebnis;Az\nK1;F1;E1;7\nK2;F2;E2;8\n"


def test_a_question_is_made_of_several_columns(tmp_path):
    """Braces name columns; what stands around them stays."""
    spec = 'columns: {prompt: "{Klausel}\\n\\n{Sachfrage}", completion: Ergebnis}'
    found, findings = learn(tmp_path, "a.csv", CLAUSES, spec)
    assert not findings.problems
    assert found[0] == [("user", "K1\n\nF1"), ("assistant", "E1")]
    assert findings.notes == ["columns not read: Az"]


def test_system_and_braces(tmp_path):
    """A system column stands first, and doubled braces are braces."""
    spec = 'columns: {prompt: "{{x}} {q}", completion: a, system: s}'
    row = json.dumps({"q": "Q", "a": "A", "s": "S"})
    found, _ = learn(tmp_path, "a.jsonl", row, spec)
    assert found == [[("system", "S"), ("user", "{x} Q"), ("assistant", "A")]]


def test_messages_under_another_name(tmp_path):
    """A conversation may stand in any column."""
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    row = json.dumps({"verlauf_roh": talk, "other": 1})
    found, _ = learn(tmp_path, "a.jsonl", row, "columns: {messages: verlauf_roh}")
    assert found == [[("user", "Q"), ("assistant", "A")]]


def test_capitals_do_not_matter(tmp_path):
    """As everywhere with columns."""
    spec = "columns: {prompt: sachfrage, completion: ERGEBNIS}"
    found, findings = learn(tmp_path, "a.csv", CLAUSES, spec)
    assert not findings.problems
    assert found[1] == [("user", "F2"), ("assistant", "E2")]


def test_a_column_that_is_not_there_is_refused_with_the_near_one(tmp_path):
    """Once, with what was surely meant and what there is."""
    spec = "columns: {prompt: Sachfrage, completion: Ergebniss}"
    found, findings = learn(tmp_path, "a.csv", CLAUSES, spec)
    (problem,) = findings.problems
    assert found == [None, None]
    assert (problem.line, problem.count) == (1, 1)
    assert "'Ergebniss', and the data has no such column" in problem.message
    assert problem.hint.startswith("Did you mean 'Ergebnis'? Its columns are: Klausel, ")


def test_a_row_whose_column_is_empty_is_refused_by_line(tmp_path):
    """The column is named as the data names it."""
    spec = "columns: {prompt: Sachfrage, completion: Ergebnis}"
    text = CLAUSES.replace("E2", "")
    _, findings = learn(tmp_path, "a.csv", text, spec)
    (problem,) = findings.problems
    assert (problem.line, problem.message) == (
        3,
        "the row has no completion: 'Ergebnis' is missing or empty",
    )


def test_the_refusal_offers_columns_that_can_be_pasted(tmp_path):
    """What is offered is read as it stands, and reads every row."""
    text = "Klausel;Sachverhalt;Entscheid\n" + "Der Text;Was gilt?;Die Frist.\n" * 3
    _, findings = learn(tmp_path, "a.csv", text, "")
    (problem,) = findings.problems
    offered = "columns: " + problem.hint.split("such as: columns: ")[1]
    assert offered == 'columns: {prompt: "{Klausel}\\n\\n{Sachverhalt}", completion: "Entscheid"}'
    found, findings = learn(tmp_path, "a.csv", text, offered)
    assert not findings.problems
    assert found[0] == [("user", "Der Text\n\nWas gilt?"), ("assistant", "Die Frist.")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("{prompt: q}", "completion is missing beside it"),
        ("{prompt: q, completion: a, messages: m}", "messages and prompt both say"),
        ("{system: s}", "neither a question nor a conversation is named"),
        ("{question: q}", "question"),
        ("q", "takes settings of its own"),
    ],
)
def test_columns_that_name_half_are_refused(columns, message):
    """With the field that is missing."""
    with pytest.raises(SpecError) as caught:
        read_spec(f"model: m\ndata: d.jsonl\ncolumns: {columns}\n".encode(), file_name="a.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("{Klausel} {", "has a brace that is left over or names no column"),
        ("{Klausel}}", "has a brace that is left over or names no column"),
        ("{Klausel} {}", "has a brace that is left over or names no column"),
        ("{{Klausel}}", "names no column"),
        ("{Klausl}", "the spec's columns name 'Klausl'"),
        ("Klausel?", "the spec's columns name 'Klausel?'"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(prompt, says, tmp_path):
    """A brace too many would be learned as text, and a column left out."""
    spec = f'columns: {{prompt: "{prompt}", completion: Ergebnis}}'
    _, findings = learn(tmp_path, "a.csv", CLAUSES, spec)
    assert says in findings.problems[0].message
    assert findings.problems[0].hint


def test_a_label_says_whether_a_row_is_learned_whatever_columns_are_named(tmp_path):
    """A thumbs-down stays one where the spec names question and answer."""
    table = "Sachfrage;Ergebnis;label\nF1;E1;false\nF2;E2;true\n"
    spec = "columns: {prompt: Sachfrage, completion: Ergebnis}"
    found, findings = learn(tmp_path, "a.csv", table, spec)
    assert found == [None, [("user", "F2"), ("assistant", "E2")]]
    assert "not learned, because label is false" in findings.notes[0]


def test_several_questions_in_a_row_are_not_guessed_into_one(tmp_path):
    """The first answer would become part of the second question."""
    texts = [f"{word} that is long enough to be content" for word in ("Eins", "Zwei", "Drei")]
    rows = [{"Frage 1": t, "Antwort 1": t, "Frage 2": t, "Antwort 2": t} for t in texts]
    _, findings = learn(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)), "")
    assert "columns:" not in findings.problems[0].hint


def test_a_weight_counts_whatever_columns_are_named(tmp_path):
    """A row that is marked as not to be learned stays so."""
    rows = [{"q": "Q", "a": "A", "weight": 0}, {"q": "Q", "a": "A", "weight": 1}]
    spec = "columns: {prompt: q, completion: a}"
    found, findings = learn(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)), spec)
    assert found == [None, [("user", "Q"), ("assistant", "A")]]
    assert not findings.problems


def test_a_row_without_its_system_message_is_learned_without_one(tmp_path):
    """A question and an answer are needed; what stands before them is not."""
    rows = [{"q": "Q", "a": "A", "s": None}, {"q": "Q", "a": "A", "s": "S"}]
    spec = "columns: {prompt: q, completion: a, system: s}"
    found, findings = learn(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)), spec)
    assert not findings.problems
    assert [talk[0] for talk in found] == [("user", "Q"), ("system", "S")]


def test_of_two_columns_that_differ_in_case_alone_neither_is_guessed(tmp_path):
    """A third spelling of both is refused; each is found by its own."""
    row = json.dumps({"Frage": "Q1", "FRAGE": "Q2", "a": "A"})
    _, findings = learn(tmp_path, "a.jsonl", row, "columns: {prompt: fragE, completion: a}")
    assert "has no such column" in findings.problems[0].message
    found, _ = learn(tmp_path, "a.jsonl", row, "columns: {prompt: FRAGE, completion: a}")
    assert found[0][0] == ("user", "Q2")


def test_marks_and_numbers_are_not_offered_as_an_answer(tmp_path):
    """The last column with texts is guessed to be the answer, not the marks behind it."""
    rows = "Sachfrage;Urteil;Note\n" + "".join(
        f"Was gilt im Fall {n}?;Es gilt das Gesetz {n}.;{'ab'[n % 2]}{n}\n" for n in range(9)
    )
    _, findings = learn(tmp_path, "a.csv", rows, "")
    hint = findings.problems[0].hint
    assert 'columns: {prompt: "Sachfrage", completion: "Urteil"}' in hint


def test_the_column_whose_name_says_what_comes_out_is_offered_as_the_answer(tmp_path):
    """Wherever it stands among the others."""
    rows = "Sachfrage;Ergebnis;Klausel\n" + "".join(
        f"Was gilt im Fall {n}?;Es gilt das Gesetz {n}.;Klausel {n} lautet so.\n" for n in range(9)
    )
    _, findings = learn(tmp_path, "a.csv", rows, "")
    offered = 'columns: {prompt: "{Sachfrage}\\n\\n{Klausel}", completion: "Ergebnis"}'
    assert offered in findings.problems[0].hint
