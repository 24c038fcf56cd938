"""The tables of an index in PostgreSQL with pgvector, and connecting to it."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kivnun.errors import UserError

SCHEMA_VERSION = 1

_LONGEST_NAME = 63
"""Bytes of an identifier; PostgreSQL cuts longer ones without a word."""

_WAIT = "60s"
"""How long a writer waits for another one."""

_POLL_SECONDS = 0.1

_TABLES = """
CREATE TABLE description (only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one), version integer NOT NULL,
  generation bigint NOT NULL, identity text);
INSERT INTO description (version, generation) VALUES ({version}, 0);
CREATE TABLE documents (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text COLLATE "C" NOT NULL UNIQUE,
  content_hash text NOT NULL, num_chunks bigint NOT NULL, metadata text NOT NULL, facets bytea[] NOT NULL);
CREATE INDEX facets_of_documents ON documents USING gin (facets);
CREATE TABLE chunks (number bigint PRIMARY KEY, document bigint NOT NULL REFERENCES documents ON DELETE CASCADE,
  place bigint NOT NULL, first bigint NOT NULL, past bigint NOT NULL, content text NOT NULL, terms bytea NOT NULL,
  UNIQUE (document, place));
CREATE SEQUENCE chunk_numbers;
CREATE TABLE vectors (chunk bigint PRIMARY KEY REFERENCES chunks ON DELETE CASCADE, document bigint NOT NULL,
  vector vector NOT NULL);
CREATE INDEX vectors_of_documents ON vectors (document);
"""


@dataclass(frozen=True)
class Packages:
    """The packages of the extra `pg`."""

    psycopg: Any
    register_vector: Any


def import_packages() -> Packages:
    """The packages, which only this store needs.

    Raises:
        UserError: `dependency-missing`.
    """
    try:
        import psycopg  # noqa: PLC0415 - an extra
        from pgvector.psycopg import register_vector  # noqa: PLC0415
    except ImportError as error:
        hint = "pip install 'kivnun[pg]'"
        problem = "a store in PostgreSQL needs the packages psycopg and pgvector"
        raise UserError("dependency-missing", problem, hint=hint) from error
    return Packages(psycopg, register_vector)


def name_schema(index: str) -> str:
    """The schema of an index: its name, made shorter by a hash where PostgreSQL would cut it."""
    name = f"kivnun_{index}"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    start = name.encode()[: _LONGEST_NAME - len(digest) - 1].decode(errors="ignore")
    return f"{start}_{digest}"


class Server:
    """Where the database is; its password is in no message."""

    def __init__(self, address: str) -> None:
        """Take the address apart.

        Raises:
            UserError: `dependency-missing`, or `store-failed` for what is no address.
        """
        self.packages = import_packages()
        psycopg = self.packages.psycopg
        try:
            parts: Mapping[str, Any] = psycopg.conninfo.conninfo_to_dict(address)
        except psycopg.Error:
            # The library quotes parts of the address, and with a stray `@` the password is one of them.
            raise _unreadable() from None
        host, port = str(parts.get("host") or "localhost"), str(parts.get("port") or 5432)
        if "@" in host or not port.replace(",", "").isdigit():
            raise _unreadable()
        self._address = address
        self._password = str(parts.get("password") or "")
        self._name = f"{host}:{port}/{parts.get('dbname') or ''}"

    def connect(self, patience_seconds: float = 0.0) -> Any:
        """A new connection that commits by itself outside of transactions.

        Args:
            patience_seconds: How long to try again, for a server that is starting.

        Raises:
            UserError: `store-failed`.
        """
        psycopg = self.packages.psycopg
        deadline = time.monotonic() + patience_seconds
        while True:
            try:
                return psycopg.connect(self._address, autocommit=True, connect_timeout=10, application_name="kivnun")
            except psycopg.Error as error:
                if time.monotonic() > deadline:
                    raise self.failure("cannot be reached", error) from None
                time.sleep(_POLL_SECONDS)

    def failure(self, what: str, error: Exception) -> UserError:
        """An error of the database, without the password."""
        reason = next(
            (line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__
        )
        if self._password:
            reason = reason.replace(self._password, "***")
        hint = "see that the server runs, that it has pgvector, and that the user may make a schema and write to it"
        return UserError("store-failed", f"PostgreSQL at {self._name} {what}: {reason}", hint=hint)


def _unreadable() -> UserError:
    hint = "write postgresql://USER@HOST:PORT/DATABASE, and keep the password in ~/.pgpass or PGPASSWORD"
    return UserError("store-failed", "the address of the store cannot be read", hint=hint)


def prepare_connection(connection: Any, server: Server, schema: str, *, create: bool) -> None:
    """Make the schema where there is none, and use it.

    Raises:
        UserError: `index-missing`, or `store-failed` where another version made it.
    """
    sql = server.packages.psycopg.sql
    found = connection.execute(
        "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = %s", (schema,)
    ).fetchone()
    if found == (False,):
        raise server.failure("refused", PermissionError(f"permission denied for schema {schema}"))
    if not found and not create:
        hint = "make the index with `kivnun index`, or name the folder of one"
        raise UserError("index-missing", f"the database has no schema {schema!r}", hint=hint)
    connection.execute(f"SET lock_timeout = '{_WAIT}'")
    with connection.transaction():
        # Making the same thing at the same time is an error in PostgreSQL, so that the second one waits here.
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", ("kivnun",))
        if create:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        row = connection.execute(
            "SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace "
            "WHERE extname = 'vector'"
        ).fetchone()
        path = [sql.Identifier(name) for name in (schema, row[0] if row else "public")]
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.SQL(", ").join(path)))
        _make_tables(connection, schema, create=create)
    server.packages.register_vector(connection)


def _make_tables(connection: Any, schema: str, *, create: bool) -> None:
    exists = connection.execute("SELECT to_regclass('description')").fetchone()[0]
    if exists is None and not create:
        hint = "make the index with `kivnun index`, or name the folder of one"
        raise UserError("index-missing", f"the schema {schema!r} holds no index", hint=hint)
    if exists is None:
        connection.execute(_TABLES.format(version=SCHEMA_VERSION))
    version = connection.execute("SELECT version FROM description").fetchone()[0]
    if version != SCHEMA_VERSION:
        problem = f"the schema {schema!r} has version {version}; this program knows {SCHEMA_VERSION}"
        raise UserError("store-failed", problem, hint="use the Kivnun that made it, or index again")
