"""Prepare: a job spec and its data files become tokenised rows to train on.

    python -m runner.training prepare RUN/prepared

Read `prepare` top to bottom: snapshot, rows, conversations, split, tokens, lengths, records.
"""

from __future__ import annotations

import copy
import errno
import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from runner.contract.findings import DataFinding, write_findings
from runner.contract.fp8_cards import FP8_HINT
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.llama_cpp import gguf_problem
from runner.contract.model_kind import language_part_note
from runner.contract.models import (
    describe_model,
    fetch_command,
    find_model,
    longest_context,
    read_config,
    table_of_words,
)
from runner.contract.record import DataFile
from runner.contract.stage_io import PreparePlan, PrepareResult, read_message, write_message
from runner.contract.verdict import smallest_points
from runner.errors import (
    DataError,
    InputError,
    ModelError,
    Problem,
    SpecError,
    StageError,
)
from runner.exit_codes import ExitCode
from runner.files.durable import TEMPORARY_PREFIX, sync_tree, write_json
from runner.forecast import work as forecast_work
from runner.forecast.lengths import Lengths, write_lengths
from runner.forecast.model_shape import read_shape
from runner.forecast.what_fits import cap_problem, longest_row
from runner.spec.data_files import matches
from runner.spec.doubtful import doubtful
from runner.spec.spec import JobSpec
from runner.training.checks.at_prepare import conclude, wishes, write_bad_rows
from runner.training.checks.say import End
from runner.training.data.conversation import Conversation
from runner.training.data.findings import BAD_ROWS, Findings
from runner.training.data.flow import Flowed, Source, first_rules, flow, read_again
from runner.training.data.form import SCHEMA_FILE, check_form, read_schema
from runner.training.data.formats import UNDECIDED
from runner.training.data.general import FILE as GENERAL_FILE
from runner.training.data.general import read_general, write_general
from runner.training.data.growth import Growth, compare, last_rows
from runner.training.data.known_words import WordsDifferError
from runner.training.data.pack import count_sequences
from runner.training.data.preview import leave_preview
from runner.training.data.questions import (
    ALWAYS,
    FILE,
    MOST_ANSWERED,
    Wanted,
    choose,
    write_questions,
)
from runner.training.data.replay import Chosen, add_replayed, choose_replay
from runner.training.data.row_work import Work
from runner.training.data.snapshot import Copied, take_snapshot
from runner.training.data.split import hold_out
from runner.training.data.template import Template
from runner.training.data.template_facts import TemplateFacts
from runner.training.data.token_cache import (
    ASKED,
    PREVIEW,
    SAMPLES_FILE,
    TOKENIZER,
    Entry,
    Kept,
    cache_key,
    find_entry,
    keep_entry,
)
from runner.training.data.token_table import (
    DATA_FILE,
    HELD_OUT,
    LEFT_OUT,
    TRAIN,
    Rows,
    open_row_table,
    read_lengths_of,
    write_data_set_facts,
    write_parted_rows,
    write_parts,
)
from runner.training.data.tokenizer_folder import damaged_file, load_tokenizer, write_tokenizer
from runner.training.data.try_model import Tried, require_known_tokens, try_model
from runner.training.data.workers import Workers
from runner.training.export.refuse_early import refused_export, refused_layers

LEFT_OUT_SHARE = 0.05  # of the rows; more than that is not what the job's owner meant
SAMPLES = 3  # held-out questions that are answered before and after


@dataclass(frozen=True, kw_only=True)
class _Base:
    """The base model as far as its tokenizer and config say."""

    folder: Path
    config: dict[str, Any]
    load: Callable[[], Template]

    @cached_property
    def template(self) -> Template:
        """Load the tokenizer where it is needed: that takes a second and a half.

        Raises:
            ModelError: it cannot be used.
        """
        return self.load()


def prepare(folder: Path) -> None:
    """Carry out the prepare stage whose plan lies in ``folder``.

    Raises:
        InputError: the spec, data or model cannot be used; every problem found is named.
        StageError: the disk is full.
    """
    findings = Findings()
    for name in (folder / BAD_ROWS, RunFolder.containing(folder).findings):
        name.unlink(missing_ok=True)  # of an earlier try
    try:
        _prepare(folder, findings)
    except InputError:
        if findings.problems:
            findings.write_bad_rows(folder)
            write_bad_rows(findings.problems, RunFolder.containing(folder).findings)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StageError(
            "no space was left while the data was prepared",
            exit_code=ExitCode.DISK_FULL,
            kind="disk_full",
            advice="Free space in the outputs folder; the run then goes on.",
        ) from error


