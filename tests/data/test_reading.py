"""The rows of a recipe: files and folders found, formats detected, splits cut as the recipe says."""

import json
import random
from pathlib import Path
from typing import get_args

import pytest
from tiny_data import WORDS, refusal, section

from kivnun.data.formats import FORMATS
from kivnun.data.reading import ReadData, find_files, read_data
from kivnun.recipe.schema import DataSection
from kivnun.recipe.values import DataFormat

ALL_TRAIN = {"validation": 0, "test": 0}


def write(name: str, rows: list[dict[str, object]]) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return name


def read(data: DataSection, objective: str = "supervised") -> ReadData:
    return read_data(data, objective)


def answers(data: ReadData, split: str = "train") -> list[str]:
    return [row.answer for row in data.splits[split]]


def sizes(data: ReadData) -> tuple[int, ...]:
    return tuple(len(part) for part in data.splits.values())


def talk(question: str, answer: str, **more: object) -> dict[str, object]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]
    return {"messages": turns}


def test_the_recipe_knows_every_format_by_its_name() -> None:
    assert set(get_args(DataFormat)) == set(FORMATS)


FORMAT_ROWS: dict[str, dict[str, object]] = {
    "openai-chat": talk("מה?", "כן"),
    "alpaca": {"instruction": "מה?", "input": "", "output": "כן"},
    "sharegpt": {"conversations": [{"from": "human", "value": "מה?"}, {"from": "gpt", "value": "כן"}]},
    "prompt-completion": {"prompt": "מה?", "completion": "כן"},
    "columns": {"question": "מה?", "answer": "כן"},
    "palm-text": {"input_text": "מה?", "output_text": "כן"},
    "gemini": {
        "contents": [{"role": "user", "parts": [{"text": "מה?"}]}, {"role": "model", "parts": [{"text": "כן"}]}]
    },
}


@pytest.mark.parametrize("name", FORMAT_ROWS)
def test_a_file_without_a_template_is_read_by_its_shape_and_that_is_said(here: Path, name: str) -> None:
    write("train.jsonl", [FORMAT_ROWS[name]] * 3)
    found = read(section(split=ALL_TRAIN))
    assert [(turn.role, turn.content.strip()) for turn in found.splits["train"][0].messages] == [
        ("user", "מה?"),
        ("assistant", "כן"),
    ]
    assert found.template.kind == "chat"
    assert found.formats["train.jsonl"].startswith(f"{name}: ")


def test_files_of_several_formats_are_read_each_by_its_own_shape(here: Path) -> None:
    write("a.jsonl", [FORMAT_ROWS["alpaca"]])
    write("b.jsonl", [FORMAT_ROWS["sharegpt"]])
    found = read(section(["a.jsonl", "b.jsonl"], split=ALL_TRAIN))
    assert answers(found) == ["כן", "כן"]
    assert [why.partition(":")[0] for why in found.formats.values()] == ["alpaca", "sharegpt"]


def test_a_format_that_is_named_is_taken(here: Path) -> None:
    write("train.jsonl", [{"instruction": "a", "output": "b", "question": "c", "answer": "d"}])
    assert answers(read(section(format="alpaca", split=ALL_TRAIN))) == ["b"]
    assert answers(read(section(format="columns", split=ALL_TRAIN))) == ["d"]


def test_rows_of_no_known_shape_are_refused_with_their_keys(here: Path) -> None:
    write("train.jsonl", [{"alpha": "a", "beta": "b"}])
    error = refusal(lambda: read(section(split=ALL_TRAIN)))
    assert error.code == "data-format"
    assert "`alpha`, `beta`" in error.details[0]


def test_running_text_has_no_answer_to_learn(here: Path) -> None:
    (here / "book.txt").write_text("one long text", "utf-8")
    error = refusal(lambda: read(section("book.txt", split=ALL_TRAIN)))
    assert error.code == "data-format"
    assert error.problem.startswith("book.txt: the rows are running text")
    assert "training.objective: text" in error.hint
    assert answers(read(section("book.txt", split=ALL_TRAIN), "text")) == ["one long text"]


def test_messages_in_another_column_are_found_there(here: Path) -> None:
    write("train.jsonl", [{"talk": talk("a", "b")["messages"], "messages": "unused", "topic": "x"}])
    (row,) = read(section(messages="talk", split=ALL_TRAIN)).splits["train"]
    assert (row.answer, row.fields["topic"]) == ("b", "x")


