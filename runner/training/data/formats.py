"""Formats: how rows are written, and the conversation (or the ``text`` to learn) that each becomes.

What a row must hold, by format; `columns.py` has every name that a column may have:
    alpaca              instruction, output; input, context, system and history where there are any
    prompt-completion   prompt, completion (text, or lists of messages)
    messages            messages: [{role, content}, …]
    sharegpt            conversations: [{from, value}, …]
    text                text
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runner.spec.spec import Columns
from runner.training.data.cells import BadRowError, as_text, missing, parsed, yes_or_no
from runner.training.data.columns import Meaning, normalised, row_key, shown
from runner.training.data.conversation import Conversation, Message
from runner.training.data.fields import Cell, Fields
from runner.training.data.findings import Findings
from runner.training.data.mapping import Mapped, apply_mapping, check_names, guess, read_mapping
from runner.training.data.messages import (
    Talk,
    check_order,
    inner_text,
    is_list_of_messages,
    is_message,
    read_messages,
    read_tools,
    weight,
)
from runner.training.data.row import Row
from runner.training.data.unrecognised import check_single_message, nearest, not_recognised

_SHAPES = {"alpaca": "pairs", "prompt-completion": "pairs", "messages": "messages"}
_SHAPES |= {"sharegpt": "messages", "text": "text"}
"""Formats that differ only in the names of their columns are read alike."""
_CONTENT = (
    *(Meaning.QUESTION, Meaning.MORE, Meaning.ANSWER, Meaning.SYSTEM, Meaning.HISTORY),
    *(Meaning.TOOLS, Meaning.THINKING),
)
DECIDING = 1000
"""Rows at the beginning that say how all are written. Most data has fewer; of more data they
are at hand before the last has been read, and what contradicts them is refused by its line."""
_GOOD = {"good", "chosen", "positive", "like", "liked", "thumbs_up", "gut"}
_BAD = {"bad", "rejected", "negative", "dislike", "disliked", "thumbs_down", "schlecht"}
"""What other programs write into a label instead of true and false."""


@dataclass(frozen=True, kw_only=True)
class _LeftOut:
    """A row that is not learned, as its own columns say."""

    why: str


def detect(value: dict[str, Any]) -> str | None:
    """Name the format of a row by its columns, or None."""
    held: dict[Meaning, str] = {}
    named: dict[Meaning, str] = {}
    for name, cell in value.items():
        meaning = row_key(name).meaning
        if meaning is not None:
            named.setdefault(meaning, name)
            if not missing(cell):
                held.setdefault(meaning, name)
    known = _detect(held) or _detect(named)
    if known is not None:
        return known
    # An answer that is missing altogether is better told as that than as an unknown format.
    one = named.get(Meaning.QUESTION) or named.get(Meaning.ANSWER)
    return _pairs_name(one) if one else None


def _detect(found: dict[Meaning, str]) -> str | None:
    if Meaning.MESSAGES in found:
        name = found[Meaning.MESSAGES].strip().casefold()
        return "sharegpt" if name.startswith("conversation") else "messages"
    if Meaning.ANSWER in found and (Meaning.QUESTION in found or Meaning.MORE in found):
        return _pairs_name(found[Meaning.ANSWER])
    return "text" if Meaning.TEXT in found else None


def _pairs_name(column: str) -> str:
    known = column.strip().casefold() in ("prompt", "completion")
    return "prompt-completion" if known else "alpaca"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the rows of a job are read: decided by the first ones, and held against all others."""

    fixed: str | None
    """The format, where the spec names one."""
    main: str | None
    """The shape of most of the first rows."""
    usual: str | None
    """A format of that shape, by its name."""
    classes: frozenset[str] = frozenset()
    """Label columns that hold classes (0, 1, 2 …): there a 0 is no thumbs down."""
    system_prompt: str | None = None
    mapping: tuple[Mapped, ...] = ()
    """The spec's ``columns:``."""
    means: Mapping[str, str] = field(default_factory=dict)
    """Name in the spec → column of the data, where there is one."""
    guess: str | None = None
    """A ``columns:`` that may be meant, where the columns are not recognised."""

    @property
    def misnamed(self) -> bool:
        """Whether the spec names a column that is not there; that is noted."""
        return any(name not in self.means for mapped in self.mapping for name in mapped.names)


UNDECIDED = Rules(fixed=None, main=None, usual=None)
"""Before the first rows have been read."""


