"""A real server in a process of its own, on a port that was free, with keys of projects made for each test file."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import torch

from kivnun.database.identifiers import new_id
from kivnun.database.keys import create_key
from kivnun.database.open import Database, open_database, sqlite_url
from kivnun.database.projects import create_project, ensure_defaults
from kivnun.models.new import make_model, train_tokenizer
from kivnun.models.resolve import BUNDLED_FOLDER
from kivnun.models.save import save_model
from kivnun.recipe.schema import NewModel

START_SECONDS = 90
STOP_SECONDS = 60
SENTENCES = (
    "The quick brown fox isn't afraid of the lazy dog, is it?",
    "I am so happy today that I could sing in the street.",
    "She was angry because the train came late, and he was sad.",
    "שלום עולם, מה שלומך היום?",
    '{"mood": "joy", "strength": 3}',
)


@dataclass(frozen=True)
class RunningServer:
    """A server that answers.

    Attributes:
        base_url: With /v1; what OPENAI_BASE_URL is set to.
        root_url: Without.
        data_dir: Its data folder.
        key: Of a project that nobody else uses; what OPENAI_API_KEY is set to.
        project_id: That project.
        model: The name of its tiny chat model.
        process: Its process.
        log_file: What it says on standard error.
    """

    base_url: str
    root_url: str
    data_dir: Path
    key: str
    project_id: str
    model: str
    process: subprocess.Popen[str]
    log_file: Path

    @property
    def headers(self) -> dict[str, str]:
        """With the key."""
        return {"Authorization": f"Bearer {self.key}"}

    def open_database(self) -> Database:
        """Its database, to look behind the API; close it."""
        return open_database(sqlite_url(self.data_dir))

    def wait_for_libraries(self) -> None:
        """Until those are loaded that models need; the server answers before that, and a model's first answer waits."""
        while httpx.get(f"{self.root_url}/health").json()["pool"] == "loading libraries":
            time.sleep(0.1)

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)


def write_chat_model(folder: Path) -> Path:
    """A random two-layer Llama with the bundled model's chat template; its answers wander instead of repeating."""
    tokenizer = train_tokenizer(SENTENCES * 3, 400)
    tokenizer.chat_template = (BUNDLED_FOLDER / "chat_template.jinja").read_text("utf-8")
    shape = NewModel(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )
    model = make_model(shape, tokenizer, seed=3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(12)
    save_model(model, tokenizer, folder)
    return folder


def make_project_key(
    data_dir: Path, *, scopes: tuple[str, ...] = ("all",), project_id: str | None = None
) -> tuple[str, str]:
    """A key of a new project, or of one that exists; returns the project's id and the key."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with closing(open_database(sqlite_url(data_dir))) as database:
        ensure_defaults(database)
        with database.writing() as session:
            if project_id is None:
                project_id = create_project(session, new_id("test-", length=12)).id
            _, secret = create_key(session, "test", project_id=project_id, scopes=scopes)
    return project_id, secret


def with_new_project(server: RunningServer) -> RunningServer:
    """The same process, seen by a project that has nothing yet."""
    project_id, key = make_project_key(server.data_dir)
    return replace(server, project_id=project_id, key=key)


@contextmanager
def run_server(data_dir: Path, model_folder: Path, *flags: str) -> Iterator[RunningServer]:
    """Start a server and stop it at the end, unless a test already did.

    Args:
        data_dir: Its data folder.
        model_folder: Its base model, which clients know as `tiny` and by hosted names.
        *flags: Further ones of `kivnun serve`.
    """
    project_id, key = make_project_key(data_dir)
    log_file = data_dir.with_name(f"{data_dir.name}.log")
    models = ["--base-model", "tiny", "--model", f"tiny={model_folder}"]
    words = ["--port", "0", "--json", "--data-dir", str(data_dir), *models]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log_file.open("a") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "kivnun", "serve", *words, *flags],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=environment,
        )
    try:
        url = _read_ready(process, log_file)["url"]
        yield RunningServer(url, url.removesuffix("/v1"), data_dir, key, project_id, "tiny", process, log_file)
    finally:
        # The tests that are about ending end it themselves; whatever else it started ends with it.
        process.kill()
        process.wait()
        process.stdout.close()


def _read_ready(process: subprocess.Popen[str], log_file: Path) -> dict[str, str]:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if select.select([process.stdout], [], [], 0.2)[0]:
            line = process.stdout.readline()
            if line:
                return json.loads(line)
    process.kill()
    raise AssertionError(f"the server did not start:\n{log_file.read_text('utf-8')[-4000:]}")
