"""docs/share.md, followed to the letter on a real Samba: in a container with users of its own."""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from container_box import PGID, PUID, ROWS, ContainerBox, wait_until
from daemon_box import REPOSITORY

from runner.contract.states import State

PAGE = (REPOSITORY / "docs" / "share.md").read_text()
BASE = re.search(r"^ARG BASE_IMAGE=(.*)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)[1]
DOCKERFILE = f"""
FROM {BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends samba smbclient
"""
PASSWORD = "of-the-share"
ANSWERED = rf"printf '{PASSWORD}\n{PASSWORD}\n' | smbpasswd -s"  # instead of at the terminal


def blocks(language: str) -> str:
    return "".join(re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def box(make_box: Callable[..., ContainerBox]) -> ContainerBox:
    """A box whose PUID and PGID are the page's."""
    made = make_box()
    made.up()
    return made


@pytest.fixture(scope="module")
def samba(engine: Any, box: ContainerBox) -> Iterator[Any]:
    """The host of the page: what it says is typed there, and `bob` is nobody's colleague."""
    tag = "finetuning-box-samba:test"
    command = ["docker", "build", "--quiet", "--network=host", "--tag", tag, "-"]
    subprocess.run(command, input=DOCKERFILE.encode(), check=True, capture_output=True)
    host = engine.containers.run(
        tag,
        ["sleep", "infinity"],
        detach=True,
        init=True,
        network_mode="none",
        mem_limit="1g",
        volumes={str(box.root): {"bind": "/srv/finetuning-box", "mode": "rw"}},
    )
    try:
        typed = [
            line.replace("smbpasswd", ANSWERED)
            for line in re.findall(r"^\$ (?:sudo )?(.*)$", blocks("console"), re.MULTILINE)
            if not line.startswith(("apt ", "systemctl "))
        ]
        setup = ["set -e", f"cat > /etc/samba/smb.conf <<'END'\n{blocks('ini')}END", *typed]
        setup += ["useradd bob", f"{ANSWERED} -a bob", "smbd --daemon"]
        code, said = host.exec_run(["sh", "-c", "\n".join(setup)])
        assert code == 0, said.decode()
        yield host
    finally:
        host.remove(force=True)


@pytest.fixture(scope="module")
def client(samba: Any) -> Callable[..., tuple[int, str]]:
    """A client that does one thing on a share."""

    def call(share: str, command: str, user: str = "alice") -> tuple[int, str]:
        words = ["smbclient", f"//127.0.0.1/{share}", "-U", f"{user}%{PASSWORD}", "-c", command]
        code, said = samba.exec_run(words, workdir="/tmp")
        return int(code), said.decode()

    wait_until(lambda: call("jobs", "ls")[0] == 0)
    return call


def put(samba: Any, client: Callable[..., tuple[int, str]], name: str, text: str) -> None:
    """Copy a file onto the share, as Explorer would."""
    samba.exec_run(["python3", "-c", "import sys; open('/tmp/new', 'w').write(sys.argv[1])", text])
    code, said = client("jobs", f"put new {name}")
    assert code == 0, said


def test_a_drop_through_the_share_gives_an_adapter_through_the_share(
    box: ContainerBox, samba: Any, client: Callable[..., tuple[int, str]], model: Any
) -> None:
    """A colleague with nothing but the share drops data and spec, and takes the result."""
    box.put_model(model)
    assert client("jobs", "mkdir data")[0] == 0
    put(samba, client, r"data\walls.jsonl", ROWS)
    put(
        samba,
        client,
        "walls.yaml",
        "model: tiny\ndata: data/walls.jsonl\ntraining: {max_steps: 2}\n",
    )
    record = box.wait_for_end("walls")
    (dropped,) = wait_until(lambda: list((box.jobs / "done").glob("walls--*.yaml")))
    found = dropped.stat()
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (PGID, 0o660)
    assert found.st_uid not in (0, PUID)
    wait_until(lambda: "walls" in client("jobs", "get STATUS.txt -")[1])
    adapter = rf"walls\{record.run_id}\adapter"
    code, said = client("outputs", rf"get {adapter}\adapter_config.json -")
    assert (code, "LORA" in said) == (0, True), said


def test_deleting_a_queued_spec_cancels_it(
    box: ContainerBox, samba: Any, client: Callable[..., tuple[int, str]]
) -> None:
    """The share is enough to change one's mind."""
    put(samba, client, "waits.yaml", "model: tiny\ndata: data/later.jsonl\n")
    (spec,) = wait_until(lambda: list((box.jobs / "queued").glob("waits--*.yaml")))
    code, said = client("jobs", rf"del queued\{spec.name}")
    assert code == 0, said

    def cancelled() -> bool:
        found = box.record("waits")
        return found is not None and found.state is State.CANCELLED

    wait_until(cancelled, seconds=60)


@pytest.mark.parametrize(
    ("user", "share", "command"),
    [
        ("bob", "jobs", "ls"),
        ("bob", "outputs", "ls"),
        ("alice", "outputs", "mkdir planted"),
        ("alice", "outputs", r"ls .runner\lock"),
        ("alice", "jobs", "del .runner-inbox"),
        ("alice", "models", "ls"),
    ],
)
def test_what_the_page_refuses(
    client: Callable[..., tuple[int, str]], box: ContainerBox, user: str, share: str, command: str
) -> None:
    """Strangers see nothing; results are read, not written; the runner's own files are its own."""
    _, said = client(share, command, user)
    assert "NT_STATUS" in said
    assert (box.jobs / ".runner-inbox").exists()
    assert not (box.outputs.root / "planted").exists()
