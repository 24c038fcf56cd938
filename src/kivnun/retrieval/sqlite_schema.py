"""The tables of an index in SQLite, and opening its file."""

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from kivnun.errors import UserError

APPLICATION_ID = 0x4B49564E
"""`KIVN`: marks the file as ours, see https://www.sqlite.org/pragma.html#pragma_application_id."""

SCHEMA_VERSION = 1

BUSY_SECONDS = 60.0
"""How long a writer waits for another one."""

_TABLES = (
    # The description: `generation` grows with every change, so that a reader sees in its own transaction what is new.
    "CREATE TABLE description (only INTEGER PRIMARY KEY CHECK (only = 1), generation INTEGER NOT NULL, identity TEXT)",
    "INSERT INTO description VALUES (1, 0, NULL)",
    "CREATE TABLE documents (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, "
    "content_hash TEXT NOT NULL, num_chunks INTEGER NOT NULL, metadata TEXT NOT NULL)",
    "CREATE TABLE facets (facet BLOB NOT NULL, document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE, "
    "PRIMARY KEY (facet, document)) WITHOUT ROWID",
    "CREATE INDEX facets_of_documents ON facets (document)",
    # Numbers are never given again (AUTOINCREMENT): memory that knows a number knows its chunk.
    "CREATE TABLE chunks (number INTEGER PRIMARY KEY AUTOINCREMENT, "
    "document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE, place INTEGER NOT NULL, "
    "first INTEGER NOT NULL, past INTEGER NOT NULL, text TEXT NOT NULL, heading TEXT NOT NULL, "
    "UNIQUE (document, place))",
    # Apart from the texts, so that loading words and vectors reads nothing else.
    "CREATE TABLE found_by (chunk INTEGER PRIMARY KEY REFERENCES chunks ON DELETE CASCADE, terms BLOB NOT NULL, "
    "vector BLOB)",
)


def open_database(path: Path, *, create: bool) -> sqlite3.Connection:
    """Open the file of an index, or make it.

    Raises:
        UserError: `index-missing` where there is none, or the file is something else; `store-failed` where it is
            damaged, newer than this program, or cannot be opened.
    """
    if not create and not path.is_file():
        hint = "make the index with `kivnun index`, or name the folder of one"
        raise UserError("index-missing", f"there is no index at {path}", hint=hint)
    with refusals(path):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        with refusals(path):
            _check(connection, path)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            _use_write_ahead_log(connection)
            with writing(connection):
                _make_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def writing(connection: sqlite3.Connection) -> Generator[None]:
    """A transaction that writes: it waits for other writers first, and is whole or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    yield from _ended(connection)


@contextmanager
def reading(connection: sqlite3.Connection) -> Generator[None]:
    """A transaction that reads one state of the file, whatever others write meanwhile."""
    connection.execute("BEGIN")
    yield from _ended(connection)


def _ended(connection: sqlite3.Connection) -> Generator[None]:
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def refusals(path: Path) -> Generator[None]:
    """Say what SQLite refuses as an error that a user can act on.

    Raises:
        UserError: `disk-full`, `index-missing` for a file of something else, or `store-failed`.
    """
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        raise _say(path, code, str(error)) from error


def _say(path: Path, code: int, reason: str) -> UserError:
    if code == sqlite3.SQLITE_FULL:
        hint = "free some space and give the same command again; what was indexed is kept"
        return UserError("disk-full", f"the disk is full: cannot write {path}", hint=hint)
    if code == sqlite3.SQLITE_NOTADB:
        return _foreign(path)
    if code == sqlite3.SQLITE_BUSY:
        hint = "wait until the other process ends, or end it"
        return UserError("store-failed", f"another process keeps writing to {path}", hint=hint)
    if code == sqlite3.SQLITE_CORRUPT:
        hint = "delete the file and index again"
        return UserError("store-failed", f"the index {path} is damaged: {reason}", hint=hint)
    hint = "see that the file and its folder can be read and written"
    return UserError("store-failed", f"the index {path} cannot be used: {reason}", hint=hint)


def _foreign(path: Path) -> UserError:
    hint = "name another folder, or delete the file and index again"
    return UserError("index-missing", f"{path} is a file, but not an index", hint=hint)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and tables:
        raise _foreign(path)
    if version > SCHEMA_VERSION:
        problem = f"the index {path} has schema {version}; this program knows up to {SCHEMA_VERSION}"
        raise UserError("store-failed", problem, hint="use the newer Kivnun that made it, or index again")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Let readers and a writer work beside each other; the switch itself does not wait for others, so it is tried."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if (error.sqlite_errorcode & 0xFF) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _make_tables(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version:
        return
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
