"""Turns a folder into a share: served for real, mounted for the box and for people.

Kinds: ``local`` (a folder, the same for both), ``fuse`` (bindfs, in this machine), ``smb`` (smbd
and the kernel's cifs), ``nfs`` (nfsd and the kernel's nfs). The last two take over the ports and
tables of the machine they run in, so they run only in one of their own: see machine.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "integration"))

from daemon_box import wait_until

SERVED_AS = 1000
"""The user and group as whom the servers read and write."""


def _do(*command: str | Path, text: str | None = None) -> None:
    done = subprocess.run(command, capture_output=True, input=text, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


class Served(ABC):
    """A share."""

    here: Path
    """Where the box sees it."""
    people: Path
    """Where somebody else sees it, through a mount or a session of their own."""
    kind: str

    def __init__(self, root: Path, here: Path) -> None:
        self.here, self.root = here, root
        self.people, self.backing = root / "people", root / "backing"
        for folder in (root, here, self.people, self.backing):
            folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def start(self) -> None:
        """Serve and mount."""

    @abstractmethod
    def stop(self) -> None:
        """Unmount and serve no more."""

    @abstractmethod
    def go_away(self) -> None:
        """Let the share stop answering, as when its server is switched off."""

    @abstractmethod
    def come_back(self) -> None:
        """Let it answer again."""

    @abstractmethod
    def unmount(self) -> None:
        """Leave the box with the empty folder below."""

    @abstractmethod
    def mount(self) -> None:
        """Mount it again."""

    def hang(self) -> None:
        """Let whoever asks the share for anything wait, as behind a hard mount."""
        raise NotImplementedError

    def hang_no_more(self) -> None:
        """Answer again, those who wait first."""
        raise NotImplementedError


class Local(Served):
    """No share at all: what every kind must do at least as well as."""

    kind = "local"

    def start(self) -> None:
        self.people.rmdir()
        self.people = self.backing = self.here

    def stop(self) -> None:
        pass

    def unmount(self) -> None:
        self.here.rename(self.root / "away")
        (self.root / "below").mkdir(exist_ok=True)
        (self.root / "below").rename(self.here)

    def mount(self) -> None:
        self.here.rename(self.root / "below")
        (self.root / "away").rename(self.here)

    def go_away(self) -> None:
        self.unmount()

    def come_back(self) -> None:
        self.mount()


class Fuse(Served):
    """A file system in user space; killed, it answers "transport endpoint is not connected"."""

    kind = "fuse"

    def start(self) -> None:
        self._people = self._serve(self.people)
        self._here = self._serve(self.here)

    def _serve(self, at: Path) -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            ["bindfs", "-f", "--no-allow-other", "-o", "nonempty", str(self.backing), str(at)]
        )
        wait_until(lambda: os.path.ismount(at))
        return server

    def _end(self, server: subprocess.Popen[bytes], at: Path) -> None:
        server.kill()
        server.wait()
        subprocess.run(["umount", "-l", str(at)], check=False, capture_output=True)

    def stop(self) -> None:
        self._end(self._here, self.here)
        self._end(self._people, self.people)

    def go_away(self) -> None:
        self._here.kill()
        self._here.wait()

    def hang(self) -> None:
        self._here.send_signal(signal.SIGSTOP)

    def hang_no_more(self) -> None:
        self._here.send_signal(signal.SIGCONT)

    def come_back(self) -> None:
        self.unmount()
        self.mount()

    def unmount(self) -> None:
        self._end(self._here, self.here)

    def mount(self) -> None:
        self._here = self._serve(self.here)


class _Network(Served):
    """What SMB and NFS have in common."""

    def start(self) -> None:
        self.backing = Path("/run/backing")  # the servers' user cannot reach into pytest's folders
        self.backing.mkdir(exist_ok=True)
        _do("mount", "-t", "tmpfs", "tmpfs", self.backing)
        os.chown(self.backing, SERVED_AS, SERVED_AS)
        self.serve()
        self.mount_at(self.here)
        self.mount_for_people()

    def stop(self) -> None:
        # The server last: this cifs panics when a file is closed behind an unmount without one.
        for at in (self.here, self.people):
            for how in ([], [], ["-l", "-f"]):
                umount = ["umount", *how, str(at)]
                if subprocess.run(umount, check=False, capture_output=True).returncode == 0:
                    break
        self.serve_no_more()
        subprocess.run(["umount", "-l", str(self.backing)], check=False, capture_output=True)

    def unmount(self) -> None:
        _do("umount", "-l", self.here)

    def mount(self) -> None:
        self.mount_at(self.here)

    def go_away(self) -> None:
        self.serve_no_more()

    def come_back(self) -> None:
        self.serve()

    @abstractmethod
    def serve(self) -> None:
        """Start the server."""

    @abstractmethod
    def serve_no_more(self) -> None:
        """End the server, at once."""

    @abstractmethod
    def mount_for_people(self) -> None:
        """Give people a way in that is not the box's."""

    @abstractmethod
    def mount_at(self, at: Path) -> None:
        """Mount it."""


