"""One place for each kind of store: a folder, or a schema of a real PostgreSQL server that lives while tests run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_samples import KINDS, StorePlace


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorePlace]:
    """Where an index may be made, for each kind of store."""
    spec = request.param
    if spec == "lancedb":
        pytest.importorskip("lancedb")
    if spec == "postgresql":
        pytest.importorskip("pgvector")
        spec = request.getfixturevalue("postgres_server")
    found = StorePlace(spec, tmp_path)
    yield found
    found.close_all()
