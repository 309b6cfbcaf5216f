"""Turns the promises on shares into promises on a real SMB server and a real NFS server.

They run in a small Linux of their own (shares/machine.py): a real smbd and nfsd on its loopback,
mounted by its kernel. `.ci/share-servers` installs what that takes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from figures import Figures

sys.path.insert(0, str(Path(__file__).parent / "shares"))

from machine import missing, run_tests, too_old

_LONGEST_SECONDS = 1800.0


@pytest.mark.timeout(_LONGEST_SECONDS + 60)
@pytest.mark.parametrize("kind", ["smb", "nfs"])
def test_the_promises_on_shares_hold_on_a_real_server(
    kind: str, tmp_path: Path, share: float, figures: Figures
) -> None:
    """Everything in shares/ holds as well where the inbox is mounted from a server."""
    if share < 1:
        pytest.skip("REAL SERVERS TAKE MANY MINUTES: the full form tries them (make test-kill)")
    if packages := missing():
        pytest.skip(
            f"NO REAL {kind.upper()} SERVER HERE: run .ci/share-servers first; these Debian "
            f"packages are missing: {' '.join(packages)}"
        )
    tests = [str(Path(__file__).parent / "shares"), "--budget", "1800"]
    done = run_tests(tmp_path, tests, seconds=_LONGEST_SECONDS, RUNNER_TEST_SHARES=kind)
    if done.never_began:
        pytest.skip(
            f"NO REAL {kind.upper()} SERVER HERE: the kernel of this user-mode-linux is too old "
            f"for this processor and panicked (7.2 starts): {done.never_began}"
        )
    assert done.status == 0, done.output[-30_000:]
    kept = int(re.search(r"(\d+) passed", done.output)[1])  # type: ignore[index]
    assert kept >= 20
    figures.tell(f"shares: promises kept on a real {kind} server", str(kept))
    for line in re.findall(r"^shares: .*$", done.output, re.MULTILINE):
        name, value = re.fullmatch(r"(shares: .*?): (.*)", line).groups()  # type: ignore[union-attr]
        figures.tell(name, value)


_PANIC = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"
_NO_STATE = "userspace - ptrace set fp regs failed, errno = 14"


@pytest.mark.parametrize(
    ("printed", "why"),
    [
        (f"mmapper_init\n{_NO_STATE}\n{_PANIC}\n CPU: 0 PID: 1", _NO_STATE),
        (f"mmapper_init\n{_PANIC}", ""),
        (_NO_STATE, ""),
        ("", ""),
    ],
    ids=["that panic", "another panic", "no panic", "silence"],
)
def test_only_one_panic_is_no_fault(printed: str, why: str) -> None:
    """A machine that never began for want of a newer kernel is skipped; any other end fails."""
    assert too_old(printed) == why
