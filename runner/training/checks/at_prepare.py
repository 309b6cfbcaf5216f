"""Checks at prepare: findings.json is written, and a finding that stops the job rejects it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.contract.findings import EXAMPLES, DataFinding, Level, Place, in_order, write_findings
from runner.errors import DataError, Problem
from runner.spec.spec import JobSpec
from runner.training.checks.checks import Checks
from runner.training.checks.say import End

BAD_ROWS = "bad_rows"
"""The check's name for rows that cannot be used at all; no spec can turn it off."""


def conclude(checks: Checks, end: End, target: Path) -> tuple[DataFinding, ...]:
    """Say what was found, and write it.

    Raises:
        DataError: a finding stops the job.
    """
    found = in_order(checks.findings(end))
    write_findings(target, found)
    stops = [finding for finding in found if finding.level is Level.STOP]
    if stops:
        raise DataError([_problem(finding) for finding in stops])
    return found


def wishes(spec: JobSpec) -> dict[str, str]:
    """Give what the spec wants of each check that it names."""
    return spec.checks.model_dump(exclude_none=True)


def write_bad_rows(problems: Sequence[Problem], target: Path) -> None:
    """Write what makes rows unusable as findings, in the words of the refusal."""
    found = [
        DataFinding(
            check=BAD_ROWS,
            level=Level.STOP,
            count=problem.count,
            message=f"{problem.message[:1].upper()}{problem.message[1:]}.",
            advice=problem.hint,
            places=tuple(
                Place(file=problem.file, line=line, unit=problem.unit)
                for line in (problem.lines or (problem.line,))[:EXAMPLES]
            )
            if problem.file
            else (),
        )
        for problem in problems
    ]
    write_findings(target, found)


def _problem(finding: DataFinding) -> Problem:
    places = [place for place in finding.places if place.file == finding.places[0].file]
    lines = tuple(place.line for place in places if place.line is not None)
    one_file = len(places) == len(finding.places)
    return Problem(
        message=finding.message.removesuffix("."),
        file=places[0].file if places else None,
        line=lines[0] if lines else None,
        lines=lines,
        count=max(finding.count if one_file else len(lines), len(lines)),
        unit=places[0].unit if places else "line",
        hint=f"{finding.advice or 'Look at these rows.'} Or write {finding.check}: advise below "
        "checks: in the spec.",
    )
