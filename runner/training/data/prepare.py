"""Prepare: a job spec and its data files become tokenised rows to train on.

    python -m runner.training prepare RUN/prepared

Read `prepare` top to bottom: snapshot, rows, conversations, split, tokens, lengths, records.
"""

from __future__ import annotations

import copy
import errno
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.contract.findings import DataFinding, write_findings
from runner.contract.layout import RunFolder, StageFolder
from runner.contract.model_kind import language_part_note
from runner.contract.models import describe_model, table_of_words
from runner.contract.record import DataFile
from runner.contract.stage_io import PreparePlan, PrepareResult, read_message, write_message
from runner.errors import DataError, InputError, ModelError, SpecError, StageError
from runner.exit_codes import ExitCode
from runner.files.durable import TEMPORARY_PREFIX, sync_tree, write_json
from runner.forecast.lengths import write_lengths
from runner.spec.doubtful import doubtful
from runner.spec.field_lines import with_lines
from runner.spec.spec import JobSpec
from runner.training.checks.at_prepare import conclude, wishes, write_bad_rows
from runner.training.checks.say import End
from runner.training.data.base import Base, find_base, with_template
from runner.training.data.files_beside import copies_of, general_of, schema_of
from runner.training.data.findings import BAD_ROWS, Findings
from runner.training.data.flow import Flowed, Source, first_rules, flow
from runner.training.data.form import SCHEMA_FILE, check_form
from runner.training.data.formats import UNDECIDED
from runner.training.data.general import FILE as GENERAL_FILE
from runner.training.data.general import write_general
from runner.training.data.growth import Growth, compare, last_rows
from runner.training.data.known_words import WordsDifferError
from runner.training.data.leave_questions import leave_questions, rows_wanted
from runner.training.data.pack import count_sequences
from runner.training.data.part_rows import Parted, part_rows, places, summed
from runner.training.data.row_work import Work
from runner.training.data.start import look_at_adapter
from runner.training.data.tables import kept_files, leave_tokenizer, link_tables, write_tables
from runner.training.data.template import Template
from runner.training.data.template_facts import TemplateFacts
from runner.training.data.token_cache import Entry, Kept, cache_key, find_entry, keep_entry
from runner.training.data.token_table import LEFT_OUT, Rows
from runner.training.data.try_model import Tried, require_known_tokens, try_model
from runner.training.data.workers import Workers
from runner.training.export.refuse_early import refused_layers

