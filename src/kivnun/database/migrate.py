"""Bringing a database to the newest migration, once, whoever else starts at the same moment."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.sql import column, table

from kivnun.errors import UserError

FOLDER = Path(__file__).parent / "migrations"
NEWEST = "0002"
# Any number that other programs of the same PostgreSQL server are unlikely to lock.
_LOCK = 7_562_118_904
_VERSIONS = table("alembic_version", column("version_num"))


def migrate(connection: Connection, shown: str) -> None:
    """Run the migrations that are missing, in the caller's transaction: all of them or none.

    Args:
        connection: In a transaction that may write. On SQLite that is the lock too; on PostgreSQL one is taken here.
        shown: The database's address for messages, without its password.

    Raises:
        UserError: `database-newer`, or `database-failed` if the tables there are not Kivnun's.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    version = read_version(connection)
    if version == NEWEST:
        return
    _require_older(connection, version, shown)
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, NEWEST)


def read_version(connection: Connection) -> str | None:
    """The newest migration that a database has had, or None if it has had none."""
    if not inspect(connection).has_table(_VERSIONS.name):
        return None
    return connection.scalar(select(_VERSIONS.c.version_num))


def _require_older(connection: Connection, version: str | None, shown: str) -> None:
    if version is None:
        if inspect(connection).get_table_names():
            problem = f"the database {shown} holds tables of another program"
            raise UserError("database-failed", problem, hint="name an empty database")
        return
    if version not in {path.name.split("_")[0] for path in (FOLDER / "versions").glob("[0-9]*.py")}:
        problem = f"the database {shown} is at migration {version}, and this Kivnun knows those up to {NEWEST}"
        raise UserError("database-newer", problem, hint="install the newer Kivnun, or name another database")
