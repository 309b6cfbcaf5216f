"""Findings from the columns: which rows each check is about, and how serious that is.

Every function here looks at columns alone; what it gives is the same whichever order they were
filled in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from runner.contract.findings import EXAMPLES, DataFinding, Level, Place
from runner.training.checks import thresholds as at
from runner.training.checks.facts import NO_QUESTION, Facts, Mark
from runner.training.checks.language import NAMES
from runner.training.checks.near import groups, similar_pairs
from runner.training.checks.personal_data import WORDS
from runner.training.checks.row import Kind
from runner.training.checks.table import TABLE

KINDS = {
    Kind.QUESTION: "question and answer",
    Kind.CONVERSATION: "conversation of several turns",
    Kind.TEXT: "text learned whole",
}
_NOTHING: np.ndarray = np.zeros(0, dtype=np.int64)
"""For what is said of all rows together."""
_BINS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Upper ends of the histogram's bars, in tokens; one more for what is longer."""


Values = dict[str, str | int | float]
"""Figures and names that stand in a finding's sentences."""


@dataclass(frozen=True, kw_only=True)
class End:
    """What is known of a job's rows only once all have been seen."""

    held_out: np.ndarray
    """Numbers of the rows that are held out."""
    max_length: int
    """Longer rows are left out, whole."""
    epochs: float
    ending: frozenset[int]
    """The tokens that can end a turn."""
    row_numbered: frozenset[str] = frozenset()
    """Files whose places are row numbers, not lines."""
    wishes: Mapping[str, str] = field(default_factory=dict)
    """What the spec wants of each check: ignore, inform, advise, stop."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one check found."""

    rows: np.ndarray
    """Places of the rows, in order."""
    of: int
    values: Values
    small: bool = False
    """Below the share from which it is advice."""
    count: int | None = None
    """Where it is not the number of the rows."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """All rows' columns, in the order of the data."""

    facts: Facts
    signed: np.ndarray
    end: End

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.facts)

    @cached_property
    def held_out(self) -> np.ndarray:
        """Whether each row is held out."""
        return _is_among(self.facts["number"], self.end.held_out)

    @cached_property
    def too_long(self) -> np.ndarray:
        """Whether each row is left out for its length."""
        return self.facts["tokens"] > self.end.max_length

    @cached_property
    def learned(self) -> np.ndarray:
        """Whether each row is learned."""
        return ~self.held_out & ~self.too_long

    @cached_property
    def asks(self) -> np.ndarray:
        """Whether each row has a question and an answer."""
        return (self.facts["kind"] != Kind.TEXT) & (self.facts["answer_words"] > 0)

    @cached_property
    def copies(self) -> np.ndarray:
        """Whether each row is an exact copy of an earlier one."""
        return _repeats(self.facts["content"])

    @cached_property
    def near_pairs(self) -> np.ndarray:
        """Pairs of rows that are nearly the same but no copies, by their places."""
        every: np.ndarray = np.asarray(np.searchsorted(self.facts["number"], self.signed["number"]))
        among = np.flatnonzero(~self.copies[every])
        places = every[among]
        pairs = places[similar_pairs(self.signed, self.held_out[places], among)]
        one, other = self.facts[pairs[:, 0]], self.facts[pairs[:, 1]]
        long_enough = np.minimum(one["answer_words"], other["answer_words"]) >= at.NEAR_WORDS.value
        return pairs[(one["answer"] == other["answer"]) | long_enough]

    def marked(self, mark: Mark) -> np.ndarray:
        """Give the rows whose text shows something by itself."""
        return np.flatnonzero(self.facts["marks"] & mark)


def _repeats(keys: np.ndarray) -> np.ndarray:
    first = np.unique(keys, return_index=True)[1]
    repeats: np.ndarray = np.ones(len(keys), dtype=bool)
    repeats[first] = False
    return repeats


def _occurs_again(keys: np.ndarray) -> np.ndarray:
    """Tell the keys that occur more than once."""
    distinct, counts = np.unique(keys, return_counts=True)
    return _is_among(keys, distinct[counts > 1])


def _is_among(keys: np.ndarray, those: np.ndarray) -> np.ndarray:
    """Tell the keys that are among others; numpy's own way takes 70 bytes for each."""
    found: np.ndarray = np.zeros(len(keys), dtype=bool)
    if not len(those):
        return found
    known = np.unique(those)
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        at = np.minimum(np.searchsorted(known, some), len(known) - 1)
        found[start : start + _KEYS_AT_ONCE] = known[at] == some
    return found


