"""A stand-in service for each test, with a key that no message may hold."""

from collections.abc import Iterator

import pytest
from stand_in_service import Service, serve


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("STAND_IN_KEY", "sk-very-secret")
    with serve() as running:
        yield running
