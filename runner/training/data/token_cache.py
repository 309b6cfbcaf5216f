"""Token cache: a run whose data, tokenizer and settings were prepared before takes its tokens.

An entry is a folder under outputs/.runner/tokens/ whose tables are hard links of a run's own files,
so it takes no space of its own; when the last run that has them is erased, their link count is 1
and the entry goes, too. It may be deleted at any time. What an entry says is believed only where
its checksums agree, and who belongs to training and to held-out rows is worked out anew each time:
an entry that would part them otherwise is not used.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner.contract.findings import DataFinding
from runner.contract.stage_io import PreparePlan
from runner.contract.token_entries import FACTS, sweep_entries
from runner.errors import BOX_WIDE
from runner.files.durable import TEMPORARY_PREFIX, sync_folder, write_bytes
from runner.spec.spec import JobSpec
from runner.training.checks.checks import Checks
from runner.training.checks.say import End
from runner.training.data.flow import Flowed, Source
from runner.training.data.formats import UNDECIDED
from runner.training.data.questions import FILE as QUESTIONS
from runner.training.data.questions import Wanted
from runner.training.data.template_facts import TemplateFacts
from runner.training.data.token_table import read_part

_VERSION = 4  # of an entry's own form
PREVIEW = "preview.json"
SAMPLES_FILE = "samples.json"
_FACTS_BYTES = 64 * 1024 * 1024  # a larger facts.json is not ours
_LIBRARIES = ("transformers", "tokenizers", "jinja2", "pyarrow")
"""Their versions are part of the key: they read files, render templates, cut text into tokens."""
ASKED = SAMPLES_FILE, QUESTIONS
"""Rows that are put down as questions: found again, they need no look through the data."""
_TABLES = ("train.arrow", "eval.arrow", "rows.arrow", "checks.npz", PREVIEW, *ASKED)
TOKENIZER = "tokenizer--"
"""Before the names of the files in prepared/tokenizer/."""
_MODEL_FILES = "*.json", "*.jinja", "*.txt", "*.model"
"""Of a base model's folder: its tokenizer in any form, its template, its config."""
_BLOCK = 1024 * 1024  # bytes


