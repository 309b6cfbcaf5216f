"""The API's pure parts: OpenAI's objects to our records and back, pages, errors, metrics."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import made_runs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from prometheus_client.parser import text_string_to_metric_families

from runner.contract.card_shown import CardShown
from runner.contract.ended import EndedRun
from runner.contract.layout import Outputs
from runner.contract.progress import Progress
from runner.contract.record import ErrorFacts, read_record
from runner.contract.record_head import read_head
from runner.contract.states import Stage, State
from runner.errors import BusyError, ModelError, Problem, SpecError, UnsafePathError
from runner.office import metrics
from runner.office.api.checkpoints import checkpoint_object, read_checkpoints, train_losses
from runner.office.api.errors import ApiError, body_of
from runner.office.api.events import event_object, lines_backwards, read_events
from runner.office.api.file_ids import file_id_in, new_file_id
from runner.office.api.files import OwnFile, first_wrong_line
from runner.office.api.job_index import new_id, spec_name
from runner.office.api.job_object import Shown, job_object, status_of, without_record
from runner.office.api.job_request import LEARNING_RATE, read_kept, read_request, write_spec
from runner.office.api.jobs import read_json
from runner.office.api.paging import Wanted, page, wanted
from runner.office.app import NOT_IN_THE_API
from runner.office.refusals import in_one
from runner.spec.read_spec import read_spec

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()
BODY = {"model": "tiny", "training_file": "file-1"}


def spec_of(**body):
    """Give the spec that a request becomes, as the daemon reads it."""
    request = read_request({**BODY, **body})
    return read_spec(write_spec(request, job="contracts", data="data/c.jsonl"), file_name="x.yaml")


def supervised(**hyperparameters):
    inner = {"hyperparameters": hyperparameters}
    return {"method": {"type": "supervised", "supervised": inner}}


def nested(levels: int):
    """Nest lists so deeply."""
    found = []
    for _ in range(levels):
        found = [found]
    return found


# ---- requests


def test_hyperparameters_become_the_spec_s_own() -> None:
    """Epochs are epochs, a batch is the effective one, and a multiplier scales our default rate."""
    spec = spec_of(seed=7, **supervised(n_epochs=3, batch_size=8, learning_rate_multiplier=0.5))
    assert (spec.training.epochs, spec.effective_batch_size, spec.training.seed) == (3, 8, 7)
    assert spec.training.learning_rate == pytest.approx(LEARNING_RATE / 2)
    assert spec.training.batch_size is None, "how it is cut is the box's own choice"


@pytest.mark.parametrize(
    "hyperparameters",
    [{}, {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}],
)
def test_auto_is_what_a_spec_without_the_field_has(hyperparameters) -> None:
    """What a client leaves to the box, a person's spec leaves to it, too."""
    plain = read_spec(b"model: tiny\nname: contracts\ndata: data/c.jsonl\n", file_name="x.yaml")
    assert spec_of(**supervised(**hyperparameters)) == plain
    assert spec_of(hyperparameters=hyperparameters) == plain