_KEYS_AT_ONCE = 1_000_000  # 20 MB


def say(facts: Facts, signed: np.ndarray, *, files: list[str], end: End) -> list[DataFinding]:
    """Make the findings of all checks that the spec has not turned off."""
    data = Data(facts=facts, signed=signed, end=end)
    found = []
    for name, check in CHECKS.items():
        if end.wishes.get(name) == "ignore" or not data.rows:
            continue
        result = check(data)
        if result is not None:
            found.append(_finding(name, result, data, files))
    return found


def _finding(name: str, found: Found, data: Data, files: list[str]) -> DataFinding:
    places = []
    for row in data.facts[found.rows[:EXAMPLES]]:
        file = files[row["file"]]
        unit = "row" if file in data.end.row_numbered else "line"
        places.append(Place(file=file, line=int(row["line"]), unit=unit))
    return finding(
        name,
        count=len(found.rows) if found.count is None else found.count,
        of=found.of,
        places=tuple(places),
        values=found.values,
        small=found.small,
        wish=data.end.wishes.get(name),
    )


def finding(  # the fields of a finding
    name: str,
    *,
    count: int,
    of: int,
    places: tuple[Place, ...],
    values: Values,
    small: bool = False,
    wish: str | None = None,
) -> DataFinding:
    """Put a finding into words."""
    check = TABLE[name]
    level = check.small if small and check.small else check.level
    said = {"count": count, "of": of, **values}
    shown = {key: f"{v:,}" if isinstance(v, int) else str(v) for key, v in said.items()}
    says = (check.says_of_sample if "sampled" in values else None) or check.says
    return DataFinding(
        check=name,
        level=Level(wish) if wish else level,
        count=count,
        of=of,
        message=says.format(**shown),
        advice=None if check.is_fact and level is Level.INFORM else check.advice,
        places=places,
        values=said,
    )


def _share(data: Data, rows: np.ndarray, least: at.Threshold | None, **values: Any) -> Found | None:
    """Say something of some rows: with more weight from a share of all rows on."""
    if not len(rows):
        return None
    small = least is not None and len(rows) < least.value * data.rows
    return Found(rows=rows, of=data.rows, values=values, small=small)


def end_of_turn(data: Data) -> Found | None:
    """Rows in which no end of the answer is learned."""
    return _share(data, np.flatnonzero(~np.isin(data.facts["last"], list(data.end.ending))), None)


def few_rows(data: Data) -> Found | None:
    """Too few rows to learn from."""
    if data.rows >= at.FEW_ROWS.value:
        return None
    values: Values = {"least": int(at.FEW_ROWS.value)}
    return Found(rows=_NOTHING, count=data.rows, of=data.rows, values=values)


def many_epochs(data: Data) -> Found | None:
    """Many rows, read often."""
    rows = int(data.learned.sum())
    if rows <= at.MANY_ROWS.value or data.end.epochs < at.MANY_EPOCHS.value:
        return None
    values: Values = {"epochs": f"{data.end.epochs:g}"}
    return Found(rows=_NOTHING, count=rows, of=rows, values=values)


def learned_share(data: Data) -> Found | None:
    """How much of the text is learned."""
    learned, read = (int(data.facts[name][data.learned].sum()) for name in ("learned", "read"))
    if not read:
        return None
    share = learned / read
    percent = f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.2g}"
    return Found(
        rows=_NOTHING,
        count=int(data.learned.sum()),
        of=data.rows,
        values={"percent": percent, "learned_tokens": learned, "tokens": read},
        small=share >= at.LEARNED_SHARE.value,
    )


def leak(data: Data) -> Found | None:
    """Held-out rows whose question is learned, too."""
    facts, asks = data.facts, data.facts["kind"] != Kind.TEXT
    keys = np.where(asks, facts["question"], facts["content"])
    shared = data.held_out.copy()
    shared[shared] = _is_among(keys[shared], keys[data.learned])
    rows = np.flatnonzero(shared)
    return Found(rows=rows, of=int(data.held_out.sum()), values={}) if len(rows) else None


def near_leak(data: Data) -> Found | None:
    """Held-out rows that nearly repeat one that is learned."""
    held, learned = data.held_out, data.learned
    one, other = data.near_pairs.T
    rows = np.unique(
        np.concatenate([one[held[one] & learned[other]], other[held[other] & learned[one]]])
    )
    of = int(held.sum())
    few = len(rows) < at.NEAR_LEAK.value * of
    return Found(rows=rows, of=of, values=_sampled(data), small=few) if len(rows) else None


