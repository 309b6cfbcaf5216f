"""The page and its door, as Compose starts them: what each can reach, and a job from end to end."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from container_box import ROWS, ContainerBox, wait_until

sys.path.insert(0, str(Path(__file__).parent))
from test_confined import CONNECT, WRITABLE

DOOR = "finetuning-box-door:test"
BOUNDARY = "boundary0123456789"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def container(box: ContainerBox, service: str) -> Any:
    (found,) = box.client.containers.list(
        all=True,
        filters={
            "label": [
                f"com.docker.compose.project={box.project}",
                f"com.docker.compose.service={service}",
            ]
        },
    )
    return found


class Client:
    """A browser's requests, through the door."""

    def __init__(self, box: ContainerBox, *, tls: bool = False) -> None:
        self.port, self.tls = int(box.settings["DOOR_PORT"]), tls
        self.cookie = ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        scheme = "https" if self.tls else "http"
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection: Any = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=120, context=context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        sent = {"Origin": f"{scheme}://127.0.0.1:{self.port}", "Accept": "text/html"}
        if isinstance(body, dict):
            body = urlencode(body)
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        sent |= {"Cookie": f"box_session={self.cookie}"} | headers
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        answer.text = answer.read().decode(errors="replace")
        connection.close()
        if found := re.match(r"box_session=([^;]+)", answer.headers.get("set-cookie", "")):
            self.cookie = found[1]
        return answer


def key_of(box: ContainerBox) -> str:
    (key,) = re.findall(r"The key to the page: (\S+)", container(box, "page").logs().decode())
    return str(key)


def start(box: ContainerBox) -> None:
    box.compose("--profile", "page", "up", "--detach", "--no-build")

    def answers() -> bool:
        try:
            client = Client(box, tls=box.settings.get("DOOR_TLS", "off") != "off")
            return client.ask("GET", "/sign-in").status == 200
        except OSError:
            return False

    wait_until(answers, seconds=60)


@pytest.fixture(scope="module")
def box(make_box: Callable[..., ContainerBox], model: Path) -> Iterator[ContainerBox]:
    """A box with its page, healthy."""
    made = make_box(DOOR_IMAGE=DOOR, DOOR_PORT=free_port())
    made.compose("--profile", "page", "build", "door")
    start(made)
    made.wait_for_health("healthy")
    made.put_model(model)
    yield made
    made.compose("--profile", "page", "down", "--volumes", "--timeout", "5")


def inside(box: ContainerBox, service: str, *words: str) -> tuple[int, str]:
    code, said = container(box, service).exec_run(list(words))
    return int(code), said.decode(errors="replace")


def test_the_page_has_no_network(box: ContainerBox) -> None:
    """It sees the box's files, and there is no way out: as the runner."""
    assert container(box, "page").attrs["HostConfig"]["NetworkMode"] == "none"
    assert inside(box, "page", "ls", "/sys/class/net")[1].split() == ["lo"]
    for address in ("10.0.0.1", "192.0.2.1", "2001:db8::1"):
        said = inside(box, "page", "python", "-c", CONNECT, address, "443")[1]
        assert said == "Network is unreachable\n"


def test_the_page_writes_into_the_inbox_and_the_requests_alone(box: ContainerBox) -> None:
    """Results and models are read-only to it, even to their owner."""
    code, said = inside(box, "page", "python", "-c", WRITABLE)
    assert code == 0
    assert json.loads(said) == [
        "/dev/mqueue",
        "/dev/shm",
        "/jobs",
        "/outputs/.runner/requests",
        "/page",
        "/run/page",
        "/tmp",
    ]
    for path in ("/outputs/x", "/outputs/.runner/x", "/models/x", "/etc/x"):
        code, said = inside(box, "page", "touch", path)
        assert (code, "Read-only file system" in said) == (1, True)


def test_the_door_sees_the_socket_and_nothing_of_the_box(box: ContainerBox) -> None:
    """Neither files nor models, and not the key; its own root is read-only."""
    attrs = container(box, "door").attrs
    mounts = {mount["Destination"]: mount["RW"] for mount in attrs["Mounts"]}
    secrets = [path for path in mounts if path.startswith("/run/secrets/")]
    assert {path: mounts[path] for path in mounts if path not in secrets} == {
        "/run/page": False,
        "/tls": True,
    }
    for path in ("/jobs", "/outputs", "/models", "/page", "/box", "/opt/runner"):
        assert inside(box, "door", "ls", path)[0] != 0
    assert inside(box, "door", "touch", "/x")[0] != 0


