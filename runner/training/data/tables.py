"""Tables of tokens and rows: written, or taken from the cache; the tokenizer lies beside them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from runner.contract.layout import RunFolder
from runner.training.data.base import Base
from runner.training.data.flow import Flowed
from runner.training.data.part_rows import Parted
from runner.training.data.preview import leave_preview
from runner.training.data.replay import add_replayed
from runner.training.data.token_cache import ASKED, PREVIEW, TOKENIZER, Entry
from runner.training.data.token_table import (
    DATA_FILE,
    HELD_OUT,
    LEFT_OUT,
    TRAIN,
    read_lengths_of,
    write_data_set_facts,
    write_parted_rows,
    write_parts,
)
from runner.training.data.tokenizer_folder import write_tokenizer


def write_tables(
    folder: Path, tables: tuple[Path, Path], flowed: Flowed, parted: Parted
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


def link_tables(folder: Path, entry: Entry) -> tuple[Any, Any]:
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


def kept_files(run: RunFolder) -> dict[str, Path]:
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


def leave_tokenizer(
    folder: Path, run: RunFolder, base: Base, entry: Entry | None, lengths: Any
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
