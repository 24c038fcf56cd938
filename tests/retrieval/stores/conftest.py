"""One place for each kind of store: a folder, or a schema of a real PostgreSQL server that lives while tests run."""

import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from store_samples import KINDS, StorePlace


@pytest.fixture(scope="session")
def postgres_address() -> Iterator[str]:
    """The address of a server of our own."""
    pytest.importorskip("pgvector")
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


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorePlace]:
    """Where an index may be made, for each kind of store."""
    spec = request.param
    if spec == "lancedb":
        pytest.importorskip("lancedb")
    if spec == "postgresql":
        spec = request.getfixturevalue("postgres_address")
    found = StorePlace(spec, tmp_path)
    yield found
    found.close_all()
