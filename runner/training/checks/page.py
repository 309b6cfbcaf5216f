"""docs/checks.md from the tables of checks and thresholds.

`python -m runner.training.checks.page > docs/checks.md` renews it; a test holds the two together.
"""

from __future__ import annotations

from typing import get_args

from runner.spec.checks import Checks, FactWish, Wish
from runner.training.checks import thresholds
from runner.training.checks.table import TABLE, Check

_HEAD = """\
# Checks of the data

Before a job takes the graphics card, each row of its data is looked at once. What is found is said
with its lines, never with its text: in the answer beside the spec (what stops the job, and advice),
in `runner show`, in the report, and in `prepared/findings.json`.
By hand, without dropping anything:

    runner check contracts.yaml

It exits with 1 when the job would be rejected; `--json` is for scripts. Rows that cannot be used at
all ([data.md](data.md)) always stop the job.

A spec turns a check off, or makes it more or less serious:

```yaml
checks:
  near_duplicates: ignore     # ignore, inform, advise or stop
  personal_data: stop         # such a job is rejected before it takes the card
```

## What is looked for

| Name in the spec | Found | Level |
|---|---|---|
"""
_BETWEEN = """
The findings about the base model are measured once a run, before the first step of its training,
on a sample of the learned rows (how many of how many is said); the report shows the ten rows that
it found hardest and the five that it found easiest, by file and line, and
`attempts/01-…/row_loss.json` has the loss of each. Training is not changed by it; what goes wrong
with it is a line in the log. Names of people are not looked for. Languages are recognised by
frequent words and by script; of Czech, Finnish and others that are not in the table, and of mixed
rows, nothing is said. Personal data and language are looked for in the first 200,000 characters of
a question and of an answer. Beyond
{rows:,} rows, near duplicates are looked for in a sample.

## From when on something is said

| Threshold | Value | Why |
|---|---|---|
"""


def page() -> str:
    """Write the page."""
    checks = [f"| `{name}` | {_says(name)} | {_level(name, TABLE[name])} |" for name in TABLE]
    limits = [
        f"| {name.lower().replace('_', ' ')} | {one.value:,g} {one.unit} | {one.why} |"
        for name, one in thresholds.TABLE.items()
    ]
    between = _BETWEEN.format(rows=int(thresholds.NEAR_ROWS.value))
    return _HEAD + "\n".join(checks) + "\n" + between + "\n".join(limits) + "\n"


def _says(name: str) -> str:
    return (Checks.model_fields[name].description or "").removesuffix(".")


def _level(name: str, check: Check) -> str:
    level = check.level.value
    if check.small is not None:
        level = f"{check.small.value}; {level} beyond its threshold"
    only = set(get_args(Checks.model_fields[name].annotation)) & {FactWish}
    return f"{level} (or `ignore`)" if only and Wish not in only else level


if __name__ == "__main__":
    print(page(), end="")
