"""Untrusted bytes become a spec or every problem they have, and nothing else."""

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runner.errors import Problem, SpecError
from runner.spec.read_spec import read_spec
from runner.spec.schema import schema, schema_text
from runner.spec.spec import JobSpec, fields_of
from runner.spec.spec_text import SPEC_LIMIT_BYTES, is_json_spec

EXAMPLES = Path(__file__).parents[2] / "jobs" / "examples"
TWO = "model: m\ndata: d.jsonl\n"


def read(text: str, name: str = "contracts.yaml") -> JobSpec:
    """Read text that must be a spec."""
    return read_spec(text.encode(), file_name=name)


def problems(text: str | bytes, name: str = "contracts.yaml") -> tuple[Problem, ...]:
    """Give what is wrong with text that must not be a spec."""
    with pytest.raises(SpecError) as caught:
        read_spec(text if isinstance(text, bytes) else text.encode(), file_name=name)
    assert all(p.file == name for p in caught.value.problems)
    return caught.value.problems


def only(text: str | bytes, name: str = "contracts.yaml") -> Problem:
    """Give the one thing that is wrong."""
    found = problems(text, name)
    assert len(found) == 1, [str(p) for p in found]
    return found[0]


def test_two_fields_are_enough():
    """Model and data make a job; its name is the file's, its other fields have defaults."""
    spec = read(TWO, "My Contracts.yaml")
    assert (spec.model, spec.data, spec.name) == ("m", ["d.jsonl"], "my-contracts")
    assert spec.training.learning_rate == 2e-4
    assert spec.effective_batch_size == 16


def test_a_claimed_files_name_gives_the_same_job_name():
    """The run id that a claim adds is no part of the job's name."""
    assert read(TWO, "contracts--20261123T221005Z-k3f9.yaml").name == "contracts"


def test_numbers_are_read_as_people_write_them():
    """YAML 1.1 and 1.2 disagree on these; the runner does not care."""
    spec = read(
        TWO
        + "eval_split: 10%\nlora: {r: 8.0, alpha: '16'}\n"
        + "training: {learning_rate: 1e-4, max_length: 1_024, max_steps: 1e3, weight_decay: .1}\n"
        + "limits: {hours: 90min, gpu_memory_gib: 24 GiB, disk_gib: 512MiB}\n"
    )
    assert spec.eval_split == 0.1
    assert (spec.lora.r, spec.lora.alpha) == (8, 16)
    assert spec.training.learning_rate == 1e-4
    assert (spec.training.max_length, spec.training.max_steps) == (1024, 1000)
    assert spec.training.weight_decay == 0.1
    assert (spec.limits.hours, spec.limits.gpu_memory_gib, spec.limits.disk_gib) == (1.5, 24, 0.5)


@pytest.mark.parametrize(("text", "hours"), [("8h", 8), ("8", 8), ("1h30m", 1.5), ("2 days", 48)])
def test_hours_have_units(text, hours):
    """A time limit may be written as people say it."""
    assert read(f"{TWO}limits: {{hours: {text}}}").limits.hours == hours


@pytest.mark.parametrize("text", ["1,000", "0x10", "nan", "inf", "1e999", "true", "ten", "9" * 50])
def test_what_is_not_surely_a_number_is_asked_about(text):
    """Nothing is guessed."""
    problem = only(f"{TWO}lora:\n  r: '{text}'\n")
    assert (problem.line, problem.field) == (4, "lora.r")
    assert problem.found is not None
    assert problem.allowed == "a whole number from 1 to 512"


def test_words_stay_words():
    """A name of digits, or a note that says yes, is text."""
    spec = read(TWO + "name: 2024\nnotes: yes\ntraining: {packing: Yes}\n")
    assert (spec.name, spec.notes, spec.training.packing) == ("2024", "yes", True)


def test_empty_fields_take_their_defaults():
    """A block whose lines are all commented out is not a mistake."""
    spec = read(TWO + "training:\n  # epochs: 3\nlora: ~\nnotes:\n")
    assert spec == read(TWO)