def test_fields_of_a_spec_come_by_metadata_or_by_the_extension() -> None:
    """Strings of metadata mean what they mean in YAML; extra_body has them as they are."""
    by_metadata = spec_of(
        metadata={
            "who": "ada",
            "spec.lora.r": "8",
            "spec.eval_split": "10%",
            "spec.limits.hours": "90min",
            "spec.lora.target_modules": '["q_proj", "v_proj"]',
            "spec.system_prompt": "Sei knapp: {kurz} #1",
        }
    )
    by_extension = spec_of(
        spec={
            "lora": {"r": 8, "target_modules": ["q_proj", "v_proj"]},
            "eval_split": 0.1,
            "limits": {"hours": 1.5},
            "system_prompt": "Sei knapp: {kurz} #1",
        }
    )
    assert by_metadata == by_extension
    assert by_metadata.lora.r == 8
    assert by_metadata.limits.hours == 1.5
    assert by_metadata.system_prompt == "Sei knapp: {kurz} #1"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], None),
        ({"model": "tiny"}, "training_file"),
        ({"training_file": "file-1"}, "model"),
        ({**BODY, "model": 4}, "model"),
        ({**BODY, "n_epochs": 3}, "n_epochs"),
        ({**BODY, "suffix": "x" * 65}, "suffix"),
        ({**BODY, "seed": "7"}, "seed"),
        ({**BODY, "seed": True}, "seed"),
        ({**BODY, "integrations": [{"type": "wandb"}]}, "integrations"),
        ({**BODY, "method": {"type": "dpo"}}, "method.type"),
        ({**BODY, "method": "supervised"}, "method.type"),
        ({**BODY, "method": {"type": "supervised", "supervised": [1]}}, "method"),
        ({**BODY, **supervised(n_epochs=0)}, "method.supervised.hyperparameters.n_epochs"),
        (
            {**BODY, **supervised(n_epochs=float("nan"))},
            "method.supervised.hyperparameters.n_epochs",
        ),
        ({**BODY, **supervised(n_epochs=[])}, "method.supervised.hyperparameters.n_epochs"),
        ({**BODY, **supervised(batch_size=True)}, "method.supervised.hyperparameters.batch_size"),
        ({**BODY, **supervised(lr=1)}, "method.supervised.hyperparameters"),
        ({**BODY, "metadata": {"a": 1}}, "metadata"),
        ({**BODY, "metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({**BODY, "metadata": {"spec.lora.rank": "8"}}, "metadata.spec.lora.rank"),
        ({**BODY, "metadata": {"spec.data": "data/x.jsonl"}}, "metadata.spec.data"),
        ({**BODY, "spec": {"schedule": "0 2 * * sun"}}, "spec.schedule"),
        ({**BODY, "spec": {"hook": "rm"}}, "spec.hook"),
        ({**BODY, "spec": {"training": {"seed": 1}}, "seed": 2}, "training.seed"),
        ({**BODY, "spec": "x"}, "spec"),
        ({**BODY, "metadata": {"spec.training": "[1]"}}, "metadata.spec.training"),
        (
            {**BODY, "metadata": {"spec.training": '{"epochs": 1}'}, **supervised(n_epochs=3)},
            "training.epochs",
        ),
        ({**BODY, "metadata": {"a": "\ud800"}}, "metadata"),
        ({**BODY, "metadata": {"spec.notes": '["\\ud800"]'}}, "notes"),
        ({**BODY, "spec": {"notes": nested(40_000)}}, "spec"),
        ({**BODY, "metadata": {"spec.notes": "[" * 200 + "]" * 200}}, "notes"),
        ({**BODY, "hyperparameters": {"n_epochs": 2}, **supervised(n_epochs=3)}, "hyperparameters"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name(body, param) -> None:
    """A client's library shows the parameter; nothing is passed over in silence."""
    with pytest.raises(ApiError) as refused:
        read_request(body)
    assert (refused.value.param, refused.value.status) == (param, 400)
    assert refused.value.advice


@example(metadata={}, prompt="0\x850")
@example(metadata={"a\u2028b": "# c"}, prompt="a\u2028b")
@given(
    metadata=st.dictionaries(st.text(max_size=60), st.text(max_size=200), max_size=5),
    prompt=st.text(),
)
def test_any_text_survives_its_way_through_the_spec(metadata, prompt) -> None:
    """Metadata comes back as it was, and no text of a client's makes YAML of its own."""
    metadata = {key: text for key, text in metadata.items() if not key.startswith("spec.")}
    request = read_request({**BODY, "metadata": metadata})
    content = write_spec(request, job="contracts", data="data/c.jsonl")
    assert read_kept(content).metadata == metadata
    assert read_spec(content, file_name="x.yaml").model == "tiny"
    request = read_request({**BODY, "spec": {"system_prompt": prompt, "notes": prompt}})
    content = write_spec(request, job="contracts", data="data/c.jsonl")
    try:
        spec = read_spec(content, file_name="x.yaml")
    except SpecError as refused:  # characters that cannot be shown
        assert any(not one.isprintable() for one in prompt), refused.message
    else:
        assert (spec.system_prompt or "").strip() == prompt.strip()
        assert spec.data == ["data/c.jsonl"]


def test_the_same_request_is_written_and_named_alike() -> None:
    """That is how one that is sent again is known, with nothing kept but the spec."""
    one = {**BODY, "seed": 1, "metadata": {"a": "1", "b": "2"}}
    other = {"metadata": {"b": "2", "a": "1"}, "seed": 1, **BODY}
    written = [write_spec(read_request(x), job="c", data="d.jsonl") for x in (one, other)]
    digests = {read_kept(content).digest for content in written}
    assert len(digests) == 1
    assert read_kept(write_spec(read_request(BODY), job="c", data="d.jsonl")).digest not in digests
    assert new_id("key") == new_id("key") != new_id("other")
    assert new_file_id("key") != new_id("key")
    assert new_id(None) != new_id(None)


@pytest.mark.parametrize(
    "line",
    [b"", b"# api: {", b"# api: []", b'# api: {"metadata": [1]}', b"# api: " + b"[" * 100_000],
)
def test_a_forged_first_line_is_only_a_remark(line) -> None:
    """Specs come from the share: whatever stands there breaks no list of jobs."""
    assert read_kept(line + b"\nmodel: m\n").metadata == {}


# ---- jobs


@pytest.mark.parametrize(
    ("state", "stage", "status"),
    [
        (State.QUEUED, Stage.PREPARE, "validating_files"),
        (State.PREPARING, Stage.PREPARE, "validating_files"),
        (State.QUEUED, Stage.TRAIN, "queued"),
        (State.TRAINING, Stage.TRAIN, "running"),
        (State.EXPORTING, Stage.EXPORT, "running"),
        (State.EVALUATING, Stage.EVALUATE, "running"),
        (State.INTERRUPTED, Stage.TRAIN, "running"),
        (State.SUCCEEDED, None, "succeeded"),
        (State.FAILED, None, "failed"),
        (State.REJECTED, None, "failed"),
        (State.CANCELLED, None, "cancelled"),
    ],
)
def test_every_state_has_openai_s_name(state, stage, status, tmp_path) -> None:
    """And a client's library takes the object of each."""
    run = made_runs.make_run(tmp_path, made_runs.record(state=state, next_stage=stage))
    content = write_spec(read_request(BODY), job="contracts", data="data/c.jsonl")
    shown = Shown(
        job_id="ftjob-1",
        run=run,
        record=read_head(run.record),
        content=content,
        spec=read_spec(content, file_name="x.yaml"),
    )
    assert status_of(shown.record) == status
    job = FineTuningJob.model_validate(job_object(shown), strict=True)
    assert job.status == status
    assert (job.fine_tuned_model is not None) == (state is State.SUCCEEDED)


def test_every_state_is_mapped() -> None:
    """A state that is added to the contract must be given a name here."""
    for state in State:
        head = made_runs.record(state=state, next_stage=None)
        assert status_of(head) in FineTuningJob.model_fields["status"].annotation.__args__


def test_a_failed_job_says_why_and_what_to_do(tmp_path) -> None:
    """The message and its advice, and the parameter where it was the data."""
    error = ErrorFacts(kind="bad_data", message="3 rows have no answer.", advice="Fill them in.")
    run = made_runs.make_run(tmp_path, made_runs.record(state=State.REJECTED, error=error))
    shown = Shown(job_id="j", run=run, record=read_head(run.record), content=b"", spec=None)
    found = FineTuningJob.model_validate(job_object(shown), strict=True).error
    assert (found.code, found.param) == ("bad_data", "training_file")
    assert found.message == "3 rows have no answer. Fill them in."


def test_what_the_request_said_is_told_back() -> None:
    """A client that reads its job finds the hyperparameters, seed, files and metadata it sent."""
    body = {**BODY, "seed": 9, "metadata": {"who": "ada"}, **supervised(n_epochs=2)}
    path = "data/api/file-0123456789abcdef01234567-c.jsonl"
    content = write_spec(read_request(body), job="c", data=path, eval_data="data/held.csv")
    spec = read_spec(content, file_name="x.yaml")
    made = without_record("ftjob-1", "validating_files", spec, content, created=made_runs.NOW)
    job = FineTuningJob.model_validate(made, strict=True)
    assert job.training_file == "file-0123456789abcdef01234567"
    assert job.validation_file == "data/held.csv", "a file of the share goes by its path"
    assert (job.seed, job.metadata) == (9, {"who": "ada"})
    assert job.method.supervised.hyperparameters.n_epochs == 2
    assert job.method.supervised.hyperparameters.batch_size == "auto"


def test_a_multiplier_comes_back_as_it_was() -> None:
    """Through the rate and back: what a client set is what it reads."""
    for multiplier in (0.1, 0.3, 1, 1.7, 2, 5, 10):
        body = {**BODY, **supervised(learning_rate_multiplier=multiplier)}
        content = write_spec(read_request(body), job="c", data="d.jsonl")
        spec = read_spec(content, file_name="x.yaml")
        made = without_record("j", "queued", spec, content, created=made_runs.NOW)
        assert made["hyperparameters"]["learning_rate_multiplier"] == pytest.approx(multiplier)


def test_a_spec_s_name_says_whose_it_is_and_fits_a_disk() -> None:
    """People who look into the share read the job's name first."""
    name = spec_name("contracts", new_id("k"))
    assert name.startswith("contracts.ftjob-")
    assert len(spec_name("ü" * 40, new_id(None)).encode()) < 150


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data/api/file-0123456789abcdef01234567-c.jsonl", "file-0123456789abcdef01234567"),
        ("data/c.jsonl", "data/c.jsonl"),
        ("data/api/../file-0123456789abcdef01234567-c.jsonl",) * 2,
        ("other/file-0123456789abcdef01234567-c.jsonl",) * 2,
    ],
)
def test_the_id_of_a_file_stands_in_its_path(path, expected) -> None:
    """So it is found again after a restart, and nothing else is taken for one."""
    assert file_id_in(path) == expected


def test_a_file_s_object_is_openai_s() -> None:
    """A client's library takes it."""
    one = OwnFile(id="file-1", name="c.jsonl", stored_as="x", size_bytes=3, changed_ns=5 * 10**9)
    found = FileObject.model_validate(one.shown(), strict=True)
    assert (found.bytes, found.created_at, found.filename) == (3, 5, "c.jsonl")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'{"messages": []}\n', None),
        (b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"b": 2}', None),
        (b"a,b\n1,2\n", 1),
        (b'{"a": 1}\n[1]\n', 2),
        (b'{"a": 1}\n\n"x"', 3),
        (b"\xff\xfe{\x00", None),
        (b"[" * 100_000, 1),
        (b"\x00\x01", 1),
        (b"PK\x03\x04", 1),
    ],
)
def test_a_file_that_is_not_json_lines_is_known_by_its_first_wrong_line(content, line) -> None:
    """Windows' byte-order marks and empty lines are none."""
    assert first_wrong_line(content, is_whole=True) == line


