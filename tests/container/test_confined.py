"""What a process in the runner's container can reach: its mounts, and nothing else."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest
from container_box import FILES, IMAGE, PGID, PUID, ContainerBox

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()
    print("connected")
except OSError as error:
    print(error.strerror)
"""
WRITABLE = """
import json, os
found = []
for folder, names, _ in os.walk("/"):
    if folder == "/":
        names.remove("proc")
    if os.access(folder, os.W_OK | os.X_OK):
        found.append(folder)
        names.clear()
print(json.dumps(sorted(found)))
"""
COMPILE = """
import ctypes, os, pathlib, pwd, subprocess, sys, sysconfig
try:
    pwd.getpwuid(os.getuid())
    sys.exit("this user has an entry")
except KeyError:
    pass
folder = pathlib.Path(os.path.expanduser(sys.argv[1]))
folder.mkdir(exist_ok=True)
source, library = folder / "seven.c", folder / "seven.so"
source.write_text("#include <Python.h>\\nint seven(void) { return 7; }")
headers = sysconfig.get_path("include")
subprocess.run(["gcc", "-shared", "-fPIC", f"-I{headers}", source, "-o", library], check=True)
print(ctypes.CDLL(str(library)).seven())
"""
TRITON = """
from triton.runtime.build import compile_module_from_src
source = '''
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "launcher", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_launcher(void) { return PyModule_Create(&module); }
'''
print(compile_module_from_src(source, "launcher").__file__)
"""


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of the host on which somebody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_answer, args=[server], daemon=True).start()
        yield server.getsockname()[1]


def _answer(server: socket.socket) -> None:
    try:
        while True:
            server.accept()[0].close()
    except OSError:
        return  # the test is over


def test_there_is_no_network(box: ContainerBox, listening: int) -> None:
    """No connection leaves the container, not even to its host, and there is no device for one."""
    control = subprocess.run(
        [
            *("docker", "run", "--rm", "--network", "host", "--memory", "1g"),
            *("--entrypoint", "python", IMAGE, "-c", CONNECT, "127.0.0.1", str(listening)),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert control.stdout == "connected\n"
    assert box.python(CONNECT, "127.0.0.1", str(listening))[1] == "Connection refused\n"
    for address in ("10.0.0.1", "192.0.2.1", "2001:db8::1"):
        assert box.python(CONNECT, address, "443")[1] == "Network is unreachable\n"
    assert box.inside("ls", "/sys/class/net")[1].split() == ["lo"]


def test_nothing_can_be_written_outside_the_mounts(box: ContainerBox) -> None:
    """Whatever folder the runner's user may write to is a mount of the box, or memory."""
    code, said = box.python(WRITABLE)
    assert code == 0
    assert json.loads(said) == ["/cache", "/dev/mqueue", "/dev/shm", "/jobs", "/outputs", "/tmp"]


@pytest.mark.parametrize("folder", ["/", "/etc", "/usr/bin", "/opt/runner/bin", "/var"])
def test_not_even_root_could(box: ContainerBox, folder: str) -> None:
    """The root file system is mounted read-only."""
    code, said = box.inside("touch", f"{folder}/planted", user="0:0")
    assert code != 0
    assert "Read-only file system" in said


def test_models_are_read_only_even_to_their_owner(box: ContainerBox) -> None:
    """A run cannot change the base model that the next one starts from."""
    code, said = box.inside("touch", "/models/planted")
    assert code != 0
    assert "Read-only file system" in said


def test_no_capability_and_no_way_to_one(box: ContainerBox) -> None:
    """All are dropped, for the whole of the process's life; files are nobody's but the share's."""
    status = dict(
        line.split(":\t", 1)
        for line in box.inside("cat", "/proc/self/status")[1].splitlines()
        if ":\t" in line
    )
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"].split() == [str(PUID)] * 4
    assert status["Gid"].split() == [str(PGID)] * 4


def test_a_library_is_compiled_and_loaded_in_the_cache(box: ContainerBox) -> None:
    """As Triton does, by a user without a passwd entry; Docker's tmpfs would refuse to run it."""
    assert box.python(COMPILE, "~/mine") == (0, "7\n")
    code, said = box.python(COMPILE, "/tmp/mine")
    assert (code, "failed to map segment" in said) == (1, True), said


def test_tritons_own_compiler_call_works(box: ContainerBox) -> None:
    """The compiler, C's and Python's headers are in the image, and its cache is executable."""
    code, said = box.python(TRITON)
    assert (code, said.startswith("/cache/.triton/")) == (0, True), said


def test_shared_memory_is_what_training_needs(box: ContainerBox) -> None:
    """2 GiB rather than Docker's 64 MiB."""
    size = box.inside("df", "--block-size=1M", "--output=size", "/dev/shm")[1].split()[-1]
    assert size == "2048"


def test_stop_waits_for_a_checkpoint(box: ContainerBox) -> None:
    """150 s pass before Docker kills; the log is rotated; a reboot of the box starts it again."""
    attrs = box.runner.attrs
    assert attrs["Config"]["StopTimeout"] == 150
    assert attrs["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert attrs["HostConfig"]["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}
    assert attrs["HostConfig"]["Init"] is True


def test_init_has_one_capability_and_no_network(box: ContainerBox) -> None:
    """What prepares the folders is root with CHOWN alone, and ends."""
    (init,) = box.client.containers.list(
        all=True,
        filters={
            "label": [
                f"com.docker.compose.project={box.project}",
                "com.docker.compose.service=init",
            ]
        },
    )
    host = init.attrs["HostConfig"]
    added = [name.removeprefix("CAP_") for name in host["CapAdd"]]  # engines write it either way
    assert (host["CapDrop"], added) == (["ALL"], ["CHOWN"])
    assert host["NetworkMode"] == "none"
    assert (init.attrs["State"]["Status"], init.attrs["State"]["ExitCode"]) == ("exited", 0)


def test_only_fetch_has_a_network_and_it_sees_only_models(box: ContainerBox) -> None:
    """No other service could send anything anywhere; fetch has nothing to send."""
    services = json.loads(
        box.compose("--profile", "tools", "config", "--format", "json", files=FILES[:1]).stdout
    )["services"]
    networks = {name: service["network_mode"] for name, service in services.items()}
    alone = dict.fromkeys(("runner", "init", "check", "doctor"), "none")
    assert networks == {**alone, "fetch": "bridge"}
    assert [volume["target"] for volume in services["fetch"]["volumes"]] == ["/models"]
    assert not any("docker.sock" in json.dumps(service) for service in services.values())
