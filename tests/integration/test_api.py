"""The API as programs meet it: the real page in a process of its own, and hostile clients."""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import shutil
import socket

import openai
import pytest
from api_server import Api, serving
from daemon_box import Box, wait_until

from runner.contract.states import State

ROWS = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
HOSTILE_IDS = [
    "..",
    "../../page/key",
    "%2e%2e%2f%2e%2e%2fpage%2fkey",
    "..%2fcontracts.yaml",
    "file-",
    "file-0123456789abcdef0123456",
    "file-0123456789ABCDEF01234567",
    "file-0123456789abcdef01234567%00",
    "file-0123456789abcdef01234567-c.jsonl",
    "ftjob-20261123T221005Z-k3f9%2f..",
    "%00",
    "x" * 4000,
    "ft:tiny:..:20261123T221005Z-k3f9",
    "ft:tiny:.runner:20261123T221005Z-k3f9",
]


@pytest.fixture(scope="module")
def box(tmp_path_factory, tiny_model) -> Box:
    """A box with a real model, which nothing trains on here."""
    root = tmp_path_factory.mktemp("box")
    made = Box(root)
    shutil.rmtree(root / "models" / "m")
    shutil.copytree(tiny_model, root / "models" / "tiny", copy_function=os.link)
    return made


@pytest.fixture(scope="module")
def api(box):
    """Its page."""
    with serving(box.root) as served:
        yield served


@pytest.fixture
def clean(box):
    """Leave an empty inbox to the next test."""
    yield
    for path in (*box.jobs.glob("*.yaml"), *box.jobs.glob("cancelled/*")):
        path.unlink()


def upload(api: Api, content: bytes = ROWS, name: str = "contracts.jsonl", **more) -> str:
    return api.client().files.create(file=(name, content), purpose="fine-tune", **more).id


def create(api: Api, file_id: str, **more):
    return api.client().fine_tuning.jobs.create(model="tiny", training_file=file_id, **more)


def error_of(answer: tuple[int, dict]) -> tuple[int, str | None, str | None]:
    status, body = answer
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return status, body["error"]["code"], body["error"]["param"]


# ---- files


def test_a_file_is_kept_as_it_came_and_found_again_after_a_restart(box, api) -> None:
    """Bytes, name and id; it lies where every job can name it, and nothing else is kept of it."""
    made = api.client().files.create(file=("Verträge 2026.jsonl", ROWS * 3), purpose="fine-tune")
    with serving(box.root) as restarted:
        client = restarted.client()
        found = client.files.retrieve(made.id)
        assert found == made
        assert found.filename == "Verträge 2026.jsonl"
        assert client.files.content(made.id).read() == ROWS * 3
        assert made.id in [one.id for one in client.files.list()]
        assert client.files.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(made.id)
    assert not list((box.jobs / "data" / "api").glob(f"{made.id}*"))


@pytest.mark.parametrize("file_id", HOSTILE_IDS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files/{}"),
        ("DELETE", "/v1/files/{}"),
        ("GET", "/v1/files/{}/content"),
        ("GET", "/v1/fine_tuning/jobs/{}"),
        ("POST", "/v1/fine_tuning/jobs/{}/cancel"),
        ("GET", "/v1/fine_tuning/jobs/{}/events"),
        ("GET", "/v1/fine_tuning/jobs/{}/checkpoints"),
        ("GET", "/v1/models/{}"),
    ],
)
def test_ids_that_are_paths_lead_nowhere(box, api, method, path, file_id) -> None:
    """No id reaches a file that was not uploaded here, nor a folder that is no run's."""
    before = sorted(str(p) for p in box.root.rglob("*"))
    status, body = api.ask(method, path.format(file_id), b"" if method == "POST" else None)
    assert status in (404, 405), body
    assert api.key not in json.dumps(body)
    assert sorted(str(p) for p in box.root.rglob("*")) == before


