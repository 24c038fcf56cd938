"""vLLM needs a GPU; a stand-in of the same name, flags and protocol lies on PATH here (`vllm_stand_in.py`)."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import httpx2
import psutil
import pytest
import uvicorn
from fastapi import Depends, FastAPI, Request
from openai import OpenAI
from running import run_server
from starlette.responses import Response

from kivnun.database.projects import Quotas
from kivnun.errors import UserError
from kivnun.server.callers import Caller
from kivnun.server.chat.vllm_proxy import proxied
from kivnun.server.counters import Counters
from kivnun.server.errors import add_error_replies
from kivnun.server.limits import Limits
from kivnun.server.model_names import NamedModel
from kivnun.serving.answers import BusyError, ModelAddress
from kivnun.serving.vllm import VllmServers, name_model, vllm_arguments

QUOTAS = Quotas(max_tokens_per_minute=1000)
STAND_IN = Path(__file__).with_name("vllm_stand_in.py")
MESSAGES = [{"role": "user", "content": "Where?"}]
KEPT_ALIVE = """
import asyncio, sys
from pathlib import Path
from kivnun.serving.vllm import VllmServers, name_model

async def main():
    servers = VllmServers(Path(sys.argv[1]), max_rows=4, max_waiting=4, log=lambda line: None)
    async with servers.asking(name_model("x", sys.argv[1], None)):
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@dataclass(frozen=True)
class Place:
    """Where the stand-in writes, and the folders of models."""

    folder: Path

    def told(self, event: str) -> list[dict[str, Any]]:
        log = self.folder / "stand-in.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        return [line for line in lines if line["event"] == event]

    def base(self, name: str = "base") -> str:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return str(folder)

    def adapter(self, name: str, rank: int = 8, *, whole: bool = True) -> Path:
        folder = self.folder / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
        if whole:
            (folder / "adapter_model.safetensors").write_bytes(b"")
        return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    commands = tmp_path / "commands"
    commands.mkdir()
    script = commands / "vllm"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("VLLM_STAND_IN_LOG", str(tmp_path / "stand-in.jsonl"))
    found = Place(tmp_path)
    yield found
    assert wait_until(lambda: not [each for each in pids(found) if is_alive(each)])


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pids(place: Place) -> list[int]:
    return [line[name] for line in place.told("start") for name in ("pid", "engine")]


def wait_until(is_so: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.02)
    return is_so()


@dataclass(frozen=True)
class Face:
    """A server with one route, which asks vLLM."""

    client: httpx2.Client
    limits: Limits
    place: Place

    def ask(self, model: str, **fields: Any) -> httpx2.Response:
        return self.client.post("/v1/chat/completions", json={"model": model, "messages": MESSAGES, **fields})


NAMES: dict[str, tuple[str, str | None]] = {
    "base": ("base", None),
    "gpt-4o-mini": ("base", None),
    "ft:base:acme::one": ("base", "one"),
    "ft:base:acme::two": ("base", "two"),
    "ft:base:acme::whole": ("base", "whole"),
    "ft:base:acme::bad": ("base", "bad"),
    "other": ("other", None),
    "broken": ("broken", None),
}


@pytest.fixture
def face(place: Place) -> Iterator[Face]:
    for name in ("one", "two"):
        place.adapter(name)
    place.adapter("bad", whole=False)
    place.base("whole")
    limits = Limits()
    servers = VllmServers(place.folder, max_rows=4, max_waiting=4, log=lambda line: None)
    settings = SimpleNamespace(private_folders=())
    service: Any = SimpleNamespace(vllm=servers, limits=limits, counters=Counters(), settings=settings)

    @asynccontextmanager
    async def end_with_us(app: FastAPI) -> AsyncIterator[None]:
        yield
        await servers.close()

    app = FastAPI(lifespan=end_with_us)
    add_error_replies(app)

    def caller(request: Request) -> Caller:
        found = Caller("p", "o", "acme", None, frozenset({"all"}), quotas=QUOTAS)
        request.state.caller = found
        return found

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any], request: Request, _: Annotated[Caller, Depends(caller)]) -> Response:
        base, tuned = NAMES[body["model"]]
        address = ModelAddress(place.base(base), None if tuned is None else place.folder / tuned)
        named = NamedModel(body["model"], address, address.base, "kivnun", 0, tuned is not None)
        found = await proxied(service, named, request)
        assert found is not None
        return found

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield Face(client, limits, place)
    server.should_exit = True
    thread.join()


