"""Checks of the data: clean data gives no advice, a planted fault its finding alone."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from string import Formatter

import ftfy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zaragoza_construction_faq import __file__ as faq_module

from runner.contract.findings import DataFinding, Level, said_in
from runner.errors import SpecError
from runner.language.speaker import Language, Speaker
from runner.language.texts import table
from runner.spec.checks import Checks as Wishes
from runner.spec.read_spec import read_spec
from runner.training.checks import (
    facts,
    language,
    mojibake,
    near,
    personal_data,
    say,
    signed_rows,
    thresholds,
)
from runner.training.checks.checks import Checks
from runner.training.checks.page import page
from runner.training.checks.row import Kind, SeenRow, seen
from runner.training.checks.say import CHECKS, End, robust_z
from runner.training.checks.table import TABLE
from runner.training.data.conversation import Conversation
from runner.training.data.mark_answers import Example

FAQ = faq_module.replace("__init__.py", "data/faq-en.jsonl")
FACTS = {"row_kinds", "token_lengths", "learned_share"}
END_TOKEN = 2


def row(number, question, answer, **changes):
    """Give a row as prepare would, with about as many tokens as a real tokenizer makes."""
    tokens = len(question + answer) // 4 + 15
    plain = SeenRow(
        number=number,
        file="rows.jsonl",
        line=number + 1,
        kind=Kind.QUESTION if question else Kind.TEXT,
        question=question,
        answer=answer,
        tokens=tokens,
        read=tokens,
        learned=len(answer) // 4 + 1,
        last=END_TOKEN,
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def clean():
    """Give the real questions and answers of the demo; of a question asked twice, the first."""
    with open(FAQ, encoding="utf-8") as file:
        pairs = {fields["q"]: fields["a"] for fields in map(json.loads, file)}
    return [row(n, q, a) for n, (q, a) in enumerate(pairs.items())]


def look(rows, *, held_out=(), **changes):
    """Give the findings on rows, by check."""
    accumulator = Checks()
    for one in rows:
        accumulator.see(one)
    end = End(
        held_out=np.array(held_out, dtype=np.int64),
        max_length=8192,
        epochs=2,
        ending=frozenset({END_TOKEN}),
    )
    return {finding.check: finding for finding in accumulator.findings(replace(end, **changes))}


def lines(finding):
    """Give the lines of a finding's examples."""
    return [place.line for place in finding.places]


def test_clean_real_data_is_only_described(clean) -> None:
    """Nothing is said of real questions and answers but how many they are and how long."""
    assert set(look(clean, held_out=range(0, 400, 10))) == FACTS


def test_a_question_that_the_demo_asks_twice_is_found() -> None:
    """The real data asks some questions twice, with different answers: counting agrees."""
    with open(FAQ, encoding="utf-8") as file:
        pairs = [(fields["q"], fields["a"]) for fields in map(json.loads, file)]
    twice = [
        n + 1
        for n, (q, a) in enumerate(pairs)
        if any(q.lower() == other.lower() and a != b for other, b in pairs)
    ]
    found = look([row(n, q, a) for n, (q, a) in enumerate(pairs)])
    assert set(found) - FACTS == {"contradictions"}
    assert found["contradictions"].count == len(twice) > 0
    assert lines(found["contradictions"]) == twice[:3]


LONG = (
    "The tenant returns the keys on the last day of the month, and the landlord pays the deposit "
    "back within six months, less what is owed for repairs that the tenant has caused."
)
QUESTION = "When is the deposit of a flat paid back to a tenant who has moved out?"

