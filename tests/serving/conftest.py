"""A tiny Llama, adapters on it, and what answers say."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test folders are no packages; this is how a neighbour's module is found when these tests run alone.
sys.path.append(str(Path(__file__).parent.parent / "generation"))

from tiny_adapters import write_adapter
from tiny_llama import fp32_folder, load_tiny_llama, prompts, session_folder, tiny_folder, tiny_model, write_tiny_llama

from kivnun.generation.torch_rows import TorchRows
from kivnun.methods.many_lora import ManyLora
from kivnun.serving.scheduler import Scheduler

__all__ = ["fp32_folder", "prompts", "session_folder", "tiny_folder", "tiny_model"]


@pytest.fixture(scope="session")
def two_adapters(tiny_folder: Path, session_folder: Path) -> dict[str, Path]:
    made = {name: session_folder / f"serving-{name}" for name in ("one", "two")}
    for seed, folder in enumerate(made.values()):
        if not folder.exists():
            write_adapter(tiny_folder, folder, seed=seed + 1)
    return made


@pytest.fixture
def rows(tiny_folder: Path, two_adapters: dict[str, Path]) -> TorchRows:
    model = load_tiny_llama(tiny_folder)
    made = TorchRows(model, name="tiny", adapters=ManyLora(model, tiny_folder))
    for name, folder in two_adapters.items():
        made.add_adapter(name, str(folder))
    return made


@pytest.fixture
def logged() -> list[tuple[str, dict]]:
    return []


@pytest.fixture
def scheduler(logged) -> Iterator[Scheduler]:
    made = Scheduler(max_rows=8, max_waiting=64, log=lambda event, fields: logged.append((event, dict(fields))))
    made.share_memory(row_bytes=1 << 30, prefix_bytes=1 << 20)
    yield made
    made.close()


@pytest.fixture(scope="session")
def long_folder(session_folder: Path) -> Path:
    """The same kind of model with a longer context."""
    folder = session_folder / "long-model"
    if not folder.exists():
        write_tiny_llama(folder)
        config = folder / "config.json"
        config.write_text(
            config.read_text().replace('"max_position_embeddings": 96', '"max_position_embeddings": 4096')
        )
    return folder
