"""Cases from the field: what a data file says is learned, or the job is refused in words that help.

Each case goes from the bytes of a file through the real tokenizer and template; what is learned
is read back from the labels. One test runs the prepare stage itself.
"""

import json
import time
from dataclasses import dataclass, field

import pytest
from datasets import load_from_disk
from transformers import AutoTokenizer

from runner.contract.layout import Outputs, new_run_id
from runner.contract.stage_io import PreparePlan, PrepareResult, read_message, write_message
from runner.errors import DataError
from runner.spec.read_spec import read_spec
from runner.training.data.conversation import UnlearnableRowError
from runner.training.data.findings import Findings
from runner.training.data.formats import to_conversations
from runner.training.data.mark_answers import IGNORED
from runner.training.data.prepare import prepare
from runner.training.data.rows import read_rows
from runner.training.data.template import Template

PAIR = {"question": "Is a deposit due?", "answer": "Yes, three months' rent."}
ASKED = {"role": "user", "content": "Is a deposit due?"}
ANSWERED = {"role": "assistant", "content": "Yes, three months' rent."}
TALK = [ASKED, ANSWERED]
TOOL = {"name": "look_up", "description": "D", "parameters": {"type": "object", "properties": {}}}
LEARNED = "Yes, three months' rent.<|im_end|>"


@dataclass(kw_only=True)
class Prepared:
    """What a job's rows became."""

    notes: str = ""
    refused: str = ""
    hints: list[str | None] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)
    """By row, the text of the labelled tokens."""
    read: list[str] = field(default_factory=list)
    """By row, the whole text."""
    bad_rows: str = ""


@pytest.fixture(scope="module")
def template(tiny_model):
    """Give SmolLM2's own tokenizer and chat template."""
    return Template(AutoTokenizer.from_pretrained(tiny_model), name="tiny")


@pytest.fixture
def prepared(tmp_path, template):
    """Give a function that takes rows from a file's bytes to labels, as the prepare stage does."""

    def run(*rows, text=None, name="rows.jsonl", spec=""):
        content = "\n".join(json.dumps(row) for row in rows) if text is None else text
        path, findings = tmp_path / "copy", Findings()
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        settings = read_spec(f"model: x\ndata: y\n{spec}".encode(), file_name="a.yaml")
        found = to_conversations(
            read_rows(path, shown_as=name, findings=findings),
            data_format=settings.format,
            system_prompt=settings.system_prompt,
            findings=findings,
        )
        examples = []
        for conversation in found:
            try:
                examples += template.encode(conversation)
            except UnlearnableRowError as error:
                findings.add(name, conversation.line, str(error), hint=error.hint)
        if findings.problems:
            findings.write_bad_rows(tmp_path)
            return Prepared(
                refused="\n".join(map(str, findings.problems)),
                hints=[problem.hint for problem in findings.problems],
                bad_rows=(tmp_path / "bad_rows.txt").read_text(),
            )
        decode = template.tokenizer.decode
        return Prepared(
            notes="\n".join(findings.notes),
            learned=[decode([n for n in example.labels if n != IGNORED]) for example in examples],
            read=[decode(example.input_ids) for example in examples],
        )

    return run


