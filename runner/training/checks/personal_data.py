"""Personal data by pattern and checksum: e-mail, IBAN, card, phone, tax number; never names.

Only the kind and the place of a find are kept, never what stands there. Every pattern is bounded,
so that no text takes long.
"""

from __future__ import annotations

import re
from enum import IntFlag
from itertools import pairwise


class Personal(IntFlag):
    """Kinds of personal data."""

    EMAIL = 1
    IBAN = 2
    CARD = 4
    PHONE = 8
    TAX = 16


WORDS = {
    Personal.EMAIL: "e-mail address",
    Personal.IBAN: "IBAN",
    Personal.CARD: "card number",
    Personal.PHONE: "phone number",
    Personal.TAX: "tax number",
}

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@((?:[\w-]{1,63}\.){1,6}[^\W\d_]{2,24})\b")
_EXAMPLES = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost)$", re.IGNORECASE
)
"""Names that belong to nobody (RFC 2606)."""
_DIGITS = re.compile(r"[0-9][0-9 ./()-]{7,60}[0-9]")
_BEFORE, _AFTER = 24, 16  # characters around digits that belong to what they may be the end of
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"
)
_IBAN_LENGTHS = {
    entry[:2]: int(entry[2:])
    for entry in (
        *("DE22", "AT20", "CH21", "LI21", "FR27", "MC27", "ES24", "IT27", "SM27", "NL18", "BE16"),
        *("LU20", "GB22", "IE22", "PT25", "PL28", "CZ24", "SK24", "HU28", "SI19", "HR21", "RO24"),
        *("BG22", "GR27", "CY28", "MT31", "DK18", "SE24", "NO15", "FI18", "EE20", "LV21", "LT20"),
        *("IS26", "TR26", "UA29", "AL28", "AD24", "BA20", "BY28", "FO18", "GE22", "GI23", "GL18"),
        *("MD24", "ME22", "MK19", "RS22", "RU33", "VA22", "XK20", "AE23", "AZ28", "BH22", "EG29"),
        *("IL23", "IQ23", "JO30", "KW30", "KZ20", "LB28", "LY25", "PK24", "PS29", "QA29", "SA24"),
        *("BR29", "CR22", "DO28", "GT28", "SV28", "VG24", "LC32", "MR27", "MU30", "SC31", "ST25"),
        *("SD18", "SO23", "TL23", "TN24", "BI27", "DJ27"),
    )
}
"""Characters of an IBAN by country (the IBAN registry of ISO 13616)."""
_CARD = re.compile(
    r"(?<![A-Za-z\d])(?<!\d[.,-])"
    r"(?:\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}|\d{4}[ -]?\d{6}[ -]?\d{4,5})"
    r"(?![A-Za-z\d]|[.,-]\d)"
)
_CARD_BEGINS = re.compile(
    r"4\d{15}|(?:5[1-5]|2[2-7]|35|62|65)\d{14}|6011\d{12}|3[47]\d{13}|3[0689]\d{12}"
)
"""Visa, Mastercard, JCB, Discover, UnionPay; American Express; Diners Club: with their lengths."""
_PHONE = re.compile(
    r"(?<![\w+])(?:(?:\+|(?<!\d[ -])00(?=[1-9]\d{1,2}[ /.-]))\d{1,3}[ /.-]?(?:\(0?\)[ ]?)?|"
    r"(?:\b(?:tel|telefon|telephone|phone|fon|mobil|mobile|handy|fax|ruf)(?:nummer|-?nr|[ ]number)?"
    r"(?:[.:]{0,2}[ ]?\(?0|[.]?:[ ]?\(?[1-9])))"
    r"(?:\(\d{1,5}\)[ ]?)?\d[\d ()/.-]{5,16}\d(?!\d)",
    re.IGNORECASE,
)
_TAX_ID = re.compile(r"(?<!\d)(?<!\d[.,-])[1-9]\d ?\d{3} ?\d{3} ?\d{3}(?!\d|[.,-]\d)")
_TAX_NUMBER = re.compile(
    r"\b(?:steuernummer|steuer-?nr|st\.?-?[ ]?nr)[.:]{0,2} ?\d{2,3} ?/ ?\d{3,4} ?/ ?\d{4,5}(?!\d)",
    re.IGNORECASE,
)
"""What a German tax office gives; its check digit differs from state to state, so words tell it."""
_VAT = re.compile(r"(?<![A-Za-z0-9])DE ?(\d{9}|\d{3} \d{3} \d{3})(?!\d)")


def personal_data(text: str) -> Personal:
    """Tell which kinds of personal data a text holds."""
    found = Personal(0)
    if "\xa0" in text or "\u202f" in text:  # between groups of digits, in Word and on web pages
        text = text.replace("\xa0", " ").replace("\u202f", " ")
    if "@" in text and any(not _EXAMPLES.search(m[1]) for m in _EMAIL.finditer(text)):
        found |= Personal.EMAIL
    for match in _DIGITS.finditer(text):
        found |= _number(text[max(0, match.start() - _BEFORE) : match.end() + _AFTER])
    return found


def _number(text: str) -> Personal:
    """Tell what the digits in a short text are."""
    found = Personal(0)
    ibans = [match[0] for match in _IBAN.finditer(text) if is_iban(match[0])]
    for iban in ibans:
        found |= Personal.IBAN
        text = text.replace(iban, "")  # its digits are no card's
    if any(is_card(match[0]) for match in _CARD.finditer(text)):
        found |= Personal.CARD
    if any(7 < sum(c.isdigit() for c in match[0]) < 16 for match in _PHONE.finditer(text)):
        found |= Personal.PHONE
    ids = any(is_tax_id(match[0]) for match in _TAX_ID.finditer(text))
    if ids or _TAX_NUMBER.search(text) or any(is_vat_id(match[1]) for match in _VAT.finditer(text)):
        found |= Personal.TAX
    return found


def is_iban(text: str) -> bool:
    """Check an IBAN's length for its country and its remainder of 97 (ISO 7064, MOD 97-10)."""
    iban = text.replace(" ", "")
    if _IBAN_LENGTHS.get(iban[:2]) != len(iban):
        return False
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def is_card(text: str) -> bool:
    """Check a card number's beginning and its last digit (Luhn's)."""
    digits = [int(c) for c in text if c.isdigit()]
    if _CARD_BEGINS.fullmatch("".join(map(str, digits))) is None or len(set(digits)) == 1:
        return False
    doubled = [
        d if place % 2 == 0 else sum(divmod(2 * d, 10)) for place, d in enumerate(digits[::-1])
    ]
    return sum(doubled) % 10 == 0


def is_tax_id(text: str) -> bool:
    """Check a German tax id: which digits repeat, and the last one (ISO 7064, MOD 11,10)."""
    digits = [int(c) for c in text if c.isdigit()]
    counts = sorted((digits[:-1].count(d) for d in set(digits[:-1])), reverse=True)
    thrice_in_a_row = any(a == b == c for (a, b), (_, c) in pairwise(pairwise(digits[:-1])))
    if counts[0] not in (2, 3) or counts[1] != 1 or thrice_in_a_row:
        return False
    return _ends_by_11_10(digits)


def is_vat_id(text: str) -> bool:
    """Check the digits of a German VAT id: the last one follows from the rest (MOD 11,10)."""
    digits = [int(c) for c in text if c.isdigit()]
    return digits[0] != 0 and _ends_by_11_10(digits)


def _ends_by_11_10(digits: list[int]) -> bool:
    product = 10
    for digit in digits[:-1]:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == digits[-1]
