"""Turns tables of facts about a box into what the doctor says of them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from runner.card.answer import Answer, Card
from runner.card.ask import cards_on_bus
from runner.card.host_memory import HostMemory, read_host_memory
from runner.card.memory import GpuMemory, Holder
from runner.commands.doctor import findings_as_json, render, verdict
from runner.contract.layout import Outputs
from runner.doctor.ask_card import NoCardFacts, judge_no_card_facts
from runner.doctor.base_models import BaseModels, judge_base_models, read_base_models
from runner.doctor.clock import Clock, judge_clock, read_clock
from runner.doctor.disk import Disk, Kind, judge_disk, read_kind
from runner.doctor.driver import (
    Driver,
    judge_driver,
    needed_driver,
    read_module,
)
from runner.doctor.engine import Engine, Service, judge_engine
from runner.doctor.events import Events, judge_events, try_events
from runner.doctor.finding import Finding, Level, could_run
from runner.doctor.folders import FolderRights, judge_folder, judge_folders, try_folder
from runner.doctor.gpu_memory import judge_gpu_memory
from runner.doctor.host_memory import judge_host_memory
from runner.doctor.judge_card import CardFacts, Product, judge_card, runs_on
from runner.doctor.offline import Offline, judge_offline, read_offline
from runner.doctor.shared_memory import SharedMemory, judge_shared_memory, read_shared_memory
from runner.doctor.surroundings import beside_engine, in_container
from runner.words import GIB

OK, ADVICE, TROUBLE = Level.OK, Level.ADVICE, Level.TROUBLE
UNKNOWN, SKIPPED = Level.UNKNOWN, Level.SKIPPED
ADA = Card(name="NVIDIA GeForce RTX 4090", capability="8.9")
WELL = Answer(driver="580.95.05", cards=(ADA,))
NO_LIBRARY = Answer(code=12, text="NVML Shared Library Not Found")
NOW = datetime(2026, 11, 23, 22, 10, tzinfo=UTC)


def whole(finding: Finding) -> Finding:
    """Check what every finding promises: a reason, and a command where something is wrong."""
    assert finding.what
    assert finding.why.endswith(".")
    assert bool(finding.fix) == (finding.level in (ADVICE, TROUBLE, UNKNOWN)), finding
    return finding


# --- the verdict ---------------------------------------------------------------------------------


def of(*levels: Level) -> list[Finding]:
    """Make findings of these levels."""
    return [Finding(check="x", level=level, what="x", why="x") for level in levels]


@pytest.mark.parametrize(
    ("levels", "runs", "says"),
    [
        ([OK, SKIPPED], True, "A job could run."),
        ([OK, ADVICE], True, "A job could run. One thing would make it better (!)."),
        ([ADVICE, ADVICE], True, "A job could run. 2 things would make it better (!)."),
        ([OK, UNKNOWN], None, "Whether a job could run cannot be judged from here (?)."),
        ([UNKNOWN, TROUBLE], False, "No job could run yet: one thing stands in the way (✗)."),
        ([TROUBLE, TROUBLE], False, "No job could run yet: 2 things stand in the way (✗)."),
    ],
)
def test_the_verdict(levels: list[Level], says: str, *, runs: bool | None) -> None:
    """A job could run only where nothing is trouble and nothing that matters is unknown."""
    assert could_run(of(*levels)) is runs
    assert verdict(of(*levels))[0] == says
    assert findings_as_json(of(*levels))["could_run"] is runs


def shown(findings: Iterable[Finding], width: int = 80) -> str:
    """Render as a terminal would."""
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(render(findings))
    return out.getvalue()


def test_a_finding_says_what_why_and_the_command() -> None:
    """What is wrong is shown with its reason and a command that can be typed as it stands."""
    page = shown([judge_host_memory(HostMemory(total_bytes=8 * GIB, available_bytes=7 * GIB))])
    assert "8.0 GiB of memory; 32 GiB are advised." in page
    assert "Weights and rows pass through it" in page
    assert "$ free -h  # add memory" in page


def test_what_is_well_takes_one_line() -> None:
    """Nobody reads reasons for what needs nothing."""
    page = shown([judge_host_memory(HostMemory(total_bytes=64 * GIB, available_bytes=60 * GIB))])
    assert "Weights" not in page


def test_a_name_from_elsewhere_cannot_write_on_the_terminal() -> None:
    """Control characters in what a driver or an engine says are shown, not obeyed."""
    bad = Finding(check="x", level=OK, what="card \x1b[2J", why="x.")
    assert "\x1b" not in shown([bad])


# --- driver --------------------------------------------------------------------------------------

DRIVERS = [
    # what is there, what follows, what is said, what fixes it
    (Driver(answer=WELL, cuda="13.0"), OK, "driver 580.95.05 runs CUDA 13.0", ""),
    (Driver(answer=WELL, wanted=False), SKIPPED, "set to", ""),
    (Driver(answer=NO_LIBRARY, cuda="13.0"), ADVICE, "No NVIDIA card", "lspci"),
    (Driver(answer=Answer(driver="580.95.05"), cuda="13.0"), ADVICE, "No NVIDIA card", "lspci"),
    (
        Driver(answer=Answer(driver="570.211.01", cards=(ADA,)), cuda="13.0"),
        TROUBLE,
        "Driver 570.211.01 is too old: CUDA 13.0 needs 580 or newer",
        "nvidia-driver-580",
    ),
    (Driver(answer=Answer(driver="570.211.01", cards=(ADA,)), cuda="12.8"), OK, "CUDA 12.8", ""),
    (
        Driver(answer=NO_LIBRARY, cards_on_bus=1, module="535.183.01", cuda="13.0"),
        TROUBLE,
        "535.183.01 is too old",
        "nvidia-driver-580",
    ),
    (
        Driver(answer=NO_LIBRARY, cards_on_bus=1, cuda="13.0"),
        TROUBLE,
        "no driver for it is loaded",
        "nvidia-driver-580",
    ),
    (
        Driver(
            answer=NO_LIBRARY, cards_on_bus=1, module="580.95.05", cuda="13.0", in_container=True
        ),
        UNKNOWN,
        "this container was given no card",
        "docker compose run --rm runner doctor",
    ),
    (
        Driver(answer=NO_LIBRARY, cards_on_bus=1, module="580.95.05", cuda="13.0"),
        TROUBLE,
        "libnvidia-ml.so",
        "nvidia-driver-580",
    ),
    (
        Driver(
            answer=Answer(code=18, text="RM has detected an NVML/RM version mismatch."),
            cards_on_bus=1,
            module="580.95.05",
            cuda="13.0",
        ),
        TROUBLE,
        "reboot the machine",
        "sudo reboot",
    ),
    (
        Driver(answer=Answer(code=999, text="Unknown Error"), cards_on_bus=1, cuda="13.0"),
        TROUBLE,
        "NVML: Unknown Error",
        "docker compose restart runner",
    ),
    (
        Driver(answer=Answer(code=9, text="Driver Not Loaded"), cards_on_bus=1, cuda="13.0"),
        TROUBLE,
        "driver is not loaded",
        "modprobe nvidia",
    ),
    (Driver(answer=WELL, cuda=None), ADVICE, "this torch computes on CPUs only", "docker compose"),
]


@pytest.mark.parametrize(("facts", "level", "says", "fix"), DRIVERS)
def test_driver(facts: Driver, level: Level, says: str, fix: str) -> None:
    """A driver that cannot run torch's CUDA is named with the one that can."""
    finding = whole(judge_driver(facts))
    assert (finding.level, says in finding.what) == (level, True), finding
    assert fix in finding.fix


