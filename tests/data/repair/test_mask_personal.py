import csv
import io
import json
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mending import jsonl, mend

from kivnun.data.checks.personal import PERSONAL_KINDS, find_personal
from kivnun.data.checks.row import check_row
from kivnun.data.conversation import Conversation
from kivnun.data.formats import FORMATS
from kivnun.data.formats.columns import columns_format
from kivnun.data.repair.masking import MASKS
from kivnun.data.repair.personal import choose_kinds, drop_personal_data, mask_personal_data
from kivnun.data.rows import Row
from kivnun.errors import UserError

VALUES = {
    "email": "dana.levi@example.co.il",
    "phone": "052-123-4567",
    "card": "4111 1111 1111 1111",
    "israeli-id": "ת.ז. 123456782",
    "secret": "AKIAIOSFODNN7EXAMPLE",
}


def test_every_kind_has_a_value_that_is_found() -> None:
    assert {find_personal(value)[0][0] for value in VALUES.values()} == set(PERSONAL_KINDS) == set(MASKS)


@pytest.mark.parametrize("kind", PERSONAL_KINDS)
def test_personal_data_gives_way_to_its_kind_and_is_not_logged(tmp_path: Path, kind: str) -> None:
    value = VALUES[kind]
    mended = mend(tmp_path, mask_personal_data, jsonl({"text": f"שלום {value} תודה"}, {"text": "שלום"}))
    text = str(mended.rows[0]["text"])
    assert MASKS[kind] in text
    assert text.startswith("שלום ")
    assert text.endswith(" תודה")
    assert find_personal(text) == []
    assert mended.lines[1] == '{"text": "שלום"}'
    assert mended.log == [
        {
            "where": f"{tmp_path}/in.jsonl:1",
            "action": "masked",
            "reason": f"personal-{kind}",
            "pieces": {kind: 1},
        }
    ]
    written = json.dumps(mended.log, ensure_ascii=False) + mended.content.decode()
    assert value not in written


def test_texts_at_any_depth_are_masked(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": [{"type": "text", "text": "to a@b.org and c@d.org"}]}]}
    mended = mend(tmp_path, mask_personal_data, jsonl(row))
    assert mended.rows[0]["messages"][0]["content"][0]["text"] == "to [EMAIL] and [EMAIL]"
    assert mended.log[0]["pieces"] == {"email": 2}


def test_masked_arguments_of_a_call_are_still_json(tmp_path: Path) -> None:
    arguments = json.dumps({"to": "a@b.org", "phone": 972521234567, "count": 3})
    row = {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": arguments}}]}]}
    mended = mend(tmp_path, mask_personal_data, jsonl(row))
    masked = mended.rows[0]["messages"][0]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(masked)["to"] == "[EMAIL]"
    assert json.loads(masked)["count"] == 3
    assert find_personal(masked) == []


ADDRESS = "https://example.com/a.png?for=dana@gmail.com"
PACKED = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"


def test_ids_of_calls_and_addresses_of_pictures_stay_and_are_told(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": ADDRESS}}
    call = {"id": "052-123-4567", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [picture, {"type": "text", "text": "שלום"}]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "052-123-4567", "content": "a@b.org"},
    ]
    masked = [*messages[:2], {**messages[2], "content": "[EMAIL]"}]
    mended = mend(tmp_path, mask_personal_data, jsonl({"messages": messages}, {"messages": messages[:2]}))
    assert mended.rows == [{"messages": masked}, {"messages": messages[:2]}]
    told = "personal-email, personal-phone in the name of a call or a picture"
    assert dict(mended.done.counts) == {f"masked: personal-email, kept {told}": 1, f"kept: {told}": 1}
    assert mended.log[0]["kept"] == {"email": 1, "phone": 2}
    assert mended.log[1]["kept"] == {"email": 1, "phone": 1}


@pytest.mark.parametrize("key", ["id", "data", "url", "uri", "image", "image_url", "call_id", "text"])
@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ("dana@gmail.com", "[EMAIL]"),
        ("mail a@b.org", "mail [EMAIL]"),
        (ADDRESS, "https://example.com/a.png?for=[EMAIL]"),
        ("052-1234567", "[PHONE]"),
        (123456782, "[ID]"),
        (972541234567, "[PHONE]"),
        (4111111111111111, "[CARD]"),
        ({"inner": ["a@b.org", 123456782]}, {"inner": ["[EMAIL]", "[ID]"]}),
        (
            [{"url": "a@b.org", "id": "052-1234567", "data": 123456782}],
            [{"url": "[EMAIL]", "id": "[PHONE]", "data": "[ID]"}],
        ),
        ({"args": {"url": ADDRESS, "id": 123456782}}, {"args": {"url": f"{ADDRESS[:-14]}[EMAIL]", "id": "[ID]"}}),
    ],
)
def test_a_column_is_masked_whatever_it_is_called(tmp_path: Path, key: str, value: object, masked: object) -> None:
    rows = jsonl({key: value, "label": "x"})
    assert mend(tmp_path, mask_personal_data, rows).rows == [{key: masked, "label": "x"}]
    assert mend(tmp_path, drop_personal_data, rows).rows == []


