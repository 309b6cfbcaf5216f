"""`runner pack`: one archive of a run's result, to hand on: weights, card, evaluation, hashes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from runner.commands.find_run import find_run
from runner.commands.options import MODELS, OUTPUTS, AsJson, ModelsDir, OutputsDir, Run, print_json
from runner.contract.layout import Outputs, RunFolder
from runner.contract.record import RunRecord, read_record
from runner.contract.states import State
from runner.errors import BusyError, RunnerError
from runner.files.durable import TEMPORARY_PREFIX, rename_durably
from runner.files.plain import read_plain
from runner.words import counted, memory, visible

_CARD, _SUMS = "README.md", "SHA256SUMS"
_CARD_BYTES = 1024 * 1024
_LIBRARY = {"adapter": "peft", "merged": "transformers"}
_OWN_FOLDER = re.compile(r'^((?:adapter|folder) = )".*"  # the folder of this file$', re.MULTILINE)
"""In a card's lines: where its weights lie on this box, which whoever gets the archive has not."""
_IN_BOX = {
    "The path starts in the box's folder (BOX_DIR).": "The path starts in the folder of this file.",
    "The paths start in the box's folder (BOX_DIR).": "The adapter's path starts in the folder of "
    "this file; `models/…` is the base model, wherever you have it.",
}
"""What a card says of the paths in its commands → what it says to whoever gets the archive."""
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Files by which a base model's owner says what may be done with it."""
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_LIST = re.compile(r"^license:[ \t]*\n((?:[ \t]*- .+(?:\n|\Z))+)", re.MULTILINE)
_FIELD = re.compile(r"^(license(?:_name|_link)?):[ \t]*(.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One file of the archive."""

    name: str
    file: Path | None = None
    """On the disk; None: ``content``."""
    content: bytes = b""


def pack(run: RunFolder, target: Path, *, base: Path | None, merged: bool) -> list[str]:
    """Write the archive, whole or not at all; give the names in it.

    Args:
        run: the run.
        target: the archive's path.
        base: folder of the base model, for its licence; None: it is not on the box.
        merged: pack merged weights in place of the adapter.

    Raises:
        RunnerError: there is nothing to pack.
    """
    record = read_record(run.record)
    weights = run.merged if merged else run.adapter
    _require_weights(run, record, weights, merged=merged)
    if not target.parent.is_dir():
        raise RunnerError(
            f"There is no folder {visible(str(target.parent))}",
            advice="Give --to a folder that is there.",
        )
    entries = list(_entries(run, record, weights, base))
    _require_room(entries, target.parent)
    try:
        _write(entries, record, weights.name, target)
    except OSError as error:  # also of closing the file, which writes what is left to be written
        if error.filename is None:
            raise _unwritten(error, target) from None
        raise
    return [one.name for one in entries]


def _write(entries: Sequence[_Entry], record: RunRecord, weights: str, target: Path) -> None:
    """Write the archive beside its name, then name it."""
    root = f"{record.job}-{record.run_id}"
    # Always of the same name: what a kill leaves of it is written over by the next try.
    beside = target.with_name(f"{TEMPORARY_PREFIX}{target.name}")
    with beside.open("ab") as written:
        _hold(written, beside)
        try:
            written.seek(0)
            written.truncate()
            # Weights do not get smaller by compressing.
            with tarfile.open(fileobj=written, mode="w") as archive:
                added = {one.name: _add(archive, root, one) for one in entries}
                _require_as_made(added, record, weights)
                content = "".join(f"{sha256}  {name}\n" for name, sha256 in added.items()).encode()
                _add(archive, root, _Entry(name=_SUMS, content=content))
            written.flush()
            os.fsync(written.fileno())
            rename_durably(beside, target)
        except BaseException:  # not after it was named: another may have begun one of this name
            beside.unlink(missing_ok=True)
            raise


def _require_room(entries: Sequence[_Entry], folder: Path) -> None:
    """Refuse what the disk cannot hold, before a byte is written.

    Raises:
        RunnerError: with the numbers.
    """
    needed = sum(one.file.stat().st_size if one.file else len(one.content) for one in entries)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunnerError(
            f"The archive takes {memory(needed)}, and {visible(str(folder))} has {memory(free)} "
            "free",
            advice="Make some room there, or give another folder: --to.",
        )


def _unwritten(error: OSError, target: Path) -> RunnerError:
    """Say why an archive could not be written."""
    if error.errno is None:  # tarfile's own: a file became shorter while it was read
        return RunnerError(
            "A file was changed while it was being packed", advice="Pack it once more."
        )
    advice = "Make some room there, or give another folder: --to."
    if error.errno == errno.EFBIG:
        advice = (
            "A stick formatted as FAT32 takes no file of 4 GiB or more: format it as exFAT or "
            "NTFS, or give another folder: --to."
        )
    return RunnerError(
        f"{visible(str(target))} could not be written: {error.strerror}", advice=advice
    )


def _hold(written: IO[bytes], beside: Path) -> None:
    """Keep a second one from writing the same archive at the same time.

    Raises:
        BusyError: one does.
    """
    try:
        fcntl.flock(written, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_ours = False
    except OSError:
        is_ours = True  # a disk that has no locks
    else:  # it may have got its final name since it was opened
        is_ours = beside.exists() and os.path.samestat(os.fstat(written.fileno()), beside.stat())
    if not is_ours:
        name = beside.name.removeprefix(TEMPORARY_PREFIX)
        raise BusyError(
            f"{name} is being written at this moment", advice="Wait for it, or give --to."
        )


def _require_weights(run: RunFolder, record: RunRecord, weights: Path, *, merged: bool) -> None:
    """Refuse a run that has no such weights, and say why it has none."""
    if record.state is State.SUCCEEDED and weights.is_dir():
        return
    what = "merged weights" if merged else "adapter"
    name, erased = f"{run.job}/{run.run_id}", record.erased
    if erased is not None and erased.adapter:
        why, advice = f"erased on {erased.at:%Y-%m-%d}, as {erased.by} asked", ""
    elif record.state is not State.SUCCEEDED:
        why, advice = record.state.value, "`runner status --all` lists the runs."
    elif not merged:
        why, advice = "adapter/ is gone", "Take a backup of the run's folder back."
    elif erased is not None:
        why, advice = (
            "its rows were erased, so none are made",
            "Pack the adapter: without --merged.",
        )
    else:
        why = "none were made, or they went when another run came into use"
        advice = f"`runner export {run.run_id} --merged` makes them."
    raise RunnerError(f"{name} has no {what} that could be packed: {why}", advice=advice or None)


def _made(record: RunRecord, folder: str) -> dict[str, str]:
    """Give sha256 of each file as the run made it; none: the record is of an older version."""
    form = record.handed_over.form(folder) if record.handed_over is not None else None
    known = form.files if form is not None else {}
    return (record.metrics.get("adapter_files") or {}) if folder == "adapter" else known


def _require_as_made(added: Mapping[str, str], record: RunRecord, folder: str) -> None:
    """Refuse to hand on weights that are damaged, or were changed since they were made.

    Args:
        added: sha256 by name in the archive.
        record: has what the files were.
        folder: of the weights.
    """
    wrong = [
        name
        for name, sha256 in _made(record, folder).items()
        if name != _CARD and added.get(f"{folder}/{name}") != sha256
    ]
    if wrong:
        raise RunnerError(
            f"{record.job}/{record.run_id}: {folder}/{visible(wrong[0])} is not as it was made",
            advice="Take a backup of that folder back, or check the disk under outputs/.",
        )


def _entries(
    run: RunFolder, record: RunRecord, weights: Path, base: Path | None
) -> Iterator[_Entry]:
    """List what goes in: no row of data, no answer to one."""
    yield _Entry(name=_CARD, content=_card(run, record, weights, base).encode())
    made = _made(record, weights.name)
    for path in sorted(weights.rglob("*")):
        inner = path.relative_to(weights).as_posix()
        if made and inner not in made:
            continue  # whatever somebody has put there
        if path.is_file() and not path.is_symlink() and path != weights / _CARD:
            yield _Entry(name=f"{weights.name}/{inner}", file=path)
    facts = record.model_dump(mode="json", include={"verdict", "evaluation", "handed_over"})
    yield _Entry(name="evaluation.json", content=_json(facts))
    of_run = record.model_dump(
        mode="json",
        include={"job", "run_id", "model", "environment", "started_at", "ended_at", "spec_sha256"},
    )
    yield _Entry(name="versions.json", content=_json(of_run))
    if base is not None:
        for pattern in _LICENCES:
            for path in sorted(base.glob(pattern)):
                if path.is_file() and not path.is_symlink():
                    yield _Entry(name=f"base-licence/{path.name}", file=path)


def _json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode()


def _add(archive: tarfile.TarFile, root: str, entry: _Entry) -> str:
    """Add a file; give the sha256 of what was added."""
    digest = hashlib.sha256()
    facts = tarfile.TarInfo(f"{root}/{entry.name}")
    facts.mode = 0o644
    if entry.file is None:
        facts.size = len(entry.content)
        archive.addfile(facts, io.BytesIO(entry.content))
        return hashlib.sha256(entry.content).hexdigest()
    with entry.file.open("rb") as file:
        facts.size = os.fstat(file.fileno()).st_size
        archive.addfile(facts, _Hashing(file, digest))
    return digest.hexdigest()


class _Hashing:
    """Hashes a file while it is read."""

    def __init__(self, file: Any, digest: Any) -> None:
        self._file, self._digest = file, digest

    def read(self, size: int = -1) -> bytes:
        found: bytes = self._file.read(size)
        self._digest.update(found)
        return found


def _card(run: RunFolder, record: RunRecord, weights: Path, base: Path | None) -> str:
    """Give the weights' card with the base's licence, the data's counts and the verdict in it."""
    try:
        card = _text(weights / _CARD)
    except (OSError, ValueError):
        card = f"---\nlibrary_name: {_LIBRARY[weights.name]}\n---\n\n# {run.job}\n"
    card = _OWN_FOLDER.sub(rf'\1"{weights.name}"  # beside this file', card)
    card = card.replace(f"outputs/{run.job}/{run.run_id}/{weights.name}", weights.name)
    for here, there in _IN_BOX.items():
        card = card.replace(here, there)
    licence = _licence_of(base)
    match = _FRONT.match(card)
    front = match.group(1) if match else f"library_name: {_LIBRARY[weights.name]}"
    rest = card[match.end() :] if match else card
    rows, held = (record.metrics.get(name) for name in ("train_rows", "eval_rows"))
    files = len(record.data)
    of = f"{counted(rows, 'row') if isinstance(rows, int) else 'rows'} of {counted(files, 'file')}"
    counts = f"Trained on {of}; {held or 0} held out."
    verdict = record.verdict.reason if record.verdict else "It was not measured."
    named = licence.get("license_name") or licence.get("license")
    of_base = f"`{named}`, as its card says" if named else "not named on the box: ask its owner"
    head = "".join(f"{key}: {value}\n" for key, value in licence.items())
    return (
        f"---\n{front}\n{head}---\n{rest}\n## Verdict\n\n{verdict}\n\n"
        f"## Data\n\n{counts} No row of it is in this archive.\n\n"
        f"## Licence\n\nOf the base model: {of_base}. It goes for what was made from it, too.\n"
    )


def _licence_of(base: Path | None) -> dict[str, str]:
    """Read the licence fields of the base's own card."""
    if base is None:
        return {}
    try:
        match = _FRONT.match(_text(base / _CARD))
    except (OSError, ValueError):
        return {}
    front = _LIST.sub(_in_a_line, match.group(1)) if match else ""
    return dict(_FIELD.findall(front))


def _in_a_line(several: re.Match[str]) -> str:
    names = [line.strip().removeprefix("- ").strip() for line in several.group(1).splitlines()]
    return f"license: {names[0] if len(names) == 1 else '[' + ', '.join(names) + ']'}\n"


def _text(card: Path) -> str:
    """Read a card, saved on whichever system."""
    text = read_plain(card, limit_bytes=_CARD_BYTES).decode("utf-8-sig")
    return text.replace("\r\n", "\n")


def command(
    name: Run,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for the archive (default: the run's).")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Pack merged weights in place of the adapter.")
    ] = False,
    outputs_dir: OutputsDir = OUTPUTS,
    models_dir: ModelsDir = MODELS,
    as_json: AsJson = False,
) -> None:
    """Pack a run's result into one archive to hand on.

    Adapter or merged weights, card, licence of the base where the box has it, evaluation, versions
    and SHA256SUMS; no row of data. Check it with: tar xf FILE; sha256sum -c SHA256SUMS.

    \b
    Example:
        runner pack contracts --to /media/stick
    """
    run = find_run(Outputs(outputs_dir), name)
    record = read_record(run.record)
    base = models_dir / record.model.id if record.model is not None else None
    target = (to or run.root) / f"{run.job}-{run.run_id}.tar"
    names = pack(run, target, base=base if base and base.is_dir() else None, merged=merged)
    if as_json:
        print_json({"archive": str(target), "files": names})
        return
    print(f"Packed {len(names)} files into {target}")
