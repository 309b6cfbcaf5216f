"""Turns a folder into a box of a real engine: driven by Compose as people do, seen by the SDK."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from daemon_box import wait_until as wait_for_a_file

from runner.contract.layout import Outputs
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State

PUID, PGID = 20123, 20124  # nobody's, and without an entry in any passwd file
COLLEAGUE = 30001  # another user, of the same group
IMAGE = "finetuning-box:test"
FILES = ("compose.yaml", "compose.cpu.yaml", "tests/container/compose.test.yaml")
UP_SECONDS = 60.0
RUN_SECONDS = 240.0  # a stage takes seconds; the machine may be busy with others
ROWS = "".join(
    f'{{"instruction": "How high is wall {n}?", "output": "It is {3 * n} feet high."}}\n'
    for n in range(64)
)


def wait_until(what: Callable[[], Any], *, seconds: float = 180.0, every: float = 0.25) -> Any:
    """Wait for something that Docker is asked for: each look costs the engine some work."""
    return wait_for_a_file(what, seconds=seconds, every=every)


class ContainerBox:
    """Folders of the host, and the services over them."""

    def __init__(self, client: Any, checkout: Path, root: Path, **settings: Any) -> None:
        """Make nothing yet: that is the first start's work.

        Args:
            client: the Docker SDK's.
            checkout: the project's folder, as a newcomer has it.
            root: the box's folder.
            settings: what would stand in .env.
        """
        self.client, self.checkout, self.root = client, checkout, root
        self.jobs, self.outputs = root / "jobs", Outputs(root / "outputs")
        self.project = f"box-{secrets.token_hex(4)}"
        self.settings = {
            "BOX_DIR": str(root),
            "PUID": str(PUID),
            "PGID": str(PGID),
            "RUNNER_IMAGE": IMAGE,
            **{name: str(value) for name, value in settings.items()},
        }

    def compose(
        self, *words: str, files: Sequence[str] = FILES, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker compose …`."""
        command = ["docker", "compose", "--project-name", self.project]
        for file in files:
            command += ["--file", str(self.checkout / file)]
        done = subprocess.run(
            [*command, *words],
            env={**os.environ, **self.settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=1800 if words[0] == "build" else 600,  # the first one compiles llama.cpp
        )
        assert not check or done.returncode == 0, done.stderr + done.stdout
        return done

    def up(self) -> None:
        """Start it, and wait until Docker calls it healthy."""
        self.compose("up", "--detach", "--no-build")
        self.wait_for_health("healthy")

    def down(self) -> None:
        """Remove everything but the folders."""
        self.compose("down", "--volumes", "--timeout", "5")

    @property
    def runner(self) -> Any:
        """The container that watches."""
        (found,) = self.client.containers.list(
            all=True,
            filters={
                "label": [
                    f"com.docker.compose.project={self.project}",
                    "com.docker.compose.service=runner",
                    "com.docker.compose.oneoff=False",
                ]
            },
        )
        return found

    def health(self) -> str:
        """Give what `docker ps` shows."""
        return str(self.runner.attrs["State"]["Health"]["Status"])

    def wait_for_health(self, wanted: str, *, seconds: float = UP_SECONDS) -> None:
        """Wait until Docker says so."""
        wait_until(lambda: self.health() == wanted, seconds=seconds)

    def inside(self, *words: str, user: str = "") -> tuple[int, str]:
        """Run a command in the running container; give its exit code and what it printed."""
        code, said = self.runner.exec_run(list(words), user=user)
        return int(code), said.decode(errors="replace")

    def python(self, program: str, *words: str, user: str = "") -> tuple[int, str]:
        """Run a program there."""
        return self.inside("python", "-c", program, *words, user=user)

    def put_model(self, model: Path) -> None:
        """Copy a model folder in by hand, as README says."""
        target = self.root / "models" / "tiny"
        shutil.copytree(model, target)
        for path in (target, *target.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)

    def drop(self, name: str, training: str) -> None:
        """Copy a spec and its data into the inbox, as another user of the share's group."""
        spec = f"model: tiny\ndata: data/{name}.jsonl\ntraining: {{{training}}}\n"
        program = (
            "import os, sys\n"
            "jobs, name, rows, spec = sys.argv[1:]\n"
            "os.makedirs(f'{jobs}/data', exist_ok=True)\n"
            "open(f'{jobs}/data/{name}.jsonl', 'w').write(rows)\n"
            "open(f'{jobs}/{name}.yaml', 'w').write(spec)\n"
        )
        subprocess.run(
            ["python3", "-I", "-c", program, str(self.jobs), name, ROWS, spec],
            user=COLLEAGUE,
            group=COLLEAGUE,
            extra_groups=[PGID],
            umask=0o027,
            cwd="/",
            check=True,
        )

    def record(self, job: str) -> RunRecord | None:
        """Read the record of a job's only run, once there is one."""
        for run in self.outputs.runs():
            if run.job == job and run.record.exists():
                return read_record(run.record)
        return None

    def steps(self, job: str, attempt: int) -> list[int]:
        """List the steps that an attempt has finished, in the order of their lines."""
        (run,) = (run for run in self.outputs.runs() if run.job == job)
        metrics = [
            folder / "metrics.jsonl" for folder in run.attempt_folders()[attempt - 1 : attempt]
        ]
        text = "".join(path.read_text() for path in metrics if path.exists())
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return [line["step"] for line in lines if "loss" in line]

    def wait_for_end(self, job: str) -> RunRecord:
        """Wait until a job's run is over."""

        def ended() -> RunRecord | None:
            found = self.record(job)
            return found if found is not None and found.state.is_final else None

        record: RunRecord = wait_until(ended, seconds=RUN_SECONDS)
        assert record.state is State.SUCCEEDED, record.error
        return record

    def wait_for_step(self, job: str, attempt: int, step: int) -> None:
        """Wait until an attempt has finished a step."""
        wait_for_a_file(
            lambda: self.record(job) and step <= max(self.steps(job, attempt), default=0),
            seconds=RUN_SECONDS,
        )
