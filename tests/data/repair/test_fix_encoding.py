from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mending import mend, source

from kivnun.data.repair.encoding import cut_at_newlines, fix_encoding
from kivnun.data.repair.output import log_path
from kivnun.data.repair.rewrite import Target
from kivnun.errors import UserError

HEBREW = '{"text": "שלום, עולם", "label": "טוב"}\n{"text": "plain", "label": "x"}\n{"text": "אחרון", "label": "רע"}\n'
FRENCH = "text\tlabel\ncafé crème, d\u2019été\tbien\nplain\tx\n"


@pytest.mark.parametrize(
    ("text", "encoding", "taken_for"),
    [
        (HEBREW, "cp1255", "cp1255"),
        (FRENCH, "cp1252", "cp1252"),
        (FRENCH.replace("\u2019", "'"), "latin-1", "latin-1"),
        (HEBREW * 5, "utf-16", "utf-16-le"),
        (HEBREW * 5, "utf-16-be", "utf-16-be"),
        (HEBREW * 5, "utf-32", "utf-32-le"),
    ],
)
def test_a_file_of_another_encoding_becomes_utf8_and_the_guess_is_said(
    tmp_path: Path, text: str, encoding: str, taken_for: str
) -> None:
    mended = mend(tmp_path, fix_encoding, text.encode(encoding))
    assert mended.content.decode() == text
    assert taken_for in mended.done.notes[0].lower()


def test_every_line_that_was_decoded_is_logged(tmp_path: Path) -> None:
    mended = mend(tmp_path, fix_encoding, HEBREW.encode("cp1255"))
    assert [entry["where"] for entry in mended.log] == [f"{tmp_path}/in.jsonl:{line}" for line in (1, 3)]
    assert mended.log[0]["reason"] == "not UTF-8; read as cp1255"
    assert dict(mended.done.counts) == {"decoded: cp1255": 2}


def test_the_reason_shows_what_a_line_reads_like(tmp_path: Path) -> None:
    why = mend(tmp_path, fix_encoding, HEBREW.encode("cp1255")).done.notes[0]
    assert "100% of their bytes above 0x7f are letters" in why
    assert "שלום, עולם" in why


def test_lines_that_are_utf8_stay_in_a_file_that_is_partly_something_else(tmp_path: Path) -> None:
    first, rest = HEBREW.split("\n", 1)
    assert mend(tmp_path, fix_encoding, first.encode() + b"\n" + rest.encode("cp1255")).content.decode() == HEBREW


def test_a_byte_order_mark_goes(tmp_path: Path) -> None:
    mended = mend(tmp_path, fix_encoding, HEBREW.encode("utf-8-sig"))
    assert mended.content.decode() == HEBREW
    assert mended.log == [
        {"where": f"{tmp_path}/in.jsonl", "action": "mark left out", "reason": "byte-order mark ef bb bf"}
    ]


@settings(max_examples=25)
@given(st.text(max_size=80))
def test_a_file_that_is_utf8_stays_the_same_to_the_byte(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    content = ("plain beginning " * 4 + text).encode()
    mended = mend(tmp_path_factory.mktemp("text"), fix_encoding, content, name="in.txt")
    assert (mended.content, mended.log, dict(mended.done.counts)) == (content, [], {})


def test_what_the_user_says_counts_more_than_the_guess(tmp_path: Path) -> None:
    mended = mend(tmp_path, fix_encoding, "שלום\n".encode("cp1255"), name="in.txt", encoding="latin-1")
    assert mended.content.decode() == "שלום\n".encode("cp1255").decode("latin-1")


def test_a_named_utf16_follows_the_mark_of_the_file(tmp_path: Path) -> None:
    content = b"\xfe\xff" + HEBREW.encode("utf-16-be")
    assert mend(tmp_path, fix_encoding, content, encoding="utf-16").content.decode() == HEBREW
    bare = HEBREW.encode("utf-16-le")
    assert mend(tmp_path, fix_encoding, bare, encoding="utf-16-le").content.decode() == HEBREW


@pytest.mark.parametrize(
    ("content", "encoding", "problem"),
    [
        (bytes(range(0x80, 0x100)) * 2, None, "no other encoding is likely"),
        (b"abc \xff\n", "ascii", ":1: byte 0xff is not ascii"),
        (b"abc\n", "cp99999", "no encoding 'cp99999'"),
        (b"\xff\xfea\x00\xd8\xd8b\x00", None, "is not utf-16-le"),
    ],
)
def test_bytes_that_fit_nothing_are_refused_and_nothing_is_left(
    tmp_path: Path, content: bytes, encoding: str | None, problem: str
) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        mend(tmp_path, fix_encoding, content, name="in.txt", encoding=encoding)
    assert caught.value.code == "data-encoding"
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_layouts_that_are_only_read_are_decoded_too(tmp_path: Path) -> None:
    content = '{"AddToPlaylist": [{"data": [{"text": "הוסף"}]}]}'
    assert mend(tmp_path, fix_encoding, content.encode("cp1255"), name="in.json").content.decode() == content


def test_a_dry_run_says_the_guess_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(HEBREW.encode("cp1255"))
    target = Target(tmp_path / "out.jsonl", dry_run=True)
    done = fix_encoding(source(tmp_path / "in.jsonl"), target)
    assert dict(done.counts) == {"decoded: cp1255": 2}
    assert not target.out.exists()
    assert not log_path(target.out).exists()


def test_halves_of_characters_as_java_writes_them_are_joined(tmp_path: Path) -> None:
    content = "pizza 🍕".encode("utf-16-le").decode("utf-16-le", "surrogatepass")
    halves = "".join(chr(0xD83C) if c == "🍕" else c for c in content).encode("utf-8", "surrogatepass")
    halves += chr(0xDF55).encode("utf-8", "surrogatepass")
    assert mend(tmp_path, fix_encoding, halves, name="in.txt").content.decode() == "pizza 🍕"


@given(st.lists(st.text(alphabet="a\n", max_size=5).map(str.encode)))
def test_lines_are_the_same_however_their_bytes_come(chunks: list[bytes]) -> None:
    assert list(cut_at_newlines(chunks)) == b"".join(chunks).splitlines(keepends=True)


@pytest.mark.timeout(10)
def test_a_line_over_very_many_chunks_is_cut_in_time() -> None:
    chunk = b"x" * 10_000
    (line,) = cut_at_newlines(chunk for _ in range(10_000))
    assert len(line) == 100_000_000