def test_cuda_of_the_future_needs_at_least_the_newest_known_driver() -> None:
    """13.x needs 580; nothing is promised for what does not exist yet."""
    assert needed_driver("13.0") == needed_driver("13.4") == 580
    assert needed_driver("12.8") == 525
    assert needed_driver("14.1") == 580


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC",
            "535.183.01",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build",
            "580.95.05",
        ),
        ("something else", None),
    ],
)
def test_the_kernels_own_driver_version(tmp_path: Path, line: str, version: str | None) -> None:
    """Closed and open kernel modules say their version differently."""
    path = tmp_path / "proc/driver/nvidia/version"
    path.parent.mkdir(parents=True)
    path.write_text(line + "\nGCC version: gcc version 12.3.0\n")
    assert read_module(tmp_path) == version


def test_cards_on_the_bus(tmp_path: Path) -> None:
    """NVIDIA's display and compute devices count; its audio device and others' cards do not."""
    devices = [("0x10de", "0x030000"), ("0x10de", "0x030200"), ("0x10de", "0x040300")]
    for index, (vendor, kind) in enumerate([*devices, ("0x8086", "0x030000")]):
        folder = tmp_path / f"sys/bus/pci/devices/0000:0{index}:00.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n")
        (folder / "class").write_text(kind + "\n")
    assert cards_on_bus(tmp_path) == 2
    assert cards_on_bus(tmp_path / "nowhere") == 0


