"""A name becomes files: by ending and content, with a split, a reason, and a note for all that is left out."""

import json
import os
from pathlib import Path

import pytest
from datasets_on_disk import write_saved
from file_rows import fields_in, found_in
from tiny_data import refusal

from kivnun.data.files.find import DataSet, describe_file, find_data
from kivnun.data.files.names import find_split
from kivnun.data.files.read import stream_rows
from kivnun.errors import UserError

JSONL = '{"text": "שלום", "label": "x"}\n{"text": "b", "label": "y"}\n'


def write(*names: str, text: str = JSONL) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, "utf-8")


def layouts(dataset: DataSet) -> dict[str, tuple[str, str]]:
    return {str(file.path): (file.layout, file.split) for file in dataset.files}


def notes(dataset: DataSet) -> dict[str, str]:
    assert {note.code for note in dataset.notes} <= {"file-skipped"}
    return {note.file: note.message for note in dataset.notes}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"),
        ("token_test.tsv", "test"),
        ("train_AddToPlaylist_full.json", "train"),
        ("validate_PlayMusic.json", "validation"),
        ("devel-fixed.no-ol.csv", "validation"),
        ("test-fixed.csv", "test"),
        ("data-dev.jsonl", "validation"),
        ("eval.jsonl", "test"),
        ("TRAINING.CSV", "train"),
        ("train-00000-of-00003.parquet", "train"),
        ("rows.jsonl", "train"),
        # Words that only hold the name of a split say nothing.
        ("contest.jsonl", "train"),
        ("evaluate_trainer.jsonl", "train"),
        ("test/rows.jsonl", "test"),
        ("test/train.jsonl", "train"),
    ],
)
def test_a_split_is_told_by_a_word_of_the_name_or_else_of_the_folder(name: str, split: str) -> None:
    assert find_split(Path("somewhere/test") / name, inside=Path("somewhere/test"))[0] == split


def test_a_name_with_two_splits_says_so() -> None:
    assert find_split(Path("train_test.csv")) == (
        "train",
        "train by `train` in train_test.csv, though it also says test",
    )


@pytest.mark.parametrize(
    ("name", "text", "layout", "why"),
    [
        ("a.jsonl", JSONL, "jsonl", "one object on each line; train since no word of its name says otherwise"),
        ("a.json", JSONL, "jsonl", "one object on each line, though it is named JSON"),
        ("a.json", '[{"a": 1}]', "json", "one JSON array"),
        ("a.jsonl", '[{"a": 1},\n {"a": 2}]', "json", "one JSON array, though it is named JSONL"),
        ("a.jsonl", '[\n{"a": 1}\n]', "json", "one JSON array, though it is named JSONL"),
        ("a.jsonl", '[1, 2]\n{"a": 1}', "jsonl", "JSONL by its name"),
        ("a.json", '{"messages": [{"role": "user"}], "x": [{"y": 1}]}', "jsonl", "one object on a line, a row"),
        ("a.json", '{"rows": [{"y": 1}]}', "json-object", "the list of objects under `rows`"),
        ("a.json", '{"שאלות": [{"y": 1}]}', "json-object", "the list of objects under `שאלות`"),
        ("a.json", '{"Play": [{"data": []}]}', "snips", "Snips, by the intent `Play`"),
        ("a.json", '{"data": [{"paragraphs": [', "squad", "SQuAD"),
        ("a.json", '{"Definition": ["x"], "Instances": []}', "super-ni", "Super-NaturalInstructions"),
        ("a.NDJSON", JSONL, "jsonl", "one object"),
        ("a.tsv", "a\tb\n", "tsv", "TSV by its name"),
        ("a.md", "# x", "text", "MD by its name"),
    ],
)
def test_a_layout_is_told_by_the_name_and_for_json_by_the_beginning(
    here: Path, name: str, text: str, layout: str, why: str
) -> None:
    write(name, text=text)
    file = describe_file(Path(name))
    assert file.layout == layout
    assert why in file.why


def test_a_file_a_folder_and_nothing_at_all(here: Path) -> None:
    write("a.jsonl", "data/test.jsonl", "odd.xyz")
    assert layouts(find_data("a.jsonl")) == {"a.jsonl": ("jsonl", "train")}
    assert layouts(find_data("data")) == {"data/test.jsonl": ("jsonl", "test")}
    for name in ("data/nothing.jsonl", "nothing", "./org/name", "/a/b/c", "data/nothing"):
        error = refusal(lambda name=name: find_data(name))
        assert (error.code, error.problem) == ("data-missing", f"{name}: no such file or folder")
    assert refusal(lambda: find_data("odd.xyz")).code == "data-format"