def test_a_line_that_is_cut_off_is_not_wrong() -> None:
    """Of a large file the beginning alone is looked at."""
    assert first_wrong_line(b'{"a": 1}\n{"b', is_whole=False) is None


# ---- events and checkpoints


def test_events_tell_each_step_once_the_newest_first(tmp_path) -> None:
    """Steps that were lost with an attempt are not told; a held-out loss has its own line."""
    run = made_runs.make_run(tmp_path)
    for number, lines in ((1, _first()), (2, _second())):
        made_runs.write_lines(run, number, lines)
    run.log.write_text('{"time": "2026-11-26T12:00:00Z", "level": "warning", "event": "e"}\n{"ti')
    record = read_record(run.record)
    found = list(read_events(run, record))
    shown = [event_object(event, total_steps=record.total_steps) for event in found]
    for one in shown:
        FineTuningJobEvent.model_validate(one, strict=True)
    steps = [one["data"]["step"] for one in shown if "train_loss" in one["data"]]
    assert steps == [6, 5, 4, 3, 2, 1]
    held_out = [one["data"]["step"] for one in shown if "valid_loss" in one["data"]]
    assert held_out == [4, 2]
    assert [one["level"] for one in shown if one["type"] == "message"] == ["warn"]
    assert len({one["id"] for one in shown}) == len(shown)