def test_all_problems_are_told_at_once_with_their_lines():
    """One round of mending is enough."""
    found = problems(
        "modle: m\ndata: /etc/passwd\nmethod: qlroa\nlora:\n  r: 0\n  dropout: x\n"
        "training:\n  learning_rate: 7\n  epochs: 1\n  max_steps: 2\n"
    )
    assert [(p.line, p.field) for p in found] == [
        (None, "model"),
        (1, "modle"),
        (2, "data"),
        (3, "method"),
        (5, "lora.r"),
        (6, "lora.dropout"),
        (8, "training.learning_rate"),
        (10, "training.max_steps"),
    ]
    by_field = {p.field: p for p in found}
    assert by_field["modle"].hint == "did you mean model?"
    assert by_field["method"].hint == "did you mean qlora?"
    assert by_field["method"].found == "qlroa"
    assert by_field["lora.r"].message == "is too small"
    assert by_field["training.learning_rate"].allowed == "a number above 0, at most 1"


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("learning_rate: 1e-4", "it belongs under training:"),
        ("lora_alpha: 3", "did you mean alpha? it belongs under lora:"),
        ("num_train_epochs: 3", "did you mean epochs? it belongs under training:"),
        ("Format: auto", "did you mean format?"),
        ("eval-split: 0.1", "did you mean eval_split?"),
        ("format: chatml", "did you mean messages?"),
    ],
)
def test_other_tools_names_lead_to_ours(line, hint):
    """Who knows another trainer is told the word here."""
    assert only(TWO + line + "\n").hint == hint


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("lora: {use_dora: true}", "DoRA is not trained here; leave the line out"),
        ("training: {train_on_inputs: true}", "only answers are learned, never questions"),
        ("training: {warmup_steps: 10}", "warmup_ratio: 3%"),
        ("training.epochs: 3", "write training: on a line of its own, and below it"),
        ("method: full", "only adapters are trained here"),
        ("lora: {target_modules: 'q_proj, v_proj'}", "write them as a list: [q_proj, v_proj]"),
    ],
)
def test_a_field_without_a_counterpart_is_not_taken_for_one_with_a_like_name(line, hint):
    """``use_dora`` is no slip for ``use_rslora``: that would train something else."""
    assert hint in (only(f"{TWO}{line}\n").hint or "")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("max_steps: 1.000", "write 1000 or 1"),
        ("max_steps: 1.500", "write 1500"),
        ("max_steps: 1.000.000", "write 1000000"),
        ("epochs: 1.000", "write 1000 or 1"),
        ("learning_rate: 2e\u22124", "write 2e-4"),
        ("learning_rate: \u201c2e-4\u201d", "write 2e-4"),
        ("learning_rate: 2e-4,", "write 2e-4"),
        ("max_length: 2048 Tokens", "write 2048"),
        ("epochs: \u200b3", "write 3"),
    ],
)
def test_a_number_as_offices_and_word_processors_write_it_is_answered_with_the_right_one(
    line, hint
):
    """A thousand is not taken for a one, and a dash that looks like a minus is named."""
    assert only(f"{TWO}training:\n  {line}\n").hint == hint


def test_a_fraction_of_three_digits_is_a_fraction():
    """Only thousands are in doubt."""
    assert read(f"{TWO}training: {{learning_rate: 0.001, weight_decay: 0.125}}\n")


def test_a_system_prompt_is_not_cut_off_by_a_remark():
    """Else the model would be taught without its end, and nobody told."""
    line = "system_prompt: Answer for file #12 in German\n"
    assert "what follows a # is a remark" in only(TWO + line).message
    assert read(f'{TWO}system_prompt: "Answer for file #12"\n').system_prompt.endswith("#12")
    assert "remark" in only(f"{TWO}name: Akte #12\n").message
    assert read(f"{TWO}name: akte  # of 2026\n").name == "akte"


def test_blanks_of_web_pages_and_mails_indent_as_any_others():
    """They look alike."""
    blank = "\u00a0"
    text = f"model:{blank}m\ndata: d.jsonl\ntraining:\n{blank}{blank}epochs: 3\n"
    assert read(text).training.epochs == 3
    text = f"{TWO}system_prompt: |\n  1{blank}000 Euro\n"
    assert f"1{blank}000" in read(text).system_prompt


def test_paths_on_lines_of_one_text_are_told_to_be_a_list():
    """A block of text is how people write several lines; one path alone is read."""
    assert read("model: m\ndata: >\n  a.jsonl\n").data == ["a.jsonl"]
    wrong = only("model: m\ndata: |\n  a.jsonl\n  b.jsonl\n")
    assert wrong.hint == "write them as a list: [a.jsonl, b.jsonl]"
    assert "the path alone" in only("model: m\ndata:\n  - path: a.jsonl\n").hint


