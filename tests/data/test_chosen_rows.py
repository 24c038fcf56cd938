"""Rows are found by their number over all files, and nothing is read behind the last one."""

import gzip
import json
import tracemalloc
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.data.chosen_rows import ChosenRow, parse_numbers, read_chosen
from kivnun.data.files.dataset import DataFile, ReadOptions
from kivnun.data.findings import Finding
from kivnun.data.formats import Detection, detect_format
from kivnun.data.rows import Row


def write_rows(path: Path, numbers: Sequence[int]) -> DataFile:
    lines = "".join(json.dumps({"prompt": f"{number}", "completion": "x"}) + "\n" for number in numbers)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return DataFile(path, "jsonl", "train", "")


def detect(_: DataFile, rows: Sequence[Row]) -> Detection:
    return detect_format(rows)


def places(items: list[ChosenRow | Finding]) -> list[tuple[int, object]]:
    return [(item.number, item.row.fields["prompt"]) for item in items if isinstance(item, ChosenRow)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("3", [3]), ("17, 40-42", [17, 40, 41, 42]), ("5-5,2,5", [2, 5]), ("1-1000", [*range(1, 1001)])],
)
def test_numbers_are_read_in_order_and_each_once(text: str, numbers: list[int]) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "0", "-3", "3-", "x", "1-1001", "1-900,2000-2900", "4-2", "1;2", "1.5"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="row"):
        parse_numbers(text)


def test_rows_count_through_all_files_and_only_files_that_are_shown_are_judged(tmp_path: Path) -> None:
    files = [write_rows(tmp_path / "a.jsonl", range(1, 4)), write_rows(tmp_path / "b.jsonl.gz", range(4, 8)),
             DataFile(tmp_path / "missing.jsonl", "jsonl", "train", "")]  # fmt: skip
    judged: list[Path] = []

    def judge(file: DataFile, rows: Sequence[Row]) -> Detection:
        judged.append(file.path)
        return detect_format(rows)

    assert places(list(read_chosen(files, [5, 7], ReadOptions(), detect=judge))) == [(5, "5"), (7, "7")]
    assert judged == [tmp_path / "b.jsonl.gz"]


@given(numbers=st.lists(st.integers(1, 9), min_size=1, unique=True).map(sorted), cut=st.integers(0, 6))
def test_the_files_cut_changes_nothing(numbers: list[int], cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    parts = [part for part in (range(1, 7)[:cut], range(1, 7)[cut:]) if part]
    files = [write_rows(folder / f"{index}.jsonl", part) for index, part in enumerate(parts)]
    found = list(read_chosen(files, numbers, ReadOptions(), detect=detect))
    assert places(found) == [(number, str(number)) for number in numbers if number <= 6]


def test_a_row_far_behind_is_found_in_little_memory(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "many.jsonl", range(1, 60_001))
    passed: deque[int] = deque(maxlen=1)
    tracemalloc.start()
    found = list(read_chosen([file], [59_999], ReadOptions(), detect=detect, passed=passed.append))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert places(found) == [(59_999, "59999")]
    assert passed[0] == 59_999
    assert most < 12 << 20
