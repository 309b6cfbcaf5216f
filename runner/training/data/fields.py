"""Fields: the columns of one row by what they mean, and the columns that nobody reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner.training.data.cells import BadRowError, missing
from runner.training.data.columns import Meaning, Use, row_key, said_within, shown

_NO_INPUT = ("<noinput>", "<no input>")
"""What Alpaca's and Self-Instruct's rows hold where the instruction needs nothing more."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A column of a row that holds something."""

    name: str
    value: Any
    weak: bool = False


@dataclass(kw_only=True)
class Fields:
    """One row."""

    held: dict[Meaning, list[Cell]] = field(default_factory=dict)
    named: dict[Meaning, str] = field(default_factory=dict)
    """A column of each meaning that the row has, whether or not it holds something."""
    unread: list[str] = field(default_factory=list)
    """Columns that hold something and are not known."""
    refused: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Columns that cannot be honoured, by reason and mend."""

    @classmethod
    def of(cls, row: dict[str, Any]) -> Fields:
        """Look every column of a row up."""
        found = cls()
        for name, value in row.items():
            key = row_key(name)
            if key.meaning is not None:
                found.named.setdefault(key.meaning, name)
            if missing(value) or (key.meaning is Meaning.MORE and value in _NO_INPUT):
                continue
            if key.use is Use.REFUSED:
                found.refused.setdefault((key.reason, key.hint), []).append(name)
            elif key.use is Use.UNREAD:
                found.unread.append(name)
            elif key.use is Use.HARMLESS:
                found.unread += said_within(name, value)
            elif key.meaning is not None:
                cell = Cell(name=name, value=value, weak=key.weak)
                found.held.setdefault(key.meaning, []).append(cell)
        return found

    def check_refused(self) -> None:
        """Refuse a row that says something which cannot be done here.

        Raises:
            BadRowError: the columns are named, with the reason.
        """
        for (reason, hint), names in self.refused.items():
            raise BadRowError(f"the row holds {shown(names)}: {reason}", hint=hint)

    def take(self, meaning: Meaning) -> Cell | None:
        """Give the one column of this meaning that holds something; it counts as read.

        Raises:
            BadRowError: there are two, and they say different things.
        """
        cells = self.held.pop(meaning, None)
        if not cells:
            return None
        if len(cells) == 1:
            return cells[0]
        plain = [cell for cell in cells if not cell.weak]
        chosen = plain or cells
        if any(cell.value != chosen[0].value for cell in chosen):
            names = " and ".join(shown([cell.name]) for cell in chosen)
            what = f"the row holds {names}, which mean the same here, and they differ"
            kept = "input" if meaning is Meaning.MORE else meaning.value
            hint = f"Keep one of them as {kept}, and delete the others or rename them."
            raise BadRowError(what, hint=hint)
        self.unread += [cell.name for cell in cells if cell not in chosen]
        return chosen[0]

    def left(self) -> list[str]:
        """Name the columns that hold something and were not read."""
        return self.unread + [cell.name for cells in self.held.values() for cell in cells]
