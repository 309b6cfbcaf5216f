"""Checks of the data on their edges: what nearly is a finding, and what barely is one."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from test_checks import END_TOKEN, LONG, QUESTION, lines, look, row

from runner.contract.findings import Level
from runner.training.checks import checks, language, mojibake, personal_data
from runner.training.checks.checks import Checks
from runner.training.checks.row import NO_TOKEN, seen
from runner.training.checks.say import End
from runner.training.data.conversation import Conversation
from runner.training.data.mark_answers import Example


def many(count: int) -> list:
    """Give rows that have nothing in common but their language."""
    words = ["rent", "deposit", "notice", "heating", "lease", "tenant", "court", "appeal", "clause"]
    return [
        row(
            n,
            f"What does paragraph {n} say of {words[n % 9]} and {words[n // 9 % 9]} in {n * 7}?",
            f"It says {n * 13} that the {words[n * 5 % 9]} is due in {n} days, {n * 17} at most.",
        )
        for n in range(count)
    ]


def test_rows_of_one_long_question_and_short_different_answers_are_no_near_copies() -> None:
    """Of an answer of four words, one word is what the row teaches."""
    case = " ".join(f"fact{n}" for n in range(60))
    rows = [
        *many(300),
        row(300, f"{case} first?", "It is valid."),
        row(301, f"{case} other?", "It is void."),
    ]
    assert "near_duplicates" not in look(rows)
    alike = [*rows[:301], row(301, f"{case} other?", "It is valid.")]
    assert look(alike)["near_duplicates"].count == 1


def test_near_leaks_are_found_whichever_row_comes_first() -> None:
    """Each held-out row that nearly repeats a learned one, also among held-out ones like it."""
    texts = [" ".join([*map(str, range(300)), f"end{n}"]) for n in range(4)]
    rows = [*many(300), *(row(300 + n, f"{QUESTION} {n}", text) for n, text in enumerate(texts))]
    assert look(rows, held_out=[300])["near_leak"].count == 1
    assert lines(look(rows, held_out=[300])["near_leak"]) == [301]
    found = look(rows, held_out=[300, 302, 303])["near_leak"]
    assert (found.count, lines(found)) == (3, [301, 303, 304])


def test_each_held_out_row_of_a_group_is_compared_with_a_learned_one() -> None:
    """Six rows of the same words, parted elsewhere into question and answer; one is learned."""
    words = [str(n) for n in range(200)]
    rows = [row(300 + n, " ".join(words[: 50 + n]), " ".join(words[50 + n :])) for n in range(6)]
    found = look([*many(300), *rows], held_out=[300, 302, 303, 304, 305])["near_leak"]
    assert found.count == 5


def test_a_leak_to_a_row_that_is_left_out_is_none() -> None:
    """What is longer than the limit is not learned, so nothing of it leaks."""
    rows = [*many(300), row(300, QUESTION, LONG), row(301, QUESTION, LONG, tokens=9000)]
    assert "leak" not in look(rows, held_out=[300])
    assert look([*rows[:301], row(301, QUESTION, LONG)], held_out=[300])["leak"].count == 1


def test_examples_of_a_style_are_no_contradictions() -> None:
    """Where most rows ask the same, their answers differ on purpose: it is said, as no advice."""
    rows = [row(n, "Write a letter of our firm.", f"Dear client {n}, {LONG}") for n in range(300)]
    assert look(rows)["contradictions"].level is Level.INFORM
    assert look([*many(300), *rows[:60]])["contradictions"].level is Level.ADVISE


def test_copies_of_a_row_are_no_boilerplate() -> None:
    """The same question with the same answer is said once, as a copy."""
    rows = [*many(300), *(row(300 + n, QUESTION, LONG) for n in range(12))]
    found = look(rows)
    assert found["exact_duplicates"].count == 11
    assert "boilerplate_answers" not in found


def test_95_of_100_rows_have_as_many_tokens_as_is_said() -> None:
    """Counted by hand: of lengths from 1 to 200, at least 190 and no more than need be."""
    rows = [replace(one, tokens=n + 1) for n, one in enumerate(many(200))]
    most = look(rows)["token_lengths"].values["most"]
    assert 190 <= most <= 191


@pytest.mark.parametrize(("times", "is_found"), [(2.6, False), (2.9, True)])
def test_a_text_with_twice_the_tokens_of_rows_that_are_alike_is_not_damaged(
    times, is_found
) -> None:
    """Where rows are alike, a price list is many deviations off; Chinese is more than that."""
    plain = [row(n, QUESTION, f"{LONG} {n:03}", tokens=100) for n in range(300)]
    far = row(300, QUESTION, f"{LONG} 300", tokens=round(100 * times))
    assert ("unusual_text" in look([*plain, far])) is is_found


def test_a_row_of_several_examples_ends_each_of_them() -> None:
    """Where an example learns nothing, the end of its answer is not learned either."""
    talk = Conversation(file="a", line=1, row=0, messages=({"role": "assistant", "content": "A"},))
    whole = Example(input_ids=[1, 5, END_TOKEN], learned=((1, 3),))
    assert seen(talk, [whole, whole]).last == END_TOKEN
    assert seen(talk, [Example(input_ids=[1, 5], learned=()), whole]).last == NO_TOKEN


def test_rows_that_went_to_the_disk_are_told_in_their_order(tmp_path, monkeypatch) -> None:
    """Processes see them in any order; examples are the first ones of the data all the same."""
    rows = [*many(40), *(row(40 + n, QUESTION, LONG) for n in range(5))]
    end = End(
        held_out=np.array([], dtype=np.int64),
        max_length=8192,
        epochs=2,
        ending=frozenset({END_TOKEN}),
    )
    plain, aside = Checks(), Checks(tmp_path)
    for one in rows:
        plain.see(one)
    monkeypatch.setattr(checks, "_IN_MEMORY", 4)
    monkeypatch.setattr(checks, "_AT_ONCE", 2)
    for one in reversed(rows):
        aside.see(one)
    assert aside._spilled is not None
    assert aside.findings(end) == plain.findings(end)


def test_a_copy_in_another_unicode_form_is_a_copy() -> None:
    """A Mac takes ü apart; for a reader nothing differs."""
    text = "Die Kündigungsfrist für Mieträume beträgt drei Monate zum Monatsende, längstens fünf."
    apart = unicodedata.normalize("NFD", text)
    assert apart != text
    assert (
        look([row(0, "Frist?", text), row(1, "Frist?", apart, learned=len(text) // 4 + 1)])[
            "exact_duplicates"
        ].count
        == 1
    )


def test_one_checksum_of_an_iban_is_right() -> None:
    """Of all check digits of the Bundesbank's example, one leaves the remainder 1 (ISO 7064)."""
    right = [n for n in range(2, 99) if personal_data.is_iban(f"DE{n:02}370400440532013000")]
    assert right == [89]


