"""Personal data in a text: e-mail addresses, phone numbers, payment cards, Israeli ID numbers, keys and tokens."""

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from kivnun.data.checks.problem import Problem

PersonalKind = Literal["email", "phone", "card", "israeli-id", "secret"]
PERSONAL_KINDS: tuple[PersonalKind, ...] = ("email", "phone", "card", "israeli-id", "secret")
PersonalSpan = tuple[PersonalKind, int, int]
"""A kind of personal data, and where it begins and ends in its text."""

_FEWEST_DIGITS = 8
_QUICK_SIGNS = ("_", "sk-", "AKIA", "ASIA", "xox", "eyJ", "AIza", "glpat-")


def may_hold_personal(text: str, marks: bytes) -> bool:
    """Whether a text, with its `ascii_marks`, may hold personal data; a quick look for most texts."""
    if not marks:
        return "PRIVATE KEY" in text
    if b"@" in marks or "PRIVATE KEY" in text:
        return True
    digits = len(marks.translate(None, b"@{<&[#"))
    if digits >= _FEWEST_DIGITS and _has_long_number(text):
        return True
    if not digits:
        return False
    # A plain loop: a generator would cost more than all the looks.
    for sign in _QUICK_SIGNS:
        if sign in text:
            return _secret_in(text)
    return False


def find_personal(text: str) -> list[PersonalSpan]:
    """Every piece of personal data in a text, in its order; none overlaps another."""
    spans: list[PersonalSpan] = []
    taken = bytearray()
    for kind, start, stop in _candidates(text):
        taken = taken or bytearray(len(text))
        if 1 not in taken[start:stop]:
            taken[start:stop] = b"\1" * (stop - start)
            spans.append((kind, start, stop))
    return sorted(spans, key=lambda span: span[1])


def check_personal(texts: Sequence[tuple[str, str]]) -> list[Problem]:
    """The personal data that a row's texts hold: a finding for each kind.

    Args:
        texts: Each text behind the words that say where in the row it stands.
    """
    first: dict[PersonalKind, str] = {}
    counts = dict.fromkeys(PERSONAL_KINDS, 0)
    for where, text in texts:
        for kind, start, stop in find_personal(text):
            counts[kind] += 1
            first.setdefault(kind, f"{where}: {shorten_personal(kind, text[start:stop])}")
    return [
        (f"personal-{kind}", first[kind] if counts[kind] == 1 else f"{first[kind]}, {counts[kind]} in all")
        for kind in PERSONAL_KINDS
        if kind in first
    ]


def shorten_personal(kind: PersonalKind, value: str) -> str:
    """A value for a message: enough to find it in its row, too little to use it."""
    if kind == "email":
        name, _, domain = value.rpartition("@")
        return f"{name[0]}...@{domain}"
    if kind == "secret":
        return f"{value[:4]}..." if not value.startswith("-----") else value[: value.index("-----", 5) + 5]
    digits = "".join(character for character in value if character.isdigit())
    if kind == "card":
        return f"{digits[:4]}...{digits[-4:]}"
    plus = "+" if value.lstrip("(").startswith("+") else ""
    return f"{plus}{digits[:3]}...{digits[-2:]}" if kind == "phone" else f"{digits[:2]}...{digits[-2:]}"


# Digits become zeros and what may stand between them goes; eight digits are the least of a phone, card or ID number.
_DIGITS_TO_ZERO = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
_BETWEEN_DIGITS = b" ().-"
# What Word, web pages and Hebrew keyboards write for a space and a hyphen.
_PLAIN_SEPARATORS = (*((space, " ") for space in "\xa0\u2007\u2009\u202f"), *((dash, "-") for dash in "‐‑‒–—−־"))
# Their bytes; no letter of Hebrew consists of these alone.
_BETWEEN_DIGITS_TOO = _BETWEEN_DIGITS + "".join(character for character, _ in _PLAIN_SEPARATORS).encode()


def _has_long_number(text: str) -> bool:
    if text.isascii():
        return b"0" * _FEWEST_DIGITS in text.encode().translate(_DIGITS_TO_ZERO, _BETWEEN_DIGITS)
    characters = text.encode("utf-8", "replace")
    digits = characters.translate(_DIGITS_TO_ZERO, _BETWEEN_DIGITS_TOO)
    if b"0" * _FEWEST_DIGITS not in digits:
        return False
    # Of years from - to, which books write with a dash, there are eight digits.
    return b"0" * (_FEWEST_DIGITS + 1) in digits or (
        b"0" * _FEWEST_DIGITS in characters.translate(_DIGITS_TO_ZERO, _BETWEEN_DIGITS)
    )


def _with_plain_separators(text: str) -> str:
    """The text with ASCII spaces and hyphens for others; every character stays at its place."""
    if not text.isascii():
        for character, plain in _PLAIN_SEPARATORS:
            text = text.replace(character, plain)
    return text