PLANTED = {
    "exact_duplicates": (lambda n, clean: replace(clean[n], number=n), Level.INFORM),
    "wrong_encoding": (
        lambda n, clean: row(
            n, QUESTION + str(n), f"{LONG} {n} Gemäß § 551 fällig".encode().decode("cp1252")
        ),
        Level.ADVISE,
    ),
    "placeholder_answers": (
        lambda n, clean: row(n, f"{QUESTION} {n}", ["TODO", "n/a", "---"][n % 3]),
        Level.ADVISE,
    ),
    "assistant_phrases": (
        lambda n, clean: row(
            n, f"{QUESTION} {n}", f"As an AI language model, I know {n} flats. {n}"
        ),
        Level.ADVISE,
    ),
    "repeated_questions": (
        lambda n, clean: row(n, f"{n} {QUESTION}", f"{n} {QUESTION} No."),
        Level.INFORM,
    ),
    "short_answers": (lambda n, clean: row(n, f"{QUESTION} {n}", f"Paragraph {n}"), Level.INFORM),
    "unusual_text": (
        lambda n, clean: row(
            n, f"{n}", "".join(random.Random(n).choices("0aF9+/= ", k=900)), tokens=800
        ),
        Level.INFORM,
    ),
    "languages": (
        lambda n, clean: row(
            n,
            f"{QUESTION} {n}",
            f"Die Kaution ist nach dem Ende des Mietverhältnisses und nach der Rückgabe der {n} "
            "Schlüssel zurückzuzahlen, wenn der Vermieter nicht noch Forderungen hat.",
        ),
        Level.INFORM,
    ),
    "personal_data": (
        lambda n, clean: row(
            n, f"{QUESTION} {n}", f"{LONG} {n} Pay to DE89 3704 0044 0532 0130 00."
        ),
        Level.INFORM,
    ),
    "end_of_turn": (lambda n, clean: replace(clean[n], last=77), Level.STOP),
    "too_long": (lambda n, clean: replace(clean[n], tokens=9000), Level.INFORM),
}
"""By check: what makes a row of the clean data show it, and how serious three of 470 rows are."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_where_it_was_planted_and_nothing_else(name, clean) -> None:
    """Three rows of clean data are spoilt: that finding alone appears, with their lines."""
    make, level = PLANTED[name]
    spoilt = list(clean)
    for place, n in enumerate((40, 200, 333)):
        if name == "exact_duplicates":
            spoilt[n] = replace(clean[place], number=n, line=n + 1)
        else:
            spoilt[n] = make(n, clean)
    found = look(spoilt)
    extra = {"unusual_text"} if name == "too_long" else set()  # so many tokens are unusual, too
    assert set(found) - FACTS == {name} | extra
    assert (found[name].count, found[name].of, lines(found[name])) == (
        3,
        len(clean),
        [41, 201, 334],
    )
    assert found[name].level is level


def test_a_mix_of_languages_is_named_with_its_figures(clean) -> None:
    """Data that is meant in two languages is no fault, and its owner sees how much is in which."""
    german = (
        "Die Kaution ist nach dem Ende des Mietverhältnisses und nach der Rückgabe der {} "
        "Schlüssel zurückzuzahlen, wenn der Vermieter nicht noch Forderungen hat."
    )
    english = (
        "The deposit is to be paid back at the end of the tenancy and after the return of the {} "
        "keys, if the landlord has not any claims that are still open."
    )
    rows = [
        row(n, f"{QUESTION} {n}", (german if n % 5 < 2 else english).format(f"{n} {n + 1}"))
        for n in range(100)
    ]
    found = look(rows)
    assert "languages" not in found
    mix = found["language_mix"]
    assert (mix.level, mix.count, mix.advice) == (Level.INFORM, 100, None)
    assert mix.values["named"] == "English: 60, German: 40"
    assert "language_mix" not in look(clean)


def test_near_duplicates_and_their_leak_are_found(clean) -> None:
    """A row in which one word differs is named, and that one is held out, one learned."""
    spoilt = list(clean)
    long = [r for r in clean if len(r.answer.split()) > 45][:3]
    for n, one in zip((40, 200, 333), long, strict=True):
        words = one.answer.split()
        words[20] = "otherwise"
        spoilt[n] = row(n, one.question, " ".join(words))
    found = look(spoilt, held_out=[40])
    assert set(found) - FACTS == {"near_duplicates", "near_leak", "contradictions", "leak"}
    pairs = sorted([*(r.number for r in long), 40, 200, 333])
    assert found["contradictions"].count == 6
    assert lines(found["contradictions"]) == [n + 1 for n in pairs][:3]
    later = sorted(max(a, r.number) for a, r in zip((40, 200, 333), long, strict=True))
    assert (found["near_duplicates"].count, lines(found["near_duplicates"])) == (
        3,
        [n + 1 for n in later],
    )
    assert (lines(found["near_leak"]), lines(found["leak"])) == ([41], [41])


def test_what_was_found_in_a_sample_is_said_to_be_that(clean, monkeypatch) -> None:
    """Of more rows than are compared with each other, how many were is part of the sentence."""
    rows = [row(n, f"{QUESTION} {n}", f"{LONG} {n}") for n in range(30)]
    whole = look(rows, held_out=[3])
    assert whole["near_duplicates"].message.endswith("29 of 30 rows.")
    fewer = replace(thresholds.NEAR_ROWS, value=20)
    for module in (near, signed_rows, thresholds):
        monkeypatch.setattr(module, "NEAR_ROWS", fewer)
    found = look(rows, held_out=range(0, 30, 3))
    said = "19 were found among 20 rows drawn for it; there are too many rows (30) to compare all."
    assert found["near_duplicates"].message.endswith(said)
    assert "among 20 rows drawn for it" in found["near_leak"].message
    german = said_in(found["near_duplicates"], Speaker(Language.GERMAN))
    assert german is not None
    assert "19 unter 20 dafür gezogenen Zeilen" in german


def test_what_is_learned_and_held_out_alike_is_a_leak(clean) -> None:
    """A held-out question that is learned with another case and spacing is found."""
    spoilt = [*clean, row(len(clean), f" {clean[7].question.upper()}  ", clean[7].answer)]
    found = look(spoilt, held_out=[len(clean)])
    assert (found["leak"].count, found["leak"].of, lines(found["leak"])) == (1, 1, [len(clean) + 1])
    assert found["leak"].level is Level.ADVISE


def test_the_same_long_answer_to_many_questions_is_boilerplate(clean) -> None:
    """Twelve questions with one answer are named; labels, which repeat by nature, are not."""
    spoilt = list(clean)
    for n in range(100, 112):
        spoilt[n] = row(n, clean[n].question, LONG)
    found = look(spoilt)
    assert set(found) - FACTS == {"boilerplate_answers"}
    assert (found["boilerplate_answers"].count, lines(found["boilerplate_answers"])) == (
        12,
        [101, 102, 103],
    )
    labels = [row(n, r.answer, "approved" if n % 2 else "refused") for n, r in enumerate(clean)]
    assert set(look(labels)) == FACTS


def test_few_rows_and_many_epochs_are_advice(clean) -> None:
    """Under 300 rows, and over 10,000 rows read three times, say so; 300 and 10,000 do not."""
    few = look(clean[:299])
    assert few["few_rows"].level is Level.ADVISE
    assert "299" in few["few_rows"].message
    assert "few_rows" not in look(clean[:300])
    many = [row(n, f"What is the number after {n}?", f"It is {n + 1}.") for n in range(10_001)]
    assert look(many, epochs=3)["many_epochs"].level is Level.ADVISE
    assert "many_epochs" not in look(many, epochs=2.9)
    assert "many_epochs" not in look(many[:10_000], epochs=3)


def test_a_spec_turns_a_check_off_or_makes_it_stop(clean) -> None:
    """`ignore` says nothing, `stop` stops the job, each other level is what was asked for."""
    spoilt = [*clean[:-1], replace(clean[0], number=len(clean) - 1, line=len(clean))]
    assert "exact_duplicates" not in look(spoilt, wishes={"exact_duplicates": "ignore"})
    for level in Level:
        found = look(spoilt, wishes={"exact_duplicates": level.value})
        assert found["exact_duplicates"].level is level


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("near_duplicate: ignore", "did you mean near_duplicates?"),
        ("contradiction: ignore", "did you mean contradictions?"),
        ("leak: off", "did you mean ignore?"),
        ("leak: warn", "did you mean advise?"),
        ("leak: error", "did you mean stop?"),
        ("token_lengths: stop", "Allowed: ignore, inform"),
    ],
)
def test_a_slip_in_a_specs_checks_is_answered_with_what_was_meant(written, meant) -> None:
    """Near names and other tools' words for a level are refused with the right one."""
    content = f"model: m\ndata: d.jsonl\nchecks:\n  {written}\n".encode()
    with pytest.raises(SpecError) as refused:
        read_spec(content, file_name="a.yaml")
    assert meant in str(refused.value)
    assert "line 4" in str(refused.value)