# --- card, bitsandbytes, product -----------------------------------------------------------------

CUDA_13 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ("8.9", CUDA_13, True),  # RTX 4090: sm_86 runs on it
        ("7.5", CUDA_13, True),  # RTX 2080, T4
        ("7.0", CUDA_13, False),  # V100: CUDA 13 has left it behind
        ("6.1", CUDA_13, False),  # GTX 1080
        ("9.0", CUDA_13, True),  # H100
        ("10.3", CUDA_13, True),  # B300: sm_100 runs on it
        ("12.1", CUDA_13, True),
        ("13.0", CUDA_13, True),  # of the future: compiled from compute_120
        ("13.0", ("sm_120",), False),
        ("9.0", ("sm_90a",), True),
        ("10.3", ("sm_100a",), False),
        ("10.3", ("sm_100f",), True),
        ("8.0", ("sm_86",), False),
        ("8.9", (), False),
        ("8.9", ("nonsense",), False),
    ],
)
def test_what_runs_on_a_card(
    capability: str, architectures: tuple[str, ...], *, runs: bool
) -> None:
    """Programs run within their major version; compute_ code on every newer card."""
    assert runs_on(capability, architectures) is runs


def product(compute: str = "bfloat16", **errors: float) -> Product:
    """Give a product that is right but for these."""
    given = {"forward_error": 2e-3, "gradient_error": 2e-3, "one_row_error": 2e-3, **errors}
    return Product(compute=compute, **given)


def card(**changes: object) -> CardFacts:
    """Give what a well RTX 4090 shows, with changes."""
    given: dict[str, object] = {
        "torch": "2.13.0+cu130",
        "cuda": "13.0",
        "architectures": CUDA_13,
        "name": "NVIDIA GeForce RTX 4090",
        "capability": "8.9",
        "bitsandbytes": "0.50.2",
        "library": "libbitsandbytes_cuda130.so",
        "library_has_cuda": True,
        "product": product(),
        **changes,
    }
    return CardFacts(**given)  # type: ignore[arg-type]


ON_CPU = {
    "cuda": None,
    "architectures": (),
    "name": None,
    "capability": None,
    "library": "libbitsandbytes_cpu.so",
    "library_has_cuda": False,
    "product": product("float32", forward_error=3e-7, gradient_error=6e-7, one_row_error=3e-7),
}

CARDS = [
    (card(), True, [OK, OK, OK], "sm_89"),
    (card(**ON_CPU), False, [OK, OK], "The CPU computes it as plain arithmetic does"),
    (card(**ON_CPU), True, [OK, OK], "libbitsandbytes_cpu.so"),  # a torch without CUDA
    (card(name="Tesla V100", capability="7.0"), True, [TROUBLE], "no kernels for Tesla V100"),
    (
        card(capability=None, name=None, unreachable="CUDA unknown error", product=None),
        True,
        [TROUBLE],
        "torch cannot reach it: CUDA unknown error",
    ),
    (
        card(library="libbitsandbytes_cpu.so", library_has_cuda=False),
        True,
        [OK, TROUBLE],
        "no library for CUDA 13.0; it loaded libbitsandbytes_cpu.so",
    ),
    (card(library="", library_has_cuda=False), True, [OK, TROUBLE], "no library for CUDA 13.0."),
    (
        card(bitsandbytes=None, product=None, error="No module named 'bitsandbytes'"),
        True,
        [OK, TROUBLE],
        "cannot be loaded: No module named",
    ),
    (
        card(product=None, error="CUDA error: no kernel image is available"),
        True,
        [OK, OK, TROUBLE],
        "could not compute it: CUDA error: no kernel image",
    ),
    (card(product=product(gradient_error=0.5)), True, [OK, OK, TROUBLE], "wrongly: off by 5.0e-01"),
    (
        card(product=product(one_row_error=float("nan"))),
        True,
        [OK, OK, TROUBLE],
        "wrongly: off by inf",
    ),
    (card(product=product(forward_error=2e-2)), True, [OK, OK, OK], "off by 2.0e-02 in bfloat16"),
    (
        card(product=product("float16", forward_error=2e-2)),
        True,
        [OK, OK, TROUBLE],
        "(1e-02 is allowed)",
    ),
]