def _candidates(text: str) -> Iterator[PersonalSpan]:
    """All that looks like personal data; where two overlap, the one that comes first is meant."""
    yield from _secrets(text)
    if "@" in text:
        yield from _emails(text)
    if _has_long_number(text):
        plain = _with_plain_separators(text)
        yield from _cards(plain)
        yield from _phones(plain)
        yield from _israeli_ids(plain)


_SECRET = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    r"sk-[A-Za-z0-9_-]{16,200}|sk_live_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])"
    r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{36}"
    r"|hf_[A-Za-z0-9]{30,}|xox[abeoprs]-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{35}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r")"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]{2,12} ){0,2}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[^-]{0,20000}-----END [A-Z ]{0,30}KEY[A-Z ]{0,8}-----)?"
)


def _secrets(text: str) -> Iterator[PersonalSpan]:
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield "secret", match.start(), match.end()
    for match in _SECRET.finditer(text):
        # Words joined by hyphens (`sk-learn-pipeline-...`) have no digits.
        if any(character.isdigit() for character in match[0]):
            yield "secret", match.start(), match.end()


def _secret_in(text: str) -> bool:
    return next(_secrets(text), None) is not None


_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+-]{1,64}(?:\.[A-Za-z0-9_%+-]{1,64}){0,8}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}([A-Za-z]{2,18})(?![A-Za-z0-9@-])"
)
_FILE_ENDINGS = frozenset(("png", "jpg", "jpeg", "gif", "svg", "webp", "git", "js", "css", "html"))


# `git@github.com:team/project`, `your.name@company.com`, `user@server.com`: nobody's address. `icon@2x.png` is a file.
_NOBODY = re.compile(
    r"git@|your?[._-]?(?:user)?(?:name|e?mail|address|id)?@|(?:user|user_?name|root|name|email|someone)@"
    r"|.*@(?:your|my)?-?(?:domain|server|host|remote|company)\.\w+$",
    re.IGNORECASE,
)


def _emails(text: str) -> Iterator[PersonalSpan]:
    for match in _EMAIL.finditer(text):
        if match[1].lower() not in _FILE_ENDINGS and not _NOBODY.match(match[0]):
            yield "email", match.start(), match.end()


_CARD = re.compile(
    r"(?<![A-Za-z0-9_.+/])(?<![A-Za-z0-9_]-)"
    r"(?:\d{14,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|3\d{3}([ -])\d{6}\2\d{4,5})"
    r"(?![A-Za-z0-9_])(?![.,-]\d)"
)


def _cards(text: str) -> Iterator[PersonalSpan]:
    for match in _CARD.finditer(text):
        digits = match[0].replace(" ", "").replace("-", "")
        if digits.isascii() and _is_card(digits):
            yield "card", match.start(), match.end()