def test_the_lengths_are_counted_in_bars(clean) -> None:
    """The histogram counts each row once, as counting by hand does."""
    tokens = [3, 64, 65, 128, 1000, 40_000]
    rows = [replace(r, tokens=t) for r, t in zip(clean, tokens, strict=False)]
    values = look(rows, max_length=50_000)["token_lengths"].values
    assert [values[k] for k in ("to_64", "to_128", "to_256", "to_1024", "longer")] == [
        2,
        2,
        0,
        1,
        1,
    ]
    assert sum(v for k, v in values.items() if k.startswith("to_") or k == "longer") == len(rows)
    assert (values["median"], values["longest"]) == (65, 40_000)


def test_every_check_has_words_a_function_and_a_wish() -> None:
    """What a spec can name is what is checked, and each has its sentence."""
    by_loss = {"known_answers", "surprising_answers", "hardest_answers"}
    assert set(CHECKS) == set(Wishes.model_fields) - by_loss
    assert set(TABLE) == set(Wishes.model_fields)


# -- order and processes -------------------------------------------------------------------------

SENTENCES = st.lists(
    st.sampled_from(["der", "die", "the", "of", "Frist", "notice", "läuft", "Ã¼ber", "a@b.de"]),
    max_size=40,
).map(" ".join)
ROWS = st.lists(st.tuples(SENTENCES, SENTENCES, st.integers(1, 5000)), min_size=1, max_size=40)


