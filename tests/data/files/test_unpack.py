"""Packed files: known by their first bytes, read in pieces, refused where they are damaged."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from file_rows import fields_in, found_in, read_all, rows_in, said_in

from kivnun.data.files.unpack import UnreadableError, stream_bytes

LINES = "".join(f'{{"number": {number}, "text": "שלום {number}"}}\n' for number in range(5000)).encode()
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 20])
def test_a_packed_file_is_known_by_its_first_bytes_whatever_its_name(here: Path, kind: str, chunk_bytes: int) -> None:
    (here / "a.jsonl").write_bytes(PACKERS[kind](LINES))
    assert b"".join(stream_bytes(here / "a.jsonl", chunk_bytes)) == LINES
    assert [row.line for row in rows_in(read_all("a.jsonl"))] == list(range(1, 5001))


@pytest.mark.parametrize("kind", PACKERS)
def test_two_packed_files_one_behind_the_other_are_read_as_one(here: Path, kind: str) -> None:
    (here / f"a.jsonl.{kind}").write_bytes(PACKERS[kind](LINES) + PACKERS[kind](LINES))
    assert b"".join(stream_bytes(here / f"a.jsonl.{kind}")) == LINES * 2


@pytest.mark.parametrize("kind", PACKERS)
def test_of_a_file_that_was_cut_off_the_whole_rows_are_read_and_the_end_is_a_finding(here: Path, kind: str) -> None:
    packed = PACKERS[kind](LINES)
    (here / f"a.jsonl.{kind}").write_bytes(packed[: len(packed) * 3 // 4])
    items = read_all(f"a.jsonl.{kind}")
    assert found_in(items) == [("file-unreadable", 0)]
    assert f"a.jsonl.{kind}: cannot be unpacked: " in said_in(items)[0]
    numbers = [fields["number"] for fields in fields_in(items)]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("kind", PACKERS)
def test_damage_in_the_middle_is_a_finding_and_no_crash(here: Path, kind: str) -> None:
    packed = bytearray(PACKERS[kind](LINES))
    packed[len(packed) // 2 : len(packed) // 2 + 8] = b"\xff" * 8
    (here / f"a.jsonl.{kind}").write_bytes(packed)
    assert "file-unreadable" in [code for code, _ in found_in(read_all(f"a.jsonl.{kind}"))]


@pytest.mark.parametrize("kind", PACKERS)
def test_whatever_follows_a_packed_file_is_a_finding(here: Path, kind: str) -> None:
    (here / "a.jsonl").write_bytes(PACKERS[kind](LINES) + b"something else")
    items = read_all("a.jsonl")
    # The libraries of bzip2 and xz take what follows for padding.
    assert found_in(items) == ([] if kind in ("bz2", "xz") else [("file-unreadable", 0)])
    assert len(rows_in(items)) == 5000


def test_a_plain_file_that_is_named_as_packed_is_read(here: Path) -> None:
    (here / "a.jsonl.gz").write_bytes(LINES)
    assert len(rows_in(read_all("a.jsonl.gz"))) == 5000


def test_a_zip_archive_is_refused_by_its_name(here: Path) -> None:
    (here / "a.csv").write_bytes(b"PK\x03\x04 and so on")
    assert said_in(read_all("a.csv")) == ["a.csv: is a zip archive (or an Office file): unpack it first"]


def test_a_file_that_cannot_be_opened_is_a_finding(here: Path) -> None:
    (here / "a.jsonl").mkdir()
    with pytest.raises(UnreadableError, match="cannot be read: Is a directory"):
        list(stream_bytes(here / "a.jsonl"))