def test_files_of_others_and_links_are_none_of_the_api_s(box, api) -> None:
    """Data of the share is not given out, listed or deleted, nor what a link leads to."""
    upload(api)
    folder = box.jobs / "data" / "api"
    (box.jobs / "data" / "secret.jsonl").write_bytes(ROWS)
    link = folder / "file-0123456789abcdef01234567-x.jsonl"
    link.symlink_to(box.root / "page" / "key")
    try:
        ids = [one.id for one in api.client().files.list()]
        assert "file-0123456789abcdef01234567" not in ids
        for path in ("", "/content"):
            found = api.ask("GET", f"/v1/files/file-0123456789abcdef01234567{path}")
            assert error_of(found)[:2] == (404, "file_not_found")
    finally:
        link.unlink()


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.jsonl", b"instruction,output\na,b\n", "invalid_file_format"),
        ("a.jsonl", b'{"a": 1}\n{"b": \n', "invalid_file_format"),
        ("a.jsonl", b"PK\x03\x04" * 10, "invalid_file_format"),
        ("a.jsonl", b"", "upload"),
        ("a.pdf", b"%PDF", "upload"),
        ("a", ROWS, "upload"),
    ],
)
def test_a_file_that_cannot_be_trained_on_is_refused_and_nothing_is_left(
    box, api, name, content, code
) -> None:
    """With the line, or with what to save it as."""
    before = sorted((box.jobs / "data" / "api").glob("*"))
    with pytest.raises(openai.BadRequestError) as refused:
        upload(api, content, name)
    assert refused.value.code == code
    assert sorted((box.jobs / "data" / "api").glob("*")) == before


