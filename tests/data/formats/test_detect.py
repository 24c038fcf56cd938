import json
from pathlib import Path

import pytest
from conversations import losses, write_and_read

from kivnun.data.formats import FORMATS, detect_format
from kivnun.data.rows import Row
from kivnun.errors import UserError

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
ASK, TELL = {"role": "user", "content": "שאלה"}, {"role": "assistant", "content": "תשובה"}
CHAT = {"messages": [ASK, TELL]}


def rows(*fields: dict[str, object]) -> list[Row]:
    return [Row(row, "rows.jsonl", number) for number, row in enumerate(fields, start=1)]


def refusal(*fields: dict[str, object], **options: str) -> UserError:
    with pytest.raises(UserError) as caught:
        detect_format(rows(*fields), **options)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (CHAT, "openai-chat"),
        (CHAT | {"id": 1, "label": "joy"}, "openai-chat"),
        ({"messages": [ASK]}, "openai-chat"),
        ({"messages": None}, "openai-chat"),
        ({"messages": [ASK], "reference": "x"}, "openai-reinforcement"),
        (CHAT | {"label": True}, "kto"),
        ({"prompt": "a", "completion": "b", "label": False}, "kto"),
        ({"prompt": "a", "completion": "b"}, "prompt-completion"),
        ({"prompt": "a", "completion": "b", "label": "joy"}, "prompt-completion"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"instruction": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"input": {"messages": [ASK]}, "preferred_completion": [TELL]}, "openai-preference"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "sharegpt"),
        ({"messages": [{"from": "human", "value": "x"}]}, "sharegpt"),
        ({"instruction": "a", "input": "b", "output": "c"}, "alpaca"),
        ({"instruction": "a", "output": "c", "label": True}, "alpaca"),
        ({"messages": json.dumps([ASK, TELL])}, "openai-chat"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "model", "content": "y"}]}, "gemini-1.0"),
        ({"messages": [{"author": "user", "content": "x"}]}, "palm-chat"),
        ({"system": "s", "messages": [ASK, TELL]}, "bedrock-claude"),
        ({"contents": [{"role": "user", "parts": [{"text": "x"}]}]}, "gemini"),
        ({"contents": [], "completions": []}, "gemini-preference"),
        ({"input_text": "x", "output_text": "y"}, "palm-text"),
        ({"context": "x", "question": "y", "answers": {"text": ["x"]}}, "squad"),
        ({"context": "x", "question": "y", "answer": "z"}, "columns"),
        ({"text": "x", "label": "y"}, "columns"),
        ({"text": "x"}, "text"),
    ],
)
def test_a_row_is_taken_for_the_most_specific_format_that_knows_it(fields: dict[str, object], name: str) -> None:
    assert detect_format(rows(fields)).format.name == name


def test_the_reason_says_in_how_many_rows_it_holds() -> None:
    detection = detect_format(rows(*[CHAT] * 3, {"text": "x"}))
    assert detection.why == "`messages` with `role` and `content` in 3 of 4 rows"


def test_a_fault_in_fewer_than_half_of_the_rows_does_not_change_the_format() -> None:
    labelled = CHAT | {"label": True}
    assert detect_format(rows(labelled, CHAT | {"label": "yes"}, labelled)).format.name == "kto"


def test_a_format_that_is_asked_for_is_taken() -> None:
    detection = detect_format(rows({"messages": [ASK]}), wanted="openai-reinforcement")
    assert (detection.format.name, detection.why) == ("openai-reinforcement", "it was asked for")


def test_named_columns_make_a_table() -> None:
    detection = detect_format(rows({"הערה": "x", "ציון": 5}), prompt="הערה", answer="ציון")
    assert detection.format.name == "columns"
    assert detection.format.read(Row({"הערה": "x", "ציון": 5}, "t.csv", 2)).answer == "5"


def test_unknown_rows_are_refused_with_their_keys_and_what_may_be_meant() -> None:
    error = refusal({"mesages": [ASK], "n": 1}, {"mesages": [ASK]}, CHAT | {"mesages": 1})
    assert str(error).splitlines() == [
        "error[data-format]: rows.jsonl: the rows look like no known format",
        "  keys in 3 row(s): `mesages`, `n` (1), `messages` (1)",
        "  1 of 3 rows look like openai-chat",
        "  `mesages`: did you mean `messages` (openai-chat)?",
        "hint: name the columns with --prompt and --answer, or the format with --from",
    ]


def test_rows_with_many_keys_are_refused_on_a_short_line() -> None:
    error = refusal({f"k{number}": 1 for number in range(1000)})
    assert error.details[0].endswith("`k11`, 988 more")


def test_an_unknown_format_is_refused_with_the_nearest() -> None:
    error = refusal(CHAT, wanted="openai_chat")
    assert (error.code, error.problem) == (
        "data-format",
        "`openai_chat` is no known format; did you mean `openai-chat`?",
    )
    assert "sharegpt" in error.hint


@pytest.mark.parametrize("options", [{"prompt": "a"}, {"answer": "a"}, {"prompt": "a", "answer": "b", "wanted": "kto"}])
def test_half_a_pair_of_columns_is_refused(options: dict[str, str]) -> None:
    assert refusal({"a": 1, "b": 2}, **options).code == "data-format"


def test_columns_that_are_not_there_are_refused_with_the_nearest() -> None:
    error = refusal({"question": 1, "label": 2}, prompt="qestion", answer="lable")
    assert error.problem == "rows.jsonl: no column `qestion` and no column `lable`"
    assert error.details == ("columns: question, label; did you mean `question`?",)


def test_no_rows_are_refused() -> None:
    assert refusal().code == "data-empty"


def test_every_format_is_listed_by_its_name() -> None:
    assert all(name == format_.name and format_.summary for name, format_ in FORMATS.items())


def read_file(path: Path) -> list[Row]:
    text = path.read_text("utf-8")
    loaded = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    return [Row(fields, path.name, line) for line, fields in enumerate(loaded, start=1)]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the sample data lies beside the repository, where it is there at all")
@pytest.mark.parametrize(
    ("name", "expected", "fits"),
    [
        ("llamafactory_demos/alpaca_en_demo.json", "alpaca", "openai-chat"),
        ("llamafactory_demos/identity.json", "alpaca", "prompt-completion"),
        ("llamafactory_demos/dpo_en_demo.json", "preference", "openai-preference"),
        ("llamafactory_demos/glaive_toolcall_en_demo.json", "sharegpt", "openai-chat"),
        ("llamafactory_demos/kto_en_demo.json", "kto", "kto"),
        ("openai_ft_samples/toy_chat_fine_tuning.jsonl", "openai-chat", "sharegpt"),
        ("openai_ft_samples/weather_chat_fine_tuning.jsonl", "openai-chat", "sharegpt"),
    ],
)
def test_every_sample_file_is_detected_read_and_converted(name: str, expected: str, fits: str) -> None:
    sample = read_file(SHARED / name)
    detection = detect_format(sample[:100])
    assert detection.format.name == expected
    conversations = [detection.format.read(row) for row in sample]
    for conversation in conversations:
        for target in (FORMATS[expected], FORMATS[fits]):
            assert losses(target, conversation) == []
            assert write_and_read(target, conversation).content_hash == conversation.content_hash