def _prepare(folder: Path, findings: Findings) -> None:
    from runner.spec.read_spec import read_spec

    stage, run = StageFolder(folder), RunFolder.containing(folder)
    plan = read_message(stage.plan, PreparePlan)
    dropped = read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml")
    spec = dropped.with_method(plan.method)
    of_export = (spec if plan.method else dropped, run.root)
    base, unusable = _find_base(spec, plan, file=f"{run.job}.yaml", of_export=of_export)
    source = Source(copies=_copies(spec, plan, run, findings), spec=spec)
    schema = _schema(spec, plan, run, findings)
    general = _general(spec, plan, run, findings)
    tables = folder / f"{TEMPORARY_PREFIX}tokens.arrow", folder / f"{TEMPORARY_PREFIX}rows.arrow"
    key = _cache_key(source, base, plan) if not findings.problems else None
    entry = find_entry(Path(plan.token_cache), key) if plan.token_cache and key else None
    parted = _part_rows(spec, source, base, entry.rows, plan, findings) if entry and base else None
    if entry and parted and entry.parts_alike(parted.part):
        flowed = _take_entry(entry, findings)
    else:
        entry = parted = None
        base, unusable, flowed = _tokenise((base, unusable), source, plan, tables, findings)
    _refuse(unusable, findings)
    assert base is not None  # else it was refused
    facts = entry.template if entry else TemplateFacts.of(base.template)
    parted = parted or _part_rows(spec, source, base, tables[1], plan, findings)
    rows, part, limit = parted.rows, parted.part, parted.limit
    of_form = _check_form(spec, schema, source, flowed, findings)
    notes = list(findings.notes)
    held = rows.row[parted.held]
    end = _end(spec, facts, (held, limit), findings)
    found = _findings(entry, flowed, end, run)
    growth = _growth(plan, rows)
    for place in _places(source, parted.left_out):
        findings.note(f"longer than {limit} tokens left out", *place)
    # After the rows: a slip in them is answered without the seconds this takes.
    tried = _tried(spec, plan, base, max(flowed.highest, facts.pad), parted, file=f"{run.job}.yaml")

    lengths, measured = (
        _link_tables(folder, entry) if entry else _write_tables(folder, tables, flowed, parted)
    )
    for table in tables:
        table.unlink(missing_ok=True)
    # Hundreds of megabytes reach the disk while the rest is made.
    aside = ThreadPoolExecutor(1)
    synced = [aside.submit(sync_tree, folder / name) for name in ("train", "eval")]
    write_lengths(run.lengths, _summed(lengths))
    if not (entry and entry.link_asked(_wanted(spec), folder)):
        _leave_questions(folder, facts, source, flowed, (rows, part))
    _leave_tokenizer(folder, run, base, entry, lengths)
    if plan.token_cache and key and not entry:
        kept = Kept(
            flowed=flowed,
            template=facts,
            notes=notes,
            row_numbered=sorted(findings.row_numbered),
            end=end,
            findings=found,
            wanted=_wanted(spec),
        )
        keep_entry(Path(plan.token_cache), key, _tables(run), kept)
    if schema is not None:
        write_json(folder / SCHEMA_FILE, schema)
    if general:
        write_general(folder / GENERAL_FILE, general, facts)
    for one in synced:
        one.result()
    sync_tree(folder)

    sequences = count_sequences(lengths, limit) if spec.training.packing else len(lengths)
    asked = spec.for_rows(sequences)
    write_message(
        stage.result,
        PrepareResult(
            data=tuple(
                DataFile(path=one.named, sha256=one.sha256, bytes=one.size, rows=count)
                for one, count in zip(source.copies, flowed.counts, strict=True)
            ),
            model=describe_model(base.folder, spec.model),
            train_rows=sequences,
            eval_rows=len(measured),
            eval_tokens=int(measured.sum()),
            left_out_rows=int((part == LEFT_OUT).sum()),
            train_tokens=int(lengths.sum()),
            learned_tokens=parted.learned_tokens,
            longest=parted.longest,
            max_length=limit,
            chat_template=facts.chat_template,
            end_tokens=facts.end_tokens,
            folds_system=facts.folds_system,
            total_steps=total_steps(
                sequences,
                effective_batch_size=asked.effective_batch_size,
                epochs=asked.epochs,
                max_steps=asked.training.max_steps,
            ),
            effective_batch_size=asked.effective_batch_size,
            trainable_parameters=tried and tried.trainable_parameters,
            fast=tried is not None and tried.plain_because is None,
            plain_because=tried and tried.plain_because,
            findings=found,
            row_numbered=tuple(sorted(findings.row_numbered)),
            shortfalls=(
                *doubtful(spec),
                *([note] if (note := language_part_note(base.config)) else []),
                *facts.shortfalls,
                *findings.notes,
                *findings.of_files,
                *parted.told,
                *of_form,
                *([growth.sentence()] if growth and growth.differs else []),
            ),
            replay=parted.replayed and parted.replayed.facts,
            data_change=growth and growth.as_record(),
        ),
    )


