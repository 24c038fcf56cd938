"""One server for all test files of a process; each file sees it as a project of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from openai import OpenAI
from running import RunningServer, run_server, with_new_project, write_chat_model


@pytest.fixture(scope="session")
def chat_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that chats."""
    return write_chat_model(tmp_path_factory.mktemp("chat-model") / "tiny")


@pytest.fixture(scope="session")
def start_server(
    chat_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., RunningServer]]:
    """Starts further servers: `start_server("--strict", data_dir=...)`; they end with the session at the latest."""
    with ExitStack() as stack:

        def start(*flags: str, data_dir: Path | None = None) -> RunningServer:
            folder = data_dir or tmp_path_factory.mktemp("server") / "data"
            return stack.enter_context(run_server(folder, chat_model_folder, *flags))

        yield start


@pytest.fixture(scope="session")
def server_process(start_server: Callable[..., RunningServer]) -> RunningServer:
    """The server that all test files share."""
    return start_server()


@pytest.fixture(scope="module")
def server(server_process: RunningServer) -> RunningServer:
    """The shared server, seen by a project that this test file has for itself."""
    return with_new_project(server_process)


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[OpenAI]:
    """OpenAI's own library, which repeats nothing, so that no error is hidden."""
    with OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0, timeout=60) as client:
        yield client
