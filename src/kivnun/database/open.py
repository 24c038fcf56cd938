"""Opening the database: brought to the newest migration, and one way each to read and to write."""

import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from kivnun.database.migrate import migrate
from kivnun.errors import UserError

SQLITE_NAME = "kivnun.sqlite"
BUSY_SECONDS = 30.0
# A web server's threads each hold one connection for a moment; the workers of jobs hold one each.
POOL_SIZE = 8
POOL_OVERFLOW = 56
_WRITING = "kivnun_writing"


class Database:
    """Everything that is kept; safe to use from several threads, and opened by several processes at once.

    No transaction may span an `await` or a slow step: SQLite lets one writer in at a time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._read = sessionmaker(engine, expire_on_commit=False)
        self._write = sessionmaker(engine.execution_options(**{_WRITING: True}), expire_on_commit=False)
        # Threads that queue here go on at once; in SQLite's own queue they would sleep and ask again.
        self._writer = threading.RLock()

    @property
    def url(self) -> str:
        """SQLAlchemy's address, with its password."""
        return self._engine.url.render_as_string(hide_password=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of this machine."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Generator[Session]:
        """A session that sees one moment (SQLite) or only what is committed (PostgreSQL); its rows outlive it."""
        with self._read() as session:
            yield session

    @contextmanager
    def writing(self) -> Generator[Session]:
        """A transaction that is committed at the end, on the disk when this returns, or undone by any exception."""
        if not self.is_sqlite:
            with self._write.begin() as session:
                yield session
            return
        with self._writer, self._write.begin() as session:
            # Takes the lock now: a transaction that began to read could no longer become one that writes.
            session.connection()
            yield session

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def sqlite_url(folder: Path) -> str:
    """The address of the database in a data folder."""
    return URL.create("sqlite", database=str(folder.resolve() / SQLITE_NAME)).render_as_string()


def open_database(url: str) -> Database:
    """Open a database and bring it to the newest migration; several processes may do so at once.

    Args:
        url: SQLAlchemy's, such as `sqlite:////data/kivnun.sqlite` or `postgresql+psycopg://user:word@host/name`.

    Raises:
        UserError: `database-failed`, `database-newer`, or `dependency-missing`.
    """
    address = _read_url(url)
    shown = address.render_as_string(hide_password=True)
    engine = _make_engine(address)
    try:
        if engine.dialect.name == "sqlite":
            # Only its owner may read it; the files that SQLite lays beside it get the same mode.
            Path(address.database or "").touch(mode=0o600)
            _use_write_ahead_log(engine)
        with engine.execution_options(**{_WRITING: True}).begin() as connection:
            migrate(connection, shown)
    except (SQLAlchemyError, OSError) as error:
        engine.dispose()
        problem = f"the database {shown} cannot be opened: {_first_line(error)}"
        hint = "check the address, that the server runs or the folder can be written, and that nothing else uses it"
        raise UserError("database-failed", problem, hint=hint) from error
    except BaseException:
        engine.dispose()
        raise
    return Database(engine)


def _read_url(url: str) -> URL:
    hint = "give `sqlite:////folder/kivnun.sqlite` or `postgresql+psycopg://user:password@host/name`"
    try:
        address = make_url(url)
    except ArgumentError:
        # The text may hold a password, so it is not shown.
        problem = "the address of the database cannot be read"
        raise UserError("database-failed", problem, hint=hint) from None
    if address.drivername in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
    if "password" in address.query:
        # Where libpq takes it too, but where whoever shows an address without its password would leave it.
        address = address.set(password=str(address.query["password"])).difference_update_query(["password"])
    in_memory = address.drivername == "sqlite" and address.database in (None, "", ":memory:")
    if address.get_backend_name() not in ("sqlite", "postgresql") or in_memory:
        problem = f"the database {address.render_as_string(hide_password=True)} is not a file of SQLite nor PostgreSQL"
        raise UserError("database-failed", problem, hint=hint)
    return address


def _make_engine(address: URL) -> Engine:
    sizes: dict[str, Any] = {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW}
    try:
        if address.get_backend_name() == "sqlite":
            engine = create_engine(address, connect_args={"timeout": BUSY_SECONDS}, **sizes)
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        # A connection may have been lost since it was last used.
        return create_engine(address, pool_pre_ping=True, **sizes)
    except (ImportError, NoSuchModuleError) as error:
        problem = f"PostgreSQL needs a package that is not installed: {_first_line(error)}"
        raise UserError("dependency-missing", problem, hint="pip install 'kivnun[pg]'") from error


def _prepare_sqlite(connection: Any, record: object) -> None:
    """Settings that hold for one connection; transactions begin where SQLAlchemy says, not where the driver guesses."""
    connection.isolation_level = None
    # FULL: what was committed to the write-ahead log survives a power cut.
    for setting in ("foreign_keys = ON", "synchronous = FULL", "temp_store = MEMORY", "cache_size = -32000"):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _use_write_ahead_log(engine: Engine) -> None:
    """Readers then never wait for a writer. The file remembers it.

    Switching needs the file for itself, and SQLite does not wait for that when several processes switch at once.
    """
    end = time.monotonic() + BUSY_SECONDS
    mode = "locked"
    while mode == "locked" and time.monotonic() < end:
        try:
            with closing(engine.raw_connection()) as connection:
                (mode,) = connection.cursor().execute("PRAGMA journal_mode = WAL").fetchone() or ("unknown",)
        except engine.dialect.loaded_dbapi.Error as error:
            if "locked" not in str(error):
                raise OperationalError("PRAGMA journal_mode = WAL", None, error) from error
            time.sleep(0.01)
    if mode != "wal":
        problem = f"SQLite cannot keep a write-ahead log there (its journal is {mode!r})"
        raise UserError("database-failed", problem, hint="use a folder on a disk of this machine")


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