_SMB_CONF = """
[global]
server role = standalone server
interfaces = lo
bind interfaces only = yes
smb ports = 445
disable netbios = yes
load printers = no
disable spoolss = yes
passdb backend = tdbsam
log file = {folder}/log
private dir = {folder}
lock directory = {folder}
state directory = {folder}
cache directory = {folder}
pid directory = {folder}
ncalrpc dir = {folder}/ncalrpc
[jobs]
path = {backing}
read only = no
force user = #{user}
force group = #{user}
"""


class Smb(_Network):
    """Samba, mounted by the kernel's cifs: what an office with Windows has."""

    kind = "smb"

    def serve(self) -> None:
        folder = self.root / "samba"
        conf = folder / "smb.conf"
        if not conf.exists():
            folder.mkdir()
            name = subprocess.run(
                ["getent", "passwd", str(SERVED_AS)], capture_output=True, text=True, check=False
            ).stdout.partition(":")[0]
            text = _SMB_CONF.format(folder=folder, backing=self.backing, user=SERVED_AS)
            if not name:  # a user of that number is needed, and this machine has none
                passwd = self.root / "passwd"
                passwd.write_text(
                    Path("/etc/passwd").read_text() + f"share:x:{SERVED_AS}:{SERVED_AS}::/:\n"
                )
                group = self.root / "group"
                group.write_text(Path("/etc/group").read_text() + f"share:x:{SERVED_AS}:\n")
                passwd.chmod(0o644)
                group.chmod(0o644)
                _do("mount", "--bind", passwd, "/etc/passwd")
                _do("mount", "--bind", group, "/etc/group")
                name = "share"
            conf.write_text(text.replace(f"#{SERVED_AS}", name))
            _do("smbpasswd", "-c", conf, "-L", "-s", "-a", "root", text="x\nx\n")
        _do("smbd", "-D", "-s", conf)
        wait_until((folder / "smbd.pid").exists)

    def serve_no_more(self) -> None:
        pid_file = self.root / "samba" / "smbd.pid"
        os.killpg(int(pid_file.read_text()), signal.SIGKILL)  # with those that serve the sessions
        pid_file.unlink()

    def mount_for_people(self) -> None:
        self.mount_at(self.people)

    def mount_at(self, at: Path, *, more: str = "") -> None:
        """Mount it; ``more``: further options, each after a comma."""
        options = "user=root,password=x,vers=3.1.1,iocharset=utf8,nosharesock,echo_interval=1,soft"
        if at == self.people:
            options += ",cache=none,actimeo=0,closetimeo=0"  # they look anew each time
        options += more
        end = time.monotonic() + 10
        while True:
            done = subprocess.run(
                ["mount", "-t", "cifs", "//127.0.0.1/jobs", str(at), "-o", options],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                return
            assert time.monotonic() < end, done.stderr


class Nfs(_Network):
    """The kernel's NFS server and client."""

    kind = "nfs"

    def serve(self) -> None:
        if not os.path.ismount("/proc/fs/nfsd"):
            for name in ("v4recovery", "rpc_pipefs", "nfsdcltrack"):
                (Path("/var/lib/nfs") / name).mkdir(exist_ok=True)
            for name in ("etab", "rmtab"):
                (Path("/var/lib/nfs") / name).touch()
            _do("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
            _do("rpc.mountd", "-N", "2", "-N", "3")
        who = f"all_squash,anonuid={SERVED_AS},anongid={SERVED_AS}"
        _do("exportfs", "-o", f"rw,{who},fsid=0,no_subtree_check", f"127.0.0.1:{self.backing}")
        # The least that the kernel takes; of less it says nothing and stays at 90 s, for so long
        # a server that has just started grants no lock.
        _do("rpc.nfsd", "-N", "3", "-V", "4", "-G", "10", "-L", "10", "4")

    def serve_no_more(self) -> None:
        _do("rpc.nfsd", "0")
        _do("exportfs", "-u", f"127.0.0.1:{self.backing}")

    def mount_for_people(self) -> None:
        # They work on the server itself: one kernel is one client to it, however often it mounts,
        # and is not told of what it does itself.
        self.people.rmdir()
        self.people = self.backing

    def mount_at(self, at: Path) -> None:
        options = "soft,timeo=10,retrans=1"
        _do("mount", "-t", "nfs4", "127.0.0.1:/", at, "-o", options)


KINDS: dict[str, type[Served]] = {kind.kind: kind for kind in (Local, Fuse, Smb, Nfs)}