@pytest.mark.parametrize(("facts", "answers", "levels", "says"), CARDS)
def test_card(facts: CardFacts, levels: list[Level], says: str, *, answers: bool) -> None:
    """The card's kind, the library and the numbers are told apart; one stops at the first."""
    found = [whole(finding) for finding in judge_card(facts, card_answers=answers)]
    assert [finding.level for finding in found] == levels
    assert any(says in finding.what for finding in found), found


@pytest.mark.parametrize(
    ("facts", "level", "says"),
    [
        (
            NoCardFacts(held="the GPU is held by run 20261123T221005Z-k3f9 since then"),
            UNKNOWN,
            "not tested: the GPU is held by run 20261123T221005Z-k3f9",
        ),
        (NoCardFacts(ended="was ended by SIGSEGV"), TROUBLE, "ended by SIGSEGV"),
        (NoCardFacts(ended="ended with exit code 1", said="no disk"), TROUBLE, "code 1: no disk"),
    ],
)
def test_a_test_without_an_end(facts: NoCardFacts, level: Level, says: str) -> None:
    """Who holds the card is named; a child that dies is a finding, not an exception."""
    finding = whole(judge_no_card_facts(facts))
    assert (finding.level, says in finding.what) == (level, True), finding


# --- GPU memory ----------------------------------------------------------------------------------


def memory_of(free: float, *holders: Holder) -> GpuMemory:
    """A card of 24 GiB."""
    return GpuMemory(
        name="RTX 4090",
        total_bytes=24 * GIB,
        free_bytes=int(free * GIB),
        flops=None,
        holders=holders,
    )


BROWSER = Holder(pid=4711, name="firefox", held_bytes=GIB)
SERVER = Holder(pid=815, name="ollama", held_bytes=16 * GIB)


@pytest.mark.parametrize(
    ("card", "level", "says"),
    [
        (memory_of(23.5), OK, "23.5 GiB of 24.0 GiB are free."),
        (memory_of(22.5, BROWSER), OK, "held by firefox (process 4711) 1.0 GiB."),
        (memory_of(7.5, SERVER), ADVICE, "held by ollama (process 815) 16.0 GiB."),
        (memory_of(7.5), ADVICE, "does not show by whom"),
        (memory_of(1.0, SERVER, BROWSER), TROUBLE, "ollama (process 815) 16.0 GiB, firefox"),
    ],
)
def test_gpu_memory(card: GpuMemory, level: Level, says: str) -> None:
    """A desktop's share is lived with; who holds more is named."""
    finding = whole(judge_gpu_memory(card))
    assert (finding.level, says in finding.what) == (level, True), finding


# --- host memory, shared memory, disk ------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "level", "says"),
    [
        (HostMemory(total_bytes=64 * GIB, available_bytes=60 * GIB), OK, "64.0 GiB of memory."),
        # Sold as 32 GiB.
        (HostMemory(total_bytes=int(31.2 * GIB), available_bytes=29 * GIB), OK, "31.2 GiB"),
        (HostMemory(total_bytes=16 * GIB, available_bytes=14 * GIB), ADVICE, "32 GiB are advised"),
        (HostMemory(total_bytes=64 * GIB, available_bytes=GIB), TROUBLE, "Only 1.0 GiB are free"),
        (
            HostMemory(total_bytes=64 * GIB, available_bytes=60 * GIB, limit_bytes=8 * GIB),
            ADVICE,
            "8.0 GiB of memory for this container (64.0 GiB in the machine)",
        ),
        (
            HostMemory(total_bytes=64 * GIB, available_bytes=60 * GIB, limit_bytes=GIB),
            TROUBLE,
            "Only 1.0 GiB",
        ),
    ],
)
def test_host_memory(facts: HostMemory, level: Level, says: str) -> None:
    """The machine's memory and the container's limit are both seen."""
    finding = whole(judge_host_memory(facts))
    assert (finding.level, says in finding.what) == (level, True), finding


