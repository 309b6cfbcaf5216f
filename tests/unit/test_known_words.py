"""Known words give the tokens that the tokenizer gives, or are not used at all."""

import random

import pytest
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from runner.training.data.control_tokens import Reader
from runner.training.data.known_words import _PATTERNS, WordsDifferError, recognise

PIECES = [
    *(" ", "  ", "\n", " \n", "\n ", "\t", "\r\n", "\u00a0", "\u3000", "\u2028"),
    *("a", "B", "é", "ß", "word", " of", "don't", "'s", "1", "23", " 4567", "²", "Ⅷ"),
    *(".", ",", "-", "_", "…", "“", "漢", "字", "😀", "e\u0301", "a\u0308", "\u200b", "<|im_end|>"),
]


def texts(count):
    """Give texts of pieces that meet in every way."""
    dice = random.Random(5)
    return ["".join(dice.choices(PIECES, k=dice.randint(1, 25))) for _ in range(count)]


def changed(model, normalizer=None, rule=None):
    """Give the real tokenizer with another rule by which it parts texts."""
    inner = Tokenizer.from_str(AutoTokenizer.from_pretrained(model).backend_tokenizer.to_str())
    if rule is not None:
        inner.pre_tokenizer = rule
    if normalizer is not None:
        inner.normalizer = normalizer
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", bos_token="<|im_start|>"
    )


def split_by(pattern):
    """Part by a pattern, as Llama 3 and Qwen do."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), level])


RULES = {
    "its own": (None, None),
    "gpt-2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama 3": (None, split_by(_PATTERNS[0])),
    "qwen": (normalizers.NFC(), split_by(_PATTERNS[1])),
}


@pytest.mark.parametrize("name", RULES)
def test_tokens_and_places_are_those_of_the_tokenizer(name, tiny_model):
    """On thousands of texts of all that a pattern is about; the second time from memory."""
    tokenizer = changed(tiny_model, *RULES[name])
    words, reader = recognise(tokenizer), Reader(tokenizer)
    read = 0
    for text in [*texts(3000), *texts(300)]:
        known = words.ids_of(text)
        if known is not None:
            own = reader.tokens(text)
            assert (own.ids, own.controls) == known, repr(text)
            read += 1
    assert read > 1500


OTHERS = {
    "a blank before the first word": (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "another pattern": (None, split_by(r"\w+ \w+|.")),
    "no parting": (None, pre_tokenizers.Sequence([])),
    "another normal form": (normalizers.Lowercase(), None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_tokenizer_of_another_kind_is_left_alone(name, tiny_model):
    """Only where the cut between words is proved are words read by themselves."""
    assert recognise(changed(tiny_model, *OTHERS[name])) is None


def test_a_sentencepiece_tokenizer_is_left_alone():
    """Its pieces may go over blanks."""
    inner = Tokenizer(BPE(vocab={"a": 0, "▁": 1}, merges=[]))
    inner.decoder = decoders.Metaspace()
    assert recognise(PreTrainedTokenizerFast(tokenizer_object=inner)) is None


def test_a_token_that_differs_is_noticed(tiny_model, monkeypatch):
    """The tokenizer is asked, too: words that once differ are never used again."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    reader = Reader(tokenizer, use_words=True)
    reader.tokens_of_all(["some text"] * 600)
    reader.tokens_of_all(["some text"])
    monkeypatch.setattr(type(reader._words), "ids_of", lambda *_: ([1], []))
    with pytest.raises(WordsDifferError):
        reader.tokens_of_all(["some text"])
    reader.use_no_words()
    assert reader.tokens_of_all(["some text"])[0].ids == tokenizer("some text")["input_ids"]
