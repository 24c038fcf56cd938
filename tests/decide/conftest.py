"""A stand-in service for each test that asks one."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "asking"))

from stand_in_service import Service, serve


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("STAND_IN_KEY", "sk-very-secret")
    with serve() as running:
        yield running