def test_no_tax_id_has_one_digit_three_times_in_a_row() -> None:
    """As the tax office issues them; apart from each other, three are allowed."""
    for start in ("1112345678", "2344456789"):
        assert not any(personal_data.is_tax_id(f"{start}{last}") for last in range(10))
    assert sum(personal_data.is_tax_id(f"1121345678{last}") for last in range(10)) == 1


def test_utf7_that_nobody_decoded_is_broken() -> None:
    """As Python's own codec writes it; a plus and a minus in a sum are none."""
    for word in ("Größe", "Müller", "naïve"):
        assert mojibake.is_broken(f"Die {word.encode('utf-7').decode()} steht fest.")
    assert not mojibake.is_broken("3+AB-2, C+APIs- and a+Aa-b")


def test_languages_are_told_where_one_of_them_leads() -> None:
    """Japanese law is mostly Chinese characters; half English, half German is neither."""
    assert (
        language.NAMES[language.language("個人情報保護委員会規則で定める基準適合体制整備義務", [])]
        == "Japanese"
    )
    assert (
        language.NAMES[language.language("合同双方应当遵守法律规定并履行通知义务", [])] == "Chinese"
    )
    mixed = "the of and to that with from this der die das und nicht ein eine auch"
    assert language.language(mixed, mixed.split()) == 0
