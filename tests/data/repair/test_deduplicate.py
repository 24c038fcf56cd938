from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mending import Mended, jsonl, mend, source

from kivnun.data.repair.duplicates import DuplicateOptions, deduplicate

BASE = "איזה רגש מביע המשפט: הרכבת איחרה שוב והיא חיכתה בגשם שעה ארוכה בלי מטריה ובלי מעיל"
FIRST = DuplicateOptions()
LAST = DuplicateOptions(keep="last")
NEAR = DuplicateOptions(near=True)
Pair = tuple[str, str]


def pairs(*pairs: Pair) -> str:
    return jsonl(*({"prompt": question, "completion": answer} for question, answer in pairs))


def clean(folder: Path, options: DuplicateOptions, *rows: Pair, against: tuple[Pair, ...] = ()) -> Mended:
    others = []
    if against:
        (folder / "test.jsonl").write_text(pairs(*against))
        others = [source(folder / "test.jsonl")]
    return mend(folder, deduplicate, pairs(*rows), options, against=others)


def prompts(mended: Mended) -> list[object]:
    return [row["prompt"] for row in mended.rows]


def test_the_first_of_equal_rows_stays_and_the_log_says_which(tmp_path: Path) -> None:
    mended = clean(tmp_path, FIRST, ("א", "1"), ("ב", "1"), ("א", "1"), ("א", "2"))
    assert mended.content.decode() == pairs(("א", "1"), ("ב", "1"), ("א", "2"))
    assert mended.log == [
        {
            "where": f"{tmp_path}/in.jsonl:3",
            "action": "dropped",
            "reason": "duplicate",
            "kept": f"{tmp_path}/in.jsonl:1",
        }
    ]


def test_the_last_of_equal_rows_stays_where_that_is_wanted(tmp_path: Path) -> None:
    mended = clean(tmp_path, LAST, ("a", "1"), ("b", "1"), ("a", "1"), ("c", "1"))
    assert prompts(mended) == ["b", "a", "c"]
    assert (mended.log[0]["where"], mended.log[0]["kept"]) == (f"{tmp_path}/in.jsonl:1", f"{tmp_path}/in.jsonl:3")


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12")), min_size=1, max_size=12), st.booleans())
def test_of_every_row_one_stays(tmp_path_factory: pytest.TempPathFactory, rows: list[Pair], last: bool) -> None:
    mended = clean(tmp_path_factory.mktemp("rows"), LAST if last else FIRST, *rows)
    expected = list(dict.fromkeys(reversed(rows)))[::-1] if last else list(dict.fromkeys(rows))
    assert mended.content.decode() == pairs(*expected)
    assert len(mended.log) == len(rows) - len(expected)


def test_rows_that_differ_a_little_stay_unless_near_ones_are_dropped(tmp_path: Path) -> None:
    rows = [("Hello there", "x"), ("hello, there!", "x"), (BASE, "עצב"), (BASE + "ים", "עצב"), (BASE + "ון", "שמחה")]
    assert len(clean(tmp_path, FIRST, *rows).lines) == 5
    mended = clean(tmp_path, NEAR, *rows)
    assert prompts(mended) == ["Hello there", BASE, BASE + "ון"]
    assert [entry["reason"] for entry in mended.log] == [
        "duplicate but for case, points, punctuation or spaces",
        "near duplicate",
    ]


def test_of_a_chain_of_near_rows_those_stay_that_are_not_near_to_each_other(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(40)]
    chain = [" ".join([*(f"other{n}" for n in range(start)), *words[start:]]) for start in (0, 2, 4, 6)]
    mended = clean(tmp_path, NEAR, *((text, "x") for text in chain))
    assert prompts(mended) == [chain[0], chain[2]]
    assert [entry["kept"] for entry in mended.log] == [f"{tmp_path}/in.jsonl:1", f"{tmp_path}/in.jsonl:3"]


def test_rows_whose_input_stands_in_the_test_file_go_whatever_their_answer(tmp_path: Path) -> None:
    mended = clean(tmp_path, FIRST, ("A b", "1"), ("c", "1"), ("a, b!", "2"), against=(("a b", "3"),))
    assert prompts(mended) == ["c"]
    assert {entry["reason"] for entry in mended.log} == {"input stands in the other file"}
    assert {entry["kept"] for entry in mended.log} == {f"{tmp_path}/test.jsonl:1"}


@pytest.mark.parametrize("keep", ["first", "last"])
def test_rows_nearly_in_the_test_file_go_too_where_near_ones_do(tmp_path: Path, keep) -> None:
    rows = [("z", "1"), (BASE + "ים", "עצב"), ("z", "1")]
    options = DuplicateOptions(near=True, keep=keep)
    mended = clean(tmp_path, options, *rows, against=((BASE, "שמחה"),))
    assert prompts(mended) == ["z"]
    assert sorted(str(entry["reason"]) for entry in mended.log) == [
        "duplicate",
        "input nearly stands in the other file",
    ]


def test_repeated_rows_of_the_test_file_are_no_matter(tmp_path: Path) -> None:
    assert prompts(clean(tmp_path, NEAR, ("c", "1"), against=(("a", "1"), ("a", "1")))) == ["c"]


def test_the_threshold_decides_what_is_near(tmp_path: Path) -> None:
    rows = [(BASE, "x"), (BASE + " ועוד משפט", "x")]
    assert len(clean(tmp_path, DuplicateOptions(near=True, threshold=0.8), *rows).lines) == 1
    assert len(clean(tmp_path, DuplicateOptions(near=True, threshold=0.95), *rows).lines) == 2


def test_many_rows_with_one_instruction_are_compared_without_it(tmp_path: Path) -> None:
    instruction = "decide which of the feelings joy or anger or sadness the writer of this sentence shows " * 4
    names = [f"{chr(97 + number)}{number} came" for number in range(25)]
    mended = clean(tmp_path, NEAR, *((f"{instruction}: {name}", "joy") for name in names))
    assert len(mended.lines) == 25
    assert mended.done.notes == ["25 rows share 65 words at their ends, which were not compared"]


def test_documents_are_compared_by_their_text(tmp_path: Path) -> None:
    content = f"{BASE}\n<|endoftext|>\nanother\n<|endoftext|>\n{BASE}ים\n<|endoftext|>\nanother"
    mended = mend(tmp_path, deduplicate, content, NEAR, name="in.txt")
    assert mended.content.decode() == f"{BASE}\n<|endoftext|>\nanother\n<|endoftext|>\n"
