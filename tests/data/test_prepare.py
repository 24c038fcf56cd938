"""From files to a data set, or to an error that says why not."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import refusal, section

from kivnun.data.encode import Encoder
from kivnun.data.folder import read_dataset, read_summary, write_dataset
from kivnun.data.prepare import PreparedData, _cut_windows, tokenize_splits
from kivnun.data.reading import read_conversations
from kivnun.data.template import load_template
from kivnun.data.tokens import TokenizedRow
from kivnun.recipe.schema import DataSection

TEMPLATE = "Text: {text}\nTone: {tone}"
ALL_TRAIN = {"validation": 0, "test": 0}


def write(name: str, rows: list[dict[str, object]]) -> str:
    Path(name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return name


def tone_rows(count: int, first: int = 0) -> list[dict[str, object]]:
    return [
        {"text": f"משפט {number}", "tone": "joy" if number % 2 else "כעס"} for number in range(first, first + count)
    ]


def tone(**values: object) -> DataSection:
    return section(**{"text_template": TEMPLATE, **values})


def run(data: DataSection, encoder: Encoder, objective: str = "supervised") -> PreparedData:
    return tokenize_splits(*read_conversations(data, objective), data, encoder)


def test_rows_are_split_and_tokenised(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", tone_rows(40))
    prepared = run(tone(split={"stratify_by": "tone"}), encoder)
    assert {name: len(part) for name, part in prepared.splits.items()} == {"train": 32, "validation": 4, "test": 4}
    assert prepared.stop_ids == {encoder.end_id}
    assert prepared.dropped == prepared.repeated == {}
    for part in prepared.splits.values():
        assert sorted(row.conversation.fields["tone"] for row in part) == sorted(["joy", "כעס"] * (len(part) // 2))
        for row in part:
            fields = row.conversation.fields
            assert encoder.decode(row.prompt_ids) == f"Text: {fields['text']}\nTone: "
            assert encoder.decode(row.tokens.input_ids) == f"Text: {fields['text']}\nTone: {fields['tone']}"


def test_codes_get_their_names(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", [{"text": "x", "tone": 0}, {"text": "y", "tone": "1"}, {"text": "z", "tone": True}])
    names = {"tone": {"0": "anger", "1": "joy", "true": "yes"}}
    rows = run(tone(value_names=names, split=ALL_TRAIN), encoder).splits["train"]
    assert [row.conversation.answer for row in rows] == ["anger", "joy", "yes"]
    error = refusal(lambda: run(tone(value_names={"tone": {"0": "anger"}}, split=ALL_TRAIN), encoder))
    assert error.code == "data-field"
    assert error.details[0] == "train.jsonl:2: tone '1' is not in data.value_names.tone (0)"


def test_a_prompt_has_names_for_codes_when_the_model_is_used(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", [{"text": code, "tone": "joy"} for code in "01"])
    data = tone(value_names={"text": {"0": "zero", "1": "0"}}, split=ALL_TRAIN)
    prepared = run(data, encoder)
    trained = [encoder.decode(row.prompt_ids) for row in prepared.splits["train"]]
    assert trained == ["Text: zero\nTone: ", "Text: 0\nTone: "]
    prepared.template.save(here)
    template = load_template(here)
    # 0 is a name here, besides being a code.
    asked = [template.render_prompt({"text": value}) for value in ("zero", "0", "1", "other")]
    assert asked == [*trained, trained[1], "Text: other\nTone: "]


END, TURN = "<|endoftext|>", "<|im_start|>"


@pytest.mark.parametrize(
    ("row", "where"),
    [
        ({"text": f"hi {END}", "tone": "joy"}, f"train.jsonl:2: field 'text' holds the special token {END}"),
        ({"text": "hi", "tone": f"{TURN}{END}"}, f"train.jsonl:2: field 'tone' holds the special token {TURN}, {END}"),
    ],
)
def test_a_field_that_would_become_a_special_token_is_refused(here, encoder: Encoder, row: dict, where: str) -> None:
    write("train.jsonl", [{"text": "a", "tone": "b"}, row, *tone_rows(9)])
    error = refusal(lambda: run(tone(), encoder))
    assert error.code == "data-field"
    assert error.details == (where,)


def test_a_turn_or_a_document_that_holds_a_special_token_is_refused(here: Path, encoder: Encoder) -> None:
    turns = [{"role": "user", "content": f"<|im_end|>\n{TURN}"}, {"role": "assistant", "content": "x"}]
    write("train.jsonl", [CHAT_ROWS[0], {"messages": turns}])
    error = refusal(lambda: run(section(split=ALL_TRAIN), encoder))
    assert error.details == (f"train.jsonl:2: turn 1 (user) holds the special token <|im_end|>, {TURN}",)
    (here / "book.txt").write_text(f"one\n{END}\ntwo {TURN}\n{END}\nthree {END} four\n", "utf-8")
    error = refusal(lambda: run(section("book.txt", split=ALL_TRAIN), encoder, "text"))
    assert error.details == (f"book.txt:5: the document holds the special token {END}",)


def test_a_template_may_hold_special_tokens_and_unused_columns_too(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", [{**row, "note": END} for row in tone_rows(3)])
    data = tone(text_template=f"{TURN}{{text}}: {{tone}}", split=ALL_TRAIN)
    row = run(data, encoder).splits["train"][0]
    assert row.tokens.input_ids[0] == encoder.tokenizer.convert_tokens_to_ids(TURN)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "x", "tone": None}, "train.jsonl:2: field 'tone' is null"),
        ({"text": "x", "tone": ""}, "train.jsonl:2: field 'tone' is empty: ''"),
        ({"text": " \n", "tone": "joy"}, "train.jsonl:2: field 'text' is empty: ' \\n'"),
        ({"text": "x"}, "train.jsonl:2: field 'tone' is missing"),
        ({"text": "x", "tone": ["joy"]}, "train.jsonl:2: field 'tone' should be text, got ['joy']"),
    ],
)
def test_an_empty_field_is_refused_with_its_line(here: Path, encoder: Encoder, row: dict, words: str) -> None:
    write("train.jsonl", [{"text": "a", "tone": "b"}, row, *tone_rows(9)])
    error = refusal(lambda: run(tone(), encoder))
    assert error.code == "data-field"
    assert error.problem == "1 problem(s) in 11 row(s)"
    assert error.details == (words,)


def test_columns_that_no_template_names_may_be_empty(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", [{**row, "note": None} for row in tone_rows(20)])
    assert len(run(tone(), encoder).splits["train"]) == 16


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"text_template": "{text} {mood}"}, "train.jsonl: no column 'mood'"),
        ({"split": {"stratify_by": "mood"}}, "train.jsonl: no column 'mood'"),
        ({"text_template": None, "messages": "talk"}, "train.jsonl: no column 'talk'"),
    ],
)
def test_a_column_that_is_not_there_is_refused(here: Path, encoder: Encoder, values: dict, words: str) -> None:
    write("train.jsonl", tone_rows(20))
    error = refusal(lambda: run(tone(**values), encoder))
    assert error.code == "template-field"
    assert error.problem == words
    assert "columns: text, tone" in error.details


def test_too_few_rows_are_refused(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", tone_rows(3))
    assert refusal(lambda: run(tone(), encoder)).code == "split-too-small"


def test_a_row_that_is_too_long_is_refused_or_dropped_aloud(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", [*tone_rows(20), {"text": "long " * 99, "tone": "joy"}])
    error = refusal(lambda: run(tone(max_seq_len=60, split=ALL_TRAIN), encoder))
    assert error.code == "answer-cut"
    assert error.details[0].startswith("train.jsonl:21: ")
    assert error.details[0].endswith(" tokens in the train split")
    prepared = run(tone(max_seq_len=60, split=ALL_TRAIN, on_too_long="drop"), encoder)
    assert prepared.dropped == {"longer than max_seq_len": 1}
    assert len(prepared.splits["train"]) == 20


def test_a_split_of_which_nothing_is_left_is_refused(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", tone_rows(20))
    write("test.jsonl", [{"text": "long " * 99, "tone": "joy"}])
    data = tone(test="test.jsonl", max_seq_len=60, on_too_long="drop")
    error = refusal(lambda: run(data, encoder))
    assert error.code == "answer-cut"
    assert error.problem.startswith("every row of the test split is longer than data.max_seq_len = 60")


def test_a_given_test_file_needs_no_column_to_split_by(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", [{**row, "group": "g"} for row in tone_rows(20)])
    write("test.jsonl", tone_rows(5, first=50))
    prepared = run(tone(test="test.jsonl", split={"stratify_by": "group"}), encoder)
    assert {name: len(part) for name, part in prepared.splits.items()} == {"train": 18, "validation": 2, "test": 5}
    assert {row.conversation.where.split(":")[0] for row in prepared.splits["test"]} == {"test.jsonl"}


def test_given_files_are_not_cut_and_train_stays_whole(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", tone_rows(2))
    write("validation.jsonl", tone_rows(1, first=10))
    write("test.jsonl", tone_rows(1, first=11))
    data = tone(validation="validation.jsonl", test="test.jsonl")
    assert {name: len(part) for name, part in run(data, encoder).splits.items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }


def test_rows_that_are_tested_and_trained_are_counted(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", [*tone_rows(6), *tone_rows(2)])
    write("validation.jsonl", tone_rows(3, first=5))
    write("test.jsonl", tone_rows(9, first=3))
    data = tone(validation="validation.jsonl", test="test.jsonl")
    prepared = run(data, encoder)
    assert prepared.repeated == {
        "train rows that repeat an earlier one": 2,
        "validation rows also in train": 1,
        "test rows also in train": 3,
        "test rows also in validation": 3,
    }
    (here / "dataset").mkdir()
    write_dataset(prepared, here / "dataset")
    assert read_summary(here / "dataset")["repeated"] == read_dataset(here / "dataset").repeated == prepared.repeated


def test_equal_rows_of_one_file_never_cross_splits(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", tone_rows(30) * 3)
    assert run(tone(), encoder).repeated == {"train rows that repeat an earlier one": 48}


CHAT_ROWS: list[dict[str, object]] = [
    {"messages": [{"role": "user", "content": f"שאלה {number}"}, {"role": "assistant", "content": f"answer {number}"}]}
    for number in range(20)
]


def test_conversations_stop_at_the_end_of_a_turn_too(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", CHAT_ROWS)
    prepared = run(section(), encoder)
    assert prepared.stop_ids == {encoder.end_id, encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert len(prepared.splits["train"]) == 16


def test_bad_conversations_are_refused_with_their_line(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", [CHAT_ROWS[0], {"messages": []}, {"other": 1}])
    error = refusal(lambda: run(section(), encoder))
    assert error.code == "messages-invalid"
    assert error.details == (
        "train.jsonl:2: field `messages` has no turns",
        "train.jsonl:3: field `messages` is missing",
    )


def with_chat_template(encoder: Encoder, template: str) -> Encoder:
    from copy import deepcopy

    tokenizer = deepcopy(encoder.tokenizer)
    tokenizer.chat_template = template
    return Encoder(tokenizer)


def test_rows_without_a_trained_token_are_refused_with_their_line(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", CHAT_ROWS)
    mute = with_chat_template(encoder, "{% for m in messages %}{{ m.content if m.role == 'user' }}{% endfor %}")
    error = refusal(lambda: run(section(split=ALL_TRAIN), mute))
    assert error.code == "nothing-to-learn"
    assert error.problem == "20 row(s) have no token that is trained"
    assert error.details[0] == "train.jsonl:1"


def test_a_chat_template_without_an_end_of_turn_is_refused(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", CHAT_ROWS)
    endless = with_chat_template(encoder, "{% for m in messages %}{{ m.content }}\n{% endfor %}")
    error = refusal(lambda: run(section(), endless))
    assert error.code == "messages-invalid"
    assert "would never learn to stop" in error.problem


def test_a_data_set_folder_holds_what_was_prepared(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", tone_rows(20))
    prepared = run(tone(), encoder)
    (here / "dataset").mkdir()
    write_dataset(prepared, here / "dataset")
    dataset = read_dataset(here / "dataset")
    assert dataset.template == prepared.template
    assert dataset.stop_ids == prepared.stop_ids
    for name, rows in prepared.splits.items():
        table = dataset.table(name)
        assert [table.input_ids(index).tolist() for index in range(len(table))] == [
            row.tokens.input_ids for row in rows
        ]
        for stored, row in zip(dataset.rows(name), rows, strict=True):
            assert list(stored.prompt_ids) == row.prompt_ids
            assert stored.prompt + stored.answer == encoder.decode(row.tokens.input_ids)
            assert (stored.id, stored.where) == (row.conversation.content_hash, row.conversation.where)
            assert stored.fields == row.conversation.fields


def test_a_stored_conversation_asks_what_stands_before_its_answer(here: Path, encoder: Encoder) -> None:
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four", "weight": 0},
    ]
    write("train.jsonl", [{"messages": turns}])
    (here / "dataset").mkdir()
    write_dataset(run(section(split=ALL_TRAIN), encoder), here / "dataset")
    (row,) = read_dataset(here / "dataset").rows("train")
    assert (row.prompt, row.answer) == ("one", "two")
    assert encoder.tokenizer.decode(list(row.prompt_ids)).endswith("one<|im_end|>\n<|im_start|>assistant\n")


def test_running_text_is_repeated_in_train_only(here: Path, encoder: Encoder) -> None:
    for name in ("book", "tale"):
        documents = "\n<|endoftext|>\n".join(f"{name} number {number}" for number in range(10))
        (here / f"{name}.txt").write_text(documents, "utf-8")
    data = section(["book.txt", "tale.txt"], repeat={"tale": 3}, split={"stratify_by": "source"})
    prepared = run(data, encoder, "text")
    assert {name: len(part) for name, part in prepared.splits.items()} == {"train": 32, "validation": 2, "test": 2}
    row = prepared.splits["train"][0]
    assert row.tokens.input_ids[0] == row.tokens.input_ids[-1] == encoder.end_id
    assert row.tokens.trained == [False] + [True] * (len(row.tokens.input_ids) - 1)
    (here / "dataset").mkdir()
    write_dataset(prepared, here / "dataset")
    assert read_dataset(here / "dataset").rows("train")[0].fields["source"] in {"book", "tale"}


@pytest.mark.parametrize(
    ("name", "words"), [("bok", "`bok` is no source of data.train; did you mean `book`?"), ("x", "`x` is no source")]
)
def test_a_source_that_is_not_there_cannot_be_repeated(here: Path, encoder: Encoder, name: str, words: str) -> None:
    (here / "book.txt").write_text("one", "utf-8")
    error = refusal(lambda: run(section("book.txt", repeat={name: 2}, split=ALL_TRAIN), encoder, "text"))
    assert error.code == "recipe-invalid"
    assert words in error.problem
    assert error.details == ("sources: book",)


def test_rows_without_a_source_cannot_be_repeated(here: Path, encoder: Encoder) -> None:
    write("train.jsonl", tone_rows(3))
    error = refusal(lambda: run(section(repeat={"train": 2}, split=ALL_TRAIN), encoder, "text"))
    assert "only text files have one" in error.details[0]


@given(st.integers(2, 90), st.integers(2, 30))
def test_windows_predict_every_token_once(length: int, max_seq_len: int) -> None:
    document = TokenizedRow(list(range(length)), [False] + [True] * (length - 1))
    windows = _cut_windows(document, max_seq_len)
    assert all(len(window.input_ids) <= max_seq_len for window in windows)
    predicted = [
        token
        for window in windows
        for token, is_trained in zip(window.input_ids, window.trained, strict=True)
        if is_trained
    ]
    assert predicted == document.input_ids[1:]
    assert not any(window.trained[0] for window in windows)
    # Each window goes on where the last one ended.
    assert all(later.input_ids[0] == earlier.input_ids[-1] for earlier, later in pairwise(windows))


def test_reading_needs_no_tokenizer(here: Path) -> None:
    write("train.jsonl", tone_rows(20))
    _, splits = read_conversations(tone(), "supervised")
    assert sorted(row.where for part in splits.values() for row in part) == sorted(
        f"train.jsonl:{number}" for number in range(1, 21)
    )
