"""A database of each kind: a file, or one of a real PostgreSQL server that lives while tests run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kivnun.database.open import Database, open_database, sqlite_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    return sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open one."""
    opened = open_database(database_url)
    yield opened
    opened.close()
