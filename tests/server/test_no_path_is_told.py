"""What a server answers when its own folders are damaged: the fault, and never the folder, whose names hold spaces."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from running import RunningServer
from test_models_api import add_model

MESSAGES = [{"role": "user", "content": "x"}]


@pytest.fixture(scope="module")
def damaged(
    start_server: Callable[..., RunningServer], chat_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunningServer:
    """A server with a base model whose weights are cut off, in a data folder like people's own."""
    root = tmp_path_factory.mktemp("private") / "My Disk"
    folder = root / "base models" / "broken one"
    folder.mkdir(parents=True)
    for file in chat_model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    shutil.copytree(folder, root / "no tokenizer")
    models = ("--model", f"broken={folder}", "--model", f"bare={root / 'no tokenizer'}")
    server = start_server("--workers", "0", *models, data_dir=root / "server data")
    # Whole while it starts, which it would refuse otherwise.
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for file in (root / "no tokenizer").glob("t*"):
        file.unlink()
    return server


def ask(server: RunningServer, path: str, body: dict[str, object]) -> str:
    reply = httpx.post(f"{server.root_url}{path}", json=body, headers=server.headers, timeout=60)
    # Nothing that the client could send would mend it.
    assert reply.status_code == 503, reply.text
    return reply.text


def test_a_damaged_model_is_answered_without_its_place(damaged: RunningServer) -> None:
    tuned, _ = add_model(damaged, base="tiny")
    for model in ("broken", "bare", tuned):
        texts = [
            ask(damaged, "/v1/chat/completions", {"model": model, "messages": MESSAGES}),
            ask(damaged, "/v1/chat/completions", {"model": model, "messages": MESSAGES, "stream": True}),
            ask(damaged, "/v1/completions", {"model": model, "prompt": "x"}),
            ask(
                damaged,
                f"/v1/projects/p/locations/l/publishers/google/models/{model}:generateContent",
                {"contents": [{"role": "user", "parts": [{"text": "x"}]}]},
            ),
        ]
        for text in texts:
            for part in (*damaged.data_dir.parts[1:], "base models", "/jobs", "/run"):
                assert part not in text
        assert any(name in texts[0] for name in ("broken one", "no tokenizer", "model"))