@pytest.mark.parametrize("service", ["page", "door"])
def test_both_are_confined_as_the_runner_is(box: ContainerBox, service: str) -> None:
    """No capability, no way to one, a read-only root, a user of no name."""
    status = dict(
        line.split(":\t", 1)
        for line in inside(box, service, "cat", "/proc/1/status")[1].splitlines()
        if ":\t" in line
    )
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    host = container(box, service).attrs["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert not host["Privileged"]
    assert host["Memory"] > 0
    assert 0 < host["PidsLimit"] <= 1024
    assert "docker.sock" not in json.dumps(container(box, service).attrs["Mounts"])


def test_a_page_that_hangs_turns_red(box: ContainerBox) -> None:
    """Its socket is there, and nobody answers on it."""

    def health() -> str:
        return str(container(box, "page").attrs["State"]["Health"]["Status"])

    wait_until(lambda: health() == "healthy", seconds=60)
    send = (
        "import os, signal, sys\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    words = open(f'/proc/{pid}/cmdline').read().split(chr(0))\n"
        "    if 'serve' in words and 'python' in words[0]:\n"
        "        os.kill(int(pid), getattr(signal, sys.argv[1]))\n"
        "        print('sent')\n"
    )
    assert inside(box, "page", "python", "-c", send, "SIGSTOP") == (0, "sent\n")
    try:
        wait_until(lambda: health() == "unhealthy", seconds=120)
    finally:
        inside(box, "page", "python", "-c", send, "SIGCONT")
    wait_until(lambda: health() == "healthy", seconds=60)


def test_the_door_listens_on_this_machine_alone(box: ContainerBox) -> None:
    """Until DOOR_ADDRESS opens it."""
    ports = container(box, "door").attrs["HostConfig"]["PortBindings"]
    assert [one["HostIp"] for one in ports["8080/tcp"]] == ["127.0.0.1"]


def test_a_forged_host_and_a_forged_address_pass_no_door(box: ContainerBox) -> None:
    """The door hands on the name that was asked for, and its own view of who asks."""
    client = Client(box)
    assert client.ask("GET", "/sign-in", Host="evil.example").status == 421
    found = {
        client.ask(
            "POST", "/sign-in", {"key": "x" * 25}, **{"X-Forwarded-For": f"10.0.0.{n}"}
        ).status
        for n in range(14)
    }
    assert found == {403, 429}
    time.sleep(8)  # one more key is taken by then


def test_the_doctor_shows_the_key(box: ContainerBox) -> None:
    """Whoever looks after the box finds it again."""
    done = box.compose("run", "--rm", "doctor", check=False)
    assert key_of(box) in done.stdout


def test_a_job_from_its_upload_to_its_result(box: ContainerBox) -> None:
    """Through door and page into the inbox, trained by the runner, and taken away again."""
    client = Client(box)
    assert client.ask("POST", "/sign-in", {"key": key_of(box)}).status == 303
    form = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="walls.jsonl"\r\n'
        f"\r\n{ROWS}\r\n--{BOUNDARY}--\r\n"
    )
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    answer = client.ask("POST", "/upload", form.encode(), **{"Content-Type": kind})
    assert answer.headers["location"] == "/drop/job?model=tiny&data=data%2Fwalls.jsonl"
    fields = {"name": "walls", "model": "tiny", "data": "data/walls.jsonl", "epochs": "quick"}
    way = client.ask("POST", "/drop/look", fields).headers["location"]
    wait_until(lambda: "refresh" not in client.ask("GET", way).headers, seconds=180)
    seen = client.ask("GET", way).text
    assert "This job can start" in seen, seen
    assert "<mark>" in seen
    assert client.ask("POST", f"{way}/start", {}).status == 303
    record = box.wait_for_end("walls")
    assert record.state.value == "succeeded", record.error
    run = f"/runs/walls/{record.run_id}"
    assert "Fine-tuning report" in client.ask("GET", run).text
    kept = client.ask("GET", f"{run}/files/adapter/adapter_config.json").text
    assert json.loads(kept)["peft_type"] == "LORA"
    assert client.ask("POST", f"{run}/promote", {}).status == 303
    current = box.outputs.current("walls")
    wait_until(
        lambda: current.is_symlink() and current.readlink().name == record.run_id, seconds=60
    )


def test_tls_by_a_certificate_that_the_door_makes(
    make_box: Callable[..., ContainerBox], box: ContainerBox
) -> None:
    """The cookie is Secure then, and plain HTTP on the same port is sent to HTTPS."""
    other = make_box(
        DOOR_IMAGE=DOOR,
        DOOR_PORT=free_port(),
        DOOR_TLS="made",
        RUNNER_PAGE_HOSTS="box.office.example",
    )
    start(other)
    try:
        answer = Client(other, tls=True).ask("POST", "/sign-in", {"key": key_of(other)})
        assert answer.status == 303
        assert answer.headers["set-cookie"].endswith("; Secure")
        plain = Client(other).ask("GET", "/sign-in")
        assert (plain.status, plain.headers["location"][:8]) == (301, "https://")
    finally:
        other.compose("--profile", "page", "down", "--volumes", "--timeout", "5")
