"""Prepare: a job spec and its data files become tokenised rows to train on.

    python -m runner.training prepare RUN/prepared

Read `prepare` top to bottom: snapshot, rows, conversations, split, tokens, lengths, records.
"""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from runner.contract.findings import DataFinding
from runner.contract.layout import RunFolder, StageFolder
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
from runner.files.durable import sync_tree, write_json
from runner.forecast.lengths import Lengths, write_lengths
from runner.forecast.model_shape import read_shape
from runner.forecast.what_fits import cap_problem, longest_row
from runner.forecast.work import Box, Work
from runner.spec.spec import JobSpec
from runner.training.checks.at_prepare import conclude, wishes, write_bad_rows
from runner.training.checks.checks import Checks
from runner.training.checks.row import seen
from runner.training.checks.say import End
from runner.training.data.conversation import Conversation, UnlearnableRowError
from runner.training.data.findings import BAD_ROWS, Findings
from runner.training.data.formats import to_conversations
from runner.training.data.pack import count_sequences
from runner.training.data.rows import read_rows
from runner.training.data.snapshot import Copied, take_snapshot
from runner.training.data.split import shared_prompts, split
from runner.training.data.template import IGNORED, Example, Template
from runner.training.data.tokenizer_folder import load_tokenizer, write_tokenizer
from runner.training.data.try_model import require_known_tokens, try_model

LEFT_OUT_SHARE = 0.05  # of the rows; more than that is not what the job's owner meant
SAMPLES = 3  # held-out questions that are answered before and after


@dataclass(frozen=True, kw_only=True)
class Tokenised:
    """One row with its examples."""

    source: Conversation
    examples: list[Example]

    @property
    def longest(self) -> int:
        """Tokens in its longest example."""
        return max(len(example.input_ids) for example in self.examples)


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
    spec = read_spec(run.spec.read_bytes(), file_name=f"{run.job}.yaml")
    model, conversations, copies, counts = _inputs(spec, plan, run, findings)
    config = read_config(model, spec.model)
    template = Template(
        _load_tokenizer(model, plan, name=spec.model),
        name=spec.model,
        embedding_rows=table_of_words(config),
    )
    train, held_out, shortfalls = _divide(spec, conversations)
    tokenised = _tokenise(template, [*train, *held_out], findings)
    limit = _max_length(
        spec, tokenised, longest_context(config), _card_length(spec, tokenised, config, plan)
    )
    kept, left_out = _leave_out_longer(tokenised, limit, findings)
    held_rows = {conversation.row for conversation in held_out}
    learn = [row for row in kept if row.source.row not in held_rows]
    measure = [row for row in kept if row.source.row in held_rows]
    if not learn:
        raise DataError(
            [
                Problem(
                    message="no row is left to learn from",
                    hint="Add rows, or write eval_split: 0 into the spec (none is held out).",
                )
            ]
        )
    found = _check(spec, template, tokenised, (held_rows, limit), findings, run)
    if left_out:
        _name_left_out(left_out, limit, findings)
    tried = None
    if plan.try_model:  # after the rows: a slip in them is answered without the seconds this takes
        longest = max(row.longest for row in kept)
        tried = try_model(model, spec, longest=longest, trust_remote_code=plan.trust_remote_code)
        ids = (max(e.input_ids, default=0) for row in kept for e in row.examples)
        pad = template.tokenizer.pad_token_id
        require_known_tokens(max([*ids, pad]), tried, model=spec.model)

    lengths = _save(folder / "train", learn)
    measured = _save(folder / "eval", measure)
    write_lengths(run.lengths, lengths)
    write_json(folder / "samples.json", _samples(template, measure))
    write_tokenizer(template, model, folder / "tokenizer")
    sync_tree(folder)

    sequences = count_sequences(lengths, limit) if spec.training.packing else len(lengths)
    learned = sum(
        label != IGNORED for row in learn for example in row.examples for label in example.labels
    )
    write_message(
        stage.result,
        PrepareResult(
            data=tuple(
                DataFile(path=c.named, sha256=c.sha256, bytes=c.size, rows=counts[c.named])
                for c in copies
            ),
            model=describe_model(model, spec.model),
            train_rows=sequences,
            eval_rows=len(measured),
            eval_tokens=sum(measured),
            left_out_rows=len(left_out),
            train_tokens=sum(lengths),
            learned_tokens=learned,
            longest=max(row.longest for row in kept),
            max_length=limit,
            chat_template=template.chat_template,
            end_tokens=tuple(map(template.tokenizer.convert_ids_to_tokens, template.ends)),
            folds_system=template.folds_system,
            total_steps=total_steps(
                sequences,
                effective_batch_size=spec.effective_batch_size,
                epochs=spec.epochs,
                max_steps=spec.training.max_steps,
            ),
            trainable_parameters=tried and tried.trainable_parameters,
            fast=tried is not None and tried.plain_because is None,
            plain_because=tried and tried.plain_because,
            findings=found,
            shortfalls=(
                *([note] if (note := language_part_note(config)) else []),
                *template.shortfalls,
                *findings.notes,
                *shortfalls,
            ),
        ),
    )