def contradictions(data: Data) -> Found | None:
    """Rows that ask the same and answer differently."""
    facts = data.facts
    asked = np.flatnonzero(data.asks & (facts["question"] != NO_QUESTION))
    asked = asked[_occurs_again(facts["question"][asked])]
    pairs = np.stack([facts["question"][asked], facts["answer"][asked]], axis=1)
    distinct = np.unique(pairs, axis=0)
    questions, answers = np.unique(distinct[:, 0], return_counts=True)
    rows = asked[_is_among(pairs[:, 0], questions[answers > 1])]
    found = _share(data, rows, at.CONTRADICTIONS, questions=int((answers > 1).sum()))
    if found and len(rows) > at.CONTRADICTIONS_MEANT.value * data.rows:
        return Found(rows=rows, of=data.rows, values=found.values, small=True)
    return found


def exact_duplicates(data: Data) -> Found | None:
    """Rows that are copies of earlier ones."""
    return _share(data, np.flatnonzero(data.copies), at.DUPLICATES)


def near_duplicates(data: Data) -> Found | None:
    """Rows that nearly repeat earlier ones."""
    if not len(data.near_pairs):
        return None
    places, inverse = np.unique(data.near_pairs, return_inverse=True)
    first = groups(len(places), inverse.reshape(-1, 2))
    repeats = places[first != np.arange(len(places))]
    groups_of = int((first == np.arange(len(places))).sum())
    compared = len(data.signed)
    sampled = _sampled(data)
    few = len(repeats) < at.NEAR_DUPLICATES.value * (compared if sampled else data.rows)
    values: Values = {"groups": groups_of, "compared": compared, **sampled}
    return Found(rows=repeats, of=data.rows, values=values, small=few) if len(repeats) else None


def _sampled(data: Data) -> Values:
    """Say how many rows were compared with each other, where it is a sample of all."""
    return {"sampled": len(data.signed)} if len(data.signed) >= at.NEAR_ROWS.value else {}


def wrong_encoding(data: Data) -> Found | None:
    """Rows with mojibake."""
    return _share(data, data.marked(Mark.BROKEN), None)


def placeholder_answers(data: Data) -> Found | None:
    """Rows whose answer is a placeholder."""
    return _share(data, data.marked(Mark.PLACEHOLDER), None)


def assistant_phrases(data: Data) -> Found | None:
    """Rows whose answer speaks of a language model."""
    return _share(data, data.marked(Mark.ASSISTANT), None)


def repeated_questions(data: Data) -> Found | None:
    """Rows whose answer begins with the question."""
    return _share(data, data.marked(Mark.REPEATS), at.DUPLICATES)


def boilerplate_answers(data: Data) -> Found | None:
    """Long answers that many different questions have."""
    facts = data.facts
    single = np.flatnonzero(data.asks & ~data.copies)
    long = single[facts["answer_words"][single] >= at.BOILERPLATE_WORDS.value]
    answers, counts = np.unique(facts["answer"][long], return_counts=True)
    least = max(at.BOILERPLATE_ROWS.value, at.BOILERPLATE_SHARE.value * data.rows)
    many = answers[counts >= least]
    rows = long[_is_among(facts["answer"][long], many)]
    return _share(data, rows, None, answers=len(many))


def short_answers(data: Data) -> Found | None:
    """Very short answers among long ones."""
    words = data.facts["answer_words"]
    if not data.asks.any() or (median := int(np.median(words[data.asks]))) < at.USUAL_ANSWER.value:
        return None
    placeholder = (data.facts["marks"] & Mark.PLACEHOLDER) > 0
    rows = np.flatnonzero(data.asks & (words <= at.SHORT_ANSWER.value) & ~placeholder)
    if len(rows) > at.SHORT_ANSWERS_MEANT.value * data.rows:
        return None
    return _share(data, rows, None, median=median)


def unusual_text(data: Data) -> Found | None:
    """Rows with far more tokens per character than the rest."""
    facts = data.facts
    rows = np.flatnonzero(facts["characters"] >= at.UNUSUAL_CHARACTERS.value)
    if len(rows) < _ROWS_FOR_SPREAD:
        return None
    ratios = np.log(np.maximum(facts["tokens"][rows], 1) / facts["characters"][rows])
    far = robust_z(ratios) > at.UNUSUAL_Z.value
    far &= ratios > np.median(ratios) + np.log(at.UNUSUAL_TIMES.value)
    return _share(data, rows[far], None)