def test_another_purpose_and_a_body_that_is_no_form_are_refused(box, api) -> None:
    """And leave nothing."""
    with pytest.raises(openai.BadRequestError) as refused:
        api.client().files.create(file=("a.jsonl", ROWS), purpose="batch")
    assert (refused.value.code, refused.value.param) == ("invalid_purpose", "purpose")
    with pytest.raises(openai.BadRequestError) as refused:
        api.client().files.create(
            file=("a.jsonl", ROWS),
            purpose="fine-tune",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
    assert refused.value.param == "expires_after[anchor]"  # it would stay for ever
    assert error_of(api.ask("POST", "/v1/files", {"file": "x"}))[0] == 400
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data; name=file; fil"):
        assert error_of(api.ask("POST", "/v1/files", body, headers=form))[0] == 400
    alone = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--x--\r\n'
    found = api.ask("POST", "/v1/files", alone, headers=form)
    assert error_of(found) == (400, "missing_file", "file")


def test_names_that_are_paths_stay_in_their_folder(box, api) -> None:
    """A file name is a client's; where it lies is ours."""
    for name in ("../../../etc/x.jsonl", "..\\..\\x.jsonl", "/abs/x.jsonl", "a\nb\u202e.jsonl"):
        one = api.client().files.retrieve(upload(api, ROWS, name))
        assert "/" not in one.filename
        assert "\\" not in one.filename
        assert one.filename.isprintable()
    outside = [p for p in box.root.rglob("*x.jsonl") if p.parent != box.jobs / "data" / "api"]
    assert outside == []


def test_a_file_that_is_too_large_is_refused_before_it_fills_the_disk(tmp_path) -> None:
    """By what it says it has, and by what comes."""
    Box(tmp_path)
    with serving(tmp_path, "--upload-gib=0.001") as small:
        with pytest.raises(openai.APIStatusError) as refused:
            upload(small, ROWS * 20_000)
        assert (refused.value.status_code, refused.value.code) == (413, "upload_too_large")
        folder = tmp_path / "jobs" / "data" / "api"
        assert list(folder.glob("*")) == []


def test_a_body_that_is_too_large_or_cut_off_changes_nothing(box, api) -> None:
    """A job's body has a page; a client that goes away in the middle leaves no job."""
    head = (
        f"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {api.key}"
        "\r\nContent-Length: {length}\r\n\r\n{{"
    )
    with socket.create_connection(("127.0.0.1", api.port), 60) as client:
        # The rest is not sent: the answer comes before it, and a client that is still writing may
        # find the connection closed.
        client.sendall(head.format(length=1024 * 1024 + 1).encode())
        assert b" 413 " in client.recv(4096).splitlines()[0]
    with socket.create_connection(("127.0.0.1", api.port)) as client:
        client.sendall(head.format(length=500).encode())
    assert api.ask("GET", "/healthz", key="")[0] == 200
    assert list(box.jobs.glob("*.yaml")) == []


def test_pages_of_files_are_openai_s(box, api) -> None:
    """The client goes through all of them by itself."""
    for number in range(5):
        upload(api, ROWS * (number + 1))
    client = api.client()
    every = [one.id for one in client.files.list()]
    assert len(every) == len(set(every)) >= 5
    assert [one.id for one in client.files.list(limit=2)] == every
    first = client.files.list(limit=2)
    assert first.has_more
    assert [one.id for one in client.files.list(order="asc")] == every[::-1]
    found = api.ask("GET", "/v1/files?after=file-unknown")
    assert error_of(found) == (400, "unknown_after", "after")


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("on_the_share", [False, True])
def test_a_list_goes_on_where_its_last_file_was_deleted(box, api, order, on_the_share) -> None:
    """Whoever deletes what it has just read, or has a colleague who does, misses no other file."""
    for number in range(5):
        upload(api, ROWS * (number + 1))
    client = api.client()
    every = [one.id for one in client.files.list(order=order)]
    page = client.files.list(limit=2, order=order)
    read = [one.id for one in page.data]
    while page.has_more:
        if on_the_share:
            (gone,) = box.jobs.glob(f"data/api/{read[-1]}-*")
            gone.unlink()
        else:
            client.files.delete(read[-1])
        page = page.get_next_page()
        read += [one.id for one in page.data]
    assert read == every


# ---- who may


@pytest.mark.parametrize("path", ["/v1/models", "/v1/files", "/v1/fine_tuning/jobs", "/metrics"])
def test_without_a_key_nothing_is_said(api, path) -> None:
    """No key, a wrong one: the same refusal, in a body that clients read."""
    assert error_of(api.ask("GET", path, key=""))[0] == 401
    assert error_of(api.ask("GET", path, key="wrong"))[0] == 401
    with pytest.raises(openai.AuthenticationError):
        api.client("wrong").models.list()


def test_healthz_says_nothing_but_that_it_is_there(box, api) -> None:
    """Without a key: neither jobs, nor versions, nor folders."""
    assert api.ask("GET", "/healthz", key="") == (200, {"status": "ok", "daemon": "none"})


def test_a_key_that_may_only_read_reads_and_changes_nothing(box, api, clean) -> None:
    """Lists and results, yes; uploads, jobs, cancellations, deletions, no."""
    from runner.contract.page_key import READ_KEY

    file_id = upload(api)
    job = create(api, file_id)
    reading = "aaaaa-bbbbb-ccccc-ddddd-eeeee"
    path = api.root / "page" / READ_KEY
    path.write_text(reading + "\n")
    path.chmod(0o600)
    client = api.client(reading)
    assert file_id in [one.id for one in client.files.list()]
    assert client.files.content(file_id).read() == ROWS
    assert client.fine_tuning.jobs.retrieve(job.id).status == "validating_files"
    for change in (
        lambda: client.files.create(file=("a.jsonl", ROWS), purpose="fine-tune"),
        lambda: client.files.delete(file_id),
        lambda: client.fine_tuning.jobs.create(model="tiny", training_file=file_id),
        lambda: client.fine_tuning.jobs.cancel(job.id),
    ):
        with pytest.raises(openai.PermissionDeniedError):
            change()
    assert len(list(box.jobs.glob("*.yaml"))) == 1
    path.unlink()


# ---- jobs


def test_a_job_is_a_spec_in_the_inbox(box, api, clean) -> None:
    """What `runner submit` would have dropped, under a name that people can read."""
    file_id = upload(api, name="Mietverträge.jsonl")
    job = create(api, file_id)
    (spec,) = box.jobs.glob("*.yaml")
    assert spec.name == f"mietverträge.{job.id}.yaml"
    assert "model: tiny\n" in spec.read_text()
    assert api.client().fine_tuning.jobs.retrieve(job.id) == job


def test_the_same_key_makes_one_job_also_after_a_restart(box, api, clean) -> None:
    """A client that does not know whether its request arrived sends it again."""
    file_id = upload(api)
    key = {"Idempotency-Key": "run-2026-11"}
    first = create(api, file_id, suffix="a", extra_headers=key)
    assert create(api, file_id, suffix="a", extra_headers=key).id == first.id
    with serving(box.root) as restarted:
        assert create(restarted, file_id, suffix="a", extra_headers=key).id == first.id
        with pytest.raises(openai.ConflictError) as refused:
            create(restarted, file_id, suffix="b", extra_headers=key)
        assert refused.value.code == "idempotency_key_reused"
        assert create(restarted, file_id, suffix="a").id != first.id
    assert len(list(box.jobs.glob("*.yaml"))) == 2


def test_many_at_once_with_one_key_make_one_job_and_one_file(box, api, clean) -> None:
    """Retries that overtake each other."""
    key = {"Idempotency-Key": "at-once"}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(upload, api, ROWS * 50, extra_headers=key) for _ in range(8)]
        (file_id,) = {one.result() for one in sent}
        sent = [pool.submit(create, api, file_id, extra_headers=key) for _ in range(8)]
        assert len({one.result().id for one in sent}) == 1
    assert len(list(box.jobs.glob("*.yaml"))) == 1
    assert len(list((box.jobs / "data" / "api").glob(f"{file_id}*"))) == 1
    with pytest.raises(openai.ConflictError):
        upload(api, ROWS * 51, extra_headers=key)
    assert api.client().files.content(file_id).read() == ROWS * 50


