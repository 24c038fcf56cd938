"""Personal data is found with few false alarms, and never shown whole."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from talks import ask, codes, message

from kivnun.data.checks.personal import PERSONAL_KINDS, find_personal, may_hold_personal, shorten_personal
from kivnun.data.checks.text import ascii_marks

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"

FOUND = [
    ("email", "dana.levi+news@mail.example.co.il"),
    ("email", "d@example.com"),
    ("phone", "050-1234567"),
    ("phone", "0501234567"),
    ("phone", "050 123 4567"),
    ("phone", "050-123-4567"),
    ("phone", "058-411-70-00"),
    ("phone", "03-1234567"),
    ("phone", "02-654 3210"),
    ("phone", "(04) 8123456"),
    ("phone", "077-1234567"),
    ("phone", "+972-50-123-4567"),
    ("phone", "+972501234567"),
    ("phone", "+972 (0)50 1234567"),
    ("phone", "972-3-1234567"),
    ("phone", "+1 (555) 123-4567"),
    ("phone", "+44 20 7946 0958"),
    ("phone", "+12 (34) 56 78"),
    ("phone", "(212) 750-6630"),
    ("phone", "212-750-6630"),
    ("phone", "212.750.6630"),
    ("phone", "052–1234567"),
    ("phone", "052‑123‒4567"),
    ("phone", "052—1234567"),
    ("phone", "052−1234567"),
    ("phone", "052־1234567"),
    ("phone", "052\xa01234567"),
    ("phone", "+44\u202f20\u202f7946\u202f0958"),
    ("phone", "(052) 123-4567"),
    ("phone", "(052)1234567"),
    ("phone", "052.123.4567"),
    ("phone", "03.123.4567"),
    ("phone", "077.123-4567"),
    ("phone", "972.52.123.4567"),
    ("card", "4111\xa01111\xa01111\xa01111"),
    ("card", "5500–0000–0000–0004"),
    ("card", "4111111111111111"),
    ("card", "4111 1111 1111 1111"),
    ("card", "5500-0000-0000-0004"),
    ("card", "2223003122003222"),
    ("card", "3782 822463 10005"),
    ("card", "378282246310005"),
    ("card", "6011111111111117"),
    ("card", "3530111333300000"),
    ("card", "30569309025904"),
    ("israeli-id", "123456782"),
    ("israeli-id", "039337423"),
    ("secret", "sk-abcdefghij0123456789"),
    ("secret", "sk-proj-abc_def-0123456789ABCDEF"),
    ("secret", "AKIAIOSFODNN7EXAMPLE"),
    ("secret", "ghp_0123456789abcdefghijklmnopqrstuvwxyz"),
    ("secret", "xoxb-123456789012-abcdefABCDEF"),
    ("secret", JWT),
    ("secret", KEY),
]


@pytest.mark.parametrize(("kind", "value"), FOUND)
@pytest.mark.parametrize("frame", ["{}", "Write to {}, now.", "הפרטים: {}.", "({})", "a\n{}\nb"])
def test_personal_data_is_found_from_its_first_to_its_last_character(kind: str, value: str, frame: str) -> None:
    text = frame.format(value)
    ((found, start, stop),) = find_personal(text)
    assert found == kind
    assert text[start:stop] == value
    assert may_hold_personal(text, ascii_marks(text))
    assert codes(ask(text)) == [f"personal-{kind}"]


@pytest.mark.parametrize(
    "text",
    [
        "In 1999 there were 1,234,567 people and 12345678.90 dollars",
        "48/2 = 24 and 24 + 48 = 72; 10% of 3000000 is 300000",
        "pi is 3.141592653589793 and e is 2.718281828459045",
        "2026-11-21 13:17:57, 21/11/2026, 20261121131757",
        "ISBN 978-3-16-148410-0, tracking 123456782 of order",
        "order 123456782, invoice no. 123456782, הזמנה 123456782",
        "it costs 123456782 ₪, or $123456782, or 123456782 dollars",
        "213360 + 42672 = 106936032",
        "the id 123456783 has a wrong check digit, and 412345670 an unusual start",
        "eight digits alone: 12345674",
        "000000000 111111111",
        "4111111111111112 has a wrong check digit",
        "1234567812345670 begins like no card",
        "9a8b4111111111111111 and 0.4111111111111111",
        "5f3e-4111111111111111-a",
        "+1234567 is a sum, and so is 5 +12345678",
        "472547338\n+960397912423686",
        "call 1-800-555-1234 or *2000",
        "192.168.100.200 and 10.0.0.255:8080",
        "@dana wrote #hashtag; a@b; user@host",
        "git@github.com:team/project.git and icon@2x.png",
        "your.name@company.com, you@gmail.com, user@server.com",
        "task-force-and-desk-work, sk-learn-pipeline-with-many-steps",
        "AKIA is a name; eyJ is none",
        "1 2 3 4 5 6 7 8 9 10 11 12",
        "0 5 10 15 20 25 30 35 40",
        "https://x.com/dana/status/4111111111111111",
        "find -inum 117672808",
        "(555) is not enough, nor is 123-4567",
        "1999–2004, 1990—2000 and 2010\u22122015; בשנים 1999–2004",
        "pages 12–34, 10\xa0000\xa0000 ₪, 1\u202f234\u202f567,89 €",
        "version 03.123.4567, build 052.123.4567, גרסה 02.123.4567, v03.123.4567",
        "10.0.19041.4567, 4.8.0.3928, 052.123.4567.1, 1.052.123.4567",
        "192.168.052.123, 010.123.045.067",
        "05.11.2024, 05.11.2024.1234, 02.123.456 and 31.12.2026 12:30:02.1234567",
        "052.50 ₪, 051.5073219 degrees, 03.1415926, 02.1234567",
        "a−123456782 and 123456782.50 and 1,234–1,567",
        "user_id=123456782, order_id=123456782, order id=123456782, x=123456782",
        "https://example.com/watch?id=123456782&user.id=123456782&id=123456782",
        "User(id=123456782); where id=123456782; 2 id+1=123456782",
        "1-2345678-2 and 1-2345678-3, ת.ז. 1-2345678-3",
    ],
)
def test_other_numbers_and_signs_are_no_personal_data(text: str) -> None:
    assert find_personal(text) == []


@pytest.mark.parametrize("number", ["12345674", "1234567-4", "412345670", "41234567-0", "4-1234567-0"])
@pytest.mark.parametrize("words", ["ת.ז.", 'ת"ז:', "תעודת זהות", "מספר זהות", "Teudat zehut", "ID number:"])
def test_words_that_speak_of_an_id_let_shorter_and_unusual_ones_count(words: str, number: str) -> None:
    assert codes(ask(f"{words} {number}")) == ["personal-israeli-id"]
    assert find_personal(number) == []


@pytest.mark.parametrize("key", ["id", "ID", "name=Dana, id", "id_number", "tz", "ת.ז.", "תעודת זהות", "national_id"])
@pytest.mark.parametrize("between", ["=", " = "])
def test_an_id_that_is_the_value_of_its_key_is_found(key: str, between: str) -> None:
    text = f"{key}{between}123456782"
    assert find_personal(text) == [("israeli-id", len(text) - 9, len(text))]
    assert codes(ask(text)) == ["personal-israeli-id"]


def id_number(first_eight: str) -> str:
    """An ID number of eight digits and their check digit, by the rule of the population registry."""
    total = sum(sum(map(int, str(int(digit) * (1 + place % 2)))) for place, digit in enumerate(first_eight))
    return f"{first_eight}{-total % 10}"


@given(st.integers(10_000_000, 39_999_999))
def test_every_id_number_is_found_and_none_with_another_check_digit(number: int) -> None:
    good = id_number(f"{number:08d}")
    if len(set(good)) < 3 or good.endswith("000"):
        return
    assert find_personal(f"תעודת זהות {good}") == [("israeli-id", 11, 20)]
    for other in set("0123456789") - {good[-1]}:
        assert find_personal(f"תעודת זהות {good[:-1]}{other}") == []


@given(st.integers(0, 10**14 - 1), st.sampled_from(["", " ", "-"]))
def test_every_card_is_found_and_none_with_another_check_digit(number: int, between: str) -> None:
    first = f"4{number:014d}"
    total = sum(sum(map(int, str(int(digit) * (2 - place % 2)))) for place, digit in enumerate(first))
    for check in range(10):
        digits = f"{first}{check}"
        text = between.join(digits[place : place + 4] for place in range(0, 16, 4))
        kinds = {kind for kind, _, _ in find_personal(f"card: {text}")}
        assert ("card" in kinds) == ((total + check) % 10 == 0 and len(set(digits)) > 1)


@given(st.lists(st.sampled_from([value for _, value in FOUND]), max_size=6), st.text(max_size=20))
def test_pieces_are_in_order_and_do_not_overlap(values: list[str], filler: str) -> None:
    text = f" {filler} ".join(values)
    spans = find_personal(text)
    assert all(left[2] <= right[1] for left, right in pairwise(spans))
    assert all(kind in PERSONAL_KINDS and 0 <= start < stop <= len(text) for kind, start, stop in spans)


@given(st.text() | st.text(alphabet="0123456789 -()+.@/=:aקא–\xa0−") | st.sampled_from([value for _, value in FOUND]))
def test_the_quick_look_lets_no_personal_data_pass(text: str) -> None:
    assert may_hold_personal(text, ascii_marks(text)) or find_personal(text) == []


@pytest.mark.parametrize(
    "text", ["Plain words.", "48/2 = 24 clips in 1999", "שלום 20 ₪", "sk-learn, 3 tasks", "בשנים 1999–2004"]
)
def test_the_quick_look_knows_texts_without_personal_data(text: str) -> None:
    assert not may_hold_personal(text, ascii_marks(text))


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("email", "jane@example.com", "j...@example.com"),
        ("card", "4111 1111 1111 1111", "4111...1111"),
        ("phone", "+972-50-123-4567", "+972...67"),
        ("phone", "050-1234567", "050...67"),
        ("israeli-id", "123456782", "12...82"),
        ("secret", "sk-abcdefghij0123456789", "sk-a..."),
        ("secret", KEY, "-----BEGIN RSA PRIVATE KEY-----"),
    ],
)
def test_a_value_is_shown_shortened(kind: str, value: str, shown: str) -> None:
    assert shorten_personal(kind, value) == shown
    assert message(ask(f"It is {value} "), f"personal-{kind}") == f"turn 1 (user): {shown}"


@pytest.mark.parametrize(("kind", "value"), FOUND)
def test_no_message_holds_the_whole_value(kind: str, value: str) -> None:
    assert value not in message(ask(f"Write to {value}, now."), f"personal-{kind}")


def test_pieces_of_one_kind_are_counted_over_the_whole_row() -> None:
    row = ask("Mail a@example.com or b@example.com", "I wrote to c@example.com.")
    assert message(row, "personal-email") == "turn 1 (user): a...@example.com, 3 in all"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["a", "a.", "a@", "1", "1 ", "+1", "4111 ", "-----BEGIN PRIVATE KEY-----", "eyJ", "sk-", "א'", "@a."]
)
def test_a_long_text_made_to_be_slow_is_read_in_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    assert isinstance(find_personal(text), list)
    assert isinstance(codes(ask(text)), list)