def test_addresses_packed_bytes_and_numbers_that_are_nobodys_stay_to_the_byte(tmp_path: Path) -> None:
    row = {
        "id": 17,
        "url": "https://example.com/123456782/052-1234567.png",
        "data": f"data:image/png;base64,{PACKED}",
        "image": PACKED,
        "uri": "gs://bucket/a.png",
        "price": 12345678.5,
        "yes": True,
        "none": None,
    }
    mended = mend(tmp_path, mask_personal_data, jsonl(row))
    assert (mended.content.decode(), mended.log) == (jsonl(row), [])


def test_keys_are_masked_and_stay_apart(tmp_path: Path) -> None:
    row = {"a@b.org": 1, "c@d.org": {"e@f.org": "x"}, "[EMAIL]": 3, "text": "y"}
    mended = mend(tmp_path, mask_personal_data, jsonl(row))
    assert mended.rows == [{"[EMAIL] 2": 1, "[EMAIL] 3": {"[EMAIL]": "x"}, "[EMAIL]": 3, "text": "y"}]


def test_names_of_a_tables_columns_stay_and_are_told(tmp_path: Path) -> None:
    mended = mend(tmp_path, mask_personal_data, "text,a@b.org\nc@d.org,x\ny,z\n", name="in.csv")
    assert mended.content.decode() == "text,a@b.org\n[EMAIL],x\ny,z\n"
    assert mended.done.notes == ["kept: personal-email in the name of column 2, which no repair changes"]


def test_texts_that_are_read_as_one_are_masked_as_one(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "call 052-"}, {"type": "text", "text": "1234567 now"}]
    rows = [{"messages": [{"role": "user", "content": parts}]}, {"context": "ת.ז.", "question": "12345674"}]
    mended = mend(tmp_path, mask_personal_data, jsonl(*rows))
    content = mended.rows[0]["messages"][0]["content"]
    assert [part["text"] for part in content] == ["call [PHONE]", " now"]
    assert mended.rows[1] == {"context": "ת.ז.", "question": "[ID]"}


def test_a_number_that_counts_only_once_its_neighbour_is_masked_is_masked_too(tmp_path: Path) -> None:
    text = f"ID number {'a' * 40}@example.com 12345674"
    assert [kind for kind, _, _ in find_personal(text)] == ["email"]
    assert mend(tmp_path, mask_personal_data, jsonl({"text": text})).rows == [{"text": "ID number [EMAIL] [ID]"}]


@pytest.mark.parametrize("number", [12345674, "12345674"])
def test_words_of_one_column_make_the_number_of_another_an_id(tmp_path: Path, number: object) -> None:
    row = {"context": "ת.ז.", "question": number, "answer": "x"}
    masked = mend(tmp_path, mask_personal_data, jsonl(row)).rows
    assert masked == [{**row, "question": "[ID]"}]
    assert personal_codes(FORMATS["columns"].read(Row(masked[0], "in", 1))) == []
    assert mend(tmp_path, mask_personal_data, jsonl({**row, "context": "order"})).rows == [{**row, "context": "order"}]


def test_a_number_of_any_size_and_half_a_character_stay_in_masked_arguments(tmp_path: Path) -> None:
    arguments = '{"to": "a@b.org", "big": 1234567890123456789012310, "half": "\\ud83d"}'
    mended = mend(tmp_path, mask_personal_data, jsonl({"arguments": arguments}))
    assert mended.rows == [{"arguments": arguments.replace("a@b.org", "[EMAIL]")}]


def test_a_row_that_is_nested_too_deeply_is_kept_and_told(tmp_path: Path) -> None:
    row = '{"a": ' * 250 + '"a@b.org"' + "}" * 250 + "\n"
    mended = mend(tmp_path, mask_personal_data, row)
    assert mended.content.decode() == row
    assert dict(mended.done.counts) == {"kept: nested too deeply to look into": 1}