def made(drawn):
    return [
        row(n, question, answer, tokens=tokens, file=f"{tokens % 3}.jsonl")
        for n, (question, answer, tokens) in enumerate(drawn)
    ]


@settings(deadline=None, max_examples=60)
@given(ROWS, st.randoms(use_true_random=False), st.integers(0, 40))
def test_neither_order_nor_processes_matter(drawn, chance, cut) -> None:
    """Rows in any order, seen by one accumulator or by two that are merged: the same findings."""
    rows = made(drawn)
    end = End(
        held_out=np.arange(0, len(rows), 4),
        max_length=4000,
        epochs=3,
        ending=frozenset({END_TOKEN}),
    )

    def seen_by(*parts):
        whole = Checks()
        for part in parts:
            one = Checks()
            for each in part:
                one.see(each)
            whole.merge(one)
        return whole.findings(end)

    shuffled = list(rows)
    chance.shuffle(shuffled)
    expected = seen_by(rows)
    assert seen_by(shuffled) == expected
    assert seen_by(shuffled[:cut], shuffled[cut:]) == expected


@settings(deadline=None, max_examples=30)
@given(ROWS, st.integers(0, 40))
def test_a_sample_is_the_same_from_halves(drawn, cut) -> None:
    """Where too many rows are compared, the sample of two halves' samples is the whole's."""
    rows = made(drawn)
    words = [[*r.answer.split(), "x", "y", "z"] for r in rows]
    keys = [facts._hash(r.answer) for r in rows]
    whole = near.sign(words, range(len(rows)), keys)
    halves = [near.sample(part, 5) for part in (whole[:cut], whole[cut:])]
    assert (near.sample(np.concatenate(halves), 5) == near.sample(whole, 5)).all()


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_sample_of_a_long_stream_is_that_of_all_rows(monkeypatch, tmp_path, on_disk) -> None:
    """Rows that cannot be among the lowest are dropped as they come: the result is the same."""
    aside = tmp_path if on_disk else None
    few = replace(thresholds.NEAR_ROWS, value=40)
    monkeypatch.setattr(near, "NEAR_ROWS", few)
    monkeypatch.setattr(signed_rows, "NEAR_ROWS", few)
    monkeypatch.setattr(signed_rows, "_IN_MEMORY", 16)
    rows = [row(n, QUESTION, f"{LONG} {n}") for n in range(500)]
    words = [facts.facts_of(r, 0) for r in rows]
    whole = near.sign([w for _, w in words], range(500), [kept[-1] for kept, _ in words])
    stream = Checks(aside)
    for start in range(0, 500, 20):
        part = Checks()
        for one in rows[start : start + 20]:
            part.see(one)
        stream.merge(part)
    assert len(stream._signed) < 60
    assert not on_disk or sum(map(len, stream._signed.held)) <= 16
    kept = stream._signed.whole()
    expected = np.sort(near.sample(whole), order="number")
    assert (kept == expected).all()


