import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, func, inspect, make_url, select, text

from kivnun.database import migrate
from kivnun.database.open import Database, open_database, sqlite_url
from kivnun.database.tables import Batch, Organization, Table
from kivnun.errors import UserError

OPEN = "import sys; from kivnun.database.open import open_database; open_database(sys.argv[1]).close()"
WRITE = """
import sys
from kivnun.database.open import open_database
from kivnun.database.tables import Organization
database = open_database(sys.argv[1])
number = 0
while True:
    with database.writing() as session:
        for half in ("a", "b"):
            session.add(Organization(id=f"{number}{half}", name=f"{number}{half}", created_at=number))
            session.flush()
    print(number, flush=True)
    number += 1
"""


def organization(name: str) -> Organization:
    return Organization(id=f"org-{name}", name=name, created_at=1)


def count(database: Database) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(Organization)) or 0


def test_the_migrations_make_exactly_the_tables_that_are_mapped(database: Database) -> None:
    with database.reading() as session:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(session.connection(), opts=options)
        assert compare_metadata(context, Table.metadata) == []
        tables = inspect(session.connection())
        for name, mapped in Table.metadata.tables.items():
            # What alembic does not compare: primary keys and the names of what else a table has.
            assert tables.get_pk_constraint(name)["constrained_columns"] == [c.name for c in mapped.primary_key]
            assert {each["name"] for each in tables.get_foreign_keys(name)} == {
                each.name for each in mapped.foreign_key_constraints
            }


def test_a_migrated_sqlite_file_has_the_same_statements_as_the_mapped_tables(tmp_path: Path) -> None:
    open_database(sqlite_url(tmp_path)).close()
    engine = create_engine(f"sqlite:///{tmp_path}/mapped.sqlite")
    Table.metadata.create_all(engine)
    engine.dispose()
    assert statements(tmp_path / "kivnun.sqlite") == statements(tmp_path / "mapped.sqlite")


def statements(path: Path) -> dict[str, list[str]]:
    """What made each table and index, whatever the order of its lines."""
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'"
    connection = sqlite3.connect(path)
    try:
        return {
            name: sorted(part.strip() for part in " ".join(sql.split()).removesuffix(")").split(", "))
            for name, sql in connection.execute(query)
        }
    finally:
        connection.close()


def test_the_newest_migration_is_the_one_that_is_named() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.FOLDER))
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.NEWEST]


def test_several_processes_may_open_a_new_database_at_once(database_url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", OPEN, database_url]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    opened = open_database(database_url)
    assert count(opened) == 0
    opened.close()


def test_a_database_of_the_first_version_is_brought_up_with_all_that_it_holds(database_url: str) -> None:
    make_first_version(database_url)
    for _ in range(2):
        opened = open_database(database_url)
        with opened.reading() as session:
            kept = session.scalars(select(Batch)).one()
            assert (kept.id, kept.times, kept.num_total) == ("batch_1", {"in_progress_at": 2}, 3)
            assert (kept.model, kept.usage) == (None, None)
            assert migrate.read_version(session.connection()) == migrate.NEWEST
        opened.close()


def make_first_version(url: str) -> None:
    """What the first Kivnun with a database left: its tables, a project and a batch."""
    config = Config()
    config.set_main_option("script_location", str(migrate.FOLDER))
    engine = create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("INSERT INTO organizations (id, name, created_at) VALUES ('org-1', 'o', 1)"))
        connection.execute(
            text("INSERT INTO projects (id, organization_id, name, created_at) VALUES ('proj_1', 'org-1', 'p', 1)")
        )
        connection.execute(
            text(
                "INSERT INTO batches (id, project_id, endpoint, input_file_id, completion_window, status, errors,"
                " num_total, num_completed, num_failed, times, created_at) VALUES ('batch_1', 'proj_1', '/v1/x',"
                " 'file-1', '24h', 'in_progress', '[]', 3, 0, 0, :times, 1)"
            ),
            {"times": '{"in_progress_at": 2}'},
        )
    engine.dispose()


def test_a_database_of_a_newer_program_is_refused_and_left_alone(database_url: str) -> None:
    opened = open_database(database_url)
    with opened.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="9999") as caught:
        open_database(database_url)
    assert caught.value.code == "database-newer"
    with opened.reading() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    opened.close()


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "kivnun.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE files (name TEXT)")
    connection.close()
    with pytest.raises(UserError, match="another program") as caught:
        open_database(sqlite_url(tmp_path))
    assert caught.value.code == "database-failed"
    assert set(statements(path)) == {"files"}