def _at(seconds: int) -> dict[str, str]:
    return {"time": f"2026-11-26T12:01:{seconds:02d}Z"}


def _first():
    made = [made_runs.step(n, **_at(n)) for n in (1, 2)]
    made += [{"step": 2, "eval_loss": 1.75, **_at(3)}]
    return [*made, made_runs.step(3, **_at(4)), made_runs.step(4, loss=99.0, **_at(5))]


def _second():
    made = [made_runs.step(4, **_at(10)), {"step": 4, "eval_loss": 1.25, **_at(11)}]
    return [*made, made_runs.step(5, **_at(12)), made_runs.step(6, **_at(13))]


@given(st.lists(st.binary(max_size=300).map(lambda x: x.replace(b"\n", b"")), max_size=50))
def test_lines_are_read_from_the_end_as_from_the_beginning(tmp_path_factory, lines) -> None:
    """Each whole line once, with the place at which it begins."""
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    content = b"\n".join(lines)
    path.write_bytes(content)
    found = list(lines_backwards(path))
    assert [line for _, line in found] == [line for line in reversed(lines) if line]
    assert all(content[place : place + len(line)] == line for place, line in found)


def test_lines_across_blocks_are_whole(tmp_path) -> None:
    """Files are read in blocks; a line that lies in two of them is one line."""
    rows = [json.dumps({"n": n, "x": "y" * random.Random(n).randrange(3000)}) for n in range(500)]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(rows) + "\n")
    assert [line.decode() for _, line in lines_backwards(path)] == rows[::-1]