PIECES = st.sampled_from(
    [
        *VALUES.values(),
        *(
            "052–1234567",
            "id=123456782",
            "12345674",
            "4-1234567-0",
            "ת.ז.",
            "ID number",
            "order",
            "\n",
            ADDRESS,
            PACKED,
        ),
        *(
            "dana@",
            "gmail.com",
            "+972",
            "052-",
            "1234567",
            '{"id": 123456782}',
            '["a@b.org"]',
            '{"a": "\\n052-1234567"}',
        ),
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=4).map(" ".join) | st.lists(PIECES, max_size=3).map("".join)
NUMBERS = st.sampled_from(
    [123456782, 972541234567, 4111111111111111, 123456782.0, 52.1234567, 12345674, True, 2**64 - 1]
)
NAMES = ("id", "data", "url", "image", "phone", "order", "text")
NESTED = st.recursive(
    TEXTS | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | TEXTS, inner, max_size=3),
    max_leaves=6,
)


def personal_codes(conversation: Conversation) -> list[str]:
    found = check_row(conversation, Row({}, "in", 1))
    return [finding.message for finding in found if finding.code.startswith("personal-")]


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(NAMES, TEXTS | NUMBERS)))
def test_a_check_finds_nothing_in_any_columns_of_a_masked_row(row: dict[str, object]) -> None:
    with TemporaryDirectory() as folder:
        masked = mend(Path(folder), mask_personal_data, jsonl(row)).rows[0]
        dropped = mend(Path(folder), drop_personal_data, jsonl(row)).rows
    for prompt, answer in pairwise((*NAMES, NAMES[0])):
        read = columns_format(prompt, answer).read
        assert personal_codes(read(Row(masked, "in", 1))) == []
        assert not dropped or personal_codes(read(Row(row, "in", 1))) == []
    read = FORMATS["columns"].read
    columns = {"context": masked["text"], "question": masked["data"], "answer": masked["id"]}
    assert personal_codes(read(Row(columns, "in", 1))) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_a_check_finds_nothing_in_a_masked_table(rows: list[tuple[str, str]]) -> None:
    cells = io.StringIO(newline="")
    csv.writer(cells).writerows([("data", "label"), *rows])
    with TemporaryDirectory() as folder:
        mended = mend(Path(folder), mask_personal_data, cells.getvalue(), name="in.csv")
    for fields in csv.DictReader(io.StringIO(mended.content.decode(), newline="")):
        assert personal_codes(columns_format("data", "label").read(Row(fields, "in.csv", 2))) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.dictionaries(st.sampled_from(NAMES) | TEXTS, NESTED, max_size=3))
def test_a_check_finds_nothing_in_a_masked_chat(texts: list[str], arguments: dict[str, object]) -> None:
    function = {"name": "f", "arguments": json.dumps(arguments, ensure_ascii=False)}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": text} for text in texts]},
        {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]},
    ]
    contents = [
        {"role": "user", "parts": [{"text": text} for text in texts]},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": arguments}}]},
    ]
    with TemporaryDirectory() as folder:
        mended = mend(Path(folder), mask_personal_data, jsonl({"messages": messages}, {"contents": contents}))
    kept = any("kept" in entry for entry in mended.log)
    for fields, name in zip(mended.rows, ("openai-chat", "gemini"), strict=True):
        assert kept or personal_codes(FORMATS[name].read(Row(fields, "in", 1))) == []


def test_only_the_kinds_that_are_named_are_masked(tmp_path: Path) -> None:
    text = f"{VALUES['email']} {VALUES['phone']}"
    mended = mend(tmp_path, mask_personal_data, jsonl({"text": text}), kinds=choose_kinds(["phone"]))
    assert mended.rows == [{"text": f"{VALUES['email']} [PHONE]"}]


def test_cells_of_tables_and_texts_of_documents_are_masked(tmp_path: Path) -> None:
    table = mend(tmp_path, mask_personal_data, 'text,label\n"mail a@b.org, now",x\n', name="in.csv")
    assert table.content.decode() == 'text,label\n"mail [EMAIL], now",x\n'
    document = mend(tmp_path, mask_personal_data, "mail\na@b.org\n<|endoftext|>\nnext", name="in.txt")
    assert document.content.decode() == "mail\n[EMAIL]\n<|endoftext|>\nnext"


def test_masking_twice_changes_nothing_more(tmp_path: Path) -> None:
    once = mend(tmp_path, mask_personal_data, jsonl(*({"text": f"see {value}"} for value in VALUES.values())))
    twice = mend(tmp_path, mask_personal_data, once.content)
    assert (twice.content, twice.log) == (once.content, [])


def test_rows_with_personal_data_are_dropped(tmp_path: Path) -> None:
    mended = mend(tmp_path, drop_personal_data, jsonl({"text": "a@b.org"}, {"text": "שלום"}))
    assert mended.rows == [{"text": "שלום"}]
    assert mended.log[0]["reason"] == "personal-email"
    assert dict(mended.done.counts) == {"dropped: personal-email": 1}


def test_an_unknown_kind_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match="postcode") as caught:
        choose_kinds(["postcode"])
    assert "israeli-id" in caught.value.hint
    assert choose_kinds([]) == PERSONAL_KINDS
