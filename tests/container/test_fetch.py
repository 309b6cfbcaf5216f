"""`docker compose run --rm fetch MODEL`: the real client and image, before a stand-in hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from container_box import PGID, PUID, ContainerBox
from hub import ACCEPTED, COMMIT, GATED, HIDDEN, OPEN, STRANGER, Hub, serving


@pytest.fixture(scope="module")
def hub(model: Path) -> Iterator[Hub]:
    """A hub with one model under several names, with code and a pickle beside its weights."""
    beside = {"modeling_own.py": b"raise SystemExit", "pytorch_model.bin": b"pickle"}
    with serving(model, **beside) as running:
        yield running


@pytest.fixture(scope="module")
def box(make_box: Callable[..., ContainerBox], hub: Hub) -> ContainerBox:
    """A box whose hub it is; `fetch` is the first thing that its owner calls."""
    return make_box(HF_ENDPOINT=hub.address)


def fetch(box: ContainerBox, model: str, *, token: str | None = None) -> CompletedProcess[str]:
    box.settings.pop("HF_TOKEN_FILE", None)
    if token:
        file = box.root / "token"
        file.write_text(f"{token}\n")
        file.chmod(0o644)
        box.settings["HF_TOKEN_FILE"] = str(file)
    return box.compose("run", "--rm", "fetch", model, check=False)


def test_a_model_is_fetched_at_a_recorded_commit(box: ContainerBox, hub: Hub, model: Path) -> None:
    """Weights, config and tokenizer; no code, no pickle; all of one commit, which is kept."""
    done = fetch(box, OPEN)
    assert done.returncode == 0, done.stderr
    assert f"Use it in a spec:  model: {OPEN}" in done.stdout
    target = box.root / "models" / OPEN
    names = {path.name for path in target.iterdir()}
    assert names == {path.name for path in model.iterdir()} | {"runner-fetched.json"}
    facts = json.loads((target / "runner-fetched.json").read_text())
    assert facts == {"id": OPEN, "revision": COMMIT}
    assert (target / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    resolved = {path.split("/")[3] for path in hub.asked if "/resolve/" in path}
    assert resolved == {COMMIT}
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (target, *target.iterdir())}
    assert owners == {(PUID, PGID)}


@pytest.mark.parametrize(
    ("name", "token", "status"),
    [(GATED, None, 401), (GATED, STRANGER, 403), (HIDDEN, None, 401)],
)
def test_a_refusal_names_the_licence_page(
    box: ContainerBox, hub: Hub, name: str, token: str | None, status: int
) -> None:
    """401 and 403 say where to accept the licence, how a token gets here; no half model stays."""
    done = fetch(box, name, token=token)
    assert done.returncode == 1
    assert f"({status})" in done.stderr
    assert f"{hub.address}/{name}" in done.stderr
    assert "HF_TOKEN_FILE" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (box.root / "models" / name).exists()


def test_a_token_file_opens_what_was_accepted(box: ContainerBox) -> None:
    """The token is a file secret: it is no variable, and no process shows it."""
    done = fetch(box, GATED, token=ACCEPTED)
    assert done.returncode == 0, done.stderr
    assert (box.root / "models" / GATED / "runner-fetched.json").exists()
    assert ACCEPTED not in box.compose("--profile", "tools", "config").stdout


def test_the_runner_and_the_doctor_see_what_was_fetched(box: ContainerBox) -> None:
    """A spec may name it by its hub id; the doctor lists it."""
    done = box.compose("run", "--rm", "doctor", "--json", check=False)
    (found,) = (f for f in json.loads(done.stdout)["findings"] if f["check"] == "Base models")
    assert OPEN in found["what"]


def test_a_hub_out_of_reach_is_said(box: ContainerBox) -> None:
    """In words, with the way that needs no network."""
    box.settings["HF_ENDPOINT"] = "http://127.0.0.1:9"
    done = fetch(box, "law/other")
    assert done.returncode == 1
    assert "A folder copied to models/law/other" in done.stderr