_ENTRY = f"{TEMPORARY_PREFIX}entry"  # links to the files of the cache that are taken


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
    except InputError as error:
        run = RunFolder.containing(folder)
        error.reword(with_lines(error.problems, run.spec.read_bytes(), f"{run.job}.yaml"))
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
    finally:
        shutil.rmtree(folder / _ENTRY, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class _Made:
    """What the stage has made and found out: the result says it."""

    spec: JobSpec
    base: Base
    source: Source
    flowed: Flowed
    parted: Parted
    facts: TemplateFacts
    tried: Tried | None
    growth: Growth | None
    findings: Findings
    found: tuple[DataFinding, ...]
    of_form: list[str]
    lengths: Any
    """Tokens of each row that is learned."""
    measured: Any
    """Tokens of each row that is held out."""

    def result(self) -> PrepareResult:
        """Say it to the daemon."""
        spec, parted, facts, tried = self.spec, self.parted, self.facts, self.tried
        limit, lengths, growth = parted.limit, self.lengths, self.growth
        sequences = count_sequences(lengths, limit) if spec.training.packing else len(lengths)
        asked = spec.for_rows(sequences)
        return PrepareResult(
            data=tuple(
                DataFile(path=one.named, sha256=one.sha256, bytes=one.size, rows=count)
                for one, count in zip(self.source.copies, self.flowed.counts, strict=True)
            ),
            model=describe_model(self.base.folder, spec.model),
            train_rows=sequences,
            eval_rows=len(self.measured),
            eval_tokens=int(self.measured.sum()),
            left_out_rows=int((parted.part == LEFT_OUT).sum()),
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
            findings=self.found,
            row_numbered=tuple(sorted(self.findings.row_numbered)),
            shortfalls=self._shortfalls(),
            start=parted.start,
            replay=parted.replayed and parted.replayed.facts,
            data_change=growth and growth.as_record(),
        )

    def _shortfalls(self) -> tuple[str, ...]:
        growth = self.growth
        note = language_part_note(self.base.config)
        return (
            *doubtful(self.spec),
            *([note] if note else []),
            *self.facts.shortfalls,
            *self.findings.notes,
            *self.findings.of_files,
            *self.parted.told,
            *self.of_form,
            *([growth.sentence()] if growth and growth.differs else []),
        )


def _prepare(folder: Path, findings: Findings) -> None:
    from runner.spec.read_spec import read_spec

    stage, run = StageFolder(folder), RunFolder.containing(folder)
    plan = read_message(stage.plan, PreparePlan)
    dropped = read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml")
    spec = dropped.with_method(plan.method)
    of_export = (spec if plan.method else dropped, run.root)
    base, unusable = find_base(spec, plan, file=f"{run.job}.yaml", of_export=of_export)
    source = Source(copies=copies_of(spec, plan, run, findings), spec=spec)
    schema = schema_of(spec, plan, run, findings)
    general = general_of(spec, plan, run, findings)
    tables = folder / f"{TEMPORARY_PREFIX}tokens.arrow", folder / f"{TEMPORARY_PREFIX}rows.arrow"
    key = _cache_key(source, base, plan) if not findings.problems else None
    entry = _find_entry(plan, key, folder)
    in_use = look_at_adapter(plan, spec, run.spec.read_bytes(), base) if base else None
    if entry and base:
        parted = part_rows(spec, source, base, entry.rows, plan, findings, in_use)
    else:
        parted = None
    if entry and parted and entry.parts_alike(parted.part):
        flowed = _take_entry(entry, findings)
    else:
        entry = parted = None
        base, unusable, flowed = _tokenise((base, unusable), source, plan, tables, findings)
    _refuse(unusable, findings)
    assert base is not None  # else it was refused
    facts = entry.template if entry else TemplateFacts.of(base.template)
    parted = parted or part_rows(spec, source, base, tables[1], plan, findings, in_use)
    rows, limit = parted.rows, parted.limit
    of_form = _check_form(spec, schema, source, flowed, findings)
    notes = list(findings.notes)
    held = rows.row[parted.held]
    end = _end(spec, facts, (held, limit), findings)
    found = _findings(entry, flowed, end, run)
    growth = _growth(plan, rows)
    for place in places(source, parted.left_out):
        findings.note(f"longer than {limit} tokens left out", *place)
    # After the rows: a slip in them is answered without the seconds this takes.
    tried = _tried(spec, plan, base, max(flowed.highest, facts.pad), parted, file=f"{run.job}.yaml")

    lengths, measured = (
        link_tables(folder, entry) if entry else write_tables(folder, tables, flowed, parted)
    )
    for table in tables:
        table.unlink(missing_ok=True)
    # Hundreds of megabytes reach the disk while the rest is made.
    aside = ThreadPoolExecutor(1)
    synced = [aside.submit(sync_tree, folder / name) for name in ("train", "eval")]
    write_lengths(run.lengths, summed(lengths))
    if not (entry and entry.link_asked(rows_wanted(spec), folder)):
        leave_questions(folder, facts, source, flowed, (rows, parted.part))
    leave_tokenizer(folder, run, base, entry, lengths)
    if plan.token_cache and key and not entry and not parted.replayed:
        kept = Kept(
            flowed=flowed,
            template=facts,
            notes=notes,
            row_numbered=sorted(findings.row_numbered),
            end=end,
            findings=found,
            wanted=rows_wanted(spec),
        )
        keep_entry(Path(plan.token_cache), key, kept_files(run), kept)
    if schema is not None:
        write_json(folder / SCHEMA_FILE, schema)
    if general:
        write_general(folder / GENERAL_FILE, general, facts)
    for one in synced:
        one.result()
    sync_tree(folder)

    made = _Made(
        spec=spec,
        base=base,
        source=source,
        flowed=flowed,
        parted=parted,
        facts=facts,
        tried=tried,
        growth=growth,
        findings=findings,
        found=found,
        of_form=of_form,
        lengths=lengths,
        measured=measured,
    )
    write_message(stage.result, made.result())


def total_steps(
    rows: int, *, effective_batch_size: int, epochs: float, max_steps: int | None
) -> int:
    """Count optimizer steps as Trainer does: whole steps an epoch, the last window partial."""
    if max_steps is not None:
        return max_steps
    return math.ceil(epochs * math.ceil(rows / effective_batch_size))


def _cache_key(source: Source, base: Base | None, plan: PreparePlan) -> str | None:
    """Name what the tokens follow from; None: with old rows among them, it is more than that."""
    if base is None or (source.spec.replay is not None and plan.replay_from is not None):
        return None
    return cache_key(source, base.folder, plan)


def _work(base: Base | None, spec: JobSpec, plan: PreparePlan) -> Work:
    """Say what is done to every row; the first rows have yet to decide how they are read."""
    return Work(
        rules=UNDECIDED,
        model=base.folder if base else None,
        model_name=spec.model,
        embedding_rows=table_of_words(base.config) if base else None,
        trust_remote_code=plan.trust_remote_code,
    )


def _tokenise(
    found: tuple[Base | None, ModelError | None],
    source: Source,
    plan: PreparePlan,
    tables: tuple[Path, Path],
    findings: Findings,
) -> tuple[Base | None, ModelError | None, Flowed]:
    """Tokenise all rows by the base model that was found, or read them where it is unusable."""
    base, unusable = found
    workers = Workers(_work(base, source.spec, plan))
    try:
        if base is not None and not findings.problems:
            workers.start_for(sum(copy.size for copy in source.copies))
        base, unusable = with_template(base, unusable)
        template, work = base.template if base else None, _work(base, source.spec, plan)
        return base, unusable, _flow(source, template, work, tables, findings, workers)
    finally:
        workers.end()


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


def _refuse(unusable: ModelError | None, findings: Findings) -> None:
    """End where anything is wrong with the model or the rows."""
    if unusable and findings.problems:
        raise InputError([*unusable.problems, *findings.problems])
    if unusable:
        raise unusable
    if findings.problems:
        raise DataError(findings.problems)


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
    spec: JobSpec, plan: PreparePlan, base: Base, highest: int, parted: Parted, *, file: str
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


def _growth(plan: PreparePlan, rows: Rows) -> Growth | None:
    """Say how the rows differ from those of the job's last run."""
    before = last_rows([Path(folder) for folder in plan.earlier_runs])
    return compare(before, rows) if before is not None else None


def _find_entry(plan: PreparePlan, key: str | None, folder: Path) -> Entry | None:
    if plan.token_cache is None or key is None:
        return None
    return find_entry(Path(plan.token_cache), key, folder / _ENTRY)


def _take_entry(entry: Entry, findings: Findings) -> Flowed:
    """Let what an earlier run found of the same rows stand as if they had been read now."""
    findings.known_notes += entry.notes
    findings.row_numbered |= set(entry.row_numbered)
    return entry.flowed


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