def test_a_folder_without_data_is_refused_with_what_is_in_it(here: Path) -> None:
    write("data/README.md", "data/image.png")
    error = refusal(lambda: find_data("data"))
    assert (error.code, error.problem) == ("data-format", "data: no data files")
    assert error.details == (
        "data/README.md: not read: its name is one of a file about the data",
        "data/image.png: not read: it ends like no data file",
    )


def test_of_a_plain_folder_the_data_files_are_read_and_the_others_noted(here: Path) -> None:
    data = ["d/train.jsonl", "d/sub/test.csv.gz", "d/validation.parquet"]
    other = ["d/LICENSE", "d/SOURCE.txt", "d/TASKS.tsv", "d/notes.txt", "d/run.py", "d/.hidden.jsonl"]
    write(*data, *other, "d/.git/x.jsonl")
    write("d/labels.json", text='["a", "b"]')
    write("d/package.json", "d/settings.json", text='{"a": {"b": 1}}')
    found = find_data("d")
    assert layouts(found) == {
        "d/sub/test.csv.gz": ("csv", "test"),
        "d/train.jsonl": ("jsonl", "train"),
        "d/validation.parquet": ("parquet", "validation"),
    }
    said = notes(found)
    assert set(said) == {*other, "d/labels.json", "d/package.json", "d/settings.json"}
    assert said["d/labels.json"] == "not read: a JSON list, but not of objects"
    assert said["d/settings.json"] == "not read: a JSON object without a list of rows"
    assert said["d/notes.txt"] == "not read: plain text beside files of rows"
    assert said["d/TASKS.tsv"] == "not read: its name is in capitals, as of README and LICENSE"


def test_names_in_capitals_are_data_where_all_names_are(here: Path) -> None:
    write("d/TRAIN.JSONL", "d/TEST.JSONL")
    assert layouts(find_data("d")) == {"d/TEST.JSONL": ("jsonl", "test"), "d/TRAIN.JSONL": ("jsonl", "train")}


def test_a_folder_of_texts_is_one_document_each(here: Path) -> None:
    write("d/one.txt", "d/sub/two.md", "d/README.md", text="שלום\n")
    found = find_data("d")
    assert layouts(found) == {"d/one.txt": ("text", "train"), "d/sub/two.md": ("text", "train")}
    assert [fields_in(list(stream_rows(file))) for file in found.files] == [
        [{"text": "שלום", "source": "one"}],
        [{"text": "שלום", "source": "two"}],
    ]


def test_texts_and_labels_go_together_line_by_line_with_the_labels_names(here: Path) -> None:
    write("d/x/train_text.txt", "d/x/test_text.txt", text="טוב מאוד\nלא טוב\n")
    write("d/x/train_labels.txt", "d/x/test_labels.txt", text="1\n0\n")
    write("d/x/mapping.txt", text="0\tsad\n1\tשמח\n")
    write("d/x/other_text.txt", "d/SOURCE.txt", text="x\n")
    found = find_data("d")
    assert layouts(found) == {"d/x/test_text.txt": ("lines", "test"), "d/x/train_text.txt": ("lines", "train")}
    assert set(notes(found)) == {"d/SOURCE.txt", "d/x/other_text.txt"}
    rows = fields_in(list(stream_rows(found.files[1])))
    assert rows == [{"text": "טוב מאוד", "label": "שמח"}, {"text": "לא טוב", "label": "sad"}]


def test_a_mapping_that_is_none_leaves_the_labels_as_they_are(here: Path) -> None:
    write("d/a_text.txt", text="x\n")
    write("d/a_labels.txt", text="1\n")
    write("d/mapping.txt", text="no tabs here\n")
    assert fields_in(list(stream_rows(find_data("d").files[0]))) == [{"text": "x", "label": "1"}]


def test_data_that_hugging_face_saved_is_read_with_its_splits(here: Path) -> None:
    rows = [{"text": "שלום", "label": 1}, {"text": "b", "label": 0}]
    write_saved(here / "saved", {"train": rows, "validation": rows[:1]})
    (here / "saved" / "train" / "cache-1.arrow").write_bytes(b"of no interest")
    found = find_data("saved")
    assert {file.split: file.layout for file in found.files} == {"train": "arrow", "validation": "arrow"}
    assert fields_in(list(stream_rows(found.files[0]))) == rows
    single = find_data("saved/validation")
    assert [file.split for file in single.files] == ["validation"]