def test_two_files_at_once_with_one_key_are_one_of_them(box, api, clean) -> None:
    """Whichever came first has the id; the others are refused, and nothing of them is left."""
    headers = {"Idempotency-Key": "which-of-them"}
    contents = [ROWS * (1 + n // 2) for n in range(12)]  # two of each

    def bring(content: bytes) -> str:
        try:
            return upload(api, content, extra_headers=headers)
        except openai.ConflictError as error:
            return str(error.code)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        said = list(pool.map(bring, contents))
    (kept,) = {one for one in said if one.startswith("file-")}
    assert set(said) == {kept, "idempotency_key_reused"}
    (lies,) = (box.jobs / "data" / "api").glob(f"{kept}-*")
    taken = {content for content, one in zip(contents, said, strict=True) if one == kept}
    assert taken == {lies.read_bytes()}
    assert not list((box.jobs / "data" / "api").glob(".tmp-*"))


@pytest.mark.parametrize("key", ["", "x" * 300, "a\tb"])
def test_a_key_that_is_none_is_refused(api, key) -> None:
    """Before anything is done."""
    found = api.ask("POST", "/v1/fine_tuning/jobs", {}, headers={"Idempotency-Key": key})
    assert error_of(found) == (400, "invalid_idempotency_key", "Idempotency-Key")


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"model": "gpt-4o-mini"}, "model_not_found", "model"),
        ({"model": "../../etc"}, "model_not_found", "model"),
        ({"model": "ft:tiny:c:20261123T221005Z-k3f9"}, "model_not_found", "model"),
        ({"training_file": "file-0123456789abcdef01234567"}, "file_not_found", "training_file"),
        ({"training_file": "data/secret.jsonl"}, "file_not_found", "training_file"),
        ({"validation_file": "../key"}, "file_not_found", "validation_file"),
        ({"hyperparameters": {"n_epochs": 5000}}, "invalid_spec", "training.epochs"),
        ({"hyperparameters": {"batch_size": 1.5}}, "invalid_spec", "training.effective_batch_size"),
        ({"spec": {"lora": {"r": 4096}}}, "invalid_spec", "lora.r"),
        ({"seed": -1}, "invalid_spec", "training.seed"),
        ({"method": {"type": "dpo"}}, "invalid_parameter", "method.type"),
        ({"surprise": 1}, "invalid_parameter", "surprise"),
    ],
)
def test_a_job_that_cannot_be_is_refused_and_nothing_is_dropped(
    box, api, changes, code, param
) -> None:
    """With the parameter that is wrong."""
    body = {"model": "tiny", "training_file": upload(api), **changes}
    assert error_of(api.ask("POST", "/v1/fine_tuning/jobs", body)) == (400, code, param)
    assert list(box.jobs.glob("*.yaml")) == []


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'"x"', b"\xff", b"[" * 50_000])
def test_a_body_that_is_no_object_is_refused(api, body) -> None:
    """Cut off, a list, too deep."""
    found = api.ask("POST", "/v1/fine_tuning/jobs", body)
    assert error_of(found)[0] == 400