def test_all_linear_may_stand_in_a_list():
    """As the names of layers do."""
    assert (
        read(f"{TWO}lora: {{target_modules: [all-linear]}}\n").lora.target_modules == "all-linear"
    )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{\\rtf1\\ansi model: m\\par data: d.jsonl}", "save it as plain text"),
        (f"{TWO}system_prompt: You are\na lawyer\n", "indented"),
        (f" {TWO}", "left margin"),
    ],
)
def test_what_is_no_yaml_is_answered_with_what_to_do(text, hint):
    """The parser's own words help nobody who does not know YAML."""
    assert hint in (problems(text)[0].hint or "")


def test_double_keys_are_refused_with_both_lines():
    """Which of the two was meant cannot be known."""
    problem = only(TWO + "priority: 1\npriority: 2\n")
    assert "line 3" in problem.message
    assert "line 4" in problem.message


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ("{epochs: 1, max_steps: 5}", "both say when to end"),
        ("{batch_size: 4, gradient_accumulation: 4, effective_batch_size: 8}", "is 16, not 8"),
        ("{batch_size: 3, effective_batch_size: 16}", "cannot be cut by batch_size 3"),
        ("{gradient_accumulation: 5}", "cannot be cut by gradient_accumulation 5"),
    ],
)
def test_contradictions_in_training_are_named(training, words):
    """Fields that are each right and together wrong are a problem, not a silent choice."""
    assert words in only(f"{TWO}training: {training}\n").message


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("replay: 0.3\n", "a fresh adapter has learned no rows"),
        ("start_from: fresh\nreplay: 0\n", "a fresh adapter has learned no rows"),
        ("start_from: current\nreplay: 1.5\n", "from 0 to 1"),
        ("start_from: current\nreplay: -1%\n", "from 0 to 1"),
        ("start_from: current\nreplay: all\n", "from 0 to 1"),
    ],
)
def test_a_share_of_old_rows_is_one_and_belongs_to_a_continued_run(lines, words):
    """`replay` is 0 to 1, as a number or in percent, and needs start_from: current."""
    problem = only(TWO + lines)
    assert words in f"{problem.message} {problem.allowed}"
    good = read_spec(f"{TWO}start_from: current\nreplay: 30%\n".encode(), file_name="a.yaml")
    assert good.replay == 0.3


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("training.batch_size", "0", "a whole number from 1 to 4096"),
        ("training.batch_size", "-4", "a whole number from 1 to 4096"),
        ("training.effective_batch_size", "0", "a whole number from 1 to 65536"),
        ("training.gradient_accumulation", "0", "a whole number from 1 to 65536"),
        ("limits.gpu_memory_gib", "0", "a number above 0, at most 1024, such as 20 or 20 GiB"),
    ],
)
def test_a_batch_of_nothing_is_refused_with_what_is_allowed(field, value, allowed):
    """No batch, no accumulation and no cap of 0; the person reads what may stand there."""
    section, name = field.split(".")
    problem = only(f"{TWO}{section}:\n  {name}: {value}\n")
    assert (problem.field, problem.found, problem.line) == (field, value, 4)
    assert problem.allowed == allowed


@pytest.mark.parametrize("value", ["0", "-1", "true", "two", "2.5", "[0, 1]", "all", "65"])
def test_a_number_of_cards_is_a_number_or_auto(value):
    """Nothing else is taken for one, and the person reads what may stand there."""
    problem = only(f"{TWO}resources:\n  gpus: {value}\n")
    assert (problem.field, problem.line) == ("resources.gpus", 4)
    assert problem.allowed == "a whole number from 1 to 64 or auto"
    assert read(TWO).resources.gpus == 1
    assert read(f"{TWO}resources: {{gpus: auto}}\n").resources.gpus == "auto"