def test_every_fault_of_a_chat_is_named_with_its_line(here: Path) -> None:
    write("train.jsonl", [talk("a", "b"), talk("a", "b", wieght=1), {"messages": [{"role": "boss", "content": "x"}]}])
    error = refusal(lambda: read(section(split=ALL_TRAIN)))
    assert error.code == "messages-invalid"
    assert error.problem == "2 problem(s) in 3 row(s)"
    assert [detail.partition(": ")[0] for detail in error.details] == ["train.jsonl:2", "train.jsonl:3"]


def test_a_chat_without_a_trained_turn_is_refused(here: Path) -> None:
    write("train.jsonl", [talk("a", "b"), talk("c", "d", weight=0)])
    error = refusal(lambda: read(section(split=ALL_TRAIN)))
    assert error.code == "messages-invalid"
    assert error.details == ("train.jsonl:2: no assistant turn is trained",)


def test_a_fault_in_another_format_is_a_fault_of_its_fields(here: Path) -> None:
    write("train.jsonl", [FORMAT_ROWS["alpaca"], {"instruction": "a", "output": None}])
    error = refusal(lambda: read(section(split=ALL_TRAIN)))
    assert error.code == "data-field"
    assert error.details[0].startswith("train.jsonl:2: ")


def test_coded_values_of_a_table_get_their_names(here: Path) -> None:
    write("train.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": "1"}])
    names = {"label": {"0": "כעס", "1": "שמחה"}}
    assert answers(read(section(value_names=names, split=ALL_TRAIN))) == ["כעס", "שמחה"]
    error = refusal(lambda: read(section(value_names={"label": {"0": "כעס"}}, split=ALL_TRAIN)))
    assert error.details == ("train.jsonl:2: label '1' is not in data.value_names.label (0)",)


def test_answers_that_are_marked_as_bad_are_left_out_and_counted(here: Path) -> None:
    rows = [{"prompt": word, "completion": "yes", "label": word != "rain"} for word in WORDS]
    write("train.jsonl", rows)
    found = read(section(split=ALL_TRAIN))
    assert len(found.splits["train"]) == len(WORDS) - 1
    assert found.left_out == {"marked as undesirable answers": 1}


def test_of_a_preference_the_preferred_answer_is_learnt(here: Path) -> None:
    write("train.jsonl", [{"prompt": "a", "chosen": "good", "rejected": "bad"}])
    assert answers(read(section(split=ALL_TRAIN))) == ["good"]


def folder() -> str:
    write("set/train.jsonl", [{"text": word, "label": "a"} for word in WORDS])
    write("set/dev.jsonl", [{"text": f"{word} validation", "label": "a"} for word in WORDS[:3]])
    write("set/test.jsonl", [{"text": f"{word} test", "label": "a"} for word in WORDS[:2]])
    return "set"


def test_a_folder_brings_its_own_splits(here: Path) -> None:
    assert sizes(read(section(folder()))) == (15, 3, 2)


def test_files_that_the_recipe_names_stand_before_those_of_the_folder(here: Path) -> None:
    write("other.jsonl", [{"text": "x", "label": "a"}])
    found = read(section(folder(), test="other.jsonl"))
    assert sizes(found) == (15, 3, 1)
    assert "set/test.jsonl is not used: data.test is given" in found.notes


def test_a_folder_as_test_gives_its_test_rows(here: Path) -> None:
    write("train.jsonl", [{"text": f"{word} train", "label": "a"} for word in WORDS])
    found = read(section("train.jsonl", test=folder(), split={"validation": 0}))
    assert sizes(found) == (15, 0, 2 + 15)
    assert "set/dev.jsonl is not used: it holds validation rows" in found.notes


def test_a_file_belongs_to_the_field_that_names_it_whatever_its_name_says(here: Path) -> None:
    folder()
    found = find_files(section("set/test.jsonl", test="set/train.jsonl"))
    assert {split: [file.path.name for file in files] for split, files in found.files.items()} == {
        "train": ["test.jsonl"],
        "test": ["train.jsonl"],
    }