def arrived(reply: httpx2.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    return json.loads(reply.json()["choices"][0]["message"]["content"])


def test_a_base_and_its_adapters_share_one_vllm(face: Face) -> None:
    first = face.ask("base", temperature=0, metadata={"a": "b"}, stop=["\n"], functions=None)
    assert arrived(first) == {"model": "base", "messages": MESSAGES, "temperature": 0, "stop": ["\n"]}
    assert first.json()["path"] == "/v1/chat/completions"
    # A hosted name is an alias of the base, which vLLM knows by one name.
    assert arrived(face.ask("gpt-4o-mini"))["model"] == "base"
    for name in ("ft:base:acme::one", "ft:base:acme::two", "ft:base:acme::one"):
        assert arrived(face.ask(name))["model"] == name
    assert len(face.place.told("start")) == 1
    assert [line["name"] for line in face.place.told("adapter")] == ["ft:base:acme::one", "ft:base:acme::two"]


def remaining(face: Face) -> int:
    caller = Caller("p", "o", "acme", None, frozenset(), quotas=QUOTAS)
    return int(face.limits.headers(caller)["x-ratelimit-remaining-tokens"])


def test_what_an_answer_took_is_taken_from_the_project(face: Face) -> None:
    assert arrived(face.ask("base"))
    assert 1000 - 42 <= remaining(face) <= 1000 - 42 + 30
    statuses = [face.ask("base").status_code for _ in range(40)]
    # More was used than there was: it is owed, and later requests wait for it.
    assert set(statuses) == {200, 429}
    assert statuses[-1] == 429


def test_one_start_and_one_loading_serve_all_who_ask_at_once(face: Face) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(face.ask("ft:base:acme::one").status_code)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 8
    assert len(face.place.told("start")) == len(face.place.told("adapter")) == 1


def test_streams_come_as_they_are_computed(face: Face) -> None:
    times, text = [], ""
    body = {"model": "base", "messages": MESSAGES, "stream": True, "max_tokens": 20}
    with face.client.stream("POST", "/v1/chat/completions", json=body) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        for part in reply.iter_text():
            times.append(time.monotonic())
            text += part
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    assert [json.loads(event)["choices"][0]["delta"]["content"] for event in events[:-1]] == [
        f"{n} " for n in range(20)
    ]
    assert times[-1] - times[0] > 0.2


def test_a_client_that_leaves_stops_the_computing(face: Face) -> None:
    body = {"model": "base", "messages": MESSAGES, "stream": True, "max_tokens": 500}
    with face.client.stream("POST", "/v1/chat/completions", json=body) as reply:
        next(reply.iter_bytes())
    assert wait_until(lambda: face.place.told("client left") != [], 5)
    assert face.place.told("streamed") == []


def test_a_client_that_leaves_before_a_whole_answer_stops_it_too(face: Face) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        face.client.post("/v1/chat/completions", json={"model": "base", "messages": MESSAGES, "seed": 7}, timeout=5)
    assert wait_until(lambda: face.place.told("client left") != [], 5)
    assert face.ask("base").status_code == 200


def test_another_base_waits_for_the_first_and_then_takes_its_place(face: Face) -> None:
    body = {"model": "base", "messages": MESSAGES, "stream": True, "max_tokens": 30}
    with face.client.stream("POST", "/v1/chat/completions", json=body) as reply:
        parts = reply.iter_bytes()
        next(parts)
        busy = face.ask("other")
        assert (busy.status_code, busy.headers["retry-after"]) == (429, "5")
        assert b"[DONE]" in b"".join(parts)
    assert arrived(face.ask("other"))["model"] == "other"
    first, second = face.place.told("start")
    assert not is_alive(first["pid"])
    assert is_alive(second["pid"])


def test_a_whole_model_is_a_base_of_its_own(face: Face) -> None:
    assert arrived(face.ask("ft:base:acme::whole"))["model"] == "ft:base:acme::whole"
    assert face.place.told("start")[0]["model"].endswith("/whole")


def test_a_base_that_vllm_does_not_know_is_said_with_its_words(face: Face) -> None:
    reply = face.ask("broken")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "engine-failed"
    assert "not supported" in (face.place.folder / "vllm.log").read_text()
    assert arrived(face.ask("base"))


def test_an_adapter_that_vllm_refuses_leaves_its_base_alone(face: Face) -> None:
    assert arrived(face.ask("base"))
    reply = face.ask("ft:base:acme::bad")
    assert reply.status_code == 503
    assert "max_lora_rank" in reply.json()["error"]["message"]
    assert arrived(face.ask("base"))
    assert len(face.place.told("start")) == 1


def test_a_vllm_that_died_is_started_again(face: Face) -> None:
    assert arrived(face.ask("ft:base:acme::one"))
    os.kill(face.place.told("start")[0]["pid"], signal.SIGKILL)
    assert wait_until(lambda: face.ask("ft:base:acme::one").status_code == 200)
    assert len(face.place.told("start")) == 2


def test_the_errors_of_the_engine_stay_inside(face: Face) -> None:
    reply = face.ask("base", seed=500)
    assert reply.status_code == 503
    assert "secret" not in reply.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1"}}]}
                ]
            },
            "messages[0].content",
        ),
    ],
)
def test_what_vllm_would_fetch_or_run_is_refused_before_it(face: Face, fields: dict[str, Any], param: str) -> None:
    reply = face.ask("base", **fields)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert face.place.told("start") == []