def total_steps(
    rows: int, *, effective_batch_size: int, epochs: float, max_steps: int | None
) -> int:
    """Count optimizer steps as Trainer does: whole steps an epoch, the last window partial."""
    if max_steps is not None:
        return max_steps
    return math.ceil(epochs * math.ceil(rows / effective_batch_size))


def _find_base(
    spec: JobSpec, plan: PreparePlan, *, file: str, of_export: tuple[JobSpec, Path]
) -> tuple[_Base | None, ModelError | None]:
    """Find the model; what is wrong with it is told together with what is wrong with the data.

    ``of_export``: the spec, with its method still left to the box where it is, and the outputs.
    """
    try:
        model = find_model(Path(plan.models_dir), spec.model, method=spec.named_method)
        config = read_config(model, spec.model)
    except ModelError as error:
        return None, error
    if too_low := cap_problem(spec, read_shape(config)):
        raise SpecError([replace(too_low, file=file)])
    field = spec.export.gguf_field
    if field and (cannot := gguf_problem(field, config)):
        raise SpecError([replace(cannot, file=file)])
    wish, outputs = of_export
    if refused := refused_export(wish, model, config, outputs):
        raise SpecError([replace(refused, file=file)])
    if spec.speed == "fp8" and plan.no_fp8:
        what = Problem(field="speed", found="fp8", message=plan.no_fp8, hint=FP8_HINT)
        raise SpecError([replace(what, file=file)])

    def load() -> Template:
        return Template(
            _load_tokenizer(model, plan, name=spec.model),
            name=spec.model,
            embedding_rows=table_of_words(config),
        )

    return _Base(folder=model, config=config, load=load), None


def _with_template(
    base: _Base | None, unusable: ModelError | None
) -> tuple[_Base | None, ModelError | None]:
    """Load the base's tokenizer; what is wrong with it is told together with the data's faults."""
    try:
        if base is not None:
            _ = base.template
    except ModelError as error:
        return None, error
    return base, unusable


def _cache_key(source: Source, base: _Base | None, plan: PreparePlan) -> str | None:
    """Name what the tokens follow from; None: with old rows among them, it is more than that."""
    if base is None or plan.replay_from is not None:
        return None
    return cache_key(source, base.folder, plan)


def _work(base: _Base | None, spec: JobSpec, plan: PreparePlan) -> Work:
    """Say what is done to every row; the first rows have yet to decide how they are read."""
    return Work(
        rules=UNDECIDED,
        model=base.folder if base else None,
        model_name=spec.model,
        embedding_rows=table_of_words(base.config) if base else None,
        trust_remote_code=plan.trust_remote_code,
    )


def _tokenise(
    found: tuple[_Base | None, ModelError | None],
    source: Source,
    plan: PreparePlan,
    tables: tuple[Path, Path],
    findings: Findings,
) -> tuple[_Base | None, ModelError | None, Flowed]:
    """Tokenise all rows by the base model that was found, or read them where it is unusable."""
    base, unusable = found
    workers = Workers(_work(base, source.spec, plan))
    try:
        if base is not None and not findings.problems:
            workers.start_for(sum(copy.size for copy in source.copies))
        base, unusable = _with_template(base, unusable)
        template, work = base.template if base else None, _work(base, source.spec, plan)
        return base, unusable, _flow(source, template, work, tables, findings, workers)
    finally:
        workers.end()