def test_of_llama_factory_every_entry_whose_file_is_there_is_read(here: Path) -> None:
    info = {
        "plain": {"file_name": "plain.json"},
        "chat": {
            "file_name": "chat.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "talk", "system": "sys"},
            "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "customer", "assistant_tag": "agent"},
        },
        "openai": {
            "file_name": "openai.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        },
        "absent": {"file_name": "absent.json"},
        "far": {"hf_hub_url": "org/name"},
        "outside": {"file_name": "../outside.json"},
    }
    write("d/dataset_info.json", text=json.dumps(info))
    write("d/plain.json", "outside.json", text='[{"instruction": "a", "output": "b"}]')
    talk = [{"who": "customer", "says": "מה שלומך?"}, {"who": "agent", "says": "טוב"}]
    write("d/chat.jsonl", text=json.dumps({"talk": talk, "sys": "Be kind."}) + "\n")
    messages = [{"role": "user", "content": "x"}]
    write("d/openai.jsonl", text=json.dumps({"messages": messages}) + "\n")
    write("d/unknown.jsonl")
    found = find_data("d")
    rows = {file.path.name: fields_in(list(stream_rows(file))) for file in found.files}
    shared = [{"from": "human", "value": "מה שלומך?"}, {"from": "gpt", "value": "טוב"}]
    assert rows == {
        "plain.json": [{"instruction": "a", "output": "b"}],
        "chat.jsonl": [{"conversations": shared, "system": "Be kind."}],
        "openai.jsonl": [{"messages": messages}],
    }
    assert notes(found) == {
        "d/../outside.json": "not read: dataset_info.json leads out of the folder with 'outside'",
        "d/unknown.jsonl": "not read: dataset_info.json does not name it",
        "d/dataset_info.json": "not read: 1 of its entries name files that are not here",
    }


def test_a_link_to_a_folder_is_not_followed_for_ever(here: Path) -> None:
    write("d/a.jsonl")
    (here / "d" / "again").symlink_to(here / "d", target_is_directory=True)
    assert list(layouts(find_data("d"))) == ["d/a.jsonl"]


def test_an_empty_file_of_a_folder_is_a_finding_when_it_is_read(here: Path) -> None:
    write("d/a.jsonl", "d/a.json", text="")
    found = find_data("d")
    assert [found_in(list(stream_rows(file))) for file in found.files] == [[("file-empty", 0)]] * 2


@pytest.mark.parametrize("name", ["a\0.json", "a" * 5000 + ".json", "b/" * 3000 + "a.json", "loop/a.json"])
def test_a_path_that_no_file_can_have_is_a_file_that_is_not_there(here: Path, name: str) -> None:
    write("d/rows.jsonl")
    (here / "d" / "loop").symlink_to("loop")
    entries = {"odd": {"file_name": name}, "good": {"file_name": "rows.jsonl"}}
    write("d/dataset_info.json", text=json.dumps(entries))
    assert layouts(find_data("d")) == {"d/rows.jsonl": ("jsonl", "train")}
    assert refusal(lambda: find_data(f"d/{name}")).code == "data-missing"
    write("saved/dataset_dict.json", text="{}")
    write("saved/state.json", text=json.dumps({"_data_files": [{"filename": name}]}))
    assert refusal(lambda: find_data("saved")).problem == "saved: no data files"


def test_pipes_and_links_that_lead_nowhere_are_no_data_files(here: Path) -> None:
    write("d/rows.jsonl")
    os.mkfifo("d/pipe.jsonl")
    os.mkfifo("d/x_text.txt")
    write("d/x_labels.txt")
    (here / "d" / "loop.jsonl").symlink_to("loop.jsonl")
    (here / "d" / "gone.jsonl").symlink_to("nothing.jsonl")
    (here / "d" / "link.jsonl").symlink_to("rows.jsonl")
    found = find_data("d")
    assert set(layouts(found)) == {"d/rows.jsonl", "d/link.jsonl"}
    said = notes(found)
    for name in ("pipe.jsonl", "x_text.txt", "loop.jsonl", "gone.jsonl"):
        assert said[f"d/{name}"] == "not read: it is no file, but a pipe, a device or a link that leads nowhere"
    assert refusal(lambda: find_data("d/pipe.jsonl")).code == "data-missing"


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_current_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n', "utf-8")
    with pytest.raises(UserError) as caught:
        find_data(name)
    assert caught.value.code == "data-missing"
