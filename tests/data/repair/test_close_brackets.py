from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mending import jsonl, mend, source

from kivnun.data.files.closing import find_closing
from kivnun.data.repair.closing import close_brackets
from kivnun.data.repair.rewrite import Target
from kivnun.errors import UserError

ROW = '{"messages": [{"role": "user", "content": "] \\" {"}]}'


@pytest.mark.parametrize("missing", ["}", "]}", "}]}"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "", "  \n"])
def test_missing_brackets_are_written_and_logged(tmp_path: Path, missing: str, end: str) -> None:
    mended = mend(tmp_path, close_brackets, f"{ROW}\n{ROW.removesuffix(missing)}{end}")
    assert mended.content.decode() == f"{ROW}\n{ROW}{end}"
    reason = f"`{missing}` was missing at its end"
    assert mended.log == [{"where": f"{tmp_path}/in.jsonl:2", "action": "closed", "reason": reason}]
    assert (mended.done.counts, mended.done.num_written) == ({f"closed: {missing}": 1}, 2)


def test_lines_that_are_broken_otherwise_stay_and_are_counted(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + f'{ROW}\n\n{{"a": "b\n{{"a": 1,\n{{"a": 1}}}}\n'.encode() + b'{"a": "\xff"\n'
    mended = mend(tmp_path, close_brackets, content)
    assert (mended.content, mended.log) == (content, [])
    assert mended.done.notes == ["4 line(s) are broken otherwise and stay as they are, the first of them line 3"]


@given(st.recursive(st.text(max_size=4), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)))
def test_no_row_that_is_whole_is_changed(value: object) -> None:
    assert find_closing(jsonl({"a": value}).encode()) == ""


def test_nothing_is_written_where_the_layout_has_no_such_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n", "utf-8")
    with pytest.raises(UserError) as caught:
        close_brackets(source(tmp_path / "a.csv"), Target(tmp_path / "b.csv"))
    assert caught.value.code == "data-format"
    assert not (tmp_path / "b.csv").exists()
