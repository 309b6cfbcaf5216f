"""The door with TLS, on a real engine: an office's own certificate, a proxy before it, clients."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from container_box import PGID, PUID, ROWS, ContainerBox, wait_until
from test_page import DOOR, Client, container, free_port, inside, key_of, start

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))

from chromium import Browser, find
from office_page import Office
from whole_way import walk, write_table

NAME = "box.office.example"


@dataclass(frozen=True)
class Certificates:
    """What an office's own authority made for the box."""

    authority: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Trust that authority, and nobody else."""
        return ssl.create_default_context(cafile=str(self.authority))

    @property
    def public_key_digest(self) -> str:
        """Give what Chromium calls the key by: base64 of SHA-256 of its SPKI."""
        pem = openssl("x509", "-in", self.certificate, "-pubkey", "-noout")
        der = base64.b64decode("".join(pem.splitlines()[1:-1]))
        return base64.b64encode(hashlib.sha256(der).digest()).decode()


def openssl(*words: object) -> str:
    command = ["openssl", *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and a certificate of its for the box, whose key the box's user alone reads."""
    folder = tmp_path_factory.mktemp("certificates")
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    made = Certificates(folder / "ca.pem", folder / "box.pem", folder / "box.key")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    own_key, request, names = folder / "ca.key", folder / "box.csr", folder / "names"
    subject = ("-subj", "/CN=Example Office CA", "-keyout", own_key, "-out", made.authority)
    openssl(*new, "-x509", "-days", 2, *subject)
    openssl(*new, "-subj", f"/CN={NAME}", "-keyout", made.key, "-out", request)
    names.write_text(f"subjectAltName=DNS:{NAME},DNS:localhost,IP:127.0.0.1\n")
    signed_by = ("-CA", made.authority, "-CAkey", own_key, "-CAcreateserial")
    paths = ("-in", request, "-extfile", names, "-out", made.certificate)
    openssl("x509", "-req", "-days", 2, *signed_by, *paths)
    made.key.chmod(0o600)
    os.chown(made.key, PUID, PGID)
    return made


@pytest.fixture(scope="module")
def box(
    make_box: Callable[..., ContainerBox], certificates: Certificates, model: Path
) -> Iterator[ContainerBox]:
    """A box whose door has that certificate; its runner works."""
    made = make_box(
        DOOR_IMAGE=DOOR,
        DOOR_PORT=free_port(),
        DOOR_TLS="own",
        DOOR_CERTIFICATE_FILE=certificates.certificate,
        DOOR_KEY_FILE=certificates.key,
        RUNNER_PAGE_HOSTS=NAME,
    )
    made.compose("--profile", "page", "build", "door")
    start(made)
    made.wait_for_health("healthy")
    made.put_model(model)
    yield made
    made.compose("--profile", "page", "down", "--volumes", "--timeout", "5")


def port_of(box: ContainerBox) -> int:
    return int(box.settings["DOOR_PORT"])


