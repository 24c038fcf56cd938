"""Row ranges: the rows of a source that are taken, and those that validate, before any are split off."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.files.dataset import DataFile
from kivnun.data.reading import ReadData, read_data
from kivnun.data.row_ranges import LEFT_OUT, take_ranges
from kivnun.data.rows import Row
from kivnun.errors import UserError
from kivnun.recipe.schema import DataSection


def row_numbers(read: ReadData, split: str) -> list[int]:
    return sorted(int(row.answer) for row in read.splits[split])


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"q": f"what is {n}", "a": str(n)}) + "\n" for n in range(10)), "utf-8")
    return str(path)


def section(train: str, **fields: object) -> DataSection:
    split = {"validation": 0, "test": 0}
    return DataSection.model_validate({"train": train, "text_template": "{q}\n{a}", "split": split, **fields})


def read(train: str, **fields: object) -> ReadData:
    return read_data(section(train, **fields), "supervised")


def refusal(train: str, **fields: object) -> UserError:
    with pytest.raises(UserError) as caught:
        read(train, **fields)
    return caught.value


def test_the_other_rows_are_left_out_and_counted(rows: str) -> None:
    data = read(rows, train_rows="2:6")
    assert row_numbers(data, "train") == [2, 3, 4, 5]
    assert dict(data.left_out) == {LEFT_OUT: 6}


def test_rows_that_validate_do_not_train(rows: str) -> None:
    data = read(rows, validation_rows="8:")
    assert (row_numbers(data, "train"), row_numbers(data, "validation")) == (list(range(8)), [8, 9])
    assert dict(data.left_out) == {}


def test_shares_of_the_rows_are_rounded_to_the_nearest(rows: str) -> None:
    data = read(rows, train_rows=":26%", validation_rows="26%:40%")
    assert (row_numbers(data, "train"), row_numbers(data, "validation")) == ([0, 1, 2], [3])
    assert dict(data.left_out) == {LEFT_OUT: 6}


def test_a_range_of_validation_files_counts_in_them(rows: str, tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps({"q": f"who is {n}", "a": str(n)}) + "\n" for n in range(90, 95)), "utf-8")
    data = read(rows, validation=str(held), validation_rows="1:3")
    assert (row_numbers(data, "train"), row_numbers(data, "validation")) == (list(range(10)), [91, 92])


def test_a_range_without_validation_files_counts_in_the_training_rows_of_a_folder(tmp_path: Path) -> None:
    for name, numbers in (("train", range(10)), ("validation", range(90, 99))):
        lines = [json.dumps({"q": f"what is {n}", "a": str(n)}) for n in numbers]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), "utf-8")
    data = read(str(tmp_path), validation_rows="6:9")
    assert (row_numbers(data, "train"), row_numbers(data, "validation")) == ([0, 1, 2, 3, 4, 5, 9], [6, 7, 8])
    assert dict(data.left_out) == {LEFT_OUT: 9}


def test_test_rows_are_split_off_what_is_taken(rows: str) -> None:
    data = read(rows, train_rows=":8", validation_rows="8:10", split={"validation": 0, "test": 2})
    assert row_numbers(data, "validation") == [8, 9]
    assert sorted(row_numbers(data, "train") + row_numbers(data, "test")) == list(range(8))


def test_a_row_does_not_train_and_validate(rows: str) -> None:
    error = refusal(rows, train_rows=":6", validation_rows="4:8")
    assert (error.code, error.problem[:9]) == ("recipe-invalid", "2 row(s) ")


@pytest.mark.parametrize("text", [":11", "10:", "5:5", "6:5", "50%:50%"])
def test_rows_that_are_not_there_are_refused(rows: str, text: str) -> None:
    error = refusal(rows, train_rows=text)
    assert error.code == "split-too-small"
    assert f"data.train_rows ({text})" in error.problem


@pytest.mark.parametrize("text", [":", "a:b", "-3:", "1", "1:2:3", "", "1.5:2", "0:101%"])
def test_other_spellings_are_refused(rows: str, text: str) -> None:
    with pytest.raises(ValueError, match="train_rows"):
        section(rows, train_rows=text)


SIZES = st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 1)


@given(sizes=SIZES, data=st.data())
def test_files_are_counted_through_and_no_row_is_lost(sizes: list[int], data: st.DataObject) -> None:
    total = sum(sizes)
    cut = data.draw(st.integers(1, total - 1))
    numbers = iter(range(total))
    parts = [
        (DataFile(Path(f"{n}.jsonl"), "lines", "train", ""), [Row({"n": next(numbers)}, "", 1) for _ in range(size)])
        for n, size in enumerate(sizes)
    ]
    wanted = section("x", train_rows=f":{cut}", validation_rows=f"{cut}:")
    taken, left_out = take_ranges({"train": parts}, wanted)
    kept = {split: [row.fields["n"] for _, part in files for row in part] for split, files in taken.items()}
    assert kept == {"train": list(range(cut)), "validation": list(range(cut, total))}
    assert left_out == 0
