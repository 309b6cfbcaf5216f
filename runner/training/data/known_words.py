"""Known words: text becomes tokens word by word, each word tokenised once and then remembered.

The tokenizers of Llama 3, Qwen, GPT-2 and their kin (byte-level BPE) part a text by a pattern
first, and no piece of any of these patterns goes on over a blank after a character that is none. So
what stands between such places is tokenised alike wherever it stands, and a dictionary gives its
tokens ten times as fast as the tokenizer itself. A tokenizer that is not recognised is called as
ever; and one that is recognised is called for some of the texts, too: should a single token ever
differ, its words are not used any more.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Any

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = tuple(f"{_LETTERS}|{digits}|{_REST}" for digits in (r"\p{N}{1,3}", r"\p{N}"))
"""Of Llama 3 and all who took it over, and of Qwen 2 and 3: only how digits are parted differs."""
_MOST_WORDS = 200_000  # remembered; with their tokens about 40 MB a process
_LONGEST = 64  # characters of a word that is worth remembering
Controls = list[tuple[int, int, int]]
"""Added tokens of a text: index among its tokens, where it begins, where it ends."""


class WordsDifferError(Exception):
    """Known words gave other tokens than the tokenizer: they are not to be used."""


class KnownWords:
    """A tokenizer that is recognised, and the words that were read so far."""

    def __init__(self, tokenizer: Any, added: Sequence[str]) -> None:
        """Take the tokenizer's inner workings (`tokenizers.Tokenizer`), and its added tokens."""
        self._inner = tokenizer
        self._normal = json.loads(tokenizer.to_str())["normalizer"] is not None
        spelled = "|".join(re.escape(token) for token in sorted(added, key=len, reverse=True))
        self._added = re.compile(f"({spelled})") if added else re.compile(r"((?!))")
        self._added_ids = {token: tokenizer.token_to_id(token) for token in added}
        self._first: dict[str, tuple[int, ...]] = {}  # a word at the beginning of a stretch
        self._later: dict[str, tuple[int, ...]] = {}  # a word with a blank before it

    def ids_of(self, text: str) -> tuple[list[int], Controls] | None:
        """Give the ids of a text and where its added tokens stand; None: it is not read so."""
        if self._normal and not unicodedata.is_normalized("NFC", text):
            return None
        ids: list[int] = []
        controls: Controls = []
        at = 0
        for number, stretch in enumerate(self._added.split(text)):
            if number % 2:
                controls.append((len(ids), at, at + len(stretch)))
                ids.append(self._added_ids[stretch])
            elif stretch:
                self._read(stretch, ids)
            at += len(stretch)
        return ids, controls

    def _read(self, stretch: str, ids: list[int]) -> None:
        first, *words = stretch.split(" ")
        if first and not first[-1].isspace():
            found = list(map(self._later.get, words))
            if None not in found or self._learn(words, found):
                ids += self._tokens(first, self._first, first)
                ids.extend(chain.from_iterable(found))  # type: ignore[arg-type]  # none is None now
                return
        self._read_blanks(first, words, ids)

    def _learn(self, words: Sequence[str], found: list[tuple[int, ...] | None]) -> bool:
        """Read the words that are not known yet; False: blanks follow each other somewhere."""
        new = [place for place, ids in enumerate(found) if ids is None]
        if not all(words[place] and not words[place][-1].isspace() for place in new):
            return False
        for place in new:
            found[place] = self._tokens(words[place], self._later, f" {words[place]}")
        return True

    def _read_blanks(self, first: str, words: Sequence[str], ids: list[int]) -> None:
        """Read a stretch in which blanks may follow each other and belong to one piece."""
        later = self._later
        open_: str | None = first  # what has not been read, as blanks may yet belong to it
        for word in words:
            if open_ is not None:
                if not open_ or open_[-1].isspace():
                    open_ = f"{open_} {word}"
                    continue
                ids += self._tokens(open_, self._first, open_)
                open_ = None
            known = later.get(word)
            if known is not None:
                ids += known
            elif not word or word[-1].isspace():
                open_ = f" {word}"
            else:
                ids += self._tokens(word, later, f" {word}")
        if open_ is not None:
            ids += self._tokens(open_, self._first, open_)

    def _tokens(self, key: str, known: dict[str, tuple[int, ...]], text: str) -> tuple[int, ...]:
        found = known.get(key)
        if found is None:
            found = tuple(self._inner.encode(text, add_special_tokens=False).ids)
            if len(key) <= _LONGEST:
                if len(known) >= _MOST_WORDS:
                    known.clear()
                known[key] = found
        return found


def recognise(tokenizer: Any) -> KnownWords | None:
    """Give the known words of a tokenizer whose pattern is known; None: of any other."""
    inner = tokenizer.backend_tokenizer
    state = json.loads(inner.to_str())
    added = state.get("added_tokens") or []
    fits = (
        _is_plain_bpe(state["model"])
        and (state["normalizer"] is None or state["normalizer"] == {"type": "NFC"})
        and _is_known(state["pre_tokenizer"])
        and not any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in added)
        and not any(token["normalized"] for token in added if state["normalizer"] is not None)
        and all(token["content"] for token in added)
    )
    return KnownWords(inner, [token["content"] for token in added]) if fits else None


def _is_plain_bpe(model: dict[str, Any]) -> bool:
    return (
        model.get("type") == "BPE"
        and not model.get("dropout")
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
    )


def _is_known(rule: dict[str, Any] | None) -> bool:
    """Tell a rule that never lets a piece go on over a blank after another character."""
    rules = (rule or {}).get("pretokenizers", [rule]) if rule else []
    if rules and rules[0].get("type") == "Digits":  # digits apart: a cut more, nothing joined
        rules = rules[1:]
    *splits, last = rules or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return False
    if last.get("use_regex", True):
        return not splits  # GPT-2's own pattern
    return len(splits) == 1 and _is_known_split(splits[0])


def _is_known_split(split: dict[str, Any]) -> bool:
    return (
        split.get("type") == "Split"
        and split.get("behavior") == "Isolated"
        and not split.get("invert")
        and (split.get("pattern") or {}).get("Regex") in _PATTERNS
    )