def test_nobody_but_us_may_ask_it_and_no_list_of_processes_shows_the_key(face: Face) -> None:
    assert arrived(face.ask("base"))
    (start,) = face.place.told("start")
    port = start["argv"][start["argv"].index("--port") + 1]
    reply = httpx2.post(f"http://127.0.0.1:{port}/v1/chat/completions", json={"model": "base", "messages": []})
    assert reply.status_code == 401
    process = psutil.Process(start["pid"])
    assert process.environ()["VLLM_API_KEY"] not in " ".join(process.cmdline())
    assert process.environ()["VLLM_LOGGING_LEVEL"] == "WARNING"


def test_vllm_and_its_engine_die_with_a_server_that_is_killed(place: Place) -> None:
    command = [sys.executable, "-c", KEPT_ALIVE, place.base()]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    started = pids(place)
    assert all(is_alive(each) for each in started)
    server.kill()
    server.wait()
    server.stdout.close()
    assert wait_until(lambda: not any(is_alive(each) for each in started))


def test_a_machine_without_vllm_says_so_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as caught:
        VllmServers(tmp_path, max_rows=4, max_waiting=4, log=lambda line: None)
    assert caught.value.code == "dependency-missing"


@pytest.mark.parametrize(("rank", "room"), [(8, 64), (64, 64), (65, 128), (500, 512)])
def test_there_is_room_for_the_rank_that_is_asked_first(place: Place, rank: int, room: int) -> None:
    model = name_model("ft:x", place.base(), place.adapter("a", rank))
    arguments = vllm_arguments(model, port=1, max_rows=4)
    assert arguments[arguments.index("--max-lora-rank") + 1] == str(room)
    assert arguments[:4] == ["serve", model.base, "--served-model-name", "base"]


def test_a_start_that_its_first_client_left_serves_the_next(place: Place) -> None:
    async def leave_and_ask() -> int:
        servers = VllmServers(place.folder, max_rows=4, max_waiting=4, log=lambda line: None)
        model = name_model("x", place.base(), None)

        async def ask() -> None:
            async with servers.asking(model):
                return

        first = asyncio.create_task(ask())
        while not place.told("start"):
            await asyncio.sleep(0.02)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await ask()
        await servers.close()
        return len(place.told("start"))

    assert asyncio.run(leave_and_ask()) == 1


def test_no_more_wait_than_may(place: Place) -> None:
    async def ask_beside() -> None:
        servers = VllmServers(place.folder, max_rows=1, max_waiting=0, log=lambda line: None)
        model = name_model("x", place.base(), None)
        async with servers.asking(model):
            with pytest.raises(BusyError):
                await servers.asking(model).__aenter__()
        async with servers.asking(model):
            await servers.close()

    asyncio.run(ask_beside())


def test_a_whole_server_hands_its_base_to_vllm_and_ends_it(
    place: Place, chat_model_folder: Path, tmp_path: Path
) -> None:
    with run_server(tmp_path / "data", chat_model_folder, "--engine", "vllm", "--workers", "0") as server:
        with OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0) as client:
            reply = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, max_tokens=5)
            assert json.loads(reply.choices[0].message.content or "")["max_tokens"] == 5
            parts = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
            assert [part.choices[0].delta.content for part in parts] == ["0 ", "1 ", "2 "]
            completion = client.completions.create(model="tiny", prompt="Where", max_tokens=5)
            assert completion.model_extra == {"path": "/v1/completions"}
        assert server.stop() == 0
    assert (tmp_path / "data" / "logs" / "vllm.log").is_file()
