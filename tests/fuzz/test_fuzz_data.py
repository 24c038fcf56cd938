"""Short fuzzing of the data layer; `bench/fuzz_data.py` does the same for minutes."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "data"))

from broken_rows import BROKEN_FILES
from data_targets import ACTIONS, ENCODINGS, Task, check_file, make_seed, read_file, read_value, run_bytes, take_task

from kivnun.data.files.read import LAYOUTS

SMALL = [broken for broken in BROKEN_FILES.values() if len(broken.content) < 5_000]
PIECES = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r",
    b"\\u0000",
    b"\xff",
    b"\0",
    b"\xd7",
    b"null",
    b'{"a": 1}\n',
]
# The first rows of the table's files: one of each format.
GOOD_ROWS = sorted({broken.content.partition(b"\n")[0] for broken in SMALL if broken.content.startswith(b'{"')} - {b""})
GOOD_ROWS = [row for row in GOOD_ROWS if row.endswith(b"}")]
KEYS = (
    "messages",
    "role",
    "content",
    "text",
    "label",
    "from",
    "value",
    "parts",
    "prompt",
    "chosen",
    "rejected",
    "tools",
)

FILES = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def mutants(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of the table with some bytes flipped, cut out, put in, or taken from another one."""
    broken = draw(st.sampled_from(SMALL))
    content = bytearray(broken.content)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 9)))
        other = draw(st.sampled_from(SMALL)).content
        new = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3), st.just(other[start : start + 40])))
        content[start:stop] = new
    return broken.name, bytes(content)


@FILES
@given(mutant=mutants(), action=st.sampled_from(ACTIONS), layout=st.integers(0, len(LAYOUTS)), more=st.integers(0, 255))
def test_a_file_with_some_bytes_changed_is_read_checked_and_converted_or_refused(
    mutant: tuple[str, bytes], action: str, layout: int, more: int, tmp_path: Path
) -> None:
    data = bytearray(make_seed(*mutant, action))
    data[1:3] = layout, more
    run_bytes(bytes(data), tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), encoding=st.sampled_from(ENCODINGS))
def test_any_bytes_are_rows_or_findings(layout: str, content: bytes, encoding: str | None, tmp_path: Path) -> None:
    path = tmp_path / "rows.any"
    path.write_bytes(content)
    read_file(path, Task("rows.any", layout, encoding))


@settings(max_examples=60)
@given(value=st.dictionaries(st.sampled_from(KEYS), values, max_size=5))
def test_any_value_is_a_row_of_every_format_or_refused(value: object) -> None:
    read_value(value)


DEEP = b"[" * 900 + b"]" * 900
FOUND = {
    "examples nested too deeply": (
        "rows.json",
        b'{"Definition": "x", "Positive Examples": [{"a": '
        + DEEP
        + b'}], "Instances": [{"input": "a", "output": "b"}]}',
    ),
    "a text of the API that is no JSON": (
        "rows.jsonl",
        b'{"context": [{"role": "api", "text": "x"}], "generation": {"role": "agent", "text": "y"}, "reward": 1}',
    ),
    "a list of the API": (
        "rows.jsonl",
        b'{"context": [{"role": "agent", "api": {"f": {}}}, {"role": "api", "text": "[\\"f\\"]"}],'
        b' "generation": {"role": "agent", "text": "y"}, "reward": 1}',
    ),
    "a line break in a key": ("rows.jsonl", b'{"messages": [{"role": "user", "cont\\nent": "x"}]}'),
    "a role that is a list": ("rows.jsonl", b'{"system": "s", "messages": [{"role": ["user"], "content": "x"}]}'),
}


@pytest.mark.parametrize("action", dict.fromkeys(ACTIONS))
@pytest.mark.parametrize("name", FOUND)
def test_what_once_was_a_crash_is_none(name: str, action: str, tmp_path: Path) -> None:
    run_bytes(make_seed(*FOUND[name], action), tmp_path)


def places(value: object) -> Iterator[tuple[dict[str, object] | list[object], str | int]]:
    """Every place of a value inside lists and objects, with what holds it."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


@settings(max_examples=60)
@given(data=st.data())
def test_a_row_with_values_replaced_is_read_or_refused_in_every_format(data: st.DataObject) -> None:
    row = json.loads(data.draw(st.sampled_from(GOOD_ROWS)))
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = data.draw(st.sampled_from(list(places(row))))
        holder[key] = data.draw(values)
    read_value(row)


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_rows_are_whole_or_refused_in_every_format(name: str, tmp_path: Path) -> None:
    broken = BROKEN_FILES[name]
    if broken in SMALL:
        run_bytes(make_seed(broken.name, broken.content, "read"), tmp_path)


def test_an_empty_file_of_any_name_is_refused(tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "book.txt"):
        path = tmp_path / name
        path.touch()
        check_file(path, Task(name))


def test_a_seed_is_taken_for_what_it_was_made_from() -> None:
    assert take_task(make_seed("rows.csv", b"a,b\n", "check")) == (Task("rows.csv", action="check"), b"a,b\n")