@pytest.mark.parametrize(
    "url",
    [
        "mysql://root:hidden@localhost/x",
        "sqlite://",
        "no address at all, hidden",
        "sqlite:////proc/none/kivnun.sqlite",
        "postgresql://user:hidden@127.0.0.1:1/x",
    ],
)
def test_what_cannot_be_opened_is_refused_without_the_password(url: str) -> None:
    with pytest.raises(UserError) as caught:
        open_database(url)
    assert caught.value.code == "database-failed"
    assert "hidden" not in str(caught.value)


def test_a_password_in_the_query_is_a_password_too() -> None:
    with pytest.raises(UserError) as caught:
        open_database("postgresql+psycopg://nobody@127.0.0.1:1/x?password=geheim&connect_timeout=1")
    assert caught.value.code == "database-failed"
    assert "geheim" not in str(caught.value) + caught.value.problem


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "kivnun.sqlite"
    path.write_bytes(b"something else, long enough to be looked at" * 50)
    before = path.read_bytes()
    with pytest.raises(UserError) as caught:
        open_database(sqlite_url(tmp_path))
    assert caught.value.code == "database-failed"
    assert path.read_bytes() == before


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a folder? 100% שלום #1"
    folder.mkdir()
    opened = open_database(sqlite_url(folder))
    assert count(opened) == 0
    opened.close()
    assert [path.name for path in folder.iterdir()] == ["kivnun.sqlite"]


def test_sqlite_keeps_what_was_committed_through_a_power_cut(tmp_path: Path) -> None:
    opened = open_database(sqlite_url(tmp_path))
    with opened.writing() as session:
        settings = [
            session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    opened.close()
    assert settings == ["wal", 2, 1, 30000]


def test_a_transaction_is_whole_or_absent(database: Database) -> None:
    def fail() -> None:
        with database.writing() as session:
            session.add(organization("lost"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert count(database) == 0
    with database.writing() as session:
        row = organization("kept")
        session.add(row)
    assert count(database) == 1
    # Rows outlive their session.
    assert row.name == "kept"


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    with database.writing() as session:
        session.add(organization("unseen"))
        session.flush()
        assert count(database) == 0
    assert count(database) == 1


def test_a_writer_waits_for_another_and_sees_what_it_wrote(database_url: str) -> None:
    # Two openings stand for two processes: they share no lock of this program.
    databases = [open_database(database_url) for _ in range(2)]
    with databases[0].writing() as session:
        session.add(Organization(id="org-sum", name="sum", created_at=0))

    def add(database: Database) -> None:
        for _ in range(20):
            with database.writing() as session:
                row = session.scalars(select(Organization).where(Organization.id == "org-sum").with_for_update()).one()
                row.created_at += 1

    threads = [threading.Thread(target=add, args=(database,)) for database in databases for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with databases[0].reading() as session:
        assert session.get_one(Organization, "org-sum").created_at == 80
    for database in databases:
        database.close()


def test_a_killed_writer_loses_nothing_that_it_acknowledged_and_leaves_no_half(database_url: str) -> None:
    open_database(database_url).close()
    process = subprocess.Popen([sys.executable, "-c", WRITE, database_url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = -1
    while acknowledged < 25:
        acknowledged = int(process.stdout.readline())
    time.sleep(0.003)
    os.kill(process.pid, signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
    process.wait()
    process.stdout.close()
    opened = open_database(database_url)
    with opened.reading() as session:
        ids = set(session.scalars(select(Organization.id)))
    with opened.writing() as session:
        session.add(organization("after"))
    opened.close()
    wholes = {int(name[:-1]) for name in ids}
    assert ids == {f"{number}{half}" for number in wholes for half in "ab"}
    # The one that was being acknowledged when the kill came may be there or not.
    assert wholes in (set(range(acknowledged + 1)), set(range(acknowledged + 2)))


def test_the_address_of_a_database_opens_it_again(database_url: str) -> None:
    opened = open_database(database_url)
    assert make_url(opened.url).database == make_url(database_url).database
    again = open_database(opened.url)
    assert again.is_sqlite == database_url.startswith("sqlite")
    again.close()
    opened.close()
