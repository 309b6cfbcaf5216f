"""The notify container, as Compose starts it: what it sees of the box, and what it sends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from container_box import PGID, PUID, ContainerBox, wait_until
from daemon_box import REPOSITORY
from test_confined import WRITABLE

PROFILE = ("--profile", "notify")
SEES = """
import json, os
print(json.dumps([os.path.exists(path) for path in ("/jobs", "/outputs", "/models", "/page")]))
"""


@pytest.fixture(scope="module")
def hook() -> Iterator[tuple[str, list[Any]]]:
    """A web server on loopback, where the test's engine has no other network."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"json://127.0.0.1:{server.server_port}/hook", got
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def notified(make_box: Any, hook: tuple[str, list[Any]]) -> ContainerBox:
    """A box with the profile on, in which a job that names no model on it was dropped."""
    box: ContainerBox = make_box()
    urls = box.root / "notify.urls"
    urls.write_text(hook[0] + "\n")
    urls.chmod(0o644)
    box.settings["NOTIFY_URLS_FILE"] = str(urls)
    box.compose(*PROFILE, "up", "--detach", "--no-build")
    box.wait_for_health("healthy")
    box.drop("contracts", "max_steps: 2")
    wait_until(lambda: (found := box.record("contracts")) and found.state.is_final, seconds=240)
    return box


def container(box: ContainerBox) -> Any:
    (found,) = box.client.containers.list(
        filters={
            "label": [
                f"com.docker.compose.project={box.project}",
                "com.docker.compose.service=notify",
            ]
        }
    )
    return found


def inside(box: ContainerBox, program: str) -> Any:
    code, said = container(box).exec_run(["python", "-c", program])
    assert code == 0, said
    return json.loads(said)


def test_a_run_s_end_arrives_once(notified: ContainerBox, hook: tuple[str, list[Any]]) -> None:
    """Also when the container is started again."""
    _, got = hook
    wait_until(lambda: got, seconds=60)
    notified.compose(*PROFILE, "restart", "--timeout", "2", "notify")
    wait_until(lambda: container(notified).logs().count(b"notices go to") == 2, seconds=60)
    # A second run's notice comes after whatever a restart might send again.
    notified.drop("letters", "max_steps: 2")
    wait_until(lambda: len(got) > 1, seconds=240)
    assert [one["title"].partition(":")[0] for one in got] == ["contracts", "letters"]
    assert got[0]["type"] == "failure"
    mark = notified.outputs.notices_sent
    assert {path.stat().st_uid for path in mark.iterdir()} == {PUID}
    assert {path.stat().st_gid for path in mark.iterdir()} == {PGID}


def test_it_sees_the_notices_and_nothing_else_of_the_box(notified: ContainerBox) -> None:
    """It has a network; so neither rows nor models nor keys are there to be sent."""
    assert inside(notified, SEES) == [False] * 4
    writable = inside(notified, WRITABLE)
    assert "/notices/sent" in writable
    assert [path for path in writable if path.startswith("/notices")] == ["/notices/sent"]
    assert set(writable) <= {"/notices/sent", "/tmp", "/dev/mqueue", "/dev/shm"}


def test_the_network_is_its_own(notified: ContainerBox) -> None:
    """As people get it: the only one beside fetch and the door; the runner still has none."""
    done = notified.compose(*PROFILE, "config", "--format", "json", files=("compose.yaml",))
    services = json.loads(done.stdout)["services"]
    assert services["notify"]["network_mode"] == "bridge"
    assert services["runner"]["network_mode"] == "none"
    assert services["notify"]["read_only"] is True
    assert services["notify"]["cap_drop"] == ["ALL"]
    assert (REPOSITORY / "docs" / "notify.md").is_file()