@pytest.mark.parametrize("name", [NAME, "localhost", "127.0.0.1"])
def test_whoever_trusts_the_office_reaches_the_box_by_its_names(
    box: ContainerBox, certificates: Certificates, name: str
) -> None:
    """The certificate is the one that was given; it holds for the names in it and no others."""
    with socket.create_connection(("127.0.0.1", port_of(box)), 10) as plain:
        wrapped = certificates.context().wrap_socket(plain, server_hostname=name)
        shown = wrapped.getpeercert(binary_form=True)
        assert wrapped.version() == "TLSv1.3"
        wrapped.sendall(f"GET /sign-in HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        assert wrapped.recv(64).startswith(b"HTTP/1.1 200")
        wrapped.close()
    assert shown == ssl.PEM_cert_to_DER_cert(certificates.certificate.read_text())
    with (
        socket.create_connection(("127.0.0.1", port_of(box)), 10) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        certificates.context().wrap_socket(plain, server_hostname="evil.example")


def test_old_tls_is_refused(box: ContainerBox) -> None:
    """What browsers speak no more is not spoken; the same client gets in by what they speak."""

    def shakes_hands(version: str) -> bool:
        address = f"127.0.0.1:{port_of(box)}"
        command = ["openssl", "s_client", "-connect", address, version]
        command += ["-cipher", "ALL:@SECLEVEL=0"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return done.returncode == 0

    assert [shakes_hands(one) for one in ("-tls1", "-tls1_1", "-tls1_2")] == [False, False, True]


def test_no_file_of_the_doors_is_seen_by_the_page(box: ContainerBox) -> None:
    """Neither the certificate's key that was given nor the folder where the door keeps its own."""
    mounts = {mount["Destination"] for mount in container(box, "page").attrs["Mounts"]}
    assert not {one for one in mounts if one.startswith(("/tls", "/run/secrets"))}
    code, listed = inside(box, "page", "ls", "-A", "/page")
    assert (code, set(listed.split())) == (0, {"key", "aside"})
    assert (box.root / "door").stat().st_mode & 0o777 == 0o700
    assert inside(box, "page", "ls", "/run/secrets")[0] != 0


def test_a_session_is_the_browsers_over_tls_alone(box: ContainerBox) -> None:
    """Secure, and plain HTTP on the same port leads to HTTPS."""
    answer = Client(box, tls=True).ask("POST", "/sign-in", {"key": key_of(box)})
    assert answer.status == 303
    assert answer.headers["set-cookie"].endswith("; Secure")
    plain = Client(box).ask("GET", "/sign-in")
    assert (plain.status, plain.headers["location"][:8]) == (301, "https://")


def openai_client(port: int, key: str, certificates: Certificates | None) -> openai.OpenAI:
    """OpenAI's client, which trusts the office's authority, or what is known to everybody."""
    trusted = certificates.context() if certificates else True
    return openai.OpenAI(
        base_url=f"https://localhost:{port}/v1",
        api_key=key,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(verify=trusted),
    )


def test_openai_s_client_trains_through_the_door_over_tls(
    box: ContainerBox, certificates: Certificates
) -> None:
    """Upload, create, follow, the result: by the office's authority, no warning passed over."""
    with openai_client(port_of(box), key_of(box), certificates) as client:
        file = client.files.create(file=("walls.jsonl", ROWS.encode()), purpose="fine-tune")
        assert client.files.content(file.id).read() == ROWS.encode()
        parameters = {"n_epochs": 1, "batch_size": 8}
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=file.id,
            suffix="walls",
            method={"type": "supervised", "supervised": {"hyperparameters": parameters}},
            extra_headers={"Idempotency-Key": "through-the-door"},
        )
        seen: set[str] = set()

        def has_ended() -> bool:
            events = client.fine_tuning.jobs.list_events(job.id, limit=100)
            seen.update(one.message for one in events)
            found = client.fine_tuning.jobs.retrieve(job.id)
            return found.status in ("succeeded", "failed", "cancelled")

        wait_until(has_ended, seconds=240, every=1)
        found = client.fine_tuning.jobs.retrieve(job.id)
    assert found.status == "succeeded", found.error
    assert str(found.fine_tuned_model).startswith("ft:tiny:walls:")
    assert seen
    assert (box.root / found.box["adapter"] / "adapter_config.json").is_file()


def test_openai_s_client_refuses_a_door_that_it_does_not_know(box: ContainerBox) -> None:
    """The control: without the office's authority nothing is sent."""
    with (
        openai_client(port_of(box), "none", None) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.models.list()


@pytest.mark.skipif(find() is None, reason="NOTHING WAS LOOKED AT: there is no Chromium")
def test_a_persons_whole_way_through_both_containers(
    box: ContainerBox, certificates: Certificates, tmp_path: Path
) -> None:
    """By the box's name, over TLS: from an upload to the verdict, and into use."""
    program = find()
    assert program is not None
    browser = Browser(
        program,
        tmp_path / "profile",
        f"--host-resolver-rules=MAP {NAME} 127.0.0.1",
        # It knows this key and no other: its own store of authorities is left alone.
        f"--ignore-certificate-errors-spki-list={certificates.public_key_digest}",
    )
    try:
        page = browser.blank()
        served = Office(box.root, f"https://{NAME}:{port_of(box)}")
        walk(page, served, write_table(tmp_path), pictures="containers")
        assert page.ask("isSecureContext")
        page.close()
    finally:
        browser.close()


def test_own_without_its_files_says_what_is_missing(
    make_box: Callable[..., ContainerBox], box: ContainerBox
) -> None:
    """The door does not open unencrypted instead."""
    other = make_box(DOOR_IMAGE=DOOR, DOOR_PORT=free_port(), DOOR_TLS="own")
    other.compose("--profile", "page", "up", "--detach", "--no-build")
    try:
        said = "DOOR_TLS=own needs DOOR_CERTIFICATE_FILE and DOOR_KEY_FILE in .env"
        wait_until(lambda: said in container(other, "door").logs().decode(), seconds=60)
        with pytest.raises(ConnectionError):
            Client(other).ask("GET", "/sign-in")
    finally:
        other.compose("--profile", "page", "down", "--volumes", "--timeout", "5")


PROXY = """
worker_processes 1; pid /tmp/proxy.pid; error_log stderr warn;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p;
  fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server {{
    listen 127.0.0.1:{outside} ssl;
    ssl_certificate /certificates/box.pem; ssl_certificate_key /certificates/box.key;
    location / {{
      proxy_pass http://127.0.0.1:{inside};
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_buffering off;
    }}
  }}
}}
"""


@contextlib.contextmanager
def company_proxy(client: Any, folder: Path, *, outside: int, inside: int) -> Iterator[None]:
    """Run nginx with its own TLS before a door, as a company has it: on the host's network."""
    (folder / "nginx.conf").write_text(PROXY.format(outside=outside, inside=inside))
    made = client.containers.run(
        DOOR,
        ["-e", "stderr", "-c", "/certificates/nginx.conf", "-g", "daemon off;"],
        entrypoint="nginx",
        user=f"{PUID}:{PGID}",
        network_mode="host",
        volumes={str(folder): {"bind": "/certificates", "mode": "ro"}},
        tmpfs={"/var/log/nginx": "mode=1777", "/var/lib/nginx": "mode=1777"},
        mem_limit="128m",
        detach=True,
    )
    try:
        wait_until(lambda: _listens(outside), seconds=30)
        yield
    finally:
        made.remove(force=True)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_behind_a_companys_proxy_that_speaks_tls(
    make_box: Callable[..., ContainerBox], box: ContainerBox, certificates: Certificates
) -> None:
    """Signed in through it as over TLS: the door goes by its setting, whatever came unencrypted."""
    other = make_box(
        DOOR_IMAGE=DOOR, DOOR_PORT=free_port(), DOOR_TLS="proxy", RUNNER_PAGE_HOSTS=NAME
    )
    other.compose("--profile", "page", "up", "--detach", "--no-build")
    outside = free_port()
    folder = certificates.certificate.parent
    try:
        wait_until(lambda: _listens(port_of(other)), seconds=60)
        with company_proxy(other.client, folder, outside=outside, inside=port_of(other)):
            asked = openai.DefaultHttpxClient(
                follow_redirects=False,
                base_url=f"https://localhost:{outside}",
                verify=certificates.context(),
                headers={"Origin": f"https://localhost:{outside}"},
            )
            with asked:
                wait_until(lambda: asked.get("/sign-in").status_code == 200, seconds=60)
                answer = asked.post("/sign-in", data={"key": key_of(other)})
                assert answer.status_code == 303
                assert answer.headers["set-cookie"].endswith("; Secure")
                assert asked.get("/doctor").status_code == 200
                foreign = {"Origin": f"http://localhost:{outside}"}
                assert asked.post("/sign-out", headers=foreign).status_code == 403
                wrong = {"Host": "evil.example"}
                assert asked.get("/sign-in", headers=wrong).status_code == 421
            with openai_client(outside, key_of(other), certificates) as client:
                assert "tiny" not in [one.id for one in client.models.list()]  # an empty box
    finally:
        other.compose("--profile", "page", "down", "--volumes", "--timeout", "5")
