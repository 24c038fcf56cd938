"""JSONL: every line is a row or a finding with its line; blocks of any size give the same rows."""

import json
import pickle
from decimal import Decimal
from pathlib import Path

import pytest
from file_rows import fields_in, found_in, read_all, rows_in, said_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kivnun.data.files.find import describe_file
from kivnun.data.files.read import LineBlock, rows_of_block, stream_blocks
from kivnun.data.rows import Row

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(
    rows=st.lists(objects, min_size=1, max_size=8),
    block_bytes=st.integers(1, 200),
    is_ascii=st.booleans(),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]),
)
def test_blocks_of_any_size_give_the_rows_that_were_written(
    tmp_path: Path, rows: list[dict[str, object]], block_bytes: int, *, is_ascii: bool, separators: tuple[str, str]
) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row, ensure_ascii=is_ascii, separators=separators) for row in rows]
    path.write_bytes("\n".join(lines).encode())
    blocks = list(stream_blocks(describe_file(path), block_bytes=block_bytes))
    assert all(isinstance(block, LineBlock) for block in blocks)
    items = [item for block in blocks for item in rows_of_block(pickle.loads(pickle.dumps(block)))]  # noqa: S301
    assert fields_in(items) == rows
    assert [row.line for row in rows_in(items)] == list(range(1, len(rows) + 1))
    assert found_in(items) == []
    assert read_all(path) == items