def decide(
    first: Sequence[Row],
    *,
    data_format: str,
    system_prompt: str | None,
    columns: Columns | None = None,
    findings: Findings | None = None,
) -> Rules:
    """Decide how rows are read, by the first ``DECIDING`` of them.

    Args:
        first: these rows.
        data_format: the spec's.
        system_prompt: the spec's.
        columns: the spec's.
        findings: takes the columns that the spec names and no row has.
    """
    fixed = None if data_format == "auto" else data_format
    mapping = read_mapping(columns) if columns else ()
    means = check_names(mapping, first, Findings() if findings is None else findings)
    given = guess(first) if not mapping else None
    first = [_mapped(row, mapping, means) for row in first]
    formats = [fixed or detect(row.value) for row in first]
    counts = Counter(_SHAPES[name] for name in formats if name)
    main = counts.most_common(1)[0][0] if counts else None
    usual = next((name for name in formats if name and _SHAPES[name] == main), None)
    classes = frozenset(_classes(first))
    return Rules(
        fixed=fixed,
        main=main,
        usual=usual,
        classes=classes,
        system_prompt=system_prompt,
        mapping=mapping,
        means=means,
        guess=given,
    )


def _mapped(row: Row, mapping: Sequence[Mapped], means: Mapping[str, str]) -> Row:
    """Give a row as the spec's columns say; one that they cannot be filled from as it is."""
    if not mapping:
        return row
    try:
        return replace(row, value=apply_mapping(mapping, means, row.value)[0])
    except BadRowError:
        return row


def to_conversations(
    rows: Sequence[Row],
    *,
    data_format: str,
    system_prompt: str | None,
    findings: Findings,
) -> list[Conversation]:
    """Turn every row into a conversation; rows that cannot be one go into ``findings``."""
    rules = decide(rows[:DECIDING], data_format=data_format, system_prompt=system_prompt)
    found: list[Conversation] = []
    before = findings.count
    for number, row in enumerate(rows):
        if (conversation := convert(row, number, rules, findings)) is not None:
            found.append(conversation)
    if rows and not found and findings.count == before:
        nothing_to_learn(rows[0].file, findings)
    return found


def nothing_to_learn(file: str, findings: Findings) -> None:
    """Note that each row says of itself that it is not to be learned."""
    what = "no row is left to learn from: all are marked as not to be learned"
    findings.once(file, None, what, hint="Set weight, train or label to true for some.")


def convert(row: Row, number: int, rules: Rules, findings: Findings) -> Conversation | None:
    """Turn a row into a conversation; None: it cannot be one (noted), or is not to be learned."""
    if rules.misnamed:
        return None
    left: list[str] = []
    try:
        if rules.mapping:
            value, left = apply_mapping(rules.mapping, rules.means, row.value)
            row = replace(row, value=value)
        name = rules.fixed or detect(row.value)
        fields = Fields.of(row.value)
        fields.check_refused()
        check_single_message(row.value, fields)
        if rules.fixed:
            _check_fixed(row, fields, rules.fixed)
        _check_label(fields, rules.classes)
        _drop_classes(fields, rules.classes)
        if name is None or _one_sided(row, fields, name):
            not_recognised(row, fields, findings, rules.guess)
        elif _SHAPES[name] != (rules.main or _SHAPES[name]):
            what = f"the row is written as {name}, most others as {rules.usual}"
            hint = "Keep one format per job: write all rows alike, or drop two jobs."
            findings.add(row.file, row.line, what, hint=hint)
        else:
            base = Conversation(file=row.file, line=row.line, row=number)
            named = rules.fixed is not None
            read = _read(base, fields, _SHAPES[name], findings, named=named)
            for column in left if read else ():
                findings.unread("columns not read", column)
            return read and with_system(read, rules.system_prompt)
    except BadRowError as problem:
        findings.add(row.file, row.line, str(problem), hint=problem.hint)
    return None


def _check_label(fields: Fields, classes: frozenset[str]) -> None:
    """Refuse a label that is no thumbs up or down where those of the first rows are."""
    for cell in fields.held.get(Meaning.LABEL, ()):
        if cell.name not in classes and _good(cell.value) is None:
            what = f"{cell.name} is neither yes nor no here, as it is in the rows before"
            hint = f"Write {cell.name}: true or false in every row, or rename the column to class."
            raise BadRowError(what, hint=hint)


def _check_fixed(row: Row, fields: Fields, fixed: str) -> None:
    """Say that the spec's format is not how the row is written, where that is plain to see."""
    own = detect(row.value)
    needed = {"pairs": Meaning.ANSWER, "messages": Meaning.MESSAGES, "text": Meaning.TEXT}
    if own and _SHAPES[own] != _SHAPES[fixed] and needed[_SHAPES[fixed]] not in fields.named:
        what = f"the spec says format: {fixed}, and the row is written as {own}"
        hint = f"Write format: {own} into the spec, or delete its line format."
        raise BadRowError(what, hint=hint)


