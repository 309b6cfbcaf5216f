"""OpenAI's own client drives the box: upload, train a real model, follow it, use the result."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from api_server import serving
from daemon_box import REPOSITORY, Box, attempt_of, wait_until

pytestmark = pytest.mark.long

CANARY = "zqxcanaryzqx"
MODEL = "smollm2-135m-instruct"  # as the page names it; here only its first layers
PAGE = REPOSITORY / "docs" / "api.md"
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "You are brief."},
            {"role": "user", "content": f"What is {n} plus {n}?"},
            {"role": "assistant", "content": f"It is {2 * n}, {CANARY}."},
        ]
    }
    for n in range(60)
]
"""As OpenAI's guide to fine-tuning has them: they train as they are."""


def lines(chats) -> bytes:
    return "".join(json.dumps(chat) + "\n" for chat in chats).encode()


@pytest.fixture(scope="module")
def box(tmp_path_factory, tiny_model) -> Box:
    made = Box(tmp_path_factory.mktemp("box"))
    shutil.rmtree(made.root / "models" / "m")
    shutil.copytree(tiny_model, made.root / "models" / MODEL, copy_function=os.link)
    return made


@pytest.fixture(scope="module")
def api(box):
    """The page and the daemon, each as people start it; stages are the real ones."""
    stages = [sys.executable, "-m", "runner.training"]
    with (
        serving(box.root) as served,
        box.watching(stage_command=stages, keep_checkpoints=True, device="cpu"),
    ):
        yield served


@pytest.fixture(scope="module")
def finished(box, api):
    """A job from upload to end, and every event as a client that follows it saw it first."""
    client = api.client()
    training = client.files.create(
        file=("arithmetic.jsonl", lines(CHATS[:30])), purpose="fine-tune"
    )
    held_out = client.files.create(file=("held-out.jsonl", lines(CHATS[50:])), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=training.id,
        validation_file=held_out.id,
        suffix="Arithmetic",
        seed=7,
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": 1,
                    "batch_size": 8,
                    "learning_rate_multiplier": 5,
                }
            },
        },
        metadata={"who": "ada", "spec.training.eval_steps": "2", "spec.promote.when": "always"},
        extra_body={"spec": {"training": {"save_steps": 2}, "lora": {"r": 4}}},
    )
    seen: dict[str, str] = {}
    statuses: list[str] = []

    def is_over() -> bool:
        now = client.fine_tuning.jobs.retrieve(job.id)
        if now.status not in statuses:
            statuses.append(now.status)
        for event in client.fine_tuning.jobs.list_events(job.id, limit=100).data[::-1]:
            seen.setdefault(event.id, event.message)
        # Its last event comes a moment after its record.
        return now.status in ("succeeded", "failed", "cancelled") and any(
            message.endswith(now.box["state"]) for message in seen.values()
        )

    wait_until(is_over, seconds=600, every=0.3)
    return client, client.fine_tuning.jobs.retrieve(job.id), list(seen.values()), statuses


def test_the_job_goes_through_openai_s_states_to_its_model(box, finished) -> None:
    """Validated, run, succeeded; each state once, in order; the model's name can be looked up."""
    client, job, _, statuses = finished
    assert job.status == "succeeded", job.error
    order = ["validating_files", "queued", "running", "succeeded"]
    assert statuses == [one for one in order if one in statuses]
    assert statuses[0] == "validating_files"
    assert {"running", "succeeded"} <= set(statuses)
    record = box.record()
    assert job.fine_tuned_model == f"ft:{MODEL}:arithmetic:{record.run_id}"
    assert job.trained_tokens == record.metrics["tokens_seen"] > 0
    assert job.finished_at >= job.created_at
    model = client.models.retrieve(job.fine_tuned_model)
    adapter = box.root / model.box["adapter"]
    assert (adapter / "adapter_model.safetensors").is_file()
    # `current` moves a moment after the record.
    wait_until(lambda: client.models.retrieve(model.id).box["in_use"], every=0.3)
    assert model.id in [one.id for one in client.models.list()]


def test_what_was_asked_for_is_what_was_trained(box, finished) -> None:
    """Files, seed, hyperparameters, metadata and our own fields, in record and answer."""
    client, job, _, _ = finished
    record = box.record()
    assert record.effective_batch_size == 8
    assert [file.rows for file in record.data] == [30, 10]
    config = json.loads(
        (box.outputs.run(record.job, record.run_id).adapter / "adapter_config.json").read_text()
    )
    assert config["r"] == 4
    assert job.seed == 7
    assert job.metadata["who"] == "ada"
    given = job.method.supervised.hyperparameters
    assert (given.n_epochs, given.batch_size, given.learning_rate_multiplier) == (1, 8, 5)
    names = {client.files.retrieve(x).filename for x in (job.training_file, job.validation_file)}
    assert names == {"arithmetic.jsonl", "held-out.jsonl"}