def test_what_is_kept_of_many_batches_is_not_kept_twice() -> None:
    """A million rows of four thousand batches take their 70 bytes each, and a third more."""
    code = """
import numpy as np
from runner.training.checks.checks import Checks
from runner.training.checks.facts import FACTS
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
total, before = Checks(), peak()
for batch in range(4000):
    part = Checks()
    part._files = {"rows.jsonl": 0}
    part._facts = [np.zeros(256, dtype=FACTS)]
    part._facts[0]["number"] = np.arange(256) + 256 * batch
    total.merge(part)
assert (total._all_facts()["number"] == np.arange(1_024_000)).all()
print((peak() - before) / (1_024_000 * FACTS.itemsize))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.34


def test_signatures_travel_between_processes() -> None:
    """The same words have the same signature in another process, whatever its hash seed is."""
    code = (
        "from runner.training.checks.near import sign;"
        "print(sign([['a', 'b', 'c', 'd']], [1], [2]).tobytes().hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


# -- near duplicates against exact Jaccard -------------------------------------------------------


def jaccard(one, other):
    a, b = ({tuple(w[i : i + 3]) for i in range(len(w) - 2)} for w in (one, other))
    return len(a & b) / len(a | b)


def test_near_duplicates_agree_with_exact_jaccard() -> None:
    """Of pairs at all distances, those above 0.92 are found and those below 0.75 are not."""
    chance = random.Random(5)
    words = [f"word{n}" for n in range(3000)]
    originals = [chance.choices(words, k=150) for _ in range(120)]
    copies = []
    for n, original in enumerate(originals):
        copy = list(original)
        for _ in range(n % 20):
            copy[chance.randrange(len(copy))] = chance.choice(words)
        copies.append(copy)
    texts = [*originals, *copies]
    signed = near.sign(texts, range(240), range(240))
    found = {tuple(p) for p in near.similar_pairs(signed, np.zeros(240, dtype=bool)).tolist()}
    for one, other in itertools.combinations(range(240), 2):
        exact = jaccard(texts[one], texts[other])
        if exact > 0.92:
            assert (one, other) in found
        if exact < 0.75:
            assert (one, other) not in found


def test_a_group_of_thousands_takes_no_time() -> None:
    """Five thousand rows that are all nearly the same are one group, found in a moment."""
    base = [f"w{n}" for n in range(200)]
    signed = near.sign([[*base, f"x{n}", f"y{n}"] for n in range(5000)], range(5000), range(5000))
    pairs = near.similar_pairs(signed, np.zeros(5000, dtype=bool))
    assert len(pairs) < 10 * 5000
    assert set(near.groups(5000, pairs)) == {0}


# -- the single checks against references --------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Überweisung auf DE89 3704 0044 0532 0130 00 bitte", personal_data.Personal.IBAN),
        ("GB82 WEST 1234 5698 7654 32", personal_data.Personal.IBAN),
        ("FR1420041010050500013M02606", personal_data.Personal.IBAN),
        ("card 4111 1111 1111 1111, valid", personal_data.Personal.CARD),
        ("378282246310005", personal_data.Personal.CARD),
        ("Steuer-ID 86 095 742 719", personal_data.Personal.TAX),
        ("USt-IdNr. DE136695976", personal_data.Personal.TAX),
        ("write to anna.muster@kanzlei-muster.de.", personal_data.Personal.EMAIL),
        ("Tel. 0711 1234567", personal_data.Personal.PHONE),
        ("+49 (0) 30 1234 5678", personal_data.Personal.PHONE),
        ("MT84 MALT 0110 0001 2345 MTLC AST0 01S", personal_data.Personal.IBAN),
        ("RS35 2600 0560 1001 6113 79", personal_data.Personal.IBAN),
        ("SA03 8000 0000 6080 1016 7519", personal_data.Personal.IBAN),
        ("BR15 0000 0000 0000 1093 2840 814P 2", personal_data.Personal.IBAN),
        ("DE89\xa03704\xa00044\xa00532\xa00130\xa000", personal_data.Personal.IBAN),
        ("3530111333300000", personal_data.Personal.CARD),  # JCB
        ("30569309025904", personal_data.Personal.CARD),  # Diners Club
        ("Steuernummer: 181/815/08155", personal_data.Personal.TAX),  # as ELSTER shows it
        ("müller@kanzlei-müller.de", personal_data.Personal.EMAIL),
        ("0049 30 1234567", personal_data.Personal.PHONE),
        ("Handynummer: 0151 23456789", personal_data.Personal.PHONE),
        ("Phone: 212-555-0123", personal_data.Personal.PHONE),
    ],
)
def test_personal_data_that_its_makers_publish_as_examples_is_found(text, kind) -> None:
    """The registries' own example numbers are found, each as what it is."""
    assert personal_data.personal_data(text) == kind
    assert personal_data.personal_data(f"x {text} y") == kind


