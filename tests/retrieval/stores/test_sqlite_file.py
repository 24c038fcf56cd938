"""What only the store in SQLite has: a file, which may be anything."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from store_samples import entry, unit_rows

from kivnun.errors import UserError
from kivnun.retrieval.sqlite_schema import SCHEMA_VERSION
from kivnun.retrieval.sqlite_store import SqliteStore


def _refused(path: Path, code: str) -> None:
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(UserError) as caught:
            SqliteStore(path, create=create)
        assert caught.value.code == code
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("a text that is longer than the header of a database" * 100)
    _refused(text, "index-missing")
    foreign = tmp_path / "foreign"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE notes (text)")
    _refused(foreign, "index-missing")


def test_a_damaged_index_is_said(tmp_path: Path) -> None:
    path = tmp_path / "chunks.sqlite"
    store = SqliteStore(path, create=True)
    store.replace_documents([entry(str(n), ["x " * 300], vectors=[unit_rows(1)[0]]) for n in range(200)])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 : len(content)] = b"\x55" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(UserError, match="store-failed"):
        SqliteStore(path, create=False).search_terms(["x"], 1)


def test_an_index_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chunks.sqlite"
    SqliteStore(path, create=True).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    _refused(path, "store-failed")


def test_the_index_is_one_file_once_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "chunks.sqlite"
    store = SqliteStore(path, create=True)
    store.replace_documents([entry("a", ["x"])])
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["chunks.sqlite"]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="store-failed"):
        SqliteStore(tmp_path / "nowhere" / "chunks.sqlite", create=True)


def test_a_document_is_kept_even_if_the_power_is_cut(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "chunks.sqlite", create=True)
    settings = [store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert settings == ["wal", 2]
    store.close()