@pytest.mark.parametrize(
    ("cards", "message", "hint"),
    [
        (None, None, None),
        (3, None, None),
        (2, "this box trains on 2 cards", "write gpus: 2 or gpus: auto"),
        (1, "this box trains on one card", "RUNNER_GPUS in .env"),
        (0, "this box has no card", "leave resources out"),
    ],
)
def test_more_cards_than_the_box_has_are_refused_with_both_numbers(cards, message, hint):
    """At once, at the line; without them a job would wait for what never comes."""
    content = f"{TWO}resources:\n  gpus: 3\n".encode()
    if message is None:
        assert read_spec(content, file_name="a.yaml", cards=cards).resources.gpus == 3
        return
    with pytest.raises(SpecError) as refused:
        read_spec(content, file_name="a.yaml", cards=cards)
    (problem,) = refused.value.problems
    assert (problem.file, problem.line, problem.found) == ("a.yaml", 4, "3")
    assert message in problem.message
    assert hint in str(problem.hint)
    for few in (b"", b"resources: {gpus: 1}\n", b"resources: {gpus: auto}\n"):
        assert read_spec(TWO.encode() + few, file_name="a.yaml", cards=cards)


def test_each_card_has_a_row_of_a_step():
    """More cards than rows are refused where the spec names both."""
    training = "training: {effective_batch_size: 4}\n"
    problem = only(f"{TWO}resources: {{gpus: 8}}\n{training}")
    assert problem.message == "a step has 4 rows, fewer than 8 cards: some would have none"
    assert "write gpus: 4 or less, or" in str(problem.hint)
    assert read(f"{TWO}resources: {{gpus: 4}}\n{training}").resources.gpus == 4
    problem = only(f"{TWO}resources: {{gpus: 2}}\ntraining: {{effective_batch_size: 1}}\n")
    assert problem.message.startswith("a step has 1 row, fewer than 2 cards")
    assert str(problem.hint).startswith("leave resources out, or")


@pytest.mark.parametrize(
    ("written", "hint"),
    [('"0,1"', None), ('"1,2,3"', None), ("2 cards", "write 2"), ('"2,"', "write 2")],
)
def test_cards_that_are_named_are_no_broken_number(written, hint):
    """RUNNER_GPUS takes ``0,1``, and a spec a number: nobody is told to write a tenth of a card."""
    problem = only(f"{TWO}resources:\n  gpus: {written}\n")
    assert (problem.line, problem.hint) == (4, hint)


def test_a_field_that_stands_twice_names_its_lines_once_each():
    """On one line there is one to name."""
    assert "twice: on line 3" in only(f"{TWO}resources: {{gpus: 1, gpus: 2}}\n").message
    apart = only(f"{TWO}resources: {{gpus: 1}}\nresources: {{gpus: 2}}\n").message
    assert apart == "resources stands here twice: on line 3 and on line 4"


@pytest.mark.parametrize(
    ("training", "limit"),
    [
        ("{}", None),
        ("{batch_size: 4}", 4),
        ("{gradient_accumulation: 8}", 2),
        ("{gradient_accumulation: 8, effective_batch_size: 64}", 8),
        ("{batch_size: 4, gradient_accumulation: 8}", 4),
    ],
)
def test_the_batch_a_spec_asks_for(training, limit):
    """Passes per step say how many examples a pass has, as much as the batch size itself."""
    assert read(f"{TWO}training: {training}\n").batch_size_limit == limit


def test_held_out_rows_come_from_one_place():
    """A file, or a share of the rows; and never rows that are trained on."""
    assert only(TWO + "eval_data: e.jsonl\neval_split: 0.1\n").field == "eval_split"
    assert "both trained on and held out" in only(TWO + "eval_data: ./d.jsonl\n").message
    assert read(TWO + "eval_data: e.jsonl\n").eval_data == ["e.jsonl"]
    assert only("model: m\ndata: [a, ./a, b]\n").message == "the same file is named twice"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../secret.jsonl",
        "data/../../x",
        "data\\x.jsonl",
        "C:/data.jsonl",
        "\\\\server\\share\\x",
        "https://example.org/x",
        "~/x",
        "queued/x.jsonl",
        "Done/x.jsonl",
        "./examples/x.jsonl",
        ".",
        "",
    ],
)
def test_data_outside_the_shared_folder_is_refused(path):
    """Whatever the text alone gives away is refused before any file is opened."""
    quoted = json.dumps(path)
    assert only(f"model: m\ndata: {quoted}\n").line == 2
    assert only(f"model: m\ndata:\n  - ok.jsonl\n  - {quoted}\n").line == 4