@pytest.mark.parametrize(
    "text",
    [
        "DE89 3704 0044 0532 0130 01",  # a wrong checksum
        "4111 1111 1111 1112",
        "86 095 742 718",
        "DE136695977",
        "0000 0000 0000 0000",
        "ISBN 978-3-16-148410-0, § 551 Abs. 3 BGB, BGBl. I S. 2376, 12.03.2021, 1999-2004",
        "Aktenzeichen 12 O 345/21, Az. VIII ZR 123/20, EUR 1.234.567,89 und 12 345 678 Stück",
        "info@example.com, user@host, @handle, 3@4",
        "10.1000/182, 192.168.100.200, 2021-03-12 14:00:00, 0123456789",
        "tel. aviv 100, 1,000,000,000 and 3.14159265358979",
        "sha 4111111111111111abcdef, 12 0044 0532 0130, phone 12 of 2020-2021",
    ],
)
def test_numbers_that_belong_to_nobody_are_no_personal_data(text) -> None:
    """Wrong checksums, citations, amounts, dates and example addresses are left alone."""
    assert not personal_data.personal_data(text)


def test_a_long_line_of_digits_takes_no_time() -> None:
    """The patterns are bounded: a hostile text of a megabyte takes less than two seconds."""
    import time

    for text in (
        "1" * 200_000,
        "a@" * 100_000,
        "+49 " * 50_000,
        "DE12 " * 40_000,
        "tel. " * 40_000,
    ):
        start = time.process_time()
        personal_data.personal_data(text)
        mojibake.is_broken(text + "Ã¼" * 10_000)
        assert time.process_time() - start < 2


