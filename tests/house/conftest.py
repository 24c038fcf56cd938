"""Where things are, for the tests of the house itself."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def generator() -> ModuleType:
    """`docs/generate.py`, imported with its neighbour."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        return importlib.import_module("generate")


@pytest.fixture(scope="session")
def source_files(root: Path) -> list[Path]:
    files = sorted((root / "src/kivnun").rglob("*.py"))
    assert files
    return files