def _copies(spec: JobSpec, plan: PreparePlan, run: RunFolder, findings: Findings) -> list[Copied]:
    """Take the snapshot."""
    return take_snapshot(
        list(dict.fromkeys([*spec.data, *(spec.eval_data or ())])),
        inbox=Path(plan.jobs_dir),
        spec_folder=plan.spec_folder,
        target=run.data,
        findings=findings,
        known=[Path(known) for known in plan.known_data],
    )


def _leave_questions(
    folder: Path,
    template: TemplateFacts,
    source: Source,
    flowed: Flowed,
    parted: tuple[Rows, Any],
) -> None:
    """Read the rows that are asked once more, and write them as questions."""
    rows, part = parted
    if flowed.rules is UNDECIDED:  # the tokens are those of an earlier run
        flowed.rules = first_rules(source)
    sampled = np.flatnonzero((part == HELD_OUT) & rows.askable)[:SAMPLES].tolist()
    chosen = choose(rows, part, _wanted(source.spec))
    wanted = sorted({at for some in (sampled, *chosen.values()) for at in some})
    asked = rows.few(wanted)
    lines = {int(row): int(line) for row, line in zip(asked.row, asked.line, strict=True)}
    read = read_again(source, flowed.rules, flowed.counts, sorted(lines), lines)
    found = {conversation.row: conversation for conversation in read}
    samples = [found[n] for n in map(int, rows.few(sampled).row) if n in found]
    write_json(folder / SAMPLES_FILE, [_sample(template, one) for one in samples])
    number = {at: place for place, at in enumerate(wanted)}
    places = {part: [number[at] for at in some] for part, some in chosen.items()}
    write_questions(folder / FILE, template, found, (asked, places))


def _schema(
    spec: JobSpec, plan: PreparePlan, run: RunFolder, findings: Findings
) -> dict[str, Any] | None:
    """Read the JSON Schema that answers are held to; its file is copied as the data are."""
    named = spec.evaluation.schema_file
    file = None
    if named is not None:
        copies = _copies_beside(named, plan, run, findings)
        if not copies:
            return None
        file = copies[0].path
    return read_schema(spec.evaluation.json_schema, file, named=named)


def _general(
    spec: JobSpec, plan: PreparePlan, run: RunFolder, findings: Findings
) -> list[Conversation]:
    """Read the questions that the model has to go on knowing, where the spec names a file."""
    named = spec.evaluation.general
    if named is None:
        return []
    copies = _copies_beside(named, plan, run, findings)
    return read_general(copies, spec, findings) if copies else []


def _copies_beside(
    named: str, plan: PreparePlan, run: RunFolder, findings: Findings
) -> list[Copied]:
    """Copy a file that is no data; the data's files are named after it as before."""
    files = findings.files
    copies = take_snapshot(
        [named],
        inbox=Path(plan.jobs_dir),
        spec_folder=plan.spec_folder,
        target=run.data,
        findings=findings,
    )
    findings.files = (*files, named)
    return copies


def _check_form(
    spec: JobSpec,
    schema: dict[str, Any] | None,
    source: Source,
    flowed: Flowed,
    findings: Findings,
) -> list[str]:
    """Hold the data's own answers to what the spec's evaluation asks for."""
    if not spec.evaluation.asks:
        return []
    from runner.training.evaluate.scores import Scorer

    if flowed.rules is UNDECIDED:  # the tokens are those of an earlier run
        flowed.rules = first_rules(source)
    scorer = Scorer(spec.evaluation, schema=schema)
    return check_form(spec.evaluation, scorer, source, flowed, findings)


def _wanted(spec: JobSpec) -> Wanted:
    """Say how many rows are put down for the evaluation."""
    wish = spec.evaluation
    answered = MOST_ANSWERED if wish.samples == "auto" else wish.samples
    return Wanted(
        answered=answered,
        examples=wish.examples,
        seed=wish.seed,
        answered_for_people=min(ALWAYS, answered),
    )


def _refuse(unusable: ModelError | None, findings: Findings) -> None:
    """End where anything is wrong with the model or the rows."""
    if unusable and findings.problems:
        raise InputError([*unusable.problems, *findings.problems])
    if unusable:
        raise unusable
    if findings.problems:
        raise DataError(findings.problems)


