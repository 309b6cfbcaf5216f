"""`runner validate`: every problem of a spec, before it is dropped."""

from __future__ import annotations

import difflib
import errno
import os
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.commands.options import (
    JOBS,
    MODELS,
    OUTPUTS,
    AsJson,
    ModelsDir,
    OutputsDir,
    print_json,
    speaker,
)
from runner.contract.evaluation_tasks import VARIABLE, tasks_problems
from runner.contract.gpus import count_gpus
from runner.contract.layout import SCHEDULED, STATE_FOLDERS, Inbox
from runner.contract.llama_cpp import gguf_problem
from runner.contract.models import find_model, read_config, unknown_layers
from runner.errors import InputError, Problem, SpecError, UnsafePathError
from runner.files.beneath import Folder
from runner.forecast.model_shape import read_shape
from runner.forecast.what_fits import cap_problem
from runner.language.translate import in_words_of
from runner.spec.data_files import named_by
from runner.spec.doubtful import doubtful
from runner.spec.field_lines import with_lines
from runner.spec.names import is_spec_name, naming_problem
from runner.spec.near_files import similar_file
from runner.spec.read_spec import read_spec
from runner.spec.spec import JobSpec
from runner.training.export.refuse_early import refused_export
from runner.words import visible, visible_lines

NO_SPEC = "a job spec's name ends in .yaml, .yml or .json"
SPEC_BYTES = 1024 * 1024  # more than read_spec accepts; it then says what the limit is

_NAME_ONE = "give the path of a job spec, such as jobs/contracts.yaml"
_SHOWN = 80  # characters of a path in a message
_NAMED = 5  # specs in one sentence
_COPY = "copy it there first; paths start at the spec's folder"


@dataclass(frozen=True, kw_only=True)
class Validated:
    """A spec file and what is wrong with it."""

    path: Path
    spec: JobSpec | None
    problems: tuple[Problem, ...]

    def as_json(self) -> dict[str, Any]:
        """Give the same to a script."""
        return {
            "file": str(self.path),
            "ok": not self.problems,
            "problems": [asdict(problem) for problem in self.problems],
            "spec": self.spec.model_dump(mode="json") if self.spec else None,
        }


def missing_files(spec: JobSpec, folder: Path, shown_as: str) -> list[Problem]:
    """Find the files of a spec that are not there, or that the runner would refuse to open."""
    with Folder.open(folder) as root:
        return [
            Problem(message=message, file=shown_as, field=field, hint=hint)
            for field, path in spec.files_by_field
            for message, hint in _wrong_with(root, path)
        ]


def _wrong_with(root: Folder, path: str) -> list[tuple[str, str | None]]:
    """Say what is wrong with a path of a spec, each with how to fix it."""
    try:
        files = named_by(root, path)
        if files is not None and not files:
            return [(f"{path!r} names no file beside the spec that can be read", _COPY)]
        found = [(one, root.stat(one)) for one in files or [path]]
    except UnsafePathError as error:
        return [(error.message, error.advice)]
    except OSError:
        similar = similar_file(root, path)
        return [
            (f"there is no {path!r} beside the spec", similar.advice(path) if similar else _COPY)
        ]
    wrong = ((one, _wrong_kind(status)) for one, status in found)
    return [(f"{one!r} {what[0]}", what[1]) for one, what in wrong if what is not None]


def _wrong_kind(status: os.stat_result) -> tuple[str, str] | None:
    if stat.S_ISLNK(status.st_mode):
        return "is a link", "copy the file itself there; links are not followed"
    if not stat.S_ISREG(status.st_mode):
        return "is no file", "name a file with rows"
    return ("is empty", "copy it again, or name another file") if status.st_size == 0 else None


def read_file(path: Path, folder: Path | None = None, *, cards: int | None = None) -> JobSpec:
    """Read a spec from a file.

    ``folder`` is where its data paths start, if not at its own; ``cards`` those of the box.

    Raises:
        SpecError: it cannot be used, or not under this name; every problem at once.
    """
    if (nothing := _nothing_there(path)) is not None:
        raise SpecError([nothing])
    if not is_spec_name(path.name):
        raise SpecError(
            [
                naming_problem(path.name)
                or Problem(
                    message=NO_SPEC, file=path.name, hint="rename it so that it ends in .yaml"
                )
            ]
        )
    try:
        with path.open("rb") as file:
            content = file.read(SPEC_BYTES + 1)
    except OSError as error:
        raise SpecError(
            [
                Problem(
                    message=f"cannot be read: {error.strerror}",
                    file=str(path),
                    hint="check the path and your right to read it",
                )
            ]
        ) from error
    there = folder or data_folder(path)
    return read_spec(
        content, file_name=path.name, exists=lambda name: (there / name).exists(), cards=cards
    )