def _check(
    spec: JobSpec,
    template: Template,
    rows: Sequence[Tokenised],
    parted: tuple[set[int], int],
    findings: Findings,
    run: RunFolder,
) -> tuple[DataFinding, ...]:
    """Check all rows; ``parted`` are the held-out ones and the limit of the rest."""
    checks = Checks()
    for row in rows:
        checks.see(seen(row.source, row.examples))
    end = End(
        held_out=np.array(sorted(parted[0]), dtype=np.int64),
        max_length=parted[1],
        epochs=spec.epochs,
        ending=frozenset(template.ending),
        row_numbered=frozenset(findings.row_numbered),
        wishes=wishes(spec),
    )
    return conclude(checks, end, run.findings)


def total_steps(
    rows: int, *, effective_batch_size: int, epochs: float, max_steps: int | None
) -> int:
    """Count optimizer steps as Trainer does: whole steps an epoch, the last window partial."""
    if max_steps is not None:
        return max_steps
    return math.ceil(epochs * math.ceil(rows / effective_batch_size))


def _inputs(
    spec: JobSpec, plan: PreparePlan, run: RunFolder, findings: Findings
) -> tuple[Path, list[Conversation], list[Copied], dict[str, int]]:
    """Find the model and read every file; what is wrong with any of them is told together."""
    unusable: ModelError | None = None
    try:
        model = find_model(Path(plan.models_dir), spec.model, method=spec.method)
        config = read_config(model, spec.model)
    except ModelError as error:
        unusable = error
    else:
        if too_low := cap_problem(spec, read_shape(config)):
            raise SpecError([replace(too_low, file=f"{run.job}.yaml")])
    copies = take_snapshot(
        list(dict.fromkeys([*spec.data, *(spec.eval_data or ())])),
        inbox=Path(plan.jobs_dir),
        spec_folder=plan.spec_folder,
        target=run.data,
        findings=findings,
        known=[Path(known) for known in plan.known_data],
    )
    conversations, counts = _read(spec, copies, findings)
    if unusable and findings.problems:
        raise InputError([*unusable.problems, *findings.problems])
    if unusable:
        raise unusable
    if findings.problems:
        raise DataError(findings.problems)
    return model, conversations, copies, counts


def _read(
    spec: JobSpec, copies: Sequence[Copied], findings: Findings
) -> tuple[list[Conversation], dict[str, int]]:
    """Read and check every file; count the rows of each."""
    per_file = {c.named: read_rows(c.path, shown_as=c.named, findings=findings) for c in copies}
    conversations = to_conversations(
        [row for rows in per_file.values() for row in rows],
        data_format=spec.format,
        system_prompt=spec.system_prompt,
        findings=findings,
    )
    return conversations, {named: len(rows) for named, rows in per_file.items()}


def _load_tokenizer(model: Path, plan: PreparePlan, *, name: str) -> Any:
    """Load a model's tokenizer.

    Raises:
        ModelError: a file or a library that it needs is missing; transformers says which.
    """
    try:
        return load_tokenizer(model, trust_remote_code=plan.trust_remote_code)
    except (ValueError, ImportError, KeyError, TypeError, OSError) as error:
        said = " ".join(str(error).split())[:300].replace(str(model), name)
        what = f"the model's tokenizer cannot be read: {said}"
        again = f"Fetch the model again ({fetch_command(name)}), or choose one with tokenizer.json."
        problem = Problem(field="model", found=name, message=what, hint=again)
        raise ModelError([problem]) from error


def _divide(
    spec: JobSpec, conversations: Sequence[Conversation]
) -> tuple[list[Conversation], list[Conversation], list[str]]:
    """Say which rows are learned and which are held out."""
    if spec.eval_data:
        held = [c for c in conversations if c.file in spec.eval_data]
        train = [c for c in conversations if c.file not in spec.eval_data]
        shared = shared_prompts(train, held)
        told = f"{shared} of {len(held)} rows of eval_data ask what is also learned"
        return train, held, [*([told] if shared else []), what_rows_show(len(held))]
    parts = split(conversations, spec.eval_split)
    train = [conversations[i] for i in parts.train]
    held = [conversations[i] for i in parts.held_out]
    if spec.eval_split == 0:
        return train, held, []
    if not held:
        return train, held, ["no row is held out: all of them ask the same"]
    return train, held, [what_rows_show(len(held))]