def _load_tokenizer(model: Path, plan: PreparePlan, *, name: str) -> Any:
    """Load a model's tokenizer.

    Raises:
        ModelError: a file or a library that it needs is missing; transformers says which.
    """
    try:
        return load_tokenizer(model, trust_remote_code=plan.trust_remote_code)
    except (ValueError, ImportError, KeyError, TypeError, OSError) as error:
        library = " ".join(str(error).split())[:300].replace(str(model), name)
        said = damaged_file(model) or library
        what = f"the model's tokenizer cannot be read: {said}"
        again = f"Fetch the model again ({fetch_command(name)}), or choose one with tokenizer.json."
        problem = Problem(field="model", found=name, message=what, hint=again)
        raise ModelError([problem]) from error


def _is_measured(one: Copied, spec: JobSpec) -> bool:
    """Whether a file is one of the spec's eval_data, also where a pattern of data names it, too."""
    return any(matches(one.named, entry) for entry in spec.eval_data or ())


def _divide(spec: JobSpec, source: Source, rows: Rows) -> tuple[Any, list[str]]:
    """Say by row whether it is held out, and what the job's owner should know of that."""
    if spec.eval_data:
        measured = [n for n, one in enumerate(source.copies) if _is_measured(one, spec)]
        held = np.isin(rows.file, measured)
        if not held.any():
            return held, [
                "no row is held out: all rows of eval_data are marked as not to be learned"
            ]
        return held, [what_rows_show(int(held.sum()))]
    held, _ = hold_out(rows.place, spec.eval_split)
    if spec.eval_split == 0:
        return held, []
    if len(rows) == 1:
        return held, ["no row is held out: there is only one"]
    if not held.any():
        return held, ["no row is held out: all of them ask the same"]
    return held, [what_rows_show(int(held.sum()))]


def what_rows_show(held_out: int) -> str:
    """Say what a measurement on so many rows can show, and what not."""
    rows = "1 row is" if held_out == 1 else f"{held_out} rows are"
    points = smallest_points(held_out)
    if points is None:
        return f"{rows} held out to measure the result: too few to show any difference for sure"
    return (
        f"{rows} held out to measure the result: where right and wrong answers are counted on so "
        f"few, a difference of up to about {points:.0f} in 100 may be chance"
    )


def _max_length(spec: JobSpec, lengths: Any, context: int | None, card: int | None) -> int:
    """Choose the length limit: what the spec says, or the longest row that can be trained.

    Args:
        spec: the job's.
        lengths: the longest example of each row.
        context: tokens that the model reads at most.
        card: tokens that the card has the memory for. Where that would leave out more than a few
            rows it does not count: the run's own end then tells every way to make it fit.
    """
    longest = int(lengths.max())
    wanted = spec.training.max_length
    if wanted == "auto":
        if card and (lengths > card).sum() > LEFT_OUT_SHARE * len(lengths):
            card = None
        return min(longest, context or longest, card or longest)
    if context is not None and wanted > context:
        what = f"max_length is {wanted}, but the model reads at most {context} tokens"
        hint = f"Write max_length: {context} or less, or delete the line: auto then chooses."
        problem = Problem(field="training.max_length", message=what, hint=hint)
        raise DataError([replace(problem, allowed=f"≤ {context}")])
    return wanted


def _card_length(
    spec: JobSpec, lengths: Any, config: dict[str, Any], plan: PreparePlan
) -> int | None:
    """Forecast the longest row that the card has the memory for; None: every row, or not known."""
    shape = read_shape(config)
    if shape is None or plan.gpu_memory_bytes is None:
        return None
    work = forecast_work.Work.of(spec, shape, _summed(lengths), total_steps=1)
    return longest_row(work, forecast_work.Box(budget_bytes=plan.gpu_memory_bytes))


def _summed(lengths: Any) -> Lengths:
    found, counts = np.unique(lengths, return_counts=True)
    return Lengths.counted(dict(zip(found.tolist(), counts.tolist(), strict=True)))


@dataclass(frozen=True, kw_only=True)
class _Parted:
    """The rows, and what becomes of each."""

    rows: Rows
    held: Any
    """By row, whether it is held out."""
    told: list[str]
    """What the job's owner should know of the held-out rows."""
    limit: int
    """Tokens of the longest row that is kept."""
    part: Any
    left_out: Rows
    """Those that are longer."""
    replayed: Chosen | None = None
    """Old rows that are learned again; None: none were asked for."""

    @property
    def learned_tokens(self) -> int:
        """Tokens in one epoch that the loss counts."""
        more = self.replayed.learned_tokens if self.replayed else 0
        return int(self.rows.learned[self.part == TRAIN].sum()) + more

    @property
    def longest(self) -> int:
        """Tokens of the longest row that is not left out."""
        more = self.replayed.longest if self.replayed else 0
        return max(int(self.rows.longest[self.part != LEFT_OUT].max()), more)


