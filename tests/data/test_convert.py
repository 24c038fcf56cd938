import json
from pathlib import Path

import pytest

from kivnun.data.convert import Conversion, ConvertOptions, convert_data, find_target
from kivnun.data.files.dataset import ReadOptions
from kivnun.data.files.find import find_data
from kivnun.data.formats import FORMATS
from kivnun.errors import UserError

PAIRS = [{"input_text": f"שאלה {number}", "output_text": f"תשובה {number}"} for number in range(5)]
CHATS = [
    {"messages": [{"role": "user", "content": f"שאלה {number}"}, {"role": "assistant", "content": f"תשובה {number}"}]}
    for number in range(5)
]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def convert(source: Path, out: Path, to: str, **more: object) -> Conversion:
    split = more.pop("split", None)
    options = ConvertOptions(find_target(to), **more)  # type: ignore[arg-type]
    return convert_data(find_data(str(source)), out, options, split=split)  # type: ignore[arg-type]


def refusal(source: Path, out: Path, to: str, **more: object) -> UserError:
    """The error of a conversion that must leave nothing behind."""
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        convert(source, out, to, **more)
    assert sorted(source.parent.rglob("*")) == before
    return caught.value


def test_rows_are_carried_over_and_the_report_says_from_what(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", PAIRS)
    done = convert(source, tmp_path / "out.jsonl", "openai-chat")
    assert rows_of(tmp_path / "out.jsonl") == CHATS
    assert [(each.format, each.num_rows, each.file.path) for each in done.sources] == [("palm-text", 5, source)]
    assert "`input_text` and `output_text` in 5 of 5 rows" in done.sources[0].why
    assert done.written == {tmp_path / "out.jsonl": 5}
    assert (done.to, done.dropped) == ("openai-chat", {})


def test_what_the_format_cannot_hold_is_refused_with_every_row_that_has_it(tmp_path: Path) -> None:
    system = {"role": "system", "content": "ענה"}
    rows = [{"messages": [system, *CHATS[0]["messages"]]} if number % 2 else CHATS[0] for number in range(50)]
    error = refusal(write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl", "palm-text")
    assert error.code == "format-loss"
    assert "25 thing(s) in 50 row(s)" in error.problem
    assert error.details[0].startswith(f"{tmp_path / 'rows.jsonl'}:2: ")
    assert len(error.details) == 21
    assert error.details[-1] == "... and 5 more"
    assert "--drop-extra" not in error.hint


def test_further_columns_are_lost_only_where_that_was_allowed_and_are_counted(tmp_path: Path) -> None:
    rows = [{**row, "id": number, **({"note": "x"} if number < 2 else {})} for number, row in enumerate(PAIRS)]
    source = write(tmp_path / "rows.jsonl", rows)
    error = refusal(source, tmp_path / "out.jsonl", "openai-chat")
    assert error.code == "format-loss"
    assert error.hint == "--drop-extra leaves out the further columns: id, note"
    done = convert(source, tmp_path / "out.jsonl", "openai-chat", drop_extra=True)
    assert done.dropped == {"id": 5, "note": 2}
    assert rows_of(tmp_path / "out.jsonl") == CHATS


def test_what_the_format_has_room_for_is_kept_beside_what_is_dropped(tmp_path: Path) -> None:
    rows = [{**row, "references": {"answer": "4"}, "id": 7} for row in CHATS]
    done = convert(write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl", "gemini", drop_extra=True)
    assert done.dropped == {"id": 5}
    assert [row["references"] for row in rows_of(tmp_path / "out.jsonl")] == [{"answer": "4"}] * 5


def test_dropping_columns_does_not_drop_anything_else(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "system", "content": "ענה"}, *CHATS[0]["messages"]], "id": 1}]
    error = refusal(write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl", "palm-text", drop_extra=True)
    assert error.code == "format-loss"
    assert "--drop-extra" not in error.hint


def test_rows_that_cannot_be_read_are_named_with_their_lines(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [*PAIRS, {"input_text": "שאלה", "output_text": None}])
    with source.open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    error = refusal(source, tmp_path / "out.jsonl", "openai-chat")
    assert error.code == "data-malformed"
    assert [detail.split(": ")[0] for detail in error.details] == [f"{source}:6", f"{source}:7"]


def test_what_only_the_file_cannot_hold_is_named_with_its_row_too(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [PAIRS[0], {"input_text": "a\nb", "output_text": "c"}])
    error = refusal(source, tmp_path / "out.tsv", "columns")
    assert error.code == "format-loss"
    assert error.details[0].startswith(f"{source}:2: ")


def test_a_dry_run_says_everything_and_writes_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", PAIRS)
    done = convert(source, tmp_path / "out" / "rows.jsonl", "gemini", dry_run=True)
    assert done.written == {tmp_path / "out" / "rows.jsonl": 5}
    assert sorted(tmp_path.rglob("*")) == [source]


def test_a_file_that_exists_is_overwritten_only_by_force(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", PAIRS)
    out = write(tmp_path / "out.jsonl", PAIRS)
    assert refusal(source, out, "openai-chat").code == "file-exists"
    assert rows_of(out) == PAIRS
    convert(source, out, "openai-chat", force=True)
    assert rows_of(out) == CHATS


def test_what_is_read_is_never_overwritten_under_any_name(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", PAIRS)
    (tmp_path / "other.jsonl").symlink_to(source)
    for name in ("rows.jsonl", "other.jsonl"):
        assert refusal(source, tmp_path / name, "openai-chat", force=True).code == "file-exists"
    assert rows_of(source) == PAIRS


def test_a_folder_of_splits_becomes_a_folder_of_splits(tmp_path: Path) -> None:
    write(tmp_path / "in" / "train.jsonl", PAIRS)
    write(tmp_path / "in" / "train_more.jsonl", CHATS[:1])
    write(tmp_path / "in" / "test.jsonl", CHATS[:2])
    done = convert(tmp_path / "in", tmp_path / "out", "openai-chat")
    assert rows_of(tmp_path / "out" / "train.jsonl") == [*CHATS, CHATS[0]]
    assert rows_of(tmp_path / "out" / "test.jsonl") == CHATS[:2]
    assert {path.name: number for path, number in done.written.items()} == {"train.jsonl": 6, "test.jsonl": 2}
    assert sorted(each.format for each in done.sources) == ["openai-chat", "openai-chat", "palm-text"]


def test_several_splits_do_not_fit_one_file_but_one_of_them_does(tmp_path: Path) -> None:
    write(tmp_path / "in" / "train.jsonl", PAIRS)
    write(tmp_path / "in" / "test.jsonl", PAIRS[:2])
    assert refusal(tmp_path / "in", tmp_path / "out.jsonl", "openai-chat").code == "data-format"
    convert(tmp_path / "in", tmp_path / "out.jsonl", "openai-chat", split="test")
    assert rows_of(tmp_path / "out.jsonl") == CHATS[:2]
    assert refusal(tmp_path / "in", tmp_path / "two.jsonl", "openai-chat", split="validation").code == "data-empty"


def test_one_bad_split_keeps_all_of_them_back(tmp_path: Path) -> None:
    write(tmp_path / "in" / "train.jsonl", PAIRS)
    write(tmp_path / "in" / "validation.jsonl", [{"input_text": "a"}])
    error = refusal(tmp_path / "in", tmp_path / "out", "openai-chat", wanted="palm-text")
    assert error.code == "data-malformed"
    assert not list((tmp_path / "out").rglob("*.jsonl*"))


def test_columns_can_be_named_and_a_header_denied(tmp_path: Path) -> None:
    source = tmp_path / "rows.tsv"
    source.write_text("ממש כואב\t0\nאיש יקר שלנו\t1\n", "utf-8")
    convert(
        source,
        tmp_path / "out.jsonl",
        "openai-chat",
        prompt="column_2",
        answer="column_1",
        read=ReadOptions(header=False),
    )
    assert [row["messages"][0]["content"] for row in rows_of(tmp_path / "out.jsonl")] == ["0", "1"]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(content, "utf-8")
    assert refusal(source, tmp_path / "out.jsonl", "openai-chat").code == "data-empty"


def test_every_format_that_is_written_is_offered_where_none_or_a_wrong_one_is_named() -> None:
    writable = {name for name, format_ in FORMATS.items() if format_.write is not None}
    for name in (None, "openai", "taskmaster"):
        with pytest.raises(UserError) as caught:
            find_target(name)
        assert {detail.split()[0] for detail in caught.value.details} == writable
    with pytest.raises(UserError, match="did you mean `openai-chat`"):
        find_target("openai-caht")
    with pytest.raises(UserError, match="only read"):
        find_target("squad")


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", PAIRS)
    assert refusal(source, tmp_path / "out.jsnl", "openai-chat").code == "data-format"


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", PAIRS)
    (tmp_path / "taken").write_text("", "utf-8")
    assert refusal(source, tmp_path / "taken" / "out.jsonl", "openai-chat").code == "file-unwritable"
    assert refusal(source, tmp_path / "taken", "openai-chat").code == "file-unwritable"


@pytest.mark.parametrize("ending", ["jsonl.gz", "json.xz", "csv.zst", "tsv", "parquet"])
def test_the_ending_of_the_name_says_how_rows_become_bytes(tmp_path: Path, ending: str) -> None:
    source = write(tmp_path / "rows.jsonl", PAIRS)
    convert(source, tmp_path / f"a.{ending}", "palm-text")
    convert(tmp_path / f"a.{ending}", tmp_path / "b.jsonl", "palm-text")
    assert rows_of(tmp_path / "b.jsonl") == PAIRS
