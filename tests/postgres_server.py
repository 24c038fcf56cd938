"""A real PostgreSQL server that lives while tests run, and new databases of it; imported by `conftest.py`."""

import shutil
import signal
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


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
