"""Runs whose events are told by hand."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from told_run import ToldRun


@pytest.fixture
def told_runs(tmp_path: Path) -> Iterator[Callable[[str], ToldRun]]:
    """Several runs, each in a folder of its own; what killed attempts left open is closed at the end of the test."""
    made: list[ToldRun] = []

    def make(name: str) -> ToldRun:
        (tmp_path / name).mkdir()
        made.append(ToldRun(tmp_path / name))
        return made[-1]

    yield make
    for sink in (sink for run in made for sink in run.killed):
        sink.close()


@pytest.fixture
def told_run(told_runs: Callable[[str], ToldRun]) -> ToldRun:
    return told_runs("run")