def test_whoever_follows_sees_every_step(box, finished) -> None:
    """Each optimizer step with its loss, in order, and the run's story around them."""
    _, _, messages, _ = finished
    total = box.record().total_steps
    steps = [one for one in messages if "training loss=" in one]
    assert [one.partition(":")[0] for one in steps] == [
        f"Step {number}/{total}" for number in range(1, total + 1)
    ]
    assert any("validation loss=" in one for one in messages)
    assert messages[0] == "arithmetic: claimed"
    assert "arithmetic: succeeded" in messages


def test_checkpoints_have_their_losses(box, finished) -> None:
    """Those on the disk, and the adapter; the losses are those of the training's own log."""
    client, job, _, _ = finished
    found = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    run = box.outputs.run(box.record().job, box.record().run_id)
    there = sorted(p.name for p in run.checkpoints.iterdir())
    assert len(found) == len(there) + 1
    assert found[0].fine_tuned_model_checkpoint == job.fine_tuned_model
    lines = [json.loads(s) for s in (attempt_of(run, 1) / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    held_out = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    for one in found[1:]:
        assert one.metrics.train_loss == losses[one.step_number]
        assert one.metrics.valid_loss == held_out[one.step_number]


def test_another_job_is_cancelled_while_it_trains(box, api, finished) -> None:
    """And the box goes on: what it leaves is a cancelled job, and no model."""
    client, first, _, _ = finished
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=first.training_file,
        hyperparameters={"n_epochs": 500},
        suffix="endless",
    )

    def trains() -> bool:
        events = client.fine_tuning.jobs.list_events(job.id, limit=1).data
        return bool(events) and events[0].type == "metrics"

    wait_until(trains, seconds=300, every=0.3)
    client.fine_tuning.jobs.cancel(job.id)
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "cancelled", every=0.3)
    assert client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model is None
    assert client.fine_tuning.jobs.retrieve(first.id).status == "succeeded"


def test_a_job_whose_rows_cannot_be_used_fails_with_the_line(box, api, finished) -> None:
    """The error that people read beside their spec; no row is repeated."""
    client, _, _, _ = finished
    rows = json.dumps(CHATS[0]).encode() + b"\n" + json.dumps({"messages": CANARY}).encode() + b"\n"
    file = client.files.create(file=("broken.jsonl", rows), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=file.id)

    def ended():
        now = client.fine_tuning.jobs.retrieve(job.id)
        return now if now.status == "failed" else None

    error = wait_until(ended, seconds=300, every=0.3).error
    assert "line 2" in error.message
    assert error.param == "training_file"


def test_no_answer_of_the_api_holds_a_row(box, api, finished) -> None:
    """Jobs, events, checkpoints, models and metrics tell of rows, and show none."""
    client, job, _, _ = finished
    found = [one.model_dump_json() for one in client.fine_tuning.jobs.list()]
    for one in client.fine_tuning.jobs.list():
        found += [e.model_dump_json() for e in client.fine_tuning.jobs.list_events(one.id)]
    found += [c.model_dump_json() for c in client.fine_tuning.jobs.checkpoints.list(job.id)]
    found += [m.model_dump_json() for m in client.models.list()]
    found += [f.model_dump_json() for f in client.files.list()]
    found.append(api.ask("GET", "/metrics")[1])
    assert len(found) > 30
    assert [one for one in found if CANARY in one] == []


def test_the_page_s_own_program_and_commands_work(api, tmp_path) -> None:
    """What docs/api.md tells people to run works as it stands, but for the port."""
    (tmp_path / "contracts.jsonl").write_bytes(lines(CHATS))
    text = PAGE.read_text().replace("localhost:8080", f"127.0.0.1:{api.port}")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (commands,) = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    told = {"cwd": tmp_path, "env": {**os.environ, "BOX_KEY": api.key}}
    asked = {"capture_output": True, "text": True, "timeout": 600}
    ran = subprocess.run([sys.executable, "-c", program], check=False, **told, **asked)
    assert ran.returncode == 0, ran.stderr
    last = ran.stdout.splitlines()[-1]
    assert last.startswith(f"succeeded None ft:{MODEL}:contracts:"), ran.stdout
    found = [line.removeprefix("$ ") for line in commands.splitlines()]
    assert len(found) == 4
    for command in found:
        ran = subprocess.run(["bash", "-c", command], check=False, **told, **asked)
        assert ran.returncode == 0, command
        assert not ran.stdout.startswith('{"error"'), (command, ran.stdout)
    assert json.loads(ran.stdout) == {"status": "ok", "daemon": "fresh"}