def test_a_job_that_nobody_has_claimed_can_be_cancelled(box, api, clean) -> None:
    """Its spec is moved, not deleted; it stays known, also after a restart, and ends once."""
    job = create(api, upload(api))
    client = api.client()
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert list(box.jobs.glob("*.yaml")) == []
    assert len(list(box.jobs.glob("cancelled/*.yaml"))) == 1
    with serving(box.root) as restarted:
        assert restarted.client().fine_tuning.jobs.retrieve(job.id).status == "cancelled"
    found = api.ask("POST", f"/v1/fine_tuning/jobs/{job.id}/cancel", b"")
    assert error_of(found) == (400, "job_ended", "id")


def test_a_job_is_taken_back_beside_one_of_its_name(box, api, clean) -> None:
    """Somebody dragged a copy to the cancelled ones: neither is lost, and it is cancelled."""
    job = create(api, upload(api))
    (spec,) = box.jobs.glob("*.yaml")
    other = box.jobs / "cancelled" / spec.name
    other.parent.mkdir(exist_ok=True)
    other.write_text("another\n")
    assert api.client().fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert not spec.exists()
    assert other.read_text() == "another\n"
    assert len(list(other.parent.iterdir())) == 2


def test_a_file_that_a_waiting_job_needs_is_not_deleted(box, api, clean) -> None:
    """Refused with the job's name; once that is cancelled it goes."""
    file_id = upload(api)
    job = create(api, file_id, suffix="letters")
    with pytest.raises(openai.ConflictError) as refused:
        api.client().files.delete(file_id)
    assert refused.value.code == "file_in_use"
    assert "letters" in refused.value.message
    scheduled = box.jobs / "scheduled"
    scheduled.mkdir(exist_ok=True)
    held = scheduled / "weekly.yaml"
    held.write_text(f"model: tiny\ndata: data/api/{file_id}-*.jsonl\nschedule: '0 2 * * sun'\n")
    api.client().fine_tuning.jobs.cancel(job.id)
    with pytest.raises(openai.ConflictError):
        api.client().files.delete(file_id)
    held.unlink()
    assert api.client().files.delete(file_id).deleted


def test_models_are_those_on_the_box(api) -> None:
    """By the names that a job may give; none can be deleted from afar."""
    client = api.client()
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "base-model"
    with pytest.raises(openai.APIStatusError) as refused:
        client.models.delete("tiny")
    assert refused.value.status_code == 405


def test_a_path_that_is_none_has_openai_s_error(api) -> None:
    """Endpoints that the box does not have are said in the same shape, with codes of their own."""
    for method, path in (("GET", "/v1/chat/completions"), ("POST", "/v1/models"), ("GET", "/v1")):
        found = api.ask(method, path, b"" if method == "POST" else None)
        code = {404: "unknown_path", 405: "not_supported"}
        assert error_of(found)[1] == code[error_of(found)[0]]
    with pytest.raises(openai.NotFoundError) as refused:
        api.client().fine_tuning.jobs.pause("ftjob-0123456789abcdef01234567")
    assert refused.value.code == "unknown_path"
    assert "docs/api.md" in refused.value.message


# ---- with a daemon, and the stand-in stage for a model