@pytest.mark.parametrize(
    "model", ["/models/x", "../x", "a/../b", "a/b/c", "https://x/y", "a\\b", ".hidden"]
)
def test_models_are_named_not_pointed_at(model):
    """A model is a hub id or a name under models/."""
    assert only(f"model: {json.dumps(model)}\ndata: d\n").field == "model"


@pytest.mark.parametrize("escape", ["\\0", "\\e[31m", "\\u202e", "\\n"])
def test_control_characters_are_refused_and_shown_escaped(escape):
    """What could deceive a reader's eye or terminal never reaches it."""
    problem = only(f'{TWO}name: "a{escape}b"\n')
    assert str(problem).replace("\n    ", "").isprintable()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notes: &a x\n", "anchor"),
        ("notes: *a\n", "alias"),
        ("notes: !!python/object/apply:os.system [id]\n", "tag"),
        ("notes: !x y\n", "tag"),
        ("---\nmodel: x\n", "second document"),
        ("notes: " + "[" * 2000 + "\n", "nested too deeply"),
    ],
)
def test_what_yaml_can_and_a_spec_need_not_is_refused(text, words):
    """No code, no bombs, no second spec."""
    assert any(words in p.message for p in problems(TWO + text))


def test_an_alias_bomb_ends_at_once():
    """Nine levels of nine would be a thousand million entries."""
    bomb = "a: &a [x,x,x]\n" + "".join(
        f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n"
        for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    start = time.perf_counter()
    assert problems(bomb)
    assert time.perf_counter() - start < 5  # seconds


def test_too_large_is_refused_without_reading():
    """A data file that was named .yaml by mistake is answered as what it is."""
    assert "too large" in only(b"model: m\n" + b"#" * SPEC_LIMIT_BYTES).message


@pytest.mark.parametrize("text", ["[", "{", "- ", "? ", "a: ", "'", "&a ", "!", "-\n ", '"\\', "%"])
def test_hostile_files_end_soon(text):
    """64 KiB of any one sign are answered in seconds and end as a spec's problem."""
    start = time.perf_counter()
    assert problems((text * SPEC_LIMIT_BYTES)[:SPEC_LIMIT_BYTES])
    assert time.perf_counter() - start < 15  # seconds, on a busy machine


def test_many_problems_are_counted_rather_than_listed():
    """An answer stays short enough to be read."""
    found = problems("".join(f"k{i}: 1\n" for i in range(500)))
    assert len(found) == 41
    assert "more problems" in found[-1].message


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + TWO.replace("\n", "\r\n").encode(),
        TWO.encode("utf-16"),
        TWO.replace("\n", "\r").encode(),
        b'{"model":"m","data":"d.jsonl"}',
        b'{\r\n\t"model": "m",\r\n\t"data": ["d.jsonl"]\r\n}\r\n',
        b"---\nmodel: m\ndata: [d.jsonl]\n...\n",
    ],
)
def test_what_windows_editors_and_scripts_write_is_read(content):
    """Byte-order marks, CRLF, UTF-16 and JSON with tabs mean the same spec."""
    assert read_spec(content, file_name="contracts.yaml") == read(TWO)


def test_json_keeps_its_escapes_and_lines():
    """JSON specs are answered by line too, and their surrogate pairs are one character."""
    emoji = r"\ud83d\ude00"
    spec = read(f'{{"model": "m", "data": "d.jsonl", "notes": "{emoji}"}}', "x.json")
    assert spec.notes == "😀"
    assert only('{"model": "m",\n "data": "d",\n "pirority": 1}', "x.json").line == 3
    assert only('{"model": "m",\n "data": "d",}', "x.json").line == 2


def test_a_tab_is_named():
    """Nobody sees a tab; the answer says where it is and what to do."""
    for text in ("model: m\ndata: d\nlora:\n\tr: 8\n", "model: m\ndata: d\n\nname:\tx\n"):
        problem = only(text)
        assert problem.line == 4
        assert "tab" in problem.message


def test_other_encodings_are_named_by_line():
    """Latin-1 is told apart from UTF-8 by its first byte that cannot be."""
    problem = only(TWO.encode() + "notes: für\n".encode("latin-1"))
    assert (problem.line, problem.found) == (3, "byte 0xfc")


