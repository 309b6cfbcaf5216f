"""One process that writes reports: ``python -m runner.report OUTPUTS JOB/RUN …``.

The daemon starts it and does not wait for it: what a report takes in memory and time goes with it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
from pathlib import Path

from runner.contract.layout import Outputs
from runner.files.beneath import Folder
from runner.language.speaker import Speaker, language_of
from runner.report.write import write_index, write_report
from runner.words import visible

_MEMORY_BYTES = 2 * 1024**3  # the largest report of the tests takes 0.3 GiB
_NICE = 10  # whoever trains or answers comes first


def main(arguments: list[str]) -> int:
    """Write the reports asked for; problems are printed, a line each."""
    parser = argparse.ArgumentParser(prog="python -m runner.report")
    parser.add_argument("outputs", type=Path)
    parser.add_argument("runs", nargs="*", help="JOB/RUN")
    parser.add_argument("--language", default="")
    parser.add_argument("--share-name", default="")
    parser.add_argument("--inbox", type=int, help="descriptor of the open inbox")
    parser.add_argument("--index", action="store_true", help="the index, too")
    asked = parser.parse_args(arguments)
    with contextlib.suppress(OSError, ValueError):
        os.nice(_NICE)
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    outputs, speak = Outputs(asked.outputs), Speaker(language_of(asked.language, os.environ))
    inbox = None if asked.inbox is None else Folder(asked.inbox)
    problems: list[str] = []
    for name in asked.runs:
        job, _, run_id = name.rpartition("/")
        run = outputs.run(job, run_id)
        problems += write_report(outputs, run, speak, share_name=asked.share_name, inbox=inbox)
    if asked.index:
        problems += write_index(outputs, speak)
    for problem in problems:
        print(visible(problem))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