def test_a_folder_without_training_rows_is_refused(here: Path) -> None:
    write("set/test.jsonl", [talk("a", "b")])
    error = refusal(lambda: read(section("set")))
    assert error.code == "data-missing"
    assert error.problem == "set: no file with training rows"


def test_a_header_can_be_denied(here: Path) -> None:
    (here / "rows.csv").write_text("good day,joy\nbad day,anger\n", "utf-8")
    found = read(section("rows.csv", header=False, text_template="{column_1}: {column_2}", split=ALL_TRAIN))
    assert answers(found) == ["joy", "anger"]


def dated(count: int = 20) -> list[dict[str, object]]:
    return [
        {"text": f"{WORDS[number % 15]} {number}", "label": "a", "day": f"2024-01-{number + 1:02d}", "who": number // 2}
        for number in range(count)
    ]


def test_rows_are_cut_by_time(here: Path) -> None:
    write("train.jsonl", dated())
    found = read(section(split={"time_by": "day", "test": 0.2}))
    assert [row.fields["day"][-2:] for row in found.splits["test"]] == ["17", "18", "19", "20"]
    assert [row.fields["day"][-2:] for row in found.splits["validation"]] == ["15", "16"]
    assert found.notes == ("test: rows from 2024-01-17 on", "validation: rows from 2024-01-15 to 2024-01-16")


def test_a_row_without_a_time_is_refused_with_its_line(here: Path) -> None:
    write("train.jsonl", [*dated(), {"text": "x", "label": "a", "day": "soon"}])
    error = refusal(lambda: read(section(split={"time_by": "day"})))
    assert error.details == ("train.jsonl:21: field 'day' is no date and no number: 'soon'",)
    write("train.jsonl", [*dated(), {"text": "x", "label": "a", "day": None}])
    error = refusal(lambda: read(section(split={"time_by": "day"})))
    assert error.details == ("train.jsonl:21: field 'day' is null",)


def test_rows_of_one_value_stay_in_one_split(here: Path) -> None:
    write("train.jsonl", dated())
    found = read(section(split={"group_by": "who", "validation": 4, "test": 4}))
    groups = {name: {row.fields["who"] for row in part} for name, part in found.splits.items()}
    assert sizes(found) == (12, 4, 4)
    assert (
        not groups["train"] & groups["test"]
        | groups["train"] & groups["validation"]
        | groups["test"] & groups["validation"]
    )


def test_pieces_of_one_conversation_stay_in_one_split(here: Path) -> None:
    rows = []
    for word in WORDS:
        turns = talk(f"what of {word}?", f"it is {word}")["messages"]
        rows += [{"messages": turns}, {"messages": [*turns, {"role": "user", "content": "why?"}, turns[-1]]}]
    write("train.jsonl", rows)
    found = read(section(split={"group_by": "conversation", "near_duplicates": "ignore", "validation": 0, "test": 6}))
    asked = {name: [row.messages[0].content for row in part] for name, part in found.splits.items()}
    assert len(asked["test"]) == 6
    assert not set(asked["test"]) & set(asked["train"])


def test_rows_of_one_file_stay_in_one_split(here: Path) -> None:
    names = [write(f"{word}.jsonl", [talk(f"{word} {turn}", f"{word} is {turn}") for turn in "ab"]) for word in WORDS]
    found = read(section(names, split={"group_by": "document", "validation": 0, "test": 4}))
    files = {name: {row.where.partition(":")[0] for row in part} for name, part in found.splits.items()}
    assert len(files["test"]) == 2
    assert not files["test"] & files["train"]


@pytest.mark.parametrize("field", ["stratify_by", "group_by", "time_by"])
def test_a_column_to_split_by_that_is_not_there_is_refused(here: Path, field: str) -> None:
    write("train.jsonl", dated())
    error = refusal(lambda: read(section(split={field: "mood"})))
    assert error.code == "template-field"
    assert f"'mood' is named in data.split.{field}" in error.details


def near_rows() -> list[dict[str, object]]:
    """Twenty sentences of random words, each in three versions that differ in an ending."""
    chance = random.Random(1)  # noqa: S311
    bases = [" ".join(chance.choices(WORDS, k=12)) for _ in range(20)]
    return [
        {"text": base + ending, "label": "a", "base": number}
        for number, base in enumerate(bases)
        for ending in ("", "!", " too")
    ]


def straddling(found: ReadData) -> int:
    """How many of the sentences stand in two splits."""
    bases = {name: {row.fields["base"] for row in part} for name, part in found.splits.items()}
    return len(bases["train"] & bases["test"])


@pytest.mark.parametrize("way", [{}, {"text_template": "Some words are given here for you to label: {text}\n{label}"}])
def test_near_duplicates_never_straddle_a_split(here: Path, way: dict[str, object]) -> None:
    write("train.jsonl", near_rows())
    together = read(section(split={"validation": 0, "test": 0.2}, **way))
    assert sizes(together) == (48, 0, 12)
    assert straddling(together) == 0
    apart = read(section(split={"validation": 0, "test": 0.2, "near_duplicates": "ignore"}, **way))
    assert sizes(apart) == (48, 0, 12)
    assert straddling(apart) > 0


def test_near_duplicates_of_running_text_are_kept_together_only_if_asked_for(here: Path) -> None:
    rows = near_rows()
    write("train.jsonl", rows)
    plain = read(section(split={"validation": 0, "test": 0.2}), "text")
    assert (
        plain.splits == read(section(split={"validation": 0, "test": 0.2, "near_duplicates": "ignore"}), "text").splits
    )
    assert straddling(plain) > 0
    asked_for = read(section(split={"validation": 0, "test": 0.2, "near_duplicates": "together"}), "text")
    assert straddling(asked_for) == 0


@pytest.mark.parametrize("count", [1, 4])
def test_what_the_prompt_adds_makes_no_two_rows_alike(here: Path, count: int) -> None:
    write("train.jsonl", [{"text": f"{word} {number}", "label": "a"} for number in range(count) for word in WORDS])
    long_frame = (
        "Here are a few words, and your task is to say in one word which feeling they show: {text}\nFeeling: {label}"
    )
    found = read(section(text_template=long_frame, split={"test": 0.25}))
    assert sizes(found) == {1: (9, 2, 4), 4: (39, 6, 15)}[count]
    assert found.notes == ()


def test_rejected_answers_are_said_not_to_be_learnt(here: Path) -> None:
    write("train.jsonl", [{"prompt": word, "chosen": f"good {word}", "rejected": f"bad {word}"} for word in WORDS])
    found = read(section(split={"validation": 2, "test": 2}))
    assert found.notes == ("15 rows have a rejected answer, which is not learnt: only the preferred one is",)


def test_only_undesirable_answers_are_refused_with_the_reason(here: Path) -> None:
    write("train.jsonl", [{"prompt": word, "completion": "yes", "label": False} for word in WORDS])
    error = refusal(lambda: read(section()))
    assert error.code == "nothing-to-learn"
    assert error.problem == "all 15 training rows are marked as undesirable answers, which are not learnt"


def test_a_first_line_that_is_taken_for_a_row_is_said(here: Path) -> None:
    lines = [f"what is {word},{'answer' if word == 'fog' else 'it is ' + word}" for word in WORDS]
    (here / "rows.csv").write_text("\n".join(["question,answer", *lines]) + "\n", "utf-8")
    (note,) = read(section("rows.csv", split=ALL_TRAIN)).notes
    assert note.startswith("rows.csv:1: the first line is a row")
    assert read(section("rows.csv", header=True, split=ALL_TRAIN)).notes == ()


def test_what_a_file_holds_beside_its_rows_is_said_once(here: Path) -> None:
    (here / "train.jsonl").write_text("\n\n\n".join(json.dumps(talk(word, "yes")) for word in WORDS[:4]), "utf-8")
    notes = read(section(split=ALL_TRAIN)).notes
    assert len(notes) == 1
    assert notes[0].startswith("train.jsonl:2: ")


def test_splits_that_were_cut_are_told_from_those_that_were_given(here: Path) -> None:
    write("train.jsonl", [{"text": word, "label": "a"} for word in WORDS])
    write("test.jsonl", [{"text": "x", "label": "a"}])
    assert read(section(split={"validation": 2, "test": 2})).cut == {"validation", "test"}
    assert read(section(test="test.jsonl", split={"validation": 2})).cut == {"validation"}
    assert read(section(split=ALL_TRAIN)).cut == set()
