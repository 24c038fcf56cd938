"""A data folder of each kind of database, and a tiny model that jobs train."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from job_place import JobPlace, make_place


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobPlace]:
    """A data folder with a database of each kind."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    place = make_place(tmp_path, url)
    yield place
    place.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[JobPlace]:
    """A data folder with SQLite."""
    made = make_place(tmp_path)
    yield made
    made.close()