_ROWS_FOR_SPREAD = 20  # fewer show no spread that could be trusted
_LEAST_SPREAD = 0.05  # in rows that are made alike, every small difference would be far off


def robust_z(values: np.ndarray) -> np.ndarray:
    """Say how many standard deviations values lie from their median (by the median deviation)."""
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))  # of a normal distribution
    return (values - middle) / max(spread, _LEAST_SPREAD)


def languages(data: Data) -> Found | None:
    """Rows in another language than nearly all others."""
    known = data.facts["language"]
    counts = Counter({n: int(c) for n, c in enumerate(np.bincount(known)) if n and c})
    if len(counts) < 2:
        return None
    main = counts.most_common(1)[0][0]
    least = at.LANGUAGE_FEW.value * sum(counts.values())
    few = [number for number, count in counts.most_common() if count < least]
    rows = np.flatnonzero(np.isin(known, few))
    others = ", ".join(f"{NAMES[number]}: {counts[number]:,}" for number in few)
    return _share(data, rows, None, main=NAMES[main], others=others)


def language_mix(data: Data) -> Found | None:
    """Which languages the rows are in, where it is more than one."""
    known = data.facts["language"]
    counts = Counter({n: int(c) for n, c in enumerate(np.bincount(known)) if n and c})
    told = sum(counts.values())
    meant = [number for number in counts if counts[number] >= at.LANGUAGE_FEW.value * told]
    if len(meant) < 2:
        return None
    named = ", ".join(f"{NAMES[number]}: {count:,}" for number, count in counts.most_common())
    return Found(rows=_NOTHING, count=told, of=data.rows, values={"named": named})


def personal_data(data: Data) -> Found | None:
    """Rows with personal data."""
    bits = data.facts["personal"]
    counts = {words: int(np.count_nonzero(bits & kind)) for kind, words in WORDS.items()}
    kinds = ", ".join(f"{words}: {count:,}" for words, count in counts.items() if count)
    return _share(data, np.flatnonzero(bits), None, kinds=kinds)


def too_long(data: Data) -> Found | None:
    """Rows that are left out for their length."""
    return _share(data, np.flatnonzero(data.too_long), None, limit=data.end.max_length)


def row_kinds(data: Data) -> Found | None:
    """How the rows are written."""
    counts = np.bincount(data.facts["kind"], minlength=len(Kind))
    named = [f"{words}: {counts[kind]:,}" for kind, words in KINDS.items() if counts[kind]]
    return Found(
        rows=_NOTHING,
        count=data.rows,
        of=data.rows,
        values={"kinds": ", ".join(named)} | {k.name.lower(): int(counts[k]) for k in Kind},
    )


def token_lengths(data: Data) -> Found | None:
    """How long the rows are."""
    tokens = data.facts["tokens"]
    bars = np.bincount(np.searchsorted(_BINS, tokens), minlength=len(_BINS) + 1)
    names = [f"to_{end}" for end in _BINS] + ["longer"]
    longest = _longest(tokens)
    values: Values = {
        "median": int(np.percentile(tokens, 50, method="lower")),
        "most": int(np.percentile(tokens, 95, method="higher")),
        "longest": int(tokens.max()),
        **{name: int(bar) for name, bar in zip(names, bars, strict=True)},
    }
    return Found(rows=longest, count=data.rows, of=data.rows, values=values)


def _longest(tokens: np.ndarray) -> np.ndarray:
    """Give the places of a few of the longest rows, the longest first, of equals the earlier."""
    if len(tokens) <= EXAMPLES:
        least = 0
    else:
        least = int(np.partition(tokens, len(tokens) - EXAMPLES)[len(tokens) - EXAMPLES])
    places = np.flatnonzero(tokens >= least)
    return places[np.argsort(-tokens[places].astype(np.int64), kind="stable")][:EXAMPLES]


CHECKS: dict[str, Callable[[Data], Found | None]] = {
    check.__name__: check
    for check in (
        *(end_of_turn, few_rows, many_epochs, learned_share, leak, near_leak, contradictions),
        *(exact_duplicates, near_duplicates, wrong_encoding, placeholder_answers),
        *(assistant_phrases, boilerplate_answers, repeated_questions, short_answers),
        *(unusual_text, languages, language_mix, personal_data, too_long, row_kinds),
        *(token_lengths,),
    )
}