@pytest.mark.parametrize(
    ("path", "text", "limit"),
    [
        ("memory.max", "8589934592\n", 8 * GIB),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "8589934592\n", 8 * GIB),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),  # none, as version 1 says
        ("nothing", "", None),
    ],
)
def test_the_containers_memory_limit(
    tmp_path: Path, path: str, text: str, limit: int | None
) -> None:
    """Both versions of control groups are read."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal:       67108864 kB\nMemFree: 1 kB\nMemAvailable:   62914560 kB\n"
    )
    group = tmp_path / "sys/fs/cgroup" / path
    group.parent.mkdir(parents=True)
    group.write_text(text)
    found = read_host_memory(tmp_path)
    assert found == HostMemory(total_bytes=64 * GIB, available_bytes=60 * GIB, limit_bytes=limit)


@pytest.mark.parametrize(
    ("facts", "level", "fix"),
    [
        (SharedMemory(size_bytes=2 * GIB), OK, ""),
        (SharedMemory(size_bytes=64 * 2**20, in_container=True), ADVICE, "SHM_SIZE=2gb"),
        (SharedMemory(size_bytes=64 * 2**20), ADVICE, "remount"),
        (SharedMemory(size_bytes=2 * GIB, writable=False), ADVICE, "remount"),
        (SharedMemory(size_bytes=None), ADVICE, "mount"),
    ],
)
def test_shared_memory(facts: SharedMemory, level: Level, fix: str) -> None:
    """Docker's 64 MiB are told of, with the setting that raises them."""
    finding = whole(judge_shared_memory(facts))
    assert finding.level is level
    assert fix in finding.fix


def test_no_shared_memory_at_all(tmp_path: Path) -> None:
    """A machine without the folder is told so."""
    assert read_shared_memory(in_container=False, folder=tmp_path / "no").size_bytes is None


def disk(kind: Kind, free_gib: float) -> Disk:
    """The disk under outputs/."""
    return Disk(folders=("outputs",), path=Path("/o"), kind=kind, free_bytes=int(free_gib * GIB))


@pytest.mark.parametrize(
    ("facts", "level", "says"),
    [
        (disk(Kind.NVME, 500), OK, "outputs/ on NVMe, 500.0 GiB free."),
        (disk(Kind.SSD, 500), OK, "SSD"),
        (disk(Kind.VIRTUAL, 500), OK, "virtual"),
        (disk(Kind.UNKNOWN, 500), OK, "unknown"),
        (disk(Kind.HARD_DISK, 500), ADVICE, "a local NVMe disk is advised"),
        (disk(Kind.NETWORK, 500), ADVICE, "network share"),
        (disk(Kind.MEMORY, 500), ADVICE, "tmpfs"),
        (disk(Kind.NVME, 8), ADVICE, "20.0 GiB or more are advised"),
        (disk(Kind.NVME, 0.5), TROUBLE, "nothing starts with less than 1.0 GiB"),
        (disk(Kind.HARD_DISK, 0.5), TROUBLE, "nothing starts"),
    ],
)
def test_disk(facts: Disk, level: Level, says: str) -> None:
    """A full disk stops the box; a slow one costs time."""
    finding = whole(judge_disk(facts))
    assert (finding.level, says in finding.what) == (level, True), finding


def machine_with(root: Path, name: str, *, rotational: str = "0", via: str = "") -> None:
    """Lay out /sys and /proc as they are where ``tmp_path`` lies on a disk of this name."""
    import os

    device = os.stat(root).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    block = root / "sys/devices/block"
    disk_folder = block / name
    (disk_folder / "queue").mkdir(parents=True)
    (disk_folder / "queue/rotational").write_text(rotational)
    partition = disk_folder / f"{name}p1"
    partition.mkdir()
    (partition / "partition").write_text("1")
    target = partition
    if via:
        target = block / via
        (target / "slaves").mkdir(parents=True)
        (target / "slaves" / partition.name).symlink_to(partition)
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block" / number).symlink_to(target)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(f"22 1 {number} / / rw - ext4 /dev/{name}p1 rw\n")


