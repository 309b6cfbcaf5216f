"""Settings: what the box's owner set, in one frozen record."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from runner.contract.layout import Inbox, Outputs


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the daemon runs; the command line and the environment fill it in."""

    jobs_dir: Path
    outputs_dir: Path
    models_dir: Path
    once: bool = False
    """Work off what is there and leave."""
    settle_seconds: float = 2.0
    """A file is taken when it has been unchanged for so long."""
    broken_spec_seconds: float = 30.0
    """A spec that more bytes could mend is rejected only when unchanged for so long."""
    data_wait_seconds: float = 600.0
    """How long a job waits for data that is missing."""
    rescan_seconds: float = 5.0
    """The inbox is looked at so often even when no event arrives."""
    stage_command: tuple[str, ...] = (sys.executable, "-m", "runner.training")
    report_command: tuple[str, ...] = (sys.executable, "-m", "runner.report")
    cache_dir: Path | None = None
    """HOME of the stages; None: under outputs/. It must let programs be loaded from it."""
    device: str = "auto"
    gpus: str = ""
    """The cards that train, each a job of its own, such as ``0,1`` or ``all``. Empty: one, the
    first that is there, or the CPU."""
    cluster: str = ""
    """Further boxes train what this one's queue has (docs/cluster.md): ``on``: beside this one;
    ``others``: they alone, and this one prepares, evaluates and hands over. Empty: there are
    none."""
    lease_seconds: float = 60.0
    """A further box that has not seen this one for so long ends its trainings; one that is not seen
    for so long is given up."""
    polling: bool | None = None
    """Watch by polling; None: where the file system needs it."""
    grace_seconds: float = 120.0
    """A child that was asked to stop gets so long to leave a checkpoint."""
    min_free_bytes: int = 1024**3
    """Less free disk than this under outputs/ and no stage starts."""
    keep_runs: int = 5
    """Of so many runs of a job, the newest that have ended, the data, tokens and checkpoints stay;
    of older ones they go. 0: they stay."""
    keep_checkpoints: bool = False
    """A run's checkpoints go once it has succeeded; true: they go with its other large files."""
    keep_exports: bool = False
    """Merged weights and GGUF files go when another run has come into use; true: they stay."""
    hold_seconds: float = 300.0
    """After a full disk, the queue is tried again so much later."""
    gpu_lost_seconds: float = 300.0
    """So long after its GPU went away the daemon ends: a new container may be given it again."""
    stall_seconds: float = 600.0
    """A training step may take so long; longer where the run's own steps do. Starting may take six
    times as long, and another stage 36 times."""
    hung_grace_seconds: float = 30.0
    """A child that hangs gets so long to leave a checkpoint all the same."""
    share_seconds: float = 20.0
    """What the shared folder has not answered for so long is given up; runs go on without it. Disks
    of a storage box that must start up first take 10 s and more."""
    hang_seconds: float = 300.0
    """A daemon whose loop stood still for so long ends itself, to be started again."""
    look_ahead: bool = True
    """Choose the first plan by the forecast and probe it. False only to measure what it saves: a
    first attempt then starts at the spec's own batch, and a lack of memory strikes in mid-run."""
    stand_by: bool | None = None
    """Keep the next stage's process ready for each card, and one or two more for the rows of the
    next jobs, so that their imports are done when their turn comes; each holds 0.8 GiB of the
    machine's memory, and gives it back where that is short. None: on a box with a card."""
    share_name: str = ""
    """How the share's users reach the box, such as ``\\\\server``: it is put before the paths in
    answers. Empty: paths start at jobs/ and outputs/."""
    hours: str = ""
    """When trainings may run, such as ``18:00-07:00, sat, sun``: outside of these hours none
    starts, and one that runs leaves a checkpoint and goes on later. Empty: at any time."""
    evaluation_tasks: str = ""
    """Folder of tasks of lm-evaluation-harness that specs may ask for by name; they may name Python
    code, so it is the box owner's alone, and lies outside of jobs/ and outputs/. Empty: none."""
    language: str = ""
    """Of answers and reports: ``en`` or ``de``. Empty: the machine's (LC_ALL, LANG), or English."""
    reports: bool = True
    """Write report.html for each run, and index.html: false does without."""
    trust_remote_code: bool = False
    """The box owner's decision; never a spec's."""

    @property
    def inbox(self) -> Inbox:
        """The shared folder."""
        return Inbox(self.jobs_dir)

    @property
    def stage_home(self) -> Path:
        """HOME of the stages: library caches that may be deleted at any time."""
        return self.cache_dir or self.outputs.cache

    @property
    def outputs(self) -> Outputs:
        """Where runs leave their results."""
        return Outputs(self.outputs_dir)