@pytest.mark.parametrize("block_bytes", [1, 100, 5000, 70_000, 1 << 20])
def test_a_long_file_is_cut_at_line_ends_and_every_block_knows_where_it_begins(here: Path, block_bytes: int) -> None:
    rows = [{"number": number, "text": "שלום לכולם " * (number % 90)} for number in range(3000)]
    data = "\ufeff".encode() + "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows).encode()
    (here / "a.jsonl").write_bytes(data)
    blocks = [
        b for b in stream_blocks(describe_file(Path("a.jsonl")), block_bytes=block_bytes) if isinstance(b, LineBlock)
    ]
    assert len(blocks) >= min(len(data) // max(block_bytes, 1 << 16), 2)
    assert b"".join(block.data for block in blocks) == data[3:]
    assert all(data[block.offset :].startswith(block.data) for block in blocks)
    read = [item for block in blocks for item in rows_of_block(block)]
    assert fields_in(read) == rows
    assert [row.line for row in rows_in(read)] == list(range(1, 3001))
    longest = max(len(line) for line in data.splitlines())
    assert max(len(block.data) for block in blocks) <= 2 * block_bytes + longest + 4096


def test_every_bad_line_is_named_and_the_good_ones_are_read(here: Path) -> None:
    lines = ['{"a": 1}', '{"a": ', "[1, 2]", '"text"', '{"a": "\\ud800"}', '{"a": NaN}', "", '{"a": 2}', "7", '{"א": 3']
    (here / "a.jsonl").write_text("\n".join(lines), "utf-8")
    items = read_all("a.jsonl")
    assert fields_in(items) == [{"a": 1}, {"a": 2}]
    assert said_in(items) == [
        'a.jsonl:2: unexpected end of data (column 7): {"a":',
        "a.jsonl:3: expected an object {...}, got [1, 2]",
        'a.jsonl:4: expected an object {...}, got "text"',
        'a.jsonl:5: no low surrogate in string (column 8): {"a": "\\ud800"}',
        'a.jsonl:6: unexpected character, expected a JSON value (column 7): {"a": NaN}',
        "a.jsonl:9: expected an object {...}, got 7",
        'a.jsonl:10: `}` is missing at its end (column 8): {"א": 3',
        "a.jsonl:7: 1 empty line(s), from here on, are skipped",
    ]
    codes = ["json-syntax", "json-not-object", "json-not-object", "json-surrogate", "json-syntax", "json-not-object"]
    assert [code for code, _ in found_in(items)] == [*codes, "json-syntax", "line-blank"]


@pytest.mark.parametrize("half", ["\\ud83c", "\\udf89", "\\udf89\\ud83c", "\\ud83cx"])
def test_half_a_surrogate_pair_is_told_apart_from_bad_syntax(here: Path, half: str) -> None:
    (here / "a.jsonl").write_text(f'{{"a": "{half}"}}\n{{"a": "\\ud83c\\udf89"}}\n', "utf-8")
    items = read_all("a.jsonl")
    assert found_in(items) == [("json-surrogate", 1)]
    assert fields_in(items) == [{"a": "🎉"}]


@pytest.mark.parametrize(
    "line",
    [
        '{"a": 1, "a": 2}',
        '{"b": {"a": 1, "a": 2}}',
        '{"b": [0, {"a": 1, "a": {"c": 2}}]}',
        '{"a" : 1, "a" : 2}',
        '{"a"  : 1, "a"\t: 2}',
        '{"\\u0061": 1, "a": 2}',
        '{"b": "\\":", "a": 1, "a": 2}',
    ],
)
def test_a_key_that_stands_twice_is_found_wherever_it_is(here: Path, line: str) -> None:
    others = [f'{{"number": {number}, "text": "a \\": b"}}' for number in range(300)]
    (here / "a.jsonl").write_text("\n".join([*others, line, *others]), "utf-8")
    items = read_all("a.jsonl")
    assert said_in(items) == ["a.jsonl:301: the key 'a' stands twice in one object"]
    assert len(rows_in(items)) == 601


def test_texts_that_look_like_keys_are_none(here: Path) -> None:
    row = {"a": '{"a": 1, "a": 2}', "b": '"a":', "c": ['" :', '\\":'], 'd":': '"\u0061" :'}
    (here / "a.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    assert found_in(read_all("a.jsonl")) == []
    assert fields_in(read_all("a.jsonl")) == [row]


def test_objects_within_objects_without_end_are_a_finding(here: Path) -> None:
    (here / "a.jsonl").write_text('{"a":' * 5000 + "1" + "}" * 5000 + "\n" + '{"a":' * 900 + "1" + "}" * 900, "utf-8")
    items = read_all("a.jsonl")
    assert [line for _, line in found_in(items)] in ([1], [1, 2])
    assert {code for code, _ in found_in(items)} == {"json-syntax"}


def test_empty_lines_are_counted_once_for_each_block(here: Path) -> None:
    (here / "a.jsonl").write_text('{"a": 1}\n\n \n\t\r\n{"a": 2}\n', "utf-8")
    items = read_all("a.jsonl")
    assert said_in(items) == ["a.jsonl:2: 3 empty line(s), from here on, are skipped"]
    assert [row.line for row in rows_in(items)] == [1, 5]


def test_a_line_that_never_ends_is_refused_in_bounded_memory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kivnun.data.files.lines.MAX_LINE_BYTES", 1 << 20)
    (here / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": "' + b"x" * (8 << 20))
    items = list(stream_blocks(describe_file(Path("a.jsonl")), block_bytes=1 << 20))
    assert said_in(items) == ["a.jsonl:1: a line is longer than 1 MiB"]


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ('{"a": 1, "a": 2}', '{"b"  : 1}'),
        ('{"a": 1, "a": 2}', '{"b"\t: 1}'),
        ('{"a": 1, "a": 2}', '{"b" \t: 1}'),
        ('{"a": 1, "a": 2}', '{"b": "x\\u0022:"}'),
        ('{"a": 1, "a": 2}', '{"b": "x\\"\\u003A"}'),
        ('{"a": 1, "a": 2}', '{"b": "x\\"\\u0020:"}'),
        ('{"a": 1, "a": 2, "c"\t: 3}', '{"b": 1}'),
        ('{"a": 1, "a": 2, "c": "\\u0022:"}', '{"b": 1}'),
    ],
)
def test_nothing_that_looks_like_no_key_makes_up_for_one_that_stands_twice(here: Path, line: str, other: str) -> None:
    (here / "a.jsonl").write_text(f"{line}\n{other}\n", "utf-8")
    assert said_in(read_all("a.jsonl")) == ["a.jsonl:1: the key 'a' stands twice in one object"]
    (here / "a.json").write_text(f"[{other},\n{line}]", "utf-8")
    assert said_in(read_all("a.json")) == ["a.json:2: the key 'a' stands twice in one object"]


def test_white_space_of_all_kinds_before_a_colon_is_no_fault(here: Path) -> None:
    row = {"a": 1, "b": {"c": "a  : b\t: 'x\"\t : y'"}, '\t : " :': '":'}
    text = json.dumps(row, separators=(",", "  \t :"))
    (here / "a.jsonl").write_text(f'{text}\n{text}\n{{"a"\t:1}}\n', "utf-8")
    assert read_all("a.jsonl") == [Row(row, "a.jsonl", 1), Row(row, "a.jsonl", 2), Row({"a": 1}, "a.jsonl", 3)]


@pytest.mark.parametrize(
    "number",
    [2**64, -(2**63) - 1, 1234567890123456789012310, -(10**19), 10**19 * 2, int("7" * 300)],
    ids=["2^64", "-2^63-1", "25 digits", "-10^19", "2*10^19", "300 digits"],
)
def test_an_integer_that_would_be_rounded_is_refused(here: Path, number: int) -> None:
    digits = f"{Decimal(number):f}"
    (here / "a.jsonl").write_text(f'{{"a": 1}}\n{{"a": [{{"מספר": {digits}}}]}}\n{{"a": 2}}\n', "utf-8")
    (here / "a.json").write_text(f'[{{"a": 1}},\n{{"a": {digits}}},\n{{"a": 2}}]', "utf-8")
    for name in ("a.jsonl", "a.json"):
        items = read_all(name)
        assert fields_in(items) == [{"a": 1}, {"a": 2}]
        shown = digits if len(digits) <= 60 else digits[:57] + "..."
        said = f"{name}:2: the number {shown} has more than 64 bits and would be rounded: write it as a text"
        assert said_in(items) == [said]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(number=st.integers(-(2**63), 2**64 - 1) | st.integers(2**64 - 9, 2**64 - 1) | st.integers(-(2**63), 9 - 2**63))
def test_integers_of_64_bits_and_long_digits_in_texts_are_kept(tmp_path: Path, number: int) -> None:
    row = {"a": number, "b": "7" * 40, "c": [f"-{'1' * 30}", 0.1234567890123456], "d": f'": {10**30}'}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    assert fields_in(read_all(tmp_path / "a.jsonl")) == [row]
    assert found_in(read_all(tmp_path / "a.jsonl")) == []


@pytest.mark.parametrize("num_rows", [2, 30_000])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.tsv"])
def test_lines_that_end_in_carriage_returns_only_are_lines(here: Path, name: str, num_rows: int) -> None:
    rows = [{"text": f"שלום {number} {'x' * 30}", "label": "x"} for number in range(num_rows)]
    if name == "a.tsv":
        lines = ["text\tlabel", *("\t".join(row.values()) for row in rows)]
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (here / name).write_bytes("".join(line + "\r" for line in lines).encode())
    items = read_all(name, header=True)
    assert fields_in(items) == rows
    assert [row.line for row in rows_in(items)] == list(range(1 + (name == "a.tsv"), len(lines) + 1))
    assert found_in(items) == []


def test_a_fault_in_lines_that_end_in_carriage_returns_is_named_with_its_line(here: Path) -> None:
    (here / "a.jsonl").write_bytes(b'{"a": 1}\r{"a": 2}\r{"a": \r{"a": 3}')
    items = read_all("a.jsonl")
    assert found_in(items) == [("json-syntax", 3)]
    assert fields_in(items) == [{"a": 1}, {"a": 2}, {"a": 3}]