@pytest.fixture
def box(tmp_path, tiny_model):
    """Give a function that runs the prepare stage itself on rows."""

    def run(*rows, spec=""):
        jobs = tmp_path / "jobs"
        jobs.mkdir(exist_ok=True)
        (jobs / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        folder = Outputs(tmp_path / "outputs").run("job", new_run_id())
        folder.prepared.mkdir(parents=True)
        folder.spec.write_text(f"model: tiny\ndata: rows.jsonl\neval_split: 0\n{spec}\n")
        plan = PreparePlan(models_dir=str(tiny_model.parent), jobs_dir=str(jobs))
        write_message(folder.prepared / "plan.json", plan)
        try:
            prepare(folder.prepared)
        except DataError as error:
            listed = (folder.prepared / "bad_rows.txt").read_text()
            return Prepared(refused=str(error), bad_rows=listed)
        assert not (folder.prepared / "bad_rows.txt").exists()
        tokenizer = AutoTokenizer.from_pretrained(folder.prepared / "tokenizer")
        result = read_message(folder.prepared / "result.json", PrepareResult)
        data = load_from_disk(str(folder.prepared / "train"))
        return Prepared(
            notes="\n".join(result.shortfalls),
            learned=[tokenizer.decode([n for n in ids if n != IGNORED]) for ids in data["labels"]],
            read=[tokenizer.decode(ids) for ids in data["input_ids"]],
        )

    return run


def test_the_stage_itself_honours_marks_and_tells_what_it_did(box):
    """Masks reach the labels on disk, notes the record, refusals the list of bad rows."""
    found = box(wrong(weight=0), {"messages": TALK, "label": False, "context": "x"})
    assert found.learned == [LEARNED]
    assert "WRONGANSWER" in found.read[0]
    assert "1 row not learned, because label is false: rows.jsonl, line 2" in found.notes
    found = box({"messages": TALK, "context": "x"})
    assert found.notes == "columns not read: context"
    found = box({**PAIR, "reasoning_content": "SECRET"}, {**PAIR, "reasoning_content": "SECRET"})
    assert "rows.jsonl, lines 1 and 2: the row holds thinking (reasoning_content)" in found.refused
    assert len(found.bad_rows.splitlines()) == 2
    assert "SECRET" not in found.refused + found.bad_rows


def test_answers_that_are_not_text_are_learned_as_they_are_written(prepared):
    """Numbers, true and false keep their spelling, within an object or a list as well."""
    rows = (
        '{"instruction": "How many months?", "output": 3}\n'
        '{"instruction": "What is the rate?", "output": 3.10}\n'
        '{"instruction": "Is it due?", "output": true}\n'
        '{"instruction": "Extract the parties", "output": {"lessor": "N. Ä.", "rate": 1.50}}\n'
        '{"instruction": "List the clauses", "output": ["4", 5]}\n'
    )
    found = prepared(text=rows)
    assert [text.removesuffix("<|im_end|>") for text in found.learned] == [
        *("3", "3.10", "true"),
        '{"lessor": "N. Ä.", "rate": 1.50}',
        '["4", 5]',
    ]


HEADINGS = {
    "capitals": {"Instruction": "Is a deposit due?", "Input": "", "Output": ANSWERED["content"]},
    "shouted": {"INSTRUCTION": "Is a deposit due?", "RESPONSE": ANSWERED["content"]},
    "blanks": {" question ": "Is a deposit due?", "Answer ": ANSWERED["content"]},
    "question and answer": PAIR,
    "prompt and response": {"prompt": "Is a deposit due?", "response": ANSWERED["content"]},
    "query and reply": {"query": "Is a deposit due?", "reply": ANSWERED["content"]},
    "input and output": {"input": "Is a deposit due?", "output": ANSWERED["content"]},
    "question and completion": {"question": "Is a deposit due?", "completion": LEARNED[:-10]},
    "German": {"Frage": "Is a deposit due?", "Antwort": ANSWERED["content"]},
    "German instructions": {"Anweisung": "Is a deposit due?", "Ausgabe": ANSWERED["content"]},
    "German input": {"Eingabe": "Is a deposit due?", "Ausgabe": ANSWERED["content"]},
    "user and assistant": {"user": "Is a deposit due?", "assistant": ANSWERED["content"]},
    "who asked": {"user": "anna", **PAIR},
    "metharme": {"prompt": "Is a deposit due?", "generation": ANSWERED["content"]},
}


@pytest.mark.parametrize("case", HEADINGS)
def test_columns_are_read_by_what_they_mean(case, prepared):
    """Capitals, blanks and the names of other programs and of German offices do not matter."""
    found = prepared(HEADINGS[case])
    assert found.learned == [LEARNED]
    assert "user\nIs a deposit due?<|im_end|>" in found.read[0]


QUESTIONS = {
    "context": {"instruction": "Q?", "context": "CLAUSE 4", "output": "Three."},
    "Dolly": {"instruction": "Q?", "context": "CLAUSE 4", "response": "Three.", "category": "qa"},
    "input": {"instruction": "Q?", "input": "CLAUSE 4", "output": "Three."},
    "Kontext": {"Frage": "Q?", "Kontext": "CLAUSE 4", "Antwort": "Three."},
    "article": {"article": "CLAUSE 4", "question": "Q?", "answer": "Three."},
    "input as the question": {"input": "Q?", "context": "CLAUSE 4", "output": "Three."},
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_what_the_answer_rests_on_is_part_of_the_question(case, prepared):
    """The model is not taught to answer without the clause."""
    found = prepared(QUESTIONS[case])
    assert "user\nQ?\n\nCLAUSE 4<|im_end|>" in found.read[0]
    assert found.learned == ["Three.<|im_end|>"]
    assert not found.notes


SYSTEMS = {
    "ShareGPT": {
        "conversations": [
            {"from": "human", "value": "Is a deposit due?"},
            {"from": "gpt", "value": ANSWERED["content"]},
        ],
        "system": "SYSTEMTEXT",
    },
    "messages": {"messages": TALK, "system": "SYSTEMTEXT"},
    "prompt-completion": {
        "prompt": "Is a deposit due?",
        "completion": ANSWERED["content"],
        "system_prompt": "SYSTEMTEXT",
    },
    "prompts of messages": {"prompt": [ASKED], "completion": [ANSWERED], "system": "SYSTEMTEXT"},
    "OpenOrca": {"system_prompt": "SYSTEMTEXT", "question": "q", "response": ANSWERED["content"]},
    "alpaca": {"instruction": "q", "output": ANSWERED["content"], "System": "SYSTEMTEXT"},
    "developer": {"messages": [{"role": "developer", "content": "SYSTEMTEXT"}, *TALK]},
    "the same twice": {
        "messages": [{"role": "system", "content": "SYSTEMTEXT"}, *TALK],
        "system": "SYSTEMTEXT ",
    },
}


@pytest.mark.parametrize("case", SYSTEMS)
def test_a_rows_own_system_prompt_stands_before_its_conversation(case, prepared):
    """In every format; the spec's is for rows that have none."""
    found = prepared(SYSTEMS[case], spec="system_prompt: SPECPROMPT")
    assert found.read[0].startswith("<|im_start|>system\nSYSTEMTEXT<|im_end|>")
    assert "SPECPROMPT" not in found.read[0]
    assert found.learned == [LEARNED]


def wrong(**mark):
    """Make a conversation whose first answer carries a mark."""
    said = {"role": "assistant", "content": "WRONGANSWER", **mark}
    return {"messages": [ASKED, said, {"role": "user", "content": "Sure?"}, ANSWERED]}


MARKS = {
    "weight 0": {"weight": 0},
    "weight 0.0": {"weight": 0.0},
    "weight as text": {"weight": "0"},
    "train": {"train": False},
    "loss": {"loss": False},
    "training": {"training": False},
    "train_on_turn": {"train_on_turn": False},
    "loss_scale": {"loss_scale": 0},
    "false as text": {"train": "False"},
    "in German": {"train": "falsch"},
    "capital": {"Weight": 0},
}


@pytest.mark.parametrize("case", MARKS)
def test_an_answer_marked_as_not_to_be_learned_is_only_read(case, prepared):
    """It stands in the conversation, and no token of it is among the labels."""
    found = prepared(wrong(**MARKS[case]))
    assert "WRONGANSWER" in found.read[0]
    assert found.learned == [LEARNED]


@pytest.mark.parametrize("mark", [{"weight": 1}, {"train": True}, {"weight": None}, {"loss": "1"}])
def test_an_answer_marked_as_to_be_learned_is_learned(mark, prepared):
    """1, true and an empty mark change nothing."""
    assert prepared(wrong(**mark)).learned == [f"WRONGANSWER<|im_end|>{LEARNED}"]


@pytest.mark.parametrize("mark", [{"weight": 0.5}, {"train": "perhaps"}, {"loss": 2}])
def test_a_weight_between_is_refused_by_name(mark, prepared):
    """It is neither rounded nor dropped."""
    found = prepared(wrong(**mark))
    assert f"{next(iter(mark))} is neither 0 nor 1" in found.refused
    assert all(found.hints)


ROWS_OUT = {
    "label": ({"label": False}, "label is false"),
    "label as text": ({"label": "FALSE"}, "label is false"),
    "label 0": ({"label": 0}, "label is false"),
    "kto_tag": ({"kto_tag": False}, "kto_tag is false"),
    "weight": ({"weight": 0}, "weight says so"),
    "train": ({"train": "no"}, "train says so"),
}


@pytest.mark.parametrize("case", ROWS_OUT)
def test_a_row_marked_as_bad_is_not_learned_and_its_line_is_said(case, prepared):
    """Thumbs down is no answer to learn."""
    mark, why = ROWS_OUT[case]
    good = dict.fromkeys(mark, True)
    found = prepared(
        {"prompt": "p", "completion": "BADANSWER", **mark},
        {"prompt": "Who signs?", "completion": "The tenant.", **good},
    )
    assert found.learned == ["The tenant.<|im_end|>"]
    assert f"1 row not learned, because {why}" in found.notes
    assert "rows.jsonl, line 1" in found.notes


def test_a_row_with_nothing_left_to_learn_is_named(prepared):
    """Every answer in it is marked as only to be read."""
    nothing = {"messages": [ASKED, {**ANSWERED, "weight": 0}]}
    found = prepared(PAIR_OF_MESSAGES, nothing, PAIR_OF_MESSAGES)
    assert found.learned == [LEARNED, LEARNED]
    assert "1 row not learned, because every answer is marked" in found.notes
    assert "rows.jsonl, line 2" in found.notes


PAIR_OF_MESSAGES = {"messages": TALK}


def test_a_job_with_nothing_left_to_learn_is_refused(prepared):
    """With what to change."""
    found = prepared({**PAIR, "label": False})
    assert "no row is left to learn from" in found.refused
    assert all(found.hints)


def test_history_stands_before_the_question_and_is_learned(prepared):
    """Pairs of LLaMA-Factory, also as JSON in a CSV file; what follows them is the question."""
    found = prepared({**PAIR, "history": [["Hello?", "Good day."]]})
    assert "user\nHello?<|im_end|>\n<|im_start|>assistant\nGood day.<|im_end|>" in found.read[0]
    assert found.learned == [f"Good day.<|im_end|>{LEARNED}"]


def test_columns_that_nobody_reads_are_said(prepared):
    """Once for all rows; harmless ones and empty ones are not spoken of."""
    row = {**PAIR, "id": 7, "source": "s", "mood": "calm", "empty": None, "notes": "n"}
    found = prepared(row, {**row, "score": 3})
    assert found.notes == "columns not read: mood, notes, score"
    assert found.learned == [LEARNED, LEARNED]


def test_message_keys_that_nobody_reads_are_said(prepared):
    """The same within messages."""
    found = prepared({"messages": [{**ASKED, "mood": "calm", "id": 1}, ANSWERED]})
    assert found.notes == "message keys not read: mood"


def test_a_question_marked_as_to_be_learned_is_said(prepared):
    """Only answers are learned: whoever marked the question meant something else."""
    found = prepared({"messages": [{**ASKED, "weight": 1}, ANSWERED]})
    assert "with a question that is marked to be learned, which only answers are" in found.notes
    assert found.learned == [LEARNED]
    found = prepared({"messages": [{**ASKED, "weight": 0}, ANSWERED]})
    assert found.notes == ""


def test_a_column_beside_messages_is_not_dropped_in_silence(prepared):
    """No template has a place for it."""
    found = prepared({"messages": TALK, "context": "CLAUSE", "prompt_id": "x", "prompt": "p"})
    assert found.notes == "columns not read: context, prompt"


ARGS = {"arguments": "{}"}
REFUSED = {
    "preference": ({"prompt": "SECRET", "chosen": "SECRET", "rejected": "SECRET"}, "chosen, reje"),
    "chosen alone": ({"chosen": TALK, "rejected": TALK}, "preference data"),
    "OpenAI preference": ({"input": {"a": 1}, "preferred_output": [1]}, "preferred_output"),
    "images": ({**PAIR, "images": ["SECRET.png"]}, "holds images: only text"),
    "image": ({**PAIR, "image": "SECRET.png"}, "holds image: only text"),
    "audios": ({**PAIR, "audios": ["SECRET"]}, "holds audios: only text"),
    "video": ({**PAIR, "video": "SECRET"}, "holds video: only text"),
    "images of a message": (
        {"messages": [{**ASKED, "images": ["SECRET.png"]}, ANSWERED]},
        "a message holds images: only text",
    ),
    "tokens": ({"input_ids": [1, 2], "labels": [1, 2]}, "input_ids: the rows are tokens"),
    "steps": ({"prompt": "p", "completions": ["SECRET"], "labels": [True]}, "stepwise"),
    "segments": ({"segments": [{"label": True, "text": "SECRET"}]}, "input_output"),
    "choices": ({**PAIR, "choices": ["SECRET"]}, "choices"),
    "template": ({**PAIR, "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
    "classes": ({"text": "SECRET", "label": 1}, "label would not be learned"),
    "text and answer": ({"text": "SECRET", "output": "SECRET"}, "beside it, output"),
    "text and system": ({"text": "SECRET", "system": "SECRET"}, "beside it, system"),
    "two questions": ({"Frage": "SECRET", "question": "x", "answer": "y"}, "Frage and question"),
    "two answers": ({"question": "x", "answer": "SECRET", "output": "z"}, "answer and output"),
    "two contexts": ({**PAIR, "input": "SECRET", "context": "z"}, "input and context"),
    "two systems": (
        {"messages": [{"role": "system", "content": "SECRET"}, *TALK], "system": "other"},
        "two system messages that differ",
    ),
    "thinking": ({**PAIR, "reasoning_content": "SECRET"}, "reasoning_content"),
    "thinking in a message": (
        {"messages": [ASKED, {**ANSWERED, "thinking": "SECRET"}]},
        "thinking (reasoning_content)",
    ),
    "thinking as a part": (
        {"messages": [ASKED, {**ANSWERED, "content": [{"type": "thinking", "thinking": "S"}]}]},
        "no answer",
    ),
    "ShareGPT tools": (
        {
            "conversations": [
                {"from": "human", "value": "SECRET"},
                {"from": "function_call", "value": "{}"},
                {"from": "observation", "value": "ok"},
                {"from": "gpt", "value": "SECRET"},
            ]
        },
        "the row calls tools (function_call, observation)",
    ),
    "tool calls": (
        {
            "messages": [
                ASKED,
                {"role": "assistant", "tool_calls": [{"function": {"name": "SECRET", **ARGS}}]},
                {"role": "tool", "content": "SECRET"},
                ANSWERED,
            ]
        },
        "the row calls tools (tool_calls, tool)",
    ),
    "old calls": (
        {"messages": [ASKED, {"role": "assistant", "function_call": {"name": "SECRET", **ARGS}}]},
        "the row calls tools (function_call)",
    ),
    "tools": ({**PAIR, "tools": [TOOL]}, "the row calls tools (tools)"),
    "tools as JSON": ({"messages": TALK, "tools": json.dumps([TOOL])}, "calls tools (tools)"),
    "odd tools": ({**PAIR, "tools": ["SECRET"]}, "'tools' is not a list of tools"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "url": "S"}]}, ANSWERED]},
        "other than text (image_url)",
    ),
    "a role": (
        {"messages": [{"role": "narrator", "content": "SECRET"}, *TALK]},
        "the role 'narrator' of a message is not known",
    ),
    "a refusal": (
        {"messages": [ASKED, {"role": "assistant", "content": None, "refusal": "SECRET"}]},
        "a message holds refusal",
    ),
    "parts": ({"messages": [ASKED, {**ANSWERED, "train_detail": [1]}]}, "train_detail: parts"),
    "greeting": ({"messages": [ANSWERED, *TALK]}, "does not begin with the user"),
    "two users": ({"messages": [ASKED, *TALK]}, "two questions (user messages)"),
    "two assistants": ({"messages": [*TALK, ANSWERED]}, "two answers (assistant messages)"),
    "thanks": ({"messages": [*TALK, ASKED]}, "no answer at its end"),
    "no answer": ({"question": "SECRET", "answer": ""}, "'answer' is missing or empty"),
    "no column": ({"question": "SECRET", "lösung": "x"}, "not recognised: lösung"),
    "no question": ({"answer": "SECRET"}, "has no question"),
    "history": ({**PAIR, "history": ["SECRET"]}, "not a list of pairs"),
    "unknown": ({"Sache": "SECRET", "Urteil": "SECRET"}, "not recognised: Sache, Urteil"),
}
MENDS = {
    "preference": "Keep the better answer as the column completion",
    "greeting": "Leave out the greeting before the first question",
    "two users": "Join the two questions into one message",
    "thanks": "Leave out what follows the last answer",
    "no column": "Rename lösung to answer",
    "unknown": "Name the columns question and answer",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_is_refused_by_name_with_the_change(case, prepared):
    """The key or role is named, the row's content is not, and the change to make stands beside."""
    row, message = REFUSED[case]
    found = prepared(row)
    assert message in found.refused
    assert all(found.hints)
    assert MENDS.get(case, "") in str(found.hints)
    assert "SECRET" not in found.refused + found.bad_rows
    assert "rows.jsonl, line 1: " in found.bad_rows


@pytest.mark.parametrize("column", ["images", "tools", "rejected", "history", "system", "weight"])
@pytest.mark.parametrize("nothing", [None, "", [], {}])
def test_a_column_that_holds_nothing_is_no_matter(column, nothing, prepared):
    """Programs write all their columns into each row."""
    found = prepared({**PAIR, column: nothing})
    assert (found.learned, found.notes) == ([LEARNED], "")


def test_bad_rows_are_named_together_and_all_of_them_listed(prepared):
    """One sentence for a kind of problem with its lines; the file has each line by itself."""
    rows = [PAIR if n % 4 else {"question": "SECRET", "answer": ""} for n in range(2, 24)]
    found = prepared(*rows)
    assert "rows.jsonl, lines 3, 7, 11, 15, 19 and 1 more: " not in found.refused
    assert "rows.jsonl, lines 3, 7, 11, 15 and 19: the row has no answer" in found.refused
    assert len(found.bad_rows.splitlines()) == 5
    assert found.bad_rows.startswith("rows.jsonl, line 3: the row has no answer")
    assert "SECRET" not in found.bad_rows


def test_of_many_bad_rows_the_first_are_named_and_all_listed(prepared):
    """A sentence stays readable, the list is whole."""
    found = prepared(*[{"question": "SECRET", "answer": ""}] * 50)
    assert "19, 20 and 30 more: " in found.refused
    assert len(found.bad_rows.splitlines()) == 50


SAID = "Three months, said the court."
ASK = {"role": "user", "content": "How long is the notice?"}
SAY = {"role": "assistant", "content": SAID}
HERE = {"question": ASK["content"], "answer": SAID}
READ_AS_WRITTEN = {
    "decorated headings": ("a.csv", f'**Frage:**,Ant\u00adwort\u200b\n{ASK["content"]},"{SAID}"\n'),
    "blanks after separators": ("a.csv", f'question, answer\n"{ASK["content"]}", "{SAID}"\n'),
    "a table of Markdown": (
        "a.csv",
        f"| Frage | Antwort |\n|:---|---|\n| {ASK['content']} | {SAID} |\n",
    ),
    "lists of pandas' to_csv": ("a.csv", f'messages\n"{[ASK, SAY]}"\n'),
    "an answer that is a message": ("a.jsonl", json.dumps({"prompt": ASK, "completion": SAY})),
    "a question as text, the answer a message": (
        "a.jsonl",
        json.dumps({"prompt": ASK["content"], "completion": SAY}),
    ),
    "texts in objects": (
        "a.jsonl",
        json.dumps({"question": {"text": ASK["content"]}, "answer": {"content": SAID}}),
    ),
    "Gemini's parts": (
        "a.jsonl",
        json.dumps(
            {
                "messages": [
                    {"role": "user", "parts": [{"text": ASK["content"]}]},
                    {"role": "model", "parts": [{"text": SAID}]},
                ]
            }
        ),
    ),
    "ChatGPT's export": (
        "a.jsonl",
        json.dumps(
            {
                "messages": [
                    {**ASK, "content": {"content_type": "text", "parts": [ASK["content"]]}},
                    SAY,
                ]
            }
        ),
    ),
    "role and from alike": (
        "a.jsonl",
        json.dumps({"messages": [{**ASK, "from": "human"}, {**SAY, "from": "gpt"}]}),
    ),
    "conversations without a name": ("a.jsonl", json.dumps([ASK, SAY])),
    "an array of conversations": ("a.json", json.dumps([[ASK, SAY]])),
    "no input": ("a.jsonl", json.dumps({**HERE, "input": "<noinput>"})),
    "a label in words": ("a.jsonl", json.dumps({**HERE, "label": "good"})),
}


@pytest.mark.parametrize("case", READ_AS_WRITTEN)
def test_what_programs_write_around_a_text_is_not_learned(case, prepared):
    """Quotes, bars, wrappers and roles are form; the question and the answer are what is meant."""
    name, text = READ_AS_WRITTEN[case]
    found = prepared(text=text, name=name)
    assert found.learned == [f"{SAID}<|im_end|>"]
    assert f"<|im_start|>user\n{ASK['content']}<|im_end|>" in found.read[0]
    assert not found.notes


def test_an_object_that_is_learned_as_json_is_said(prepared):
    """Answers, questions and contents alike; a wrapped system prompt is its text."""
    rows = [{**HERE, "context": ["a", "b"]}, {**HERE, "answer": {"a": 1}}, HERE]
    found = prepared(*rows)
    assert "1 row with an object or a list as context: it is read as its JSON" in found.notes
    assert "as answer: it is read as its JSON: rows.jsonl, line 2" in found.notes
    found = prepared({**HERE, "systemInstruction": {"role": "system", "parts": [{"text": "SYS"}]}})
    assert found.read[0].startswith("<|im_start|>system\nSYS<|im_end|>")


def test_a_label_of_classes_is_no_thumb(prepared):
    """Where labels are 0, 1, 2 …, the row with 0 is learned as the others; the column is named."""
    rows = [{"question": f"Case {n}?", "answer": f"Answer {n}.", "label": n} for n in range(3)]
    found = prepared(*rows)
    assert [text[:9] for text in found.learned] == ["Answer 0.", "Answer 1.", "Answer 2."]
    assert found.notes == "columns not read: label"


def test_a_label_that_says_bad_in_words_is_a_thumb_down(prepared):
    """The row is not learned, and its line is said."""
    found = prepared({**HERE, "label": "bad"}, {**HERE, "label": "good"})
    assert found.learned == [f"{SAID}<|im_end|>"]
    assert "1 row not learned, because label is bad: rows.jsonl, line 1" in found.notes


def test_rows_marked_as_a_test_split_are_not_learned_without_a_word(prepared):
    """The column is named: it could mean rows to hold out."""
    assert prepared({**HERE, "split": "test"}).notes == "columns not read: split"


CUT = "x" * 32767
NOT_SO = {
    "a cell that Excel cut": (
        *("a.csv", f"question,answer\nQ,{CUT}\n"),
        *("'answer' seems cut off", ".jsonl file"),
    ),
    "the same in a message": (
        "a.jsonl",
        json.dumps({"messages": [ASK, {**SAY, "content": CUT}]}),
        *("'content' seems cut off", ".jsonl file"),
    ),
    "an invisible answer": ("a.csv", "question,answer\nQ,\u200b\n", "'answer' is missing", "Write"),
    "UTF-16 without a mark": (
        *("a.csv", "question,answer\nQ,SECRET\n".encode("utf-16-le")),
        *("the file is UTF-16", "UTF-8"),
    ),
    "a page to log in": ("a.csv", "<!DOCTYPE html>\n<p>SECRET", "a web page", "download"),
    "Git LFS": (
        "a.jsonl",
        "version https://git-lfs.github.com/spec/v1\n",
        "Git LFS",
        "git lfs pull",
    ),
    "Excel under another name": ("a.csv", b"PK\x03\x04SECRET\xff", "an Excel file", "CSV UTF-8"),
    "packed": ("a.jsonl", b"\x1f\x8b\x08SECRET\xff", "a gzip archive", "Unpack"),
    "Parquet as CSV": ("a.csv", b"PAR1SECRET", "a Parquet file", ".parquet"),
    "JSON as CSV": ("a.csv", '[{"question": "SECRET"}]', "holds JSON, not a table", ".json."),
    "a table as JSON": ("a.jsonl", "question,answer\nQ,SECRET\n", "holds a table", ".csv."),
    "answers": (
        "a.jsonl",
        json.dumps({"question": "Q", "answers": ["SECRET"]}),
        "answers: several",
        "answer",
    ),
    "single messages": ("a.jsonl", json.dumps(ASK), "a single message", '{"messages": ['),
    "a tree of messages": (
        *("a.jsonl", json.dumps({"message_id": "1", "text": "SECRET", "role": "prompter"})),
        *("a single message", '{"messages": ['),
    ),
    "an empty row": ("a.jsonl", "{}", "the row is empty", "Write a question"),
    "within another": (
        *("a.jsonl", json.dumps({"row_idx": 0, "row": HERE})),
        *("not recognised: row_idx, row", "Let question, answer stand directly in the row"),
    ),
    "a list within": (
        *("a.json", json.dumps({"data": {"train": [HERE]}})),
        *("not recognised: data", "Write the list train within data as the whole file"),
    ),
    "messages by another name": (
        *("a.jsonl", json.dumps({"contents": [ASK, SAY]})),
        *("not recognised: contents", "Rename contents to messages"),
    ),
    "joined words": (
        *("a.csv", "Mandantenfrage;Musterantwort\nSECRET;A\n"),
        *(
            "recognised: Mandantenfrage",
            "Rename Mandantenfrage to question. Rename Musterantwort to ans",
        ),
    ),
    "letters": (
        "a.csv",
        "Q;A\nSECRET;A\n",
        "recognised: Q, A",
        "Rename Q to question. Rename A to",
    ),
    "two pairs in a row": (
        *("a.csv", "Question 1,Answer 1,Question 2,Answer 2\nSECRET,A,Q2,A2\n"),
        *("recognised: Question 1", "into rows of their own"),
    ),
    "no close name": (
        "a.jsonl",
        json.dumps({"title": "SECRET", "content": "C"}),
        "content",
        "Name the",
    ),
    "no role": (
        *("a.jsonl", json.dumps({"conversation": [{"input": "SECRET", "output": "A"}]})),
        *("no role; it holds input, output", '"role": "user"'),
    ),
    "a list of sets": (
        *("a.csv", "messages\n\"[{1: 'SECRET', 'content': {1, 2}}]\"\n"),
        *("not valid JSON", 'to_json("rows.jsonl"'),
    ),
    "keys that are numbers": (
        *("a.csv", "messages\n\"[{1: 'SECRET'}]\"\n"),
        *("a message has no role", '"role": "user"'),
    ),
    "numpy's lists": (
        *("a.csv", "messages\n\"[{'role': 'user', 'content': 'SECRET \\d'}\n {'a': 1}]\"\n"),
        *("not valid JSON", 'to_json("rows.jsonl"'),
    ),
}


@pytest.mark.parametrize("case", NOT_SO)
def test_what_is_something_else_than_rows_is_named_with_the_change(case, prepared, capfd):
    """What the file or row really is, what to do, and nothing of what stands there."""
    name, text, message, mend = NOT_SO[case]
    found = prepared(text=text, name=name)
    assert message in found.refused
    assert all(mend in str(hint) for hint in found.hints)
    assert "SECRET" not in found.refused + found.bad_rows + "".join(capfd.readouterr())


def test_a_format_that_the_rows_do_not_have_is_said_with_the_right_one(prepared):
    """And the change that it names does mend it."""
    row = {"messages": [ASK, SAY]}
    found = prepared(row, spec="format: alpaca")
    assert "the spec says format: alpaca, and the row is written as messages" in found.refused
    assert "Write format: messages into the spec" in str(found.hints)
    assert prepared(row, spec="format: messages").learned == [f"{SAID}<|im_end|>"]


def test_bad_rows_of_a_file_on_one_line_are_named_by_their_number(prepared):
    """As programs write JSON: line 1 would name every row."""
    rows = [HERE, HERE, {**HERE, "answer": ""}, HERE, {**HERE, "question": ""}, 7]
    found = prepared(text=json.dumps(rows), name="a.json")
    assert found.bad_rows.splitlines()[0].startswith("a.json, row 3: the row has no answer")
    assert found.bad_rows.splitlines()[1].startswith("a.json, row 5: the row has no question")
    assert found.bad_rows.splitlines()[2].startswith("a.json, row 6: an element of the array")
    broken = prepared(text=json.dumps([HERE, HERE])[:-1] + ", {]", name="a.json")
    assert "from here on (after row 2)" in broken.refused
    spread = prepared(text=json.dumps(rows, indent=1), name="a.json")
    assert "a.json, line 10: the row has no answer" in spread.bad_rows


def test_thousands_of_unknown_columns_are_answered_at_once(prepared):
    """As a sheet that was transposed has them; the comparison of names does not take minutes."""
    began = time.process_time()
    found = prepared({f"column {n}": "SECRET" for n in range(20_000)})
    assert "these column names are not recognised: column 0" in found.refused
    assert time.process_time() - began < 5, "minutes, when each is compared with each known name"
