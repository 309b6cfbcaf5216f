"""Box: the folders and settings that every page and every call of the API works with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.contract.layout import Inbox, Outputs
from runner.contract.settings import Settings

UPLOAD_BYTES = 20 * 1024**3  # a data file; more than a card of an office learns in a week


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box as the page sees it. It reads outputs/ and models/, and writes into jobs/ alone.

    What the daemon should do is left in the requests folder, as every command does.
    """

    jobs_dir: Path
    outputs_dir: Path
    models_dir: Path
    page_dir: Path
    """Holds the key, and copies of data while it is looked at; who has only the share sees none."""
    language: str = ""
    """For those whose browser names none that we speak: ``en`` or ``de``; empty: English."""
    share_name: str = ""
    """How the share's users reach the box: put before the paths in answers."""
    hosts: tuple[str, ...] = ()
    """Names that the page may be reached by, beside localhost and any plain address."""
    upload_bytes: int = UPLOAD_BYTES
    """The largest file that is taken."""
    min_free_bytes: int = 1024**3
    """So much of the disk under jobs/ stays free: what would take from it is refused."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        page_dir: Path,
        hosts: tuple[str, ...] = (),
        upload_bytes: int = UPLOAD_BYTES,
    ) -> Box:
        """Make it from the box's settings."""
        return cls(
            jobs_dir=settings.jobs_dir,
            outputs_dir=settings.outputs_dir,
            models_dir=settings.models_dir,
            page_dir=page_dir,
            language=settings.language,
            share_name=settings.share_name,
            hosts=hosts,
            upload_bytes=upload_bytes,
            min_free_bytes=settings.min_free_bytes,
        )

    @property
    def inbox(self) -> Inbox:
        """The shared folder."""
        return Inbox(self.jobs_dir)

    @property
    def outputs(self) -> Outputs:
        """Where runs leave their results."""
        return Outputs(self.outputs_dir)