def _nothing_there(path: Path) -> Problem | None:
    """Say that a path leads to no file, and which spec was meant; None: something lies there."""
    shown = visible(path if len(str(path)) <= _SHOWN else f"{str(path)[:_SHOWN]}…")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL):
            return None  # opening it says what it is
        return Problem(message=f"the spec {shown} is not there", hint=_meant(path))
    if not stat.S_ISDIR(mode):
        return None
    return Problem(message=f"{shown} is a folder", hint=_specs_in(path) or _NAME_ONE)


def _meant(path: Path) -> str:
    """Name the spec that was meant: a near name beside it, or one that was dropped already."""
    for folder in (path.parent, JOBS) if str(path.parent) == "." else (path.parent,):
        found = _spec_names(folder)
        stems = {Path(one).stem: one for one in found}
        wanted = path.name[:_SHOWN]
        for names in ({one: one for one in found}, stems):
            if near := difflib.get_close_matches(wanted, names, n=1, cutoff=0.75):
                return f"did you mean {folder / names[near[0]]}?"
    return _specs_in(path.parent) or _NAME_ONE


def _specs_in(folder: Path) -> str | None:
    found = _spec_names(folder)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"specs in {visible(folder)}: {', '.join(found[:_NAMED])}{more}" if found else None


def _spec_names(folder: Path) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [one for one in names if is_spec_name(one) and visible(one) == one]


def data_folder(spec_file: Path) -> Path:
    """Give the folder that a spec's data paths start at: its own, or the inbox it was moved in."""
    folder = spec_file.absolute().parent
    claimed = folder.name in (SCHEDULED, *STATE_FOLDERS) and Inbox(folder.parent).marker.exists()
    return folder.parent if claimed else folder


def validate(
    path: Path,
    models_dir: Path,
    *,
    outputs_dir: Path = OUTPUTS,
    inputs: bool = True,
    folder: Path | None = None,
) -> Validated:
    """Check a spec, and with ``inputs`` that its model and data are on this box.

    Its data paths start at ``folder``, or where the spec lies.
    """
    try:
        spec = read_file(path, folder, cards=count_gpus(os.environ.get("RUNNER_GPUS", "")))
    except SpecError as error:
        return Validated(path=path, spec=None, problems=error.problems)
    problems: list[Problem] = []
    if inputs:
        problems += missing_files(spec, folder or data_folder(path), path.name)
        tasks, allowed = spec.evaluation.tasks or (), os.environ.get(VARIABLE, "").strip()
        problems += [replace(wrong, file=path.name) for wrong in tasks_problems(tasks, allowed)]
        try:
            model = find_model(models_dir, spec.model, method=spec.named_method)
            config = read_config(model, spec.model)
            if too_low := cap_problem(spec, read_shape(config)):
                problems.append(replace(too_low, file=path.name))
            if unknown := unknown_layers(model, spec.model, spec.lora.target_modules):
                problems.append(replace(unknown, file=path.name))
            field = spec.export.gguf_field
            if field and (cannot := gguf_problem(field, config)):
                problems.append(replace(cannot, file=path.name))
            if refused := refused_export(spec, model, config, outputs_dir):
                problems.append(replace(refused, file=path.name))
        except InputError as error:
            problems += error.problems
    if problems:
        problems = with_lines(problems, path.read_bytes(), path.name)
    return Validated(path=path, spec=spec, problems=tuple(problems))


def command(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC", help="One or several.")],
    models_dir: ModelsDir = MODELS,
    outputs_dir: OutputsDir = OUTPUTS,
    spec_only: Annotated[
        bool, typer.Option("--spec-only", help="Do not look for the model and the data.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Name every problem of a spec, with its line.

    It exits with 1 when there are any.

    \b
    Example:
        runner validate jobs/examples/*.yaml --spec-only
    """
    answers = [
        validate(spec, models_dir, outputs_dir=outputs_dir, inputs=not spec_only) for spec in specs
    ]
    if as_json:
        print_json([answer.as_json() for answer in answers])
    else:
        speak = speaker()
        for answer in answers:
            said = speak("cli_cannot_be_used") if answer.problems else speak("cli_ok")
            print(f"{answer.path}: {said}")
            for note in doubtful(answer.spec) if answer.spec else ():
                print(f"  {speak('cli_note')}: {in_words_of(note, speak)}")
            for problem in answer.problems:
                said = in_words_of(visible_lines(problem), speak)
                print("  " + said.replace("\n", "\n  "))
    raise typer.Exit(1 if any(answer.problems for answer in answers) else 0)