@pytest.mark.parametrize(
    ("name", "rotational", "via", "kind"),
    [
        ("nvme0n1", "0", "", Kind.NVME),
        ("nvme0n1", "0", "dm-0", Kind.NVME),  # LVM or encryption over it
        ("sda", "0", "", Kind.SSD),
        ("sda", "1", "", Kind.HARD_DISK),
        ("sda", "1", "md0", Kind.HARD_DISK),
        ("vda", "1", "", Kind.VIRTUAL),
    ],
)
def test_the_kind_of_a_disk(
    tmp_path: Path, name: str, rotational: str, via: str, kind: Kind
) -> None:
    """Partitions, volumes and RAID are looked through."""
    machine_with(tmp_path, name, rotational=rotational, via=via)
    assert read_kind(tmp_path, root=tmp_path) is kind


@pytest.mark.parametrize(
    ("file_system", "kind"),
    [("nfs4", Kind.NETWORK), ("cifs", Kind.NETWORK), ("tmpfs", Kind.MEMORY)],
)
def test_a_share_is_no_disk(tmp_path: Path, file_system: str, kind: Kind) -> None:
    """What lies on a share or in memory is told by its file system."""
    machine_with(tmp_path, "sda")
    mounts = tmp_path / "proc/self/mountinfo"
    mounts.write_text(mounts.read_text().replace("ext4", file_system))
    assert read_kind(tmp_path, root=tmp_path) is kind


# --- folders, models, events ---------------------------------------------------------------------


def folder(**changes: object) -> FolderRights:
    """outputs/ of another user, with changes."""
    given: dict[str, object] = {
        "name": "outputs",
        "path": Path("/srv/box/outputs"),
        "owner": "0:0",
        "mode": 0o755,
        "me": "1000:1000",
        **changes,
    }
    return FolderRights(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "level", "says", "fix"),
    [
        (folder(), OK, "outputs/ can be written to.", ""),
        (folder(name="models"), OK, "models/ can be read.", ""),
        (
            folder(problem="Permission denied"),
            TROUBLE,
            "cannot be used by user 1000:1000: Permission denied (it belongs to 0:0, mode 0755)",
            "sudo chown -R 1000:1000 /srv/box/outputs",
        ),
        (
            folder(problem="Read-only file system", read_only=True),
            TROUBLE,
            "mounted read-only",
            "remount,rw",
        ),
        (folder(missing=True), TROUBLE, "is missing", "sudo install -d -o 1000 -g 1000"),
        (folder(missing=True, can_be_made=True), OK, "the first start makes it", ""),
    ],
)
def test_folders(facts: FolderRights, level: Level, says: str, fix: str) -> None:
    """Whose folder it is and who one is stand side by side, with the command that fixes it."""
    finding = whole(judge_folder(facts))
    assert (finding.level, says in finding.what) == (level, True), finding
    assert fix in finding.fix


def test_folders_that_are_well_take_one_line() -> None:
    """Three good folders are one finding; a bad one is told apart."""
    names = ("jobs", "outputs", "models")
    good = [folder(name=name) for name in names]
    assert [f.level for f in judge_folders(good)] == [OK]
    bad = [*good[:2], folder(name="models", problem="Permission denied")]
    assert [f.level for f in judge_folders(bad)] == [OK, OK, TROUBLE]


def test_rights_are_tried_and_leave_nothing(tmp_path: Path) -> None:
    """A file is really made, renamed and removed."""
    assert try_folder(tmp_path, "jobs", writes=True).problem is None
    assert not list(tmp_path.iterdir())
    assert try_folder(tmp_path / "new", "jobs", writes=True).can_be_made
    assert not try_folder(tmp_path / "new", "models", writes=False).can_be_made
    plain = tmp_path / "plain"
    plain.write_text("")
    assert try_folder(plain, "jobs", writes=True).problem == "Not a directory"


@pytest.mark.parametrize(
    ("facts", "level", "says"),
    [
        (BaseModels(), TROUBLE, "There is no base model"),
        (BaseModels(usable=("a/b",)), OK, "a/b."),
        (BaseModels(usable=("a", "b", "c", "d", "e")), OK, "a, b, c and 2 more."),
        (BaseModels(usable=("a",), broken=(("b", "no weights"),)), ADVICE, "b cannot be used: no"),
        (BaseModels(broken=(("b", "no weights"),)), TROUBLE, "b cannot be used"),
    ],
)
def test_base_models(facts: BaseModels, level: Level, says: str) -> None:
    """Without a usable base model no job could run."""
    finding = whole(judge_base_models(facts))
    assert (finding.level, says in finding.what) == (level, True), finding