def _classes(rows: Sequence[Row]) -> set[str]:
    """Name the label columns that hold classes (0, 1, 2 …): there a 0 is no thumbs down."""
    return {
        name
        for row in rows
        for name, value in row.value.items()
        if row_key(name).meaning is Meaning.LABEL and not missing(value) and _good(value) is None
    }


def _drop_classes(fields: Fields, classes: frozenset[str]) -> None:
    cells = fields.held.get(Meaning.LABEL)
    if classes and cells:
        fields.unread += [cell.name for cell in cells if cell.name in classes]
        fields.held[Meaning.LABEL] = [cell for cell in cells if cell.name not in classes]


def _good(label: Any) -> bool | None:
    """Read a label: thumbs up, thumbs down, or None where it says something else."""
    word = normalised(label) if isinstance(label, str) else ""
    return True if word in _GOOD else False if word in _BAD else yes_or_no(label)


def with_system(conversation: Conversation, prompt: str | None) -> Conversation:
    """Put the spec's system prompt before a conversation that has none of its own."""
    messages = conversation.messages
    if not prompt or not messages or messages[0]["role"] == "system":
        return conversation
    return replace(conversation, messages=({"role": "system", "content": prompt}, *messages))


# -- one row -----------------------------------------------------------------------------------


def _read(
    base: Conversation, fields: Fields, shape: str, findings: Findings, *, named: bool
) -> Conversation | None:
    """Read one row of a known shape; None: it says itself that it is not to be learned.

    Args:
        base: the row's place.
        fields: its columns.
        shape: one of ``_SHAPES``.
        findings: takes what is no problem, but should be known.
        named: the spec names the format, so the row's other columns are surely not meant.
    """
    why = _left_out(fields, shape)
    if why is None and shape == "text":
        read: Conversation | None = replace(base, text=_read_text(fields, named=named))
    elif why is None:
        read = _read_talk(base, fields, _READERS[shape], findings)
        why = None if read else "not learned, because every answer is marked as only to be read"
    if why is not None:
        findings.note(why, base.file, base.line)
        return None
    for name in fields.left():
        findings.unread("columns not read", name)
    return read


def _left_out(fields: Fields, shape: str) -> str | None:
    """Say why a row is not to be learned, where its weight or label says so."""
    mark = fields.take(Meaning.WEIGHT)
    if mark is not None and not weight(mark.value, mark.name):
        return f"not learned, because {mark.name} says so (0 or false)"
    label_named = fields.named.get(Meaning.LABEL)
    label = fields.take(Meaning.LABEL)
    if shape == "text" and (label or label_named in fields.unread):
        label = label or Cell(name=str(label_named), value=None)
        what = f"a text has a {label.name}: the label would not be learned"
        hint = "Name the text prompt, and write the label in words as completion."
        raise BadRowError(what, hint=hint)
    if label is None or _good(label.value):
        return None
    said = normalised(label.value) if isinstance(label.value, str) else ""
    return f"not learned, because {label.name} is {said if said in _BAD else 'false'}"


def _read_text(fields: Fields, *, named: bool) -> str:
    """Read a text that is learned whole; a question beside it would be lost."""
    beside = [cell.name for meaning in _CONTENT for cell in fields.held.get(meaning, ())]
    if beside and not named:
        what = f"the row holds a text and, beside it, {shown(beside)}"
        hint = (
            "A text is learned whole. Rename text to question, context or answer if it is one, or "
            "write format: text into the spec to learn the text alone."
        )
        raise BadRowError(what, hint=hint)
    cell = fields.take(Meaning.TEXT)
    if cell is None:
        raise BadRowError("'text' is missing or empty", hint="Write the text, or delete the row.")
    return as_text(cell.value, cell.name)


def _read_talk(
    base: Conversation,
    fields: Fields,
    reader: Callable[[Fields, Talk], None],
    findings: Findings,
) -> Conversation | None:
    """Read a row of messages, or of a question and an answer; None: no answer is learned."""
    talk = Talk()
    tools = fields.take(Meaning.TOOLS)
    schemas = read_tools(tools.value, tools.name) if tools else ()
    if tools:
        talk.tool_words[tools.name] = None
    system = fields.take(Meaning.SYSTEM)
    reader(fields, talk)
    if system is not None:
        _put_system(_cell_text(system, talk), system.name, talk.messages)
    check_order(talk.messages)
    if len(talk.unlearned) == talk.answers:
        return None
    for name in talk.objects:
        what = f"with an object or a list as {shown([name])}: it is read as its JSON"
        findings.note(what, base.file, base.line)
    for key in talk.unread:
        findings.unread("message keys not read", key)
    if talk.marked_questions:
        what = "with a question that is marked to be learned, which only answers are"
        findings.note(what, base.file, base.line)
    return replace(
        base,
        messages=tuple(talk.messages),
        tools=schemas,
        tool_words=tuple(talk.tool_words),
        unlearned=frozenset(talk.unlearned),
    )