def test_checkpoints_are_those_that_lie_there_and_the_adapter(tmp_path) -> None:
    """With the losses of their steps; one without a manifest is none."""
    run = made_runs.make_run(tmp_path)
    for step, loss in ((2, 1.75), (4, None)):
        folder = run.checkpoint(step)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"step": step, "eval_loss": loss}))
    run.checkpoint(6).mkdir()
    for number, lines in ((1, _first()), (2, _second())):
        made_runs.write_lines(run, number, lines)
    record = read_head(run.record)
    losses = train_losses(run, record)
    found = [
        FineTuningJobCheckpoint.model_validate(checkpoint_object(one, "j", losses), strict=True)
        for one in read_checkpoints(run, record, "tiny")
    ]
    assert [one.step_number for one in found] == [6, 4, 2]
    assert found[0].fine_tuned_model_checkpoint == f"ft:tiny:contracts:{run.run_id}"
    assert found[2].metrics.valid_loss == 1.75
    assert found[2].metrics.train_loss == pytest.approx(made_runs.step(2)["loss"])


# ---- pages


@given(st.integers(0, 60), st.integers(1, 25))
def test_pages_hold_every_entry_once_in_order(count, limit) -> None:
    """Whoever goes on until `has_more` is false has seen all."""
    entries = [f"e{n}" for n in range(count)]
    seen, after = [], None
    while True:
        found = page(
            iter(entries),
            Wanted(after=after, limit=limit),
            id_of=lambda one: one,
            shown=lambda one: {"id": one},
        )
        seen += [one["id"] for one in found["data"]]
        if not found["has_more"]:
            break
        after = found["last_id"]
    assert seen == entries


@pytest.mark.parametrize("limit", ["0", "-1", "101", "x", "", "1.5", "٣", "9" * 5000])
def test_a_limit_that_is_none_is_refused(limit) -> None:
    """With the range that there is."""
    with pytest.raises(ApiError) as refused:
        wanted({"limit": limit})
    assert refused.value.param == "limit"


