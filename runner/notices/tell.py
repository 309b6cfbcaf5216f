"""Tell: send one notice to one place, in a process of its own, which has an end and a limit.

    python -m runner.notices.tell    reads {"line", "title", "text", "type"} as JSON; 0: it arrived

The libraries that send wait for every byte of an answer, however slowly or long it comes: a server
that drips would keep all other places waiting, and one that pours would take the memory.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import subprocess
import sys
from typing import Any

TELL_SECONDS = 30.0
"""So long one place may take; apprise waits four for a connection, and four for a byte."""
MEMORY_BYTES = 96 * 1024**2
"""Of data; sending takes about 40 MiB, and the container of notices has 256 MiB."""


def services_in(line: str) -> list[Any]:
    """Give the services that a line in apprise's text format names."""
    import apprise  # noqa: PLC0415  an extra: only who sends has it

    config = apprise.AppriseConfig(asset=_asset(apprise), insecure_includes=False)
    config.add_config(line, format="text")
    return list(config.services())


def _asset(apprise: Any) -> Any:
    return apprise.AppriseAsset(
        app_id="finetuning-box",
        app_desc="Fine-tuning box",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        async_mode=False,
    )


def tell(line: str, *, title: str, text: str, kind: str) -> bool:
    """Send a notice to the place that a line names; False: it did not arrive, or not in time.

    Args:
        line: the place, in apprise's text format; it may hold a secret, so it is no argument of
            the process.
        title: the notice's.
        text: the notice's.
        kind: one of apprise's types: info, success, warning, failure.
    """
    asked = json.dumps({"line": line, "title": title, "text": text, "type": kind})
    try:
        ended = subprocess.run(
            [sys.executable, "-m", __spec__.name],
            input=asked.encode(),
            stdout=subprocess.DEVNULL,  # some of its senders print
            timeout=TELL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0


def main() -> int:
    """Send what standard input asks for."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    # Why something could not be sent is said by the library alone, without what is secret.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    asked = json.load(sys.stdin)
    try:
        arrived = services_in(asked["line"])[0].notify(
            title=asked["title"], body=asked["text"], notify_type=asked["type"]
        )
    except Exception as error:  # a plugin's; its message may hold the address
        print(f"the notice could not be sent: {type(error).__name__}", file=sys.stderr)
        return 1
    return 0 if arrived else 1


if __name__ == "__main__":
    sys.exit(main())