@pytest.mark.parametrize(
    ("content", "incomplete"),
    [
        (b"", True),
        (b"\0" * 100, True),
        (b"mod", True),
        (b"model: m\n", True),
        (b"model: m\ndata: [a, ", True),
        (b'model: m\ndata: "a', True),
        (b"model: m\ndata: d\nmethod: ql", True),
        (b"model: m\ndata: d\nnotes: f\xc3", True),
        (b"model: m\ndata: d\nmethod: ql\n", False),
        (b"model: m\ndata: d\nfoo: 1\n", False),
    ],
)
def test_a_partial_upload_is_told_from_a_wrong_spec(content, incomplete):
    """What the rest of an upload could mend is given the time to arrive."""
    with pytest.raises(SpecError) as caught:
        read_spec(content, file_name="x.yaml")
    assert caught.value.may_be_incomplete is incomplete


def test_only_short_escaped_pieces_of_a_spec_are_repeated():
    """A secret pasted into the wrong place is not spread by the answer."""
    secret = "S" * 30 + "x" * 300
    for text in (
        f"method: {secret}",
        f"{secret}: 1",
        f"lora: {{r: {secret}}}",
        f"notes: !{secret}",
    ):
        assert secret[:100] not in str(problems(f"{TWO}{text}\n"))
    with pytest.raises(SpecError) as caught:
        read(f"{TWO}notes: {'N' * 20_000}\n")
    assert "NNN" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_json_file_is_a_spec_only_with_model_and_data():
    """Data in JSON may lie in the inbox; a spec with a slip is still answered."""
    assert is_json_spec(b'{"model": "m", "data": "d"}')
    assert is_json_spec(b'{\n "model": "m",\n "data": "d",\n}')
    assert not is_json_spec(b'[{"model": "m", "data": "d"}]')
    assert not is_json_spec(b'{"rows": []}')
    assert not is_json_spec(b"[" * 50_000)
    assert not is_json_spec(b"\xff\xfe\xff")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda p: p.name)
def test_the_examples_are_valid_and_point_at_the_schema(path):
    """Whoever copies an example has a spec that works and an editor that helps."""
    content = path.read_bytes()
    assert read_spec(content, file_name=path.name)
    assert re.match(rb"# yaml-language-server: \$schema=job-spec\.schema\.json\n", content)


def test_the_examples_schema_is_current():
    """`python -m runner.spec.schema > jobs/examples/job-spec.schema.json` renews it."""
    assert (EXAMPLES / "job-spec.schema.json").read_text(encoding="utf-8") == schema_text()


def test_the_schema_is_of_what_people_write():
    """Two fields are required, data may be one path, and every field says what it is."""
    found = schema()
    assert found["required"] == ["model", "data"]
    assert {"type": "string", "minLength": 1} in found["properties"]["data"]["anyOf"]
    assert set(found["properties"]) == set(fields_of(JobSpec))
    assert all(field.get("description") for field in found["properties"].values())


FIELD_LIKE = st.sampled_from(
    [
        "model",
        "data",
        "lora",
        "training",
        "try",
        "learning_rate",
        "limits",
        "r",
        "hours",
        "notes",
        "name",
        "eval_split",
    ]
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | FIELD_LIKE,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(FIELD_LIKE | st.text(max_size=8), inner)
    ),
    max_leaves=12,
)


def is_spec_or_error(content: bytes, name: str) -> bool:
    """Whether the bytes end as a spec or as problems that are safe to show; all else raises."""
    try:
        return bool(read_spec(content, file_name=name).name)
    except SpecError as error:
        return bool(error.problems) and str(error).replace("\n", "").isprintable()


QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(st.dictionaries(FIELD_LIKE, VALUE))
@example({"model": {"model": 1}, "data": [[1]], "lora": [{"r": []}]})
def test_any_json_is_a_spec_or_a_spec_error(value):
    """No shape of values gets past as anything else."""
    assert is_spec_or_error(json.dumps(value).encode(), "x.json")


@QUICK
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode(errors="replace")))
def test_any_bytes_are_a_spec_or_a_spec_error(content):
    """No file can stop the daemon."""
    assert is_spec_or_error(content, "x.yaml")


@QUICK
@given(st.lists(st.sampled_from([*"\n\t :-[]{}&*!|>'\"%@`#,?~", "model", "data", "a", "---", "1"])))
def test_any_yaml_like_text_is_a_spec_or_a_spec_error(pieces):
    """The signs that mean something in YAML, in any order."""
    assert is_spec_or_error("".join(pieces).encode(), "x.yaml")