def test_an_unknown_after_is_refused() -> None:
    """A page from the beginning would be taken for the next one."""
    with pytest.raises(ApiError) as refused:
        page(["a"], Wanted(after="b"), id_of=str, shown=dict)
    assert refused.value.param == "after"


# ---- errors


@pytest.mark.parametrize(
    ("message", "advice", "said"),
    [
        ("is full", "Make room.", "is full. Make room."),
        ("Is full.", "Make room.", "Is full. Make room."),
        ("is full", "", "is full"),
        ("is full", None, "is full"),
        ("a: is full\n    Found: 0", "Make room.", "a: is full\n    Found: 0\nMake room."),
    ],
)
def test_an_error_and_its_advice_are_sentences(message, advice, said) -> None:
    """A program shows them as one text."""
    assert in_one(message, advice) == said


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ApiError("m.", advice="a.", status=409, code="c", param="p"), 409, "c"),
        (SpecError([Problem(field="lora.r", message="is too large")]), 400, "invalid_spec"),
        (ModelError([Problem(field="model", message="is not here")]), 400, "model_not_found"),
        (UnsafePathError("x", "is a link", advice="a"), 400, "unsafe_path"),
        (BusyError("m", advice="a"), 409, "busy"),
        (OSError(28, "No space left on device"), 503, "box_unwell"),
        (KeyError("secret"), 500, "unexpected"),
    ],
)
def test_every_failure_has_a_body_that_clients_read(error, status, code) -> None:
    """message, type, param, code; what was not foreseen tells nothing of the inside."""
    found, body = body_of(error)
    assert found == status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code
    assert "secret" not in body["error"]["message"]
    assert (body["error"]["type"] == "server_error") == (status >= 500)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}'])
def test_a_body_that_is_no_json_is_refused(content) -> None:
    """Cut off, no UTF-8, too deep, no numbers."""
    with pytest.raises(ApiError) as refused:
        read_json(content)
    assert refused.value.code == "invalid_json"


# ---- metrics


def seen(**changes):
    given = {
        "heartbeat_age_seconds": 3.0,
        "unwell": False,
        "states": Counter({"queued": 2, "training": 1}),
        "last_success": {"contracts": 1795786450.0},
        "training": {"letters": Progress(step=4, total_steps=9, loss=1.5, gpu_memory_bytes=7)},
        "free_bytes": {"jobs": 5},
    }
    return metrics.Seen(**{**given, **changes})


def samples(found: metrics.Seen) -> dict[tuple[str, tuple], float]:
    """Read the metrics as Prometheus' own parser does."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics._Once(found))
    text = generate_latest(registry).decode()
    return {
        (sample.name.removeprefix("finetuning_box_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_what_is_there() -> None:
    """Queue, state, memory, loss, last success."""
    found = samples(seen())
    assert found["daemon_up", ()] == 1
    assert found["queue_length", ()] == 2
    assert found["runs", ("training",)] == 1
    assert found["runs", ("failed",)] == 0
    assert found["training_loss", ("letters",)] == 1.5
    assert found["training_gpu_memory_bytes", ("letters",)] == 7
    assert found["job_last_success_timestamp_seconds", ("contracts",)] == 1795786450.0
    assert samples(seen(heartbeat_age_seconds=None))["daemon_up", ()] == 0
    assert samples(seen(heartbeat_age_seconds=999.0))["daemon_up", ()] == 0


def test_prometheus_reads_each_of_several_cards() -> None:
    """One that is lost does not make the box unwell: it has a metric of its own."""
    cards = (CardShown(title="GPU 0", run_id="r"), CardShown(title="GPU 1", problem="lost"))
    found = samples(seen(cards=cards))
    assert [found["card_busy", (name,)] for name in ("GPU 0", "GPU 1")] == [1, 0]
    assert [found["card_lost", (name,)] for name in ("GPU 0", "GPU 1")] == [0, 1]


def test_no_job_s_name_makes_a_metric_of_its_own() -> None:
    """Quotes, line breaks and braces in a name stay in its label."""
    name = 'a"} 1\nfinetuning_box_daemon_up 0\n# \\ \u202e'
    found = samples(seen(last_success={name: 5.0}))
    assert found["daemon_up", ()] == 1
    assert len([key for key in found if key[0].startswith("job_last")]) == 1


def test_labels_are_bounded() -> None:
    """Of ten thousand jobs the last to succeed have a line."""
    ended = [
        EndedRun(
            f"job-{n}", f"r{n}", "succeeded", n, f"2026-11-26T00:00:{n / 1000:06.3f}+00:00", (0, 0)
        )
        for n in range(10_000)
    ]
    kept = metrics.last_success(ended)
    assert len(kept) == metrics.MOST_JOBS
    assert "job-9999" in kept
    assert "job-0" not in kept


def test_a_heartbeat_from_before_the_start_of_the_machine_is_none() -> None:
    """Clocks jump; the machine's uptime does not."""
    assert metrics.heartbeat_age({}) is None
    assert metrics.heartbeat_age({"uptime": 0.0, "boot": "another"}) is None
    assert asdict(seen())["heartbeat_age_seconds"] == 3.0