def test_a_broken_model_folder_is_found(tmp_path: Path) -> None:
    """A folder with a config and no weights is named before a job fails on it."""
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    found = read_base_models(tmp_path)
    assert not found.usable
    assert [name for name, _ in found.broken] == ["half"]


@pytest.mark.parametrize(
    ("facts", "level", "polling"),
    [
        (Events(arrived=True), OK, False),
        (Events(arrived=True, remote=True), OK, True),
        (Events(arrived=False), ADVICE, True),
        (Events(problem="Too many open files", no_watches_left=True), ADVICE, True),
        (Events(problem="Permission denied"), SKIPPED, False),
        (Events(problem="Permission denied", remote=True), OK, True),
    ],
)
def test_events(facts: Events, level: Level, *, polling: bool) -> None:
    """Where events do not arrive, or not all, polling is chosen."""
    assert whole(judge_events(facts)).level is level
    assert facts.polling is polling


def test_a_real_drop_makes_a_real_event(tmp_path: Path) -> None:
    """The check drops a file of its own and takes it away."""
    found = try_events(tmp_path)
    assert found.arrived
    assert not list(tmp_path.iterdir())
    assert try_events(tmp_path / "no").problem == "there is no inbox yet"


# --- clock, offline, surroundings ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "level", "says"),
    [
        (Clock(now=NOW, synchronised=True), OK, "2026-11-23 22:10 UTC."),
        (Clock(now=NOW), OK, "2026-11-23"),
        (Clock(now=NOW, synchronised=False), ADVICE, "nothing keeps it right"),
        (Clock(now=datetime(1970, 1, 1, 0, 3, tzinfo=UTC)), ADVICE, "never set"),
        (Clock(now=NOW, newest_run=NOW + timedelta(hours=2)), ADVICE, "before the newest run"),
        (Clock(now=NOW, newest_run=NOW + timedelta(seconds=30)), OK, "2026"),
    ],
)
def test_clock(facts: Clock, level: Level, says: str) -> None:
    """A clock that is wrong now, or was, is told of."""
    finding = whole(judge_clock(facts))
    assert (finding.level, says in finding.what) == (level, True), finding


def test_the_clock_of_the_newest_run(tmp_path: Path) -> None:
    """A run's id tells when it was claimed."""
    assert read_clock(Outputs(tmp_path)).newest_run is None
    (tmp_path / "contracts/20991123T221005Z-k3f9").mkdir(parents=True)
    newest = read_clock(Outputs(tmp_path)).newest_run
    assert newest == datetime(2099, 11, 23, 22, 10, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("facts", "level", "says"),
    [
        (Offline(), OK, "Stages are set to stay offline."),
        (Offline(in_container=True), OK, "there is no network"),
        (Offline(networks=("eth0",)), OK, "Stages are set"),
        (Offline(networks=("eth0",), in_container=True), ADVICE, "has a network (eth0)"),
        (Offline(tokens=("HF_TOKEN",)), ADVICE, "HF_TOKEN is set here"),
        (Offline(missing=("HF_HUB_OFFLINE",)), TROUBLE, "HF_HUB_OFFLINE"),
    ],
)
def test_offline(facts: Offline, level: Level, says: str) -> None:
    """The promise that nothing leaves the box is looked at, not believed."""
    finding = whole(judge_offline(facts))
    assert (finding.level, says in finding.what) == (level, True), finding


def test_a_stages_real_environment_is_offline(tmp_path: Path) -> None:
    """What the daemon would give a stage holds every switch, and no token."""
    for name in ("lo", "eth0"):
        (tmp_path / "sys/class/net" / name).mkdir(parents=True)
    given = {"HF_TOKEN": "secret", "HF_HUB_OFFLINE": "0"}
    found = read_offline(given, in_container=True, root=tmp_path)
    assert found == Offline(networks=("eth0",), tokens=("HF_TOKEN",), in_container=True)


def test_the_marks_of_containers(tmp_path: Path) -> None:
    """Docker and Podman each leave theirs."""
    assert not in_container(tmp_path)
    (tmp_path / ".dockerenv").touch()
    assert in_container(tmp_path)