def _part_rows(
    spec: JobSpec, source: Source, base: _Base, table: Path, plan: PreparePlan, findings: Findings
) -> _Parted:
    """Decide what becomes of each row."""
    rows = open_row_table(table)
    held, told = _divide(spec, source, rows)
    limit = _max_length(
        spec,
        rows.longest,
        longest_context(base.config),
        _card_length(spec, rows.longest, base.config, plan),
    )
    part, left_out = _parts(source, rows, held, limit, findings)
    parted = _Parted(rows=rows, held=held, told=told, limit=limit, part=part, left_out=left_out)
    replayed = _replayed(spec, plan, parted)
    if replayed is None:
        return parted
    return replace(parted, part=replayed.part, told=[*told, *replayed.notes()], replayed=replayed)


def _replayed(spec: JobSpec, plan: PreparePlan, parted: _Parted) -> Chosen | None:
    """Choose old rows to be learned again; None: none are asked for, or there are none."""
    if spec.replay is None or plan.replay_from is None:
        return None
    return choose_replay(
        Path(plan.replay_from),
        spec.replay,
        rows=parted.rows,
        part=parted.part,
        limit=parted.limit,
        seed=spec.training.seed,
    )


def _flow(
    source: Source,
    template: Template | None,
    work: Work,
    tables: tuple[Path, Path],
    findings: Findings,
    workers: Workers,
) -> Flowed:
    """Tokenise all rows; once more without known words, should they ever differ."""
    before = copy.deepcopy(findings)
    try:
        return flow(source, template, work, tables, findings, workers=workers)
    except WordsDifferError:
        print("known words differ from the tokenizer: all is read by the tokenizer alone")
    findings.__dict__.update(before.__dict__)
    if template is not None:
        template.give_noted()
        template.use_no_words()
    return flow(source, template, replace(work, use_words=False), tables, findings)


def _tried(
    spec: JobSpec, plan: PreparePlan, base: _Base, highest: int, parted: _Parted, *, file: str
) -> Tried | None:
    """Try the model on the longest row, and whether it knows every token; None: nobody asks."""
    if not plan.try_model:
        return None
    longest = int(parted.rows.longest[parted.part != LEFT_OUT].max())
    trust = plan.trust_remote_code
    tried = try_model(base.folder, spec, longest=longest, trust_remote_code=trust)
    require_known_tokens(highest, tried, model=spec.model)
    if refused := refused_layers(spec, base.folder, tried.layers):
        raise SpecError([replace(refused, file=file)])
    return tried


def _leave_tokenizer(
    folder: Path, run: RunFolder, base: _Base, entry: Entry | None, lengths: Any
) -> None:
    """Write the tokenizer and a preview, or take those of the run whose tokens these are."""
    if entry is None:
        template = base.template
        write_tokenizer(template, base.folder, folder / "tokenizer")
        leave_preview(folder, run.preview, template.tokenizer, lengths, template.ends)
        return
    run.preview.unlink(missing_ok=True)  # of an earlier try
    entry.link(PREVIEW, run.preview)
    entry.give_tokenizer(folder / "tokenizer")


def _growth(plan: PreparePlan, rows: Rows) -> Growth | None:
    """Say how the rows differ from those of the job's last run."""
    before = last_rows([Path(folder) for folder in plan.earlier_runs])
    return compare(before, rows) if before is not None else None


def _take_entry(entry: Entry, findings: Findings) -> Flowed:
    """Let what an earlier run found of the same rows stand as if they had been read now."""
    findings.known_notes += entry.notes
    findings.row_numbered |= set(entry.row_numbered)
    return entry.flowed