def test_a_scrape_of_an_empty_box_and_of_a_hostile_one(tmp_path) -> None:
    """A record or heartbeat of nonsense costs a line, not the scrape."""
    from runner.office.box import Box

    for name in ("jobs", "outputs", "models"):
        (tmp_path / name).mkdir()
    box = Box(
        jobs_dir=tmp_path / "jobs",
        outputs_dir=tmp_path / "outputs",
        models_dir=tmp_path / "models",
        page_dir=tmp_path,
    )
    assert metrics.healthz(None, box) == {"status": "ok", "daemon": "none"}
    made_runs.make_hostile_run(tmp_path / "outputs")
    outputs = Outputs(tmp_path / "outputs")
    outputs.private.mkdir()
    outputs.heartbeat.write_text('{"uptime": "x", "boot": []}')
    made_runs.make_run(
        tmp_path / "outputs", made_runs.record(run_id="20261126T110000Z-torn")
    ).record.write_text("{")
    text = metrics.scrape(None, box).body.decode()
    assert 'finetuning_box_runs{state="failed"} 1.0' in text
    assert metrics.healthz(None, box)["daemon"] == "none"


# ---- the page


def rows_of(title: str) -> list[str]:
    part = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (`.*?)(?: \|.*)?\|$", part, re.MULTILINE)


def test_the_page_has_every_code_of_the_api_s_own() -> None:
    """A program's author finds each refusal that the API words itself, and none that is gone."""
    told = {code for row in rows_of("Errors") for code in re.findall(r"`(\w+)`", row)}
    found = {f"{what}_not_found" for what in ("file", "job", "model")}
    for path in (ROOT / "runner" / "office" / "api").glob("*.py"):
        found |= set(re.findall(r'code="(\w+)"', path.read_text()))
        found |= {"invalid_purpose", "missing_file"}
    of_the_gate = {"no_key", "may_only_read", "too_many_keys", "too_often", "too_large"}
    gate = (ROOT / "runner" / "office").glob("*.py")
    gates = set(re.findall(r'"office_(\w+)"', "".join(path.read_text() for path in gate)))
    assert of_the_gate <= gates
    of_the_app = {code for code, _ in NOT_IN_THE_API.values()}
    assert told == found | of_the_gate | of_the_app | {"upload", "upload_too_large"}


def test_the_page_has_every_metric() -> None:
    """And no other."""
    told = {name for row in rows_of("For monitors") for name in re.findall(r"`(\w+)`", row)}
    there = {family.name.removeprefix("finetuning_box_") for family in metrics.families(seen())}
    assert told - {"job", "state", "folder", "card"} == there


def test_the_page_has_the_rate_that_a_multiplier_of_one_means() -> None:
    """Whoever sets one must be able to work out the learning rate."""
    assert f"multiplier × {LEARNING_RATE:g}, the spec's default" in PAGE
