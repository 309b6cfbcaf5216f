"""Text of a spec: bytes as editors write them, and which of the inbox's other files are specs."""

from __future__ import annotations

import codecs
import json
import re

from runner.errors import Problem
from runner.spec.tree import UnreadableError

SPEC_LIMIT_BYTES = 64 * 1024
"""A spec is a page of settings; whatever is larger is something else."""
_INDENT = re.compile(r"^[ \u00a0\u202f]*[\u00a0\u202f][ \u00a0\u202f]*", re.MULTILINE)
_AFTER_COLON = re.compile(r"^([ \u00a0\u202f]*[A-Za-z_]+:)[\u00a0\u202f]", re.MULTILINE)
NEEDED = ("model", "data")
"""Fields that every spec has."""


def decode(content: bytes) -> str:
    """Decode what Windows editors write: a byte-order mark, UTF-16 with one, CRLF.

    Raises:
        UnreadableError: too large, empty, or of an encoding that cannot be told.
    """
    if len(content) > SPEC_LIMIT_BYTES:
        raise UnreadableError(
            Problem(
                message="the file is too large for a job spec",
                allowed=f"at most {SPEC_LIMIT_BYTES // 1024} KiB",
                hint="data goes into a file of its own, which the spec names",
            ),
            may_be_incomplete=False,
        )
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding, hint = "utf-16", "save the file as UTF-8"
    else:
        encoding, hint = "utf-8-sig", "save the file as UTF-8 (in Notepad: Save as, Encoding)"
    bad_at = None
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        bad_at = error.start
    if bad_at is not None:
        raise UnreadableError(
            Problem(
                line=content.count(b"\n", 0, bad_at) + 1,
                message="a character is not UTF-8",
                found=f"byte 0x{content[bad_at]:02x}",
                hint=hint,
            ),
            may_be_incomplete=True,
        )
    if not text.strip("\0 \t\r\n"):
        # Some servers show a file at its full size, filled with zeros, before its bytes arrive.
        raise UnreadableError(
            Problem(
                message="the file is empty", hint="write 'model: NAME' and 'data: FILE' into it"
            ),
            may_be_incomplete=True,
        )
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # What is copied from a web page or a mail is indented with blanks that YAML takes for letters.
    return _INDENT.sub(lambda found: " " * len(found[0]), _AFTER_COLON.sub(r"\1 ", text))


def is_json_spec(content: bytes) -> bool:
    """Whether a .json file in the inbox's root is a spec and not data that lies there.

    It is one when it is an object with ``model`` and ``data``, also when a slip keeps it from
    being JSON: then its owner gets an answer. So is YAML that was saved under that ending.
    """
    if len(content) > SPEC_LIMIT_BYTES:
        return False
    try:
        text = decode(content)
        value = json.loads(text, parse_int=str, parse_float=str)
    except UnreadableError:
        return False
    except (ValueError, RecursionError):
        return _means_a_spec(text)
    return isinstance(value, dict) and "model" in value and "data" in value


def is_text_spec(content: bytes) -> bool:
    """Whether a file without a spec's ending holds one: Notepad saves everything as .txt."""
    if len(content) > SPEC_LIMIT_BYTES:
        return False
    try:
        return _means_a_spec(decode(content))
    except UnreadableError:
        return False


def _means_a_spec(text: str) -> bool:
    """Whether a text has both required fields where a spec has them, whatever slips it has."""
    body = text.strip()
    if not body.startswith("{"):
        return all(re.search(rf"^[\"']?{key}[\"']?[ \t]*:", body, re.MULTILINE) for key in NEEDED)
    rows = [line for line in body.split("\n") if line.strip()]
    if len(rows) > 1 and all(row.strip().startswith("{") for row in rows):
        return False  # JSON Lines: rows that happen to have such columns
    return all(re.search(rf"[{{,\s][\"'“”]?{key}[\"'“”]?\s*:", body) for key in NEEDED)
