"""JSON rows: JSON Lines, and what else is found in a file of that name or of the name .json."""

from __future__ import annotations

from collections.abc import Iterator

from runner.training.data.findings import Findings
from runner.training.data.json_array import array, as_row, stream
from runner.training.data.json_object import WHOLE_CHARS, large_object, one_object
from runner.training.data.json_value import (
    DECODER,
    ESCAPE,
    LINE,
    TWICE,
    Places,
    TwiceError,
    is_control,
    loads,
)
from runner.training.data.messages import is_list_of_messages
from runner.training.data.row import Row
from runner.training.data.text_source import ROW_CHARS, TextSource

_TWICE_WRITTEN = "The program that wrote the file turned each row into JSON twice: do it once."


def read_json_lines(source: TextSource, file: str, findings: Findings) -> Iterator[Row]:
    """Read a file named .jsonl: lines of objects, or what else is found under that name."""
    line = source.first_line()
    whole = _is_whole(line)
    if line[:1] == "[" and not whole:
        return array(Places(source.pieces()), file, findings)
    if line[:1] == "[" and _is_one_line(source) and not is_list_of_messages(line):
        return array(Places(source.pieces()), file, findings)
    if line[:1] == "{" and not whole and _spans_lines(source):
        return stream(source, file, findings)
    return _lines(source, file, findings)


def read_json(source: TextSource, file: str, findings: Findings) -> Iterator[Row]:
    """Read a file named .json: an array, an object that holds the rows, or JSON Lines."""
    line = source.first_line()
    if line[:1] != "{":
        return array(Places(source.pieces()), file, findings)
    if source.has_less_than(WHOLE_CHARS):
        return _small(source, line, file, findings)
    if _is_whole(line) or _spans_lines(source):
        return read_json_lines(source, file, findings)
    return large_object(Places(source.pieces()), file, findings)


def _small(source: TextSource, line: str, file: str, findings: Findings) -> Iterator[Row]:
    text = source.peek(WHOLE_CHARS)
    try:
        whole = loads(text)
    except TwiceError as error:
        if _is_whole(line):
            return _lines(source, file, findings)
        findings.add(file, 1, error.what, hint=TWICE)
        return iter(())
    except ValueError:
        return read_json_lines(source, file, findings)
    return one_object(whole, text, file, findings)


def _is_whole(line: str) -> bool:
    """Tell JSON Lines, by their first one, from what is spread over lines."""
    try:
        loads(_without_comma(line))
    except TwiceError:
        return True
    except ValueError:
        return False
    return True


def _is_one_line(source: TextSource) -> bool:
    return "\n" not in source.peek(ROW_CHARS).strip()


def _spans_lines(source: TextSource) -> bool:
    """Tell whether the first object is whole over several lines."""
    text = source.peek(ROW_CHARS).lstrip()
    try:
        DECODER.raw_decode(text)
    except TwiceError:
        return True
    except (ValueError, RecursionError):
        return False
    return True


def _without_comma(line: str) -> str:
    """Take off the comma that is left where the lines of an array are kept without its brackets."""
    line = line.strip()
    return line[:-1] if line.endswith("},") else line


def _lines(source: TextSource, file: str, findings: Findings) -> Iterator[Row]:
    for number, line in source.lines():
        if not line.strip():
            continue
        try:
            value = loads(_without_comma(line))
        except TwiceError as error:
            findings.add(file, number, error.what, hint=TWICE)
            continue
        except ValueError as error:
            if is_control(error):
                what = (
                    "the line holds a tab or another control character as it is, which JSON does "
                    "not allow"
                )
                findings.add(file, number, what, hint=ESCAPE)
            else:
                findings.add(file, number, "the line is not valid JSON", hint=LINE)
            continue
        row = as_row(value)
        if row is not None:
            yield Row(file=file, line=number, value=row, size=len(line))
        elif isinstance(value, str) and _is_object(value):
            what = "the line is a JSON object that was written as a text, within quotes"
            findings.add(file, number, what, hint=_TWICE_WRITTEN)
        else:
            findings.add(file, number, "the line is not a JSON object", hint=LINE)


def _is_object(text: str) -> bool:
    try:
        return isinstance(loads(text), dict)
    except ValueError:
        return False
