import json
from pathlib import Path

import pytest
from mending import jsonl, mend

from kivnun.data.checks.personal import PERSONAL_KINDS, find_personal
from kivnun.data.repair.personal import MASKS, choose_kinds, drop_personal_data, mask_personal_data
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


def test_ids_and_addresses_of_pictures_stay(tmp_path: Path) -> None:
    row = {"id": "052-123-4567", "image_url": {"url": "https://user@example.com/a.png"}, "text": "a@b.org"}
    mended = mend(tmp_path, mask_personal_data, jsonl(row))
    assert mended.rows == [{**row, "text": "[EMAIL]"}]


def test_a_text_is_masked_whatever_its_column_is_called(tmp_path: Path) -> None:
    mended = mend(tmp_path, mask_personal_data, jsonl({"data": "mail a@b.org", "url": "see a@b.org"}))
    assert mended.rows == [{"data": "mail [EMAIL]", "url": "see [EMAIL]"}]


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
