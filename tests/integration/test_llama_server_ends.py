"""llama.cpp's programs end when the stage that started them does, however that ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon_box import REPOSITORY, Box, wait_until

from runner.contract.llama_cpp import LlamaCpp, find_llama_cpp, missing_tools
from runner.files.socket_folder import sweep_socket_folders
from runner.training.export.llama_convert import convert_model

_STAGE = """
import sys, time
from pathlib import Path
from runner.contract.llama_cpp import find_llama_cpp
from runner.training.export.llama_server import serve
model, log = map(Path, sys.argv[1:])
with serve(find_llama_cpp(), model, context=64, log=log):
    print("serving", flush=True)
    time.sleep(600)
"""
_SPEC = """\
model: real
data: walls.jsonl
method: lora
eval_split: 0.2
training: {max_steps: 2, effective_batch_size: 4, eval_steps: 2}
evaluation: {samples: 1}
export: {gguf: [q8_0]}
"""


@pytest.fixture(scope="module")
def tools() -> LlamaCpp:
    """llama.cpp on this box."""
    found = find_llama_cpp()
    if found is None:
        pytest.skip(f"NO LLAMA.CPP: {missing_tools()}")
    return found


def servers_of(folder: Path) -> list[int]:
    """List the processes of llama-server that serve a file beneath a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            ours = any(word.startswith(os.fsencode(folder)) for word in words)
            if words[0].endswith(b"/llama-server") and ours:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_ends_with_its_stage(
    tools: LlamaCpp,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: signal.Signals,
) -> None:
    """Asked to stop or killed outright, the stage leaves no server behind, and no socket."""
    temporary = Path(tempfile.mkdtemp(prefix="t-"))  # a socket's path has 107 bytes at most
    model, log = tmp_path / "model.gguf", tmp_path / "log"
    convert_model(tiny_model, model, tools, log=log)
    stage = subprocess.Popen(
        [sys.executable, "-c", _STAGE, str(model), str(log)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary)},
    )
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    try:
        assert stage.stdout is not None
        assert stage.stdout.readline() == b"serving\n"
        assert len(servers_of(tmp_path)) == 1
        sweep_socket_folders()
        assert len(list(temporary.glob("*/s.sock"))) == 1  # at work: it stays
        stage.send_signal(how)
        assert stage.wait(60) == -how
        wait_until(lambda: not servers_of(tmp_path), seconds=20)
        sweep_socket_folders()
        assert list(temporary.iterdir()) == []
    finally:
        stage.kill()
        stage.wait()
        stage.stdout.close()
        shutil.rmtree(temporary)


@pytest.mark.long
@pytest.mark.usefixtures("tools")
def test_a_server_ends_with_the_daemon(tiny_model: Path, tmp_path: Path) -> None:
    """A stage that is killed, and a daemon that is: no server outlives them, and the file comes."""
    box = Box(tmp_path)
    model = box.root / "models" / "real"
    model.mkdir()
    for file in tiny_model.iterdir():
        os.link(file, model / file.name)
    rows = [{"prompt": f"How high is wall {n}?", "completion": f"{3 * n} feet."} for n in range(20)]
    (box.jobs / "walls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (box.jobs / "walls.yaml").write_text(_SPEC)
    given = {"stage_command": [sys.executable, "-m", "runner.training"], "device": "cpu"}

    def server() -> int:
        wait_until(
            lambda: (
                servers_of(box.outputs.root)
                or any(record.state.is_final for record in box.records())
            ),
            every=0.005,
        )
        (found,) = servers_of(box.outputs.root)
        return found

    def gone(pid: int) -> Callable[[], bool]:
        return lambda: pid not in servers_of(box.outputs.root)

    with box.watching(**given) as daemon:
        first = server()
        stage = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(stage, signal.SIGKILL)
        wait_until(gone(first), seconds=20)
        second = server()  # the stage is tried again
        assert second != first
        daemon.kill()
        wait_until(gone(second), seconds=20)
    done = box.once(**given)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (form,) = box.record().handed_over.forms
    assert form.name == "q8_0"
    assert not servers_of(box.outputs.root)