GERMAN = "Die Kündigung muß dem Empfänger rechtzeitig zugehen; § 573c BGB gilt für ältere Verträge."
FRENCH = (
    "Le contrat, signé à l'été, où l'on règle « tout » : ça coûte 3 € – naïvement, cœur et âme."
)


def test_right_letters_are_not_taken_for_broken_ones() -> None:
    """Umlauts, accents, quotation marks and dashes of real languages are left alone."""
    polish = "Umowa została zawarta w Łodzi, zaś najemca wpłacił kaucję w wysokości 3 000 zł."
    for text in (GERMAN, FRENCH, polish, "Ä“ Ö” Ü’ ß‘", "São Paulo – “Ça va”", "Δοκιμή", "日本語"):
        assert not mojibake.is_broken(text)
        assert ftfy.fix_encoding(text) == text


@pytest.mark.parametrize("wrong", ["latin-1", "cp1252"])
@pytest.mark.parametrize("text", [GERMAN, FRENCH])
def test_letters_read_in_a_wrong_encoding_are_found(text, wrong) -> None:
    """UTF-8 that was read as something else is found, as is what a decoder gave up on."""
    assert mojibake.is_broken(text.encode().decode(wrong, "ignore"))
    assert mojibake.is_broken(text.encode("latin-1", "ignore").decode("utf-8", "replace"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "English",
            "The lease ends on the last day of the month, and the tenant is to pay for it.",
        ),
        (
            "German",
            "Das Mietverhältnis endet mit dem Ende des Monats, und der Mieter hat die Kosten.",
        ),
        (
            "French",
            "Le bail prend fin le dernier jour du mois et le locataire doit payer les frais.",
        ),
        (
            "Spanish",
            "El contrato termina el último día del mes y el inquilino debe pagar los gastos.",
        ),
        (
            "Swedish",
            "Avtalet upphör den sista dagen i månaden och hyresgästen ska betala för det.",
        ),
        (
            "Danish or Norwegian",
            "Lejeren skal betale for el og vand, hvis det ikke er med i huslejen.",
        ),
        (
            "",  # Czech is not in the table
            "Nájemce odevzdá klíče poslední den v měsíci a pronajímatel vrátí kauci za rok.",
        ),
        ("Cyrillic script", "Договор прекращается в последний день месяца."),
        ("Japanese", "契約は月の最終日に終了します。"),
        ("Chinese", "合同在每月的最后一天终止。"),
        ("", "Landgericht Stuttgart 12 O 345/21 BGHZ 123, 456"),
        ("", "yes"),
    ],
)
def test_a_language_is_told_or_nothing_is_said(name, text) -> None:
    """Plain sentences are told by their language; citations and single words are not guessed at."""
    assert language.NAMES[language.language(text, text.casefold().split())] == name


def test_the_spread_is_not_moved_by_what_lies_far_off() -> None:
    """Robust z agrees with the normal distribution on clean values, whatever a few others are."""
    values = np.random.default_rng(1).normal(10, 2, 5000)
    spoilt = np.concatenate([values, [1e6] * 50])
    z = robust_z(spoilt)[:5000]
    assert abs(np.std(z) - 1) < 0.05


def test_a_conversation_is_seen_with_its_last_answer() -> None:
    """The question is all that stands before the last answer; the system message stands apart."""
    talk = Conversation(
        file="a.jsonl",
        line=7,
        row=3,
        messages=(
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Q1"},
            {"role": "assistant", "content": "A1"},
            {"role": "user", "content": "Q2"},
            {"role": "assistant", "content": "A2"},
        ),
    )
    found = seen(talk, [Example(input_ids=[1, 5, 6, 2, 9], learned=((2, 4),))])
    assert (found.question, found.answer, found.system) == ("Q1\nA1\nQ2", "A2", "S")
    assert (found.tokens, found.learned, found.last, found.line) == (5, 2, 2, 7)
    assert found.kind is Kind.CONVERSATION