def cache_key(source: Source, model: Path, plan: PreparePlan) -> str | None:
    """Name what the tokens follow from; None: code of the model's own is run, and is not known."""
    if plan.trust_remote_code:
        return None
    spec = source.spec
    facts = {
        "version": _VERSION,
        "code": _code(),
        "libraries": [importlib.metadata.version(name) for name in _LIBRARIES],
        "data": [(c.named, c.sha256) for c in source.copies],
        "model": [
            (p.name, _sha256(p)) for p in _files(model) if not p.name.endswith(".index.json")
        ],
        "name": spec.model,
        "spec": _settings(spec),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _settings(spec: JobSpec) -> dict[str, Any]:
    """Give the settings that a token, or its part of the data, may follow from."""
    named = {"format", "columns", "sheet", "system_prompt", "eval_split", "eval_data", "data"}
    chosen = spec.model_dump(mode="json", include=named)
    return {**chosen, "max_length": spec.training.max_length}


def _files(model: Path) -> list[Path]:
    return sorted({p for pattern in _MODEL_FILES for p in model.glob(pattern) if p.is_file()})


def _code() -> str:
    """Hash our own source: a changed conversion makes other tokens."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for folder in (here, here.parent / "checks"):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sum_of(path: Path) -> int:
    """Sum a file up by CRC-32: a third of a gigabyte in a tenth of a second.

    It is to find what a disk has damaged. Whoever may write here could change the sums as well.
    """
    found = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What an earlier run prepared."""

    folder: Path
    flowed: Flowed
    template: TemplateFacts
    """What the rows were encoded with."""
    notes: list[str]
    """What the data's owner should know of the rows."""
    row_numbered: list[str] = field(default_factory=list)
    files: dict[str, int]
    """Checksum by name."""
    wanted: str = ""
    """Which rows were put down as questions, as `_key_of` writes it."""
    end: str
    """What the checks had to know, as `_end_key` writes it."""
    findings: list[Any] = field(default_factory=list)
    """What they found."""

    def found(self, end: End) -> tuple[DataFinding, ...] | None:
        """Give what the checks found where they had to know the same; None: it was something else.

        Looking at 100,000 rows once more takes a second, which is half of what the rest takes.
        """
        if self.end != _end_key(end):
            return None
        return tuple(map(DataFinding.model_validate, self.findings))

    def link_asked(self, wanted: Wanted, folder: Path) -> bool:
        """Give a run the questions; False: it wants other ones, or there are none."""
        if self.wanted != _key_of(wanted) or not all(name in self.files for name in ASKED):
            return False
        for name in ASKED:
            (folder / name).unlink(missing_ok=True)  # of an earlier try
            self.link(name, folder / name)
        return True

    def checks(self) -> Checks:
        """Read what the checks kept of the rows; seldom needed, as what they found is here."""
        return Checks.load(self.folder / "checks.npz")

    @property
    def rows(self) -> Path:
        """The table of rows."""
        return self.folder / "rows.arrow"

    def link(self, name: str, target: Path) -> bool:
        """Give a run one of the tables; False: there is none of that name."""
        if name not in self.files:
            return False
        try:
            os.link(self.folder / name, target)
        except OSError:  # too many links, or a file system without them
            shutil.copyfile(self.folder / name, target)
        return True

    def give_tokenizer(self, target: Path) -> None:
        """Write the tokenizer's folder as the earlier run has it."""
        shutil.rmtree(target, ignore_errors=True)  # of an earlier try
        target.mkdir(parents=True)
        for name in filter(_is_of_tokenizer, self.files):
            shutil.copyfile(self.folder / name, target / name.removeprefix(TOKENIZER))

    def parts_alike(self, part: Any) -> bool:
        """Whether each row belongs to the same part of the data as it did then."""
        import numpy as np

        return np.array_equal(read_part(self.rows), part)


def find_entry(cache: Path, key: str, own: Path) -> Entry | None:
    """Find an entry; None where there is none, or where anything of it is not as it was written.

    Args:
        cache: outputs/.runner/tokens.
        key: what it follows from.
        own: a folder of this run, made anew, that gets a link to each file: the cache may be
            deleted, and another job may replace the entry, while this run takes it.
    """
    try:
        folder = _linked(cache / key, own)
        with (folder / FACTS).open("rb") as file:
            written = json.loads(file.read(_FACTS_BYTES))
        body = written["body"]
        if written["sha256"] != _checksum(body) or body["key"] != key:
            return None
        files: dict[str, int] = body["files"]
        if not {name for name in files if not _is_of_tokenizer(name)} <= set(_TABLES):
            return None
        if any(_sum_of(folder / name) != known for name, known in files.items()):
            return None
        return Entry(
            folder=folder,
            flowed=Flowed(
                rules=UNDECIDED,
                counts=[int(n) for n in body["counts"]],
                read=int(body["read"]),
                highest=int(body["highest"]),
            ),
            template=TemplateFacts.read(body["template"]),
            notes=[str(note) for note in body["notes"]],
            row_numbered=[str(name) for name in body["row_numbered"]],
            files=files,
            wanted=str(body["wanted"]),
            end=str(body["end"]),
            findings=list(body["findings"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _linked(entry: Path, own: Path) -> Path:
    """Link an entry's files into a run's own folder.

    Raises:
        OSError: there is no entry, one of its files has gone, or takes no more links.
    """
    shutil.rmtree(own, ignore_errors=True)
    names = os.listdir(entry)
    own.mkdir()
    for name in names:
        os.link(entry / name, own / name)
    return own


def _is_of_tokenizer(name: str) -> bool:
    """Tell a file of the tokenizer's folder; a name with a path in it is none."""
    return name.startswith(TOKENIZER) and "/" not in name


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept beside the tables."""

    flowed: Flowed
    """What came out of all rows."""
    template: TemplateFacts
    """What the rows were encoded with."""
    notes: Sequence[str]
    """What the data's owner should know of the rows."""
    row_numbered: Sequence[str]
    """Files whose places are row numbers."""
    end: End
    findings: Sequence[DataFinding]
    """What the checks found, knowing ``end``."""
    wanted: Wanted
    """Which rows were put down as questions."""


def _end_key(end: End) -> str:
    facts = [end.max_length, end.epochs, sorted(end.ending), sorted(end.row_numbered)]
    written = json.dumps([*facts, dict(end.wishes)], sort_keys=True).encode()
    return hashlib.sha256(written + end.held_out.astype("int64").tobytes()).hexdigest()


def _key_of(wanted: Wanted) -> str:
    return json.dumps(asdict(wanted), sort_keys=True)


def keep_entry(cache: Path, key: str, tables: dict[str, Path], kept: Kept) -> None:
    """Keep what was prepared, as links; where the file system has none, nothing is kept.

    Args:
        cache: outputs/.runner/tokens.
        key: what it follows from.
        tables: the run's own files, by their names in the entry.
        kept: what belongs to them.
    """
    flowed = kept.flowed
    beside = cache / f"{TEMPORARY_PREFIX}{os.urandom(6).hex()}"
    try:
        beside.mkdir(parents=True)
        for name, path in tables.items():
            os.link(path, beside / name)
        flowed.checks.save(beside / "checks.npz")
        body = {
            "key": key,
            "files": {p.name: _sum_of(p) for p in sorted(beside.iterdir())},
            "wanted": _key_of(kept.wanted),
            "counts": flowed.counts,
            "read": flowed.read,
            "highest": flowed.highest,
            "template": kept.template.written(),
            "notes": list(kept.notes),
            "row_numbered": list(kept.row_numbered),
            "end": _end_key(kept.end),
            "findings": [finding.model_dump(mode="json") for finding in kept.findings],
        }
        written = {"sha256": _checksum(body), "body": body}
        write_bytes(beside / FACTS, json.dumps(written).encode())
        shutil.rmtree(cache / key, ignore_errors=True)  # of another part, or broken
        os.rename(beside, cache / key)
        sync_folder(cache)
    except OSError as error:
        if error.errno in BOX_WIDE:
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        sweep_entries(cache)


def _checksum(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
