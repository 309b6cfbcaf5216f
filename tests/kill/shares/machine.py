"""Turns a pytest command into the same in a small Linux of its own, whose kernel mounts shares.

The kernel is User-mode Linux (Debian's package user-mode-linux): an ordinary process that needs
neither root nor virtualisation and has this machine's files as its root. In it run a real smbd and
a real nfsd on its own loopback, mounted by its own cifs and nfs: nothing here is touched by them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
REPOSITORY = Path(__file__).parents[3]
NEEDED = {
    KERNEL: "user-mode-linux",
    "smbd": "samba",
    "mount.cifs": "cifs-utils",
    "rpc.nfsd": "nfs-kernel-server",
    "bindfs": "bindfs",
}
_MEMORY = "1G"
_TOO_OLD = "ptrace set fp regs failed"
"""What an old kernel (6.1) says of a processor with more floating-point state (Intel's AMX)."""
_INIT = """#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/tmp
export LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 {environment}
mount -t proc proc /proc
mount -t sysfs sys /sys
for at in /run /var/lib/nfs /dev/shm; do mkdir -p $at; mount -t tmpfs -o mode=0755 tmpfs $at; done
mkdir -p /run/tmp /run/host /run/kernel/lib
mount -t hostfs none /run/host -o {folder}
ln -s {modules} /run/kernel/lib/modules
printf '#!/bin/sh\\nexec modprobe -d /run/kernel "$@"\\n' > /run/kernel/modprobe
chmod +x /run/kernel/modprobe
echo /run/kernel/modprobe > /proc/sys/kernel/modprobe
for module in cifs nfsd nfsv4 fuse; do /run/kernel/modprobe $module; done
ip link set lo up
cd {repository}
{command} > /run/host/output 2>&1
echo $? > /run/host/status
poweroff -f
"""


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended in the machine."""

    status: int
    output: str
    never_began: str = ""
    """Why this machine's processor lets no such kernel start its first program."""


def missing() -> list[str]:
    """List the Debian packages without which there is no such machine here."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return [package for name, package in NEEDED.items() if shutil.which(name, path=path) is None]


def run_tests(folder: Path, arguments: list[str], *, seconds: float, **environment: str) -> Done:
    """Run pytest in a machine; ``folder`` takes its output."""
    command = [
        sys.executable,
        *("-m", "pytest", "-p", "no:cacheprovider", "--basetemp=/run/tmp/tests", "-rA"),
        *arguments,
    ]
    init = folder / "init"
    init.write_text(
        _INIT.format(
            environment=" ".join(f"{name}={value}" for name, value in environment.items()),
            folder=folder,
            modules=MODULES,
            repository=REPOSITORY,
            command=" ".join(f"'{word}'" for word in command),
        )
    )
    init.chmod(0o755)
    console = folder / "console"
    with console.open("wb") as output:
        machine = subprocess.Popen(
            [
                *(KERNEL, f"mem={_MEMORY}", "quiet", "con=null", "con0=null,fd:1"),
                *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"HOME": str(folder), "TMPDIR": str(folder), "PATH": "/usr/bin:/bin"},
            start_new_session=True,
        )
        try:
            machine.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:  # whatever ends this process, the machine goes with it
            if machine.poll() is None:
                os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()
    said, status = folder / "output", folder / "status"
    text = said.read_text(errors="replace") if said.exists() else ""
    if status.exists():
        return Done(status=int(status.read_text()), output=text)
    printed = console.read_text(errors="replace")
    text += f"\nTHE MACHINE DID NOT COME TO ITS END\n{printed}"
    return Done(status=-1, output=text, never_began="" if said.exists() else too_old(printed))


def too_old(printed: str) -> str:
    """Give the kernel's own words, where it panicked because it is older than the processor."""
    words = [line for line in printed.splitlines() if _TOO_OLD in line]
    return words[0] if words and "Kernel panic" in printed else ""