def test_memory_is_bounded_for_a_row_of_many_megabytes() -> None:
    """Of a text of 20 MB only the beginning is parted into words, and it is hashed whole."""
    import tracemalloc

    huge = row(0, "What does it say?", "word " * 4_000_000)
    tracemalloc.start()
    kept, words = facts.facts_of(huge, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(words) <= thresholds.NEAR_WORDS.value + facts.TEXT_LOOKED_AT
    assert peak < 150e6
    other, _ = facts.facts_of(replace(huge, answer=huge.answer + "end"), 0)
    assert kept[-1] != other[-1]


def test_findings_are_said_in_german_with_the_same_figures() -> None:
    """Each sentence stands in the table of texts, in German with the figures of the English."""
    names = {f"finding_{name}": check.says for name, check in TABLE.items()}
    names |= {f"finding_{name}_advice": c.advice for name, c in TABLE.items() if c.advice}
    of_sample = {name: c.says_of_sample for name, c in TABLE.items() if c.says_of_sample}
    names |= {f"finding_{name}_sampled": says for name, says in of_sample.items()}
    told = {key: text for key, text in table().items() if key in names}
    assert {key: text["en"] for key, text in told.items()} == names
    for text in told.values():
        figures = [{name for _, name, _, _ in Formatter().parse(text[x]) if name} for x in text]
        assert figures[0] == figures[1]


def test_the_page_of_checks_is_the_tables() -> None:
    """docs/checks.md says what the code does: `python -m runner.training.checks.page` renews it."""
    written = Path(__file__).parents[2] / "docs" / "checks.md"
    assert written.read_text(encoding="utf-8") == page()


def test_controls_that_were_quotes_are_broken_letters() -> None:
    """Windows-1252 read as Latin-1 and saved as UTF-8: “Frist” has two controls, and no letter."""
    assert mojibake.is_broken("Die \x93Frist\x94 endet")
    assert not mojibake.is_broken("Die “Frist” endet\x85 „so“")


@pytest.mark.parametrize("phrase", facts.ASSISTANT_PHRASES)
def test_every_phrase_of_an_assistant_is_found(phrase):
    """However an answer writes it, ß among its letters or not."""
    said = row(0, QUESTION, f"{phrase[:1].upper()}{phrase[1:]} the notice period is three months.")
    kept, _ = facts.facts_of(said, 0)
    marks = kept[facts.FACTS.names.index("marks")]
    assert marks & facts.Mark.ASSISTANT


def test_lists_within_findings_are_german_too() -> None:
    """Kinds of rows, of personal data and languages: each name has its German, numbers theirs."""
    names = [*personal_data.WORDS.values(), *say.KINDS.values(), *filter(None, language.NAMES)]
    keys = {name: f"listed_{name.lower().replace(' ', '_').replace('-', '_')}" for name in names}
    assert {name: table()[key]["en"] for name, key in keys.items()} == {n: n for n in names}
    german = Speaker(Language.GERMAN)
    kinds = DataFinding(
        check="row_kinds",
        level=Level.INFORM,
        count=1204,
        message="",
        values={"of": 1204, "kinds": "question and answer: 1,201, text learned whole: 3"},
    )
    said = said_in(kinds, german)
    assert said == "1.204 Zeilen (Frage und Antwort: 1.201, ganz gelernter Text: 3)."
    losses = {"of": 40, "learned": 1200, "highest": 7.25, "median": 0.5}
    hardest = DataFinding(
        check="hardest_answers", level=Level.INFORM, count=40, message="", values=losses
    )
    assert "bis zu 7,25 je Token; die Hälfte hat 0,5" in str(said_in(hardest, german))
