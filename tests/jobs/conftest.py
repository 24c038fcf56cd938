"""A data folder of each kind of database, and a tiny model that jobs train."""

import shutil
import signal
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from job_place import JobPlace, make_place


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a server of our own."""
    psycopg = pytest.importorskip("psycopg")
    with warnings.catch_warnings():
        # It warns about a variable of desktop sessions, and leaves the folders of older servers open.
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip("pgserver")
        folder = Path(tempfile.mkdtemp(prefix="kivnun-pg-"))
        server = pgserver.get_server(folder, cleanup_mode=None)
    postmaster = psutil.Process(server.get_pid())
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            # Nobody keeps what is written here, so nobody waits for the disk.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield server.get_uri()
    finally:
        postmaster.send_signal(signal.SIGQUIT)
        postmaster.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A new database of that server."""
    import psycopg

    name = f"kivnun_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        yield postgres_server.replace("/postgres?", f"/{name}?").replace("postgresql://", "postgresql+psycopg://")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


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