def _write_tables(
    folder: Path, tables: tuple[Path, Path], flowed: Flowed, parted: _Parted
) -> tuple[Any, Any]:
    """Write the data sets and the table of rows; give the lengths of what is learned and held."""
    part_of_row: Any = np.full(flowed.total, LEFT_OUT, "int8")
    part_of_row[parted.rows.row] = parted.part
    targets = [(TRAIN, folder / "train"), (HELD_OUT, folder / "eval")]
    lengths, measured = write_parts(tables[0], targets, part_of_row)
    write_parted_rows(tables[1], folder / "rows.arrow", parted.part)
    if parted.replayed is not None:
        add_replayed(folder, parted.replayed, first_row=flowed.total)
        lengths = read_lengths_of(folder / "train" / DATA_FILE)
    return lengths, measured


def _tables(run: RunFolder) -> dict[str, Path]:
    """Give the files that the cache keeps, by their names there."""
    folder = run.prepared
    named = {
        **{f"{TOKENIZER}{path.name}": path for path in (folder / "tokenizer").iterdir()},
        **{name: folder / name for name in ASKED},
        PREVIEW: run.preview,
        "train.arrow": folder / "train" / DATA_FILE,
        "eval.arrow": folder / "eval" / DATA_FILE,
        "rows.arrow": folder / "rows.arrow",
    }
    return {name: path for name, path in named.items() if path.exists()}


def _link_tables(folder: Path, entry: Entry) -> tuple[Any, Any]:
    """Take the tables of an earlier run; give the lengths of what is learned and held."""
    (folder / "rows.arrow").unlink(missing_ok=True)  # of an earlier try
    entry.link("rows.arrow", folder / "rows.arrow")
    for name in ("train", "eval"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
        if entry.link(f"{name}.arrow", folder / name / DATA_FILE):
            write_data_set_facts(folder / name)
        else:
            (folder / name).rmdir()
    return tuple(read_lengths_of(folder / name / DATA_FILE) for name in ("train", "eval"))


def _findings(
    entry: Entry | None, flowed: Flowed, end: End, run: RunFolder
) -> tuple[DataFinding, ...]:
    """Conclude the checks, or take what they found before."""
    known = entry.found(end) if entry else None
    if known is None:
        checks = entry.checks() if entry else flowed.checks
        return conclude(checks, end, run.findings)
    write_findings(run.findings, known)
    return known


def _end(
    spec: JobSpec, template: TemplateFacts, parted: tuple[Any, int], findings: Findings
) -> End:
    """Say what the checks must know; ``parted`` are the held-out rows and the limit of the rest."""
    return End(
        held_out=parted[0],
        max_length=parted[1],
        epochs=spec.epochs,
        ending=frozenset(template.ending),
        row_numbered=frozenset(findings.row_numbered),
        wishes=wishes(spec),
    )


def _parts(
    source: Source, rows: Rows, held: Any, limit: int, findings: Findings
) -> tuple[Any, Rows]:
    """Say by row whether it is learned, held out, or left out because it would lose tokens.

    Returns:
        That, and those left out.

    Raises:
        DataError: more than 5% would be left out, or none is left to learn from.
    """
    left_out = rows.longest > limit
    longer = rows.few(np.flatnonzero(left_out))
    if len(longer) > LEFT_OUT_SHARE * len(rows):
        by_length = np.sort(rows.longest)
        enough = by_length[math.ceil((1 - LEFT_OUT_SHARE) * len(rows)) - 1]
        what = f"the row is longer than {limit} tokens (so are {len(longer)} of {len(rows)} rows)"
        hint = (
            f"max_length: {by_length[-1]} keeps every row, {enough} keeps 95% of them. Or cut "
            "these rows into shorter ones."
        )
        for file, line in _places(source, longer):
            findings.add(file, line, what, hint=hint)
        raise DataError(findings.problems)
    part = np.where(left_out, LEFT_OUT, np.where(held, HELD_OUT, TRAIN)).astype("int8")
    if not (part == TRAIN).any():
        what = "no row is left to learn from"
        hint = "Add rows, or write eval_split: 0 into the spec (none is held out)."
        raise DataError([Problem(message=what, hint=hint)])
    return part, longer


def _places(source: Source, rows: Rows) -> Iterator[tuple[str, int]]:
    """Give file and line of each row, without a list of them: there may be millions."""
    for file, line in zip(rows.file, rows.line, strict=True):
        yield source.copies[file].named, int(line)


def _sample(template: TemplateFacts, row: Conversation) -> dict[str, Any]:
    """Give a held-out question, to be answered before and after."""
    return {"messages": template.prompt_messages(row), "reference": row.messages[-1]["content"]}