def test_an_engine_is_asked_wherever_there_may_be_one(tmp_path: Path) -> None:
    """On a host always; in a container only if it was given one, as the box's own never are."""
    assert beside_engine({}, tmp_path)
    (tmp_path / ".dockerenv").touch()
    assert not beside_engine({}, tmp_path)
    assert beside_engine({"DOCKER_HOST": "unix:///somewhere.sock"}, tmp_path)
    (tmp_path / "var/run").mkdir(parents=True)
    (tmp_path / "var/run/docker.sock").touch()
    assert beside_engine({}, tmp_path)


# --- Docker --------------------------------------------------------------------------------------

IMAGE = "finetuning-box:local"
UP = Service(name="runner", state="running", health="healthy")


def engine(**changes: object) -> Engine:
    """An engine with a running box, with changes."""
    given: dict[str, object] = {"version": "26.1.4", "image": IMAGE, "services": (UP,), **changes}
    return Engine(**given)  # type: ignore[arg-type]


def runner(state: str, health: str | None = None) -> tuple[Service, ...]:
    """Give the runner's container in this state, and another."""
    return (
        Service(name="init", state="exited"),
        Service(name="runner", state=state, health=health),
    )


ENGINES = [
    (Engine(problem="absent"), [SKIPPED], "No Docker engine", ""),
    (Engine(problem="denied"), [ADVICE], "may not ask it", "usermod -aG docker"),
    (
        Engine(problem="Connection refused"),
        [ADVICE],
        "Connection refused",
        "systemctl start docker",
    ),
    (engine(), [OK, OK], "is healthy", ""),
    (engine(services=runner("running", "starting")), [OK, OK], "is starting", ""),
    (engine(services=runner("running")), [OK, OK], "runs.", ""),
    (engine(services=runner("running", "unhealthy")), [OK, TROUBLE], "unhealthy", "runner health"),
    (engine(services=runner("restarting")), [OK, TROUBLE], "again and again", "logs"),
    (engine(services=runner("exited")), [OK, ADVICE], "nobody looks at jobs/", "up -d"),
    (engine(services=()), [OK, ADVICE], "never started", "up -d"),
    (engine(services=(), image=None), [OK, ADVICE], "not built", "up -d"),
    (engine(card_on_host=True, nvidia_runtime=True), [OK, OK, OK], "NVIDIA's runtime", ""),
    (engine(card_on_host=True), [OK, TROUBLE, OK], "does not know NVIDIA", "nvidia-ctk runtime"),
    (
        engine(card_on_host=True, image=None, services=()),
        [OK, ADVICE, ADVICE],
        "does not know NVIDIA",
        "nvidia-ctk runtime",
    ),
    (engine(card_on_host=True, gpu_refused=""), [OK, OK, OK], "was given a card", ""),
]
REFUSED = [
    # What engines and NVIDIA's toolkit say, as users report it.
    (
        'could not select device driver "" with capabilities: [[gpu]]',
        "toolkit is not set up",
        "nvidia-ctk runtime configure",
    ),
    (
        'could not select device driver "nvidia" with capabilities: [[gpu]]',
        "toolkit is not set up",
        "nvidia-ctk runtime configure",
    ),
    (
        "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown",
        "driver is not loaded",
        "modprobe nvidia",
    ),
    (
        "initialization error: nvml error: driver/library version mismatch: unknown",
        "updated while the old one still runs",
        "sudo reboot",
    ),
    (
        "load library failed: libnvidia-ml.so.1: cannot open shared object file: unknown",
        "not installed",
        "nvidia-driver-580",
    ),
    (
        "nvidia-container-cli: device error: 3: unknown device: unknown",
        "GPU in .env",
        "nvidia-smi -L",
    ),
    ("something new", "refused its card: something new", "nvidia-ctk"),
]
ENGINES += [
    (engine(card_on_host=True, gpu_refused=said, services=()), [OK, TROUBLE, ADVICE], means, fix)
    for said, means, fix in REFUSED
]


@pytest.mark.parametrize(("facts", "levels", "says", "fix"), ENGINES)
def test_engine(facts: Engine, levels: list[Level], says: str, fix: str) -> None:
    """Each thing that keeps `docker compose up` from working is named with its fix."""
    found = [whole(finding) for finding in judge_engine(facts)]
    assert [finding.level for finding in found] == levels
    (said,) = [finding for finding in found if says in finding.what]
    assert fix in said.fix