def _cell_text(cell: Cell, talk: Talk) -> str:
    """Give a column's text; an object that only wraps a text is that text."""
    return inner_text(cell.value, cell.name, talk)


def _put_system(text: str, name: str, messages: list[Message]) -> None:
    """Put the row's own system column before its messages."""
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"].strip() != text.strip():
            what = f"the row has two system messages that differ: the column {shown([name])} and "
            raise BadRowError(f"{what}one among its messages", hint="Keep one of the two.")
        return
    messages.insert(0, {"role": "system", "content": text})


def _messages(fields: Fields, talk: Talk) -> None:
    cell = fields.take(Meaning.MESSAGES)
    if cell is None:
        what = "the row has no messages"
        raise BadRowError(what, hint="Write its messages, or delete the row.")
    read_messages(cell.value, cell.name, talk)


def _pair(fields: Fields, talk: Talk) -> None:
    """Read a question and its answer, with what belongs to each."""
    question = _question(fields)
    answer = fields.take(Meaning.ANSWER)
    if question is not None and _holds_messages(question.value):
        read_messages(_listed(question.value), question.name, talk)
    elif question is None:
        raise _lacking(fields, Meaning.QUESTION)
    else:
        _history(fields, talk)
        more = fields.take(Meaning.MORE)
        asked = _cell_text(question, talk)
        if more is not None:
            asked += f"\n\n{_cell_text(more, talk)}"
        talk.messages.append({"role": "user", "content": asked})
    if answer is None:
        raise _lacking(fields, Meaning.ANSWER)
    # A text that only looks like messages stays an answer, unless the question was messages too.
    may_be_messages = not isinstance(answer.value, str) or _holds_messages(question.value)
    if may_be_messages and _holds_messages(answer.value):
        read_messages(_listed(answer.value), answer.name, talk)
    else:
        talk.messages.append(_answer(answer, fields, talk))


def _holds_messages(value: Any) -> bool:
    return is_message(value) or is_list_of_messages(value)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


def _lacking(fields: Fields, side: Meaning) -> BadRowError:
    """Say that the question or the answer is missing, and which columns may have been meant."""
    hint = f"Write the {side.value}, or delete the row."
    if side in fields.named:
        what = f"{shown([fields.named[side]])!r} is missing or empty"
    else:
        what = f"it has no column {side.value}"
        hint = nearest(fields.unread, side.value) or hint
        if fields.unread:
            what += f", and these column names are not recognised: {shown(fields.unread)}"
    return BadRowError(f"the row has no {side.value}: {what}", hint=hint)


def _question(fields: Fields) -> Cell | None:
    """Give the question; ``input`` is one where the row has no other column for it."""
    question = fields.take(Meaning.QUESTION)
    if question is not None or Meaning.QUESTION in fields.named:
        return question
    cells = fields.held.get(Meaning.MORE, [])
    inputs = [cell for cell in cells if cell.name.strip().casefold() in ("input", "eingabe")]
    if len(inputs) != 1:
        return fields.take(Meaning.MORE) if len(cells) == 1 else None
    fields.held[Meaning.MORE] = [cell for cell in cells if cell is not inputs[0]]
    return inputs[0]


def _answer(cell: Cell, fields: Fields, talk: Talk) -> Message:
    message: Message = {"role": "assistant", "content": _cell_text(cell, talk)}
    thinking = fields.take(Meaning.THINKING)
    if thinking is not None:
        message["reasoning_content"] = as_text(thinking.value, thinking.name)
    return message


def _history(fields: Fields, talk: Talk) -> None:
    """Read what was asked and answered before: pairs, or messages."""
    cell = fields.take(Meaning.HISTORY)
    if cell is None:
        return
    turns = parsed(cell.value, cell.name)
    if is_list_of_messages(turns):
        read_messages(turns, cell.name, talk)
        return
    for turn in turns if isinstance(turns, list) else [None]:
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            what = f"{cell.name!r} is not a list of pairs of question and answer"
            raise BadRowError(what, hint='Write [["question", "answer"], …], or [].')
        asked, answered = (as_text(text, cell.name) for text in turn)
        talk.messages.append({"role": "user", "content": asked})
        talk.messages.append({"role": "assistant", "content": answered})


_READERS: dict[str, Callable[[Fields, Talk], None]] = {"pairs": _pair, "messages": _messages}


def _one_sided(row: Row, fields: Fields, name: str) -> bool:
    """Tell a table whose heading has no column for the question, or none for the answer."""
    if row.heading is None or _SHAPES[name] != "pairs":
        return False
    asks = Meaning.QUESTION in fields.named or Meaning.MORE in fields.named
    return not (asks and Meaning.ANSWER in fields.named)