def _is_card(digits: str) -> bool:
    """Whether digits have a payment card's beginning, length and check digit."""
    length, start = len(digits), int(digits[:4])
    known = (
        (digits[0] == "4" and length in (16, 19))
        or (length == 16 and (5100 <= start <= 5599 or 2221 <= start <= 2720))
        or (length == 15 and start // 100 in (34, 37))
        or (length in (16, 19) and (start == 6011 or 6440 <= start <= 6599 or 3528 <= start <= 3589))
        or (length == 14 and (3000 <= start <= 3059 or start // 100 in (36, 38)))
        or (16 <= length <= 19 and start // 100 == 62)
    )
    return known and len(set(digits)) > 1 and luhn_sum(digits) % 10 == 0


def luhn_sum(digits: str) -> int:
    """The sum that a check digit brings to a multiple of ten: every second digit from the right doubled."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total


_ISRAELI_PHONE = re.compile(
    r"(?<![A-Za-z0-9_.+/])(?<!\d[ -])(?:"
    r"(?:\((?:\+|00)?972\)|(?:\+|00)?972)[ -]?(?:\(0\)|0)?[ -]?(?:5\d|7\d|[23489])(?:[ -]?\d){7}"
    r"|05\d[ -]?(?:\d[ -]?){6}\d"
    r"|972\.(?:5\d|7\d|[23489])\.\d{3}\.\d{4}"
    r"|(?:07\d|0[23489])[ -]\d{3}[ -]?\d{4}|\(0(?:5\d|7\d|[23489])\)[ -]?\d{3}[ -]?\d{4}"
    r"|(?:0[57]\d|0[23489])\.\d{3}(?:\.|-)\d{4}"
    r")(?![A-Za-z0-9_%])(?![.,/-]\d)"
)
_FOREIGN_PHONE = re.compile(
    r"(?<![A-Za-z0-9_+])(?:\(\+[1-9]\d{0,2}\)|\+[1-9]\d{0,2})(?:[ ().-]{0,2}\d){7,13}(?![A-Za-z0-9_%])(?![.,]\d)"
)
_AMERICAN_PHONE = re.compile(
    r"(?<![\w.+/$])(?<!\d-)(?:1[ -])?(?:\([2-9]\d\d\) ?|[2-9]\d\d([-.]))[2-9]\d\d(?(1)\1|[-.])\d{4}(?![\w%])(?![.,-]\d)"
)
_FREE_OF_CHARGE = ("800", "888", "877", "866", "855", "844", "833")
# `build 03.123.4567` is no phone.
_VERSION_BEFORE = re.compile(r"(?:\b(?:version|ver|build|firmware|release|rev)|גרסה|גרסת)\b[ .:#-]*$", re.IGNORECASE)


def _phones(text: str) -> Iterator[PersonalSpan]:
    for match in _ISRAELI_PHONE.finditer(text):
        before = text[max(0, match.start() - _CONTEXT_BEFORE) : match.start()]
        if "." not in match[0] or not _VERSION_BEFORE.search(before):
            yield "phone", match.start(), match.end()
    for match in _FOREIGN_PHONE.finditer(text):
        # A bare `+1234567` is a sum; a number that is dialled has groups, or ten to thirteen digits.
        digits = sum(character.isdigit() for character in match[0])
        if 10 <= digits <= 13 or digits + 1 < len(match[0]):
            yield "phone", match.start(), match.end()
    for match in _AMERICAN_PHONE.finditer(text):
        if match[0].lstrip("1- (")[:3] not in _FREE_OF_CHARGE:
            yield "phone", match.start(), match.end()


_ID_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.,+$€₪£#/])(?<![A-Za-z0-9_-]-)(?<![$€₪£#] )(?:\d{7,8}-\d|\d-\d{7}-\d|\d{8,9})"
    r"(?![A-Za-z0-9_%$€₪£/])(?![.,:-]\d)"
    r"(?! ?(?:[$€₪£%]|ש[\"״]ח|שקל|דולר|אירו|dollars|euros|shekels|people|years|km|NIS|USD|EUR))"
)
_ID_WORDS = re.compile(
    r"ת[.\"״]?[ ]?ז\b|תעודת[ _]?ה?זהות|מספר[ _]?ה?זהות|מס['׳]? זהות|ת\.ז|"
    r"\b(?:teudat|te'udat|zehut|israeli[ _]id|national[ _]id|id[ _](?:number|no|card)|identity|i\.d)\b",
    re.IGNORECASE,
)
_OTHER_NUMBER_WORDS = re.compile(
    r"הזמנה|חשבון|חשבונית|קבלה|קריאה|לקוח|ח\.פ|ח[\"״]פ|עוסק|ע\.מ|דגם|סידורי|משלוח|מעקב|"
    r"\b(?:order|user|account|invoice|ticket|tracking|transaction|product|item|case|ref(?:erence)?|serial|model|sku"
    r"|isbn|issn|phone|tel|fax|population|video|post|article|patent|pmid|doi|job|inode|inum|order_id|user_id)\b",
    re.IGNORECASE,
)
# `id=123456782`, but not in an address (`?id=`, `&id=`), a call (`User(id=`) or a query (`where id=`).
_ID_KEY = re.compile(
    r"(?:^|(?<![\w.&?(])(?<!where )(?<!and ))"
    r"(?:id|tz|zehut|te'?udat[ _]?zehut|(?:israeli|national)[ _]?id|id[ _]?(?:number|no|num|card)"
    r"|ת[.\"״]?[ ]?ז\.?|תעודת[ _]?ה?זהות|מספר[ _]?ה?זהות)[ ]?=[ ]?$",
    re.IGNORECASE,
)
_CONTEXT_BEFORE = 30
_SIGNS_OF_SUMS = ("=", "+", "*", "×", "/", "<", ">")


def _israeli_ids(text: str) -> Iterator[PersonalSpan]:
    """Numbers of eight or nine digits whose check digit fits.

    One in ten of all numbers passes that. Eight digits, and a first digit that few ID numbers have, therefore need
    words before them that speak of an ID number; other numbers must not be spoken of.
    """
    for match in _ID_NUMBER.finditer(text):
        digits = match[0].replace("-", "").zfill(9)
        if not digits.isascii() or len(set(digits)) < 3 or luhn_sum(digits) % 10:
            continue
        before = text[max(0, match.start() - _CONTEXT_BEFORE) : match.start()]
        valued = before.rstrip().endswith("=") and _ID_KEY.search(before) is not None
        if before.endswith("=") and not valued:
            continue
        named = _ID_WORDS.search(before) is not None
        usual = match[0].isdigit() and len(match[0]) == 9 and digits[0] in "0123" and not digits.endswith("000")
        usual = usual and (valued or not before.rstrip().endswith(_SIGNS_OF_SUMS))
        if named or (usual and _OTHER_NUMBER_WORDS.search(before) is None):
            yield "israeli-id", match.start(), match.end()