def test_runs_of_the_share_and_of_the_api_are_one_list(tmp_path, tiny_model) -> None:
    """Whoever dropped it: states, events, pages; what fails says why."""
    box = Box(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "models" / "tiny", copy_function=os.link)
    box.drop("letters")
    box.drop("contracts", train=["bare 70"] * 4)
    with serving(tmp_path) as api, box.watching():
        client = api.client()
        way = json.dumps({"train": ["train 3 then ok"]}).encode() + b"\n"
        job = create(api, upload(api, way, "mine.jsonl"), metadata={"who": "ada"})
        wait_until(
            lambda: client.fine_tuning.jobs.retrieve(job.id).status == "succeeded", every=0.3
        )
        wait_until(lambda: len(box.records()) == 3 and all(r.state.is_final for r in box.records()))
        found = {one.box["job"]: one for one in client.fine_tuning.jobs.list(limit=1)}
        states = {name: one.status for name, one in found.items()}
        assert states == {"letters": "succeeded", "contracts": "failed", "mine": "succeeded"}
        assert found["contracts"].error.message
        assert found["mine"].id == job.id
        assert client.fine_tuning.jobs.retrieve(found["letters"].id) == found["letters"]
        chosen = client.fine_tuning.jobs.list(metadata={"who": "ada"})
        assert [one.id for one in chosen] == [job.id]
        for one in found.values():
            events = list(client.fine_tuning.jobs.list_events(one.id, limit=3))
            times = [event.created_at for event in events]
            assert times == sorted(times, reverse=True)
            assert len({event.id for event in events}) == len(events) > 5
        text = api.ask("GET", "/metrics")[1]
        assert 'finetuning_box_runs{state="succeeded"} 2.0' in text
        assert 'finetuning_box_job_last_success_timestamp_seconds{job="mine"}' in text
        assert "finetuning_box_daemon_up 1.0" in text
        assert api.ask("GET", "/healthz", key="")[1]["daemon"] == "fresh"


def test_a_running_job_is_cancelled_by_the_daemon(tmp_path, tiny_model) -> None:
    """Through the same request as `runner cancel`; the answer is its end."""
    box = Box(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "models" / "tiny", copy_function=os.link)
    with serving(tmp_path) as api, box.watching():
        way = json.dumps({"train": ["train 3 then hang"]}).encode() + b"\n"
        job = create(api, upload(api, way))
        client = api.client()
        wait_until(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running", every=0.3)
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        assert box.record().state is State.CANCELLED
        file_id = client.fine_tuning.jobs.retrieve(job.id).training_file
        assert client.files.delete(file_id).deleted, "a run that is over needs it no more"


def test_a_job_s_id_holds_when_its_spec_is_dragged_back(tmp_path, tiny_model) -> None:
    """The first run stays the job's; the second has an id of its own."""
    box = Box(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "models" / "tiny", copy_function=os.link)
    with serving(tmp_path) as api:
        job = create(api, upload(api, b"{}\n"))
        box.once()
        (first,) = box.records()
        (done,) = [p for p in (box.jobs / "done").iterdir() if p.suffix == ".yaml"]
        shutil.copy(done, box.jobs / done.name)
        box.once()
        client = api.client()
        assert client.fine_tuning.jobs.retrieve(job.id).box["run_id"] == first.run_id
        ids = [one.id for one in client.fine_tuning.jobs.list()]
        assert len(ids) == len(set(ids)) == 2


def test_a_torn_record_breaks_no_list(tmp_path, tiny_model) -> None:
    """It is said to be damaged, and the others are shown."""
    box = Box(tmp_path)
    box.drop("letters")
    box.drop("contracts")
    box.once()
    run = box.outputs.run("letters", next(r.run_id for r in box.records() if r.job == "letters"))
    content = run.record.read_bytes()
    run.record.write_bytes(content[: len(content) // 2])
    with serving(tmp_path) as api:
        found = {one.box["job"]: one for one in api.client().fine_tuning.jobs.list()}
        assert found["letters"].error.code == "damaged"
        assert found["contracts"].status == "succeeded"
        assert api.ask("GET", "/metrics")[0] == 200


def test_an_upload_that_is_cut_off_leaves_nothing(box, api) -> None:
    """At any third of it: no file, no half of one."""
    before = sorted((box.jobs / "data" / "api").iterdir())
    body = io.BytesIO()
    body.write(b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n')
    body.write(b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n')
    body.write(ROWS * 2000 + b"\r\n--x--\r\n")
    whole = body.getvalue()
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {api.key}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(whole)}\r\n\r\n"
    ).encode()
    for third in (1, 2):
        with socket.create_connection(("127.0.0.1", api.port)) as client:
            client.sendall(head + whole[: len(whole) * third // 3])
    wait_until(lambda: sorted((box.jobs / "data" / "api").iterdir()) == before)