def what_rows_show(held_out: int) -> str:
    """Say what a measurement on so many rows can show, and what not."""
    rows = "1 row is" if held_out == 1 else f"{held_out} rows are"
    points = smallest_points(held_out)
    if points is None:
        return f"{rows} held out to measure the result: too few to show any difference for sure"
    return (
        f"{rows} held out to measure the result: a difference of less than about {points:.0f} "
        "right answers in 100 cannot be distinguished from chance with so few"
    )


def _tokenise(
    template: Template, conversations: Sequence[Conversation], findings: Findings
) -> list[Tokenised]:
    rows: list[Tokenised] = []
    for conversation in conversations:
        try:
            rows.append(Tokenised(source=conversation, examples=template.encode(conversation)))
        except UnlearnableRowError as error:
            findings.add(conversation.file, conversation.line, str(error), hint=error.hint)
    if findings.problems:
        raise DataError(findings.problems)
    return rows


def _max_length(
    spec: JobSpec, rows: Sequence[Tokenised], context: int | None, card: int | None
) -> int:
    """Choose the length limit: what the spec says, or the longest row that can be trained.

    Args:
        spec: the job's.
        rows: all of them.
        context: tokens that the model reads at most.
        card: tokens that the card has the memory for. Where that would leave out more than a few
            rows it does not count: the run's own end then tells every way to make it fit.
    """
    longest = max(row.longest for row in rows)
    wanted = spec.training.max_length
    if wanted == "auto":
        if card and sum(row.longest > card for row in rows) > LEFT_OUT_SHARE * len(rows):
            card = None
        return min(longest, context or longest, card or longest)
    if context is not None and wanted > context:
        what = f"max_length is {wanted}, but the model reads at most {context} tokens"
        hint = f"Write max_length: {context} or less, or delete the line: auto then chooses."
        problem = Problem(field="training.max_length", message=what, hint=hint)
        raise DataError([replace(problem, allowed=f"≤ {context}")])
    return wanted


def _card_length(
    spec: JobSpec, rows: Sequence[Tokenised], config: dict[str, Any], plan: PreparePlan
) -> int | None:
    """Forecast the longest row that the card has the memory for; None: every row, or not known."""
    shape = read_shape(config)
    if shape is None or plan.gpu_memory_bytes is None:
        return None
    work = Work.of(spec, shape, Lengths.of(row.longest for row in rows), total_steps=1)
    return longest_row(work, Box(budget_bytes=plan.gpu_memory_bytes))


def _leave_out_longer(
    rows: Sequence[Tokenised], limit: int, findings: Findings
) -> tuple[list[Tokenised], list[Tokenised]]:
    """Part the rows that fit from those that would lose tokens.

    Raises:
        DataError: more than 5% would be left out.
    """
    kept = [row for row in rows if row.longest <= limit]
    left_out = [row for row in rows if row.longest > limit]
    if len(left_out) > LEFT_OUT_SHARE * len(rows):
        by_length = sorted(row.longest for row in rows)
        enough = by_length[math.ceil((1 - LEFT_OUT_SHARE) * len(rows)) - 1]
        what = f"the row is longer than {limit} tokens (so are {len(left_out)} of {len(rows)} rows)"
        hint = (
            f"max_length: {by_length[-1]} keeps every row, {enough} keeps 95% of them. Or cut "
            "these rows into shorter ones."
        )
        for row in sorted(left_out, key=lambda row: row.source.row):
            findings.add(row.source.file, row.source.line, what, hint=hint)
        raise DataError(findings.problems)
    return kept, left_out


def _name_left_out(rows: Sequence[Tokenised], limit: int, findings: Findings) -> None:
    for row in sorted(rows, key=lambda row: row.source.row):
        findings.note(f"longer than {limit} tokens left out", row.source.file, row.source.line)


def _save(target: Path, rows: Sequence[Tokenised]) -> list[int]:
    """Write the examples of the rows as a data set and give their lengths."""
    import datasets

    datasets.disable_progress_bars()
    shutil.rmtree(target, ignore_errors=True)  # of an earlier try
    pairs = [(row.source.row, example) for row in rows for example in row.examples]
    if not pairs:
        return []  # an empty data set can be saved, but not loaded again
    features = datasets.Features(
        {
            "input_ids": datasets.List(datasets.Value("int32")),
            "labels": datasets.List(datasets.Value("int32")),
            "row": datasets.Value("int64"),
        }
    )
    columns = {
        "input_ids": [example.input_ids for _, example in pairs],
        "labels": [example.labels for _, example in pairs],
        "row": [row for row, _ in pairs],
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(target)
    return [len(example.input_ids) for _, example in pairs]


def _samples(template: Template, rows: Sequence[Tokenised]) -> list[dict[str, Any]]:
    """Choose held-out questions to answer before and after."""
    asked = [row.source for row in rows if row.source.askable][:SAMPLES]
    return [
        {"messages": template.prompt_messages(c), "reference": c.messages[-1]["content"]}
        for c in asked
    ]
