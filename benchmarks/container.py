"""Turns the image and an empty box into their figures: size, rebuild, start, idle memory.

    .venv/bin/python benchmarks/container.py [--cold]

Needs a Docker engine with Compose and root, as `make test-container` does. ``--cold`` builds
without any cached layer first.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import docker

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "container"))

from container_box import IMAGE, ContainerBox  # the path above comes first
from daemon_box import REPOSITORY

TRIES = 3
IDLE_SECONDS = 30
RSS = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    words = open(f"/proc/{pid}/cmdline").read().split("\\0")
    if "watch" in words and any(word.endswith("/runner") for word in words[1:2]):
        print(next(line.split()[1] for line in open(f"/proc/{pid}/status") if "VmRSS" in line))
"""


def seconds_of(box: ContainerBox, *words: str) -> float:
    """Time a command of Compose."""
    begun = time.monotonic()
    box.compose(*words)
    return time.monotonic() - begun


def spread(name: str, values: list[float]) -> None:
    """Print what was measured, each value seen."""
    print(f"{name}: median {statistics.median(values):.1f} s, worst {max(values):.1f} s")


def copy_of_checkout(target: Path) -> Path:
    """Give a copy whose source may be changed."""
    command = ["git", "checkout-index", "--all", f"--prefix={target}/"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    return target


def rebuilds(box: ContainerBox) -> list[float]:
    """Change one source file and build, several times."""
    source = box.checkout / "runner" / "cli.py"
    found = []
    for number in range(TRIES):
        source.write_text(f"{source.read_text()}# {time.time()} {number}\n")
        found.append(seconds_of(box, "build", "runner"))
    return found


def starts(box: ContainerBox) -> list[float]:
    """Start an empty box until Docker calls it healthy, several times; leave the last one."""
    found = []
    for _ in range(TRIES):
        box.down()
        begun = time.monotonic()
        box.up()
        found.append(time.monotonic() - begun)
    return found


def main() -> None:
    """Measure all of it."""
    client = docker.from_env()
    print(f"Docker {client.version()['Version']}")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        root = Path(folder)
        (root / "box").mkdir()
        (root / "checkout").mkdir()
        box = ContainerBox(client, copy_of_checkout(root / "checkout"), root / "box")
        if "--cold" in sys.argv:
            print(f"cold build: {seconds_of(box, 'build', '--no-cache', 'runner'):.0f} s")
        box.compose("build", "runner")
        size = client.images.get(IMAGE).attrs["Size"]
        print(f"image: {size / 1e9:.2f} GB")
        spread("rebuild after a change of one source file", rebuilds(box))
        try:
            spread("from `up` in an empty folder to healthy", starts(box))
            time.sleep(IDLE_SECONDS)
            kilobytes = int(box.python(RSS, user="0:0")[1].split()[0])
            print(f"daemon idle after {IDLE_SECONDS} s: {kilobytes / 1000:.0f} MB resident")
        finally:
            box.down()


if __name__ == "__main__":
    main()
