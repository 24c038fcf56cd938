"""Streams of /chat/completions: the exact events, whole characters, and nothing computed for clients that are gone."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from running import RunningServer, with_new_project
from starlette.requests import ClientDisconnect, Request
from starlette.testclient import TestClient
from test_chat_answers import FIND, HELLO, Mood, ask

from kivnun.database.open import open_database, sqlite_url
from kivnun.database.projects import DEFAULT_PROJECT, NO_QUOTAS, ensure_defaults, set_quotas
from kivnun.database.tables import Project
from kivnun.errors import UserError
from kivnun.server.app import create_app
from kivnun.server.chat.event_stream import EventStream, open_stream
from kivnun.server.counters import Counters
from kivnun.server.limits import Limits
from kivnun.server.service import ServeSettings, Service
from kivnun.serving.pool import ModelPool


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, headers=server.headers, timeout=60) as client:
        yield client


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HELLO, "max_tokens": 6, "seed": 5, "stream": True, **fields}


def events(http: httpx.Client, **fields: Any) -> list[Any]:
    reply = http.post("/chat/completions", json=body(**fields))
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    *parts, last = reply.text.split("\n\n")
    assert last == ""
    assert parts.pop() == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def test_a_stream_is_the_sequence_of_the_reference(http: httpx.Client) -> None:
    chunks = events(http)
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("chat.completion.chunk", "tiny")}
    assert len({(chunk["id"], chunk["created"], chunk["system_fingerprint"]) for chunk in chunks}) == 1
    first, *middle, last = [chunk["choices"][0] for chunk in chunks]
    assert first["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert (last["delta"], last["finish_reason"]) == ({}, "length")
    assert all(set(each["delta"]) == {"content"} and each["delta"]["content"] for each in middle)
    assert all(each["finish_reason"] is None for each in [first, *middle])
    assert all("usage" not in chunk and "obfuscation" not in chunk for chunk in chunks)


def test_usage_comes_last_and_is_null_before(http: httpx.Client) -> None:
    *chunks, last = events(http, stream_options={"include_usage": True}, n=2)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 12


def test_padding_hides_how_long_a_token_is(http: httpx.Client) -> None:
    chunks = events(http, stream_options={"include_obfuscation": True})[1:-1]
    assert len({len(chunk["choices"][0]["delta"]["content"]) + len(chunk["obfuscation"]) for chunk in chunks}) == 1


@pytest.mark.parametrize("fields", [{}, {"n": 3}, {"logprobs": True, "top_logprobs": 2}, {"stop": ["o", "ש", "a"]}])
def test_the_pieces_of_a_stream_are_the_answer(client: OpenAI, http: httpx.Client, fields: dict[str, Any]) -> None:
    whole = ask(client, max_tokens=60, **fields)
    texts, tokens, reasons = {}, {}, {}
    for chunk in events(http, max_tokens=60, **fields):
        [choice] = chunk["choices"]
        index = choice["index"]
        texts[index] = texts.get(index, "") + (choice["delta"].get("content") or "")
        tokens[index] = tokens.get(index, []) + ((choice["logprobs"] or {}).get("content") or [])
        reasons[index] = choice["finish_reason"]
    for choice in whole.choices:
        assert texts[choice.index] == choice.message.content
        assert reasons[choice.index] == choice.finish_reason
        told = [] if choice.logprobs is None else [token.model_dump() for token in choice.logprobs.content]
        assert tokens[choice.index] == told


def test_letters_and_emoji_come_whole(client: OpenAI, http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"const": "שלום 😀👩‍👧"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**schema, "additionalProperties": False}}}
    chunks = events(http, max_tokens=200, response_format=form)
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert json.loads("".join(pieces)) == {"a": "שלום 😀👩‍👧"}
    assert any(piece == "😀" for piece in pieces)


def test_a_call_is_streamed_with_its_name_first_and_arguments_in_pieces(http: httpx.Client) -> None:
    chunks = events(http, tools=[FIND], tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    calls = [call for delta in deltas[1:-1] for call in delta["tool_calls"]]
    assert (calls[0]["function"]["name"], calls[0]["type"], calls[0]["index"]) == ("find", "function", 0)
    assert calls[0]["id"].startswith("call_")
    assert all(set(call) == {"index", "function"} and set(call["function"]) == {"arguments"} for call in calls[1:])
    assert json.loads("".join(call["function"]["arguments"] for call in calls))["kind"] in ("sun", "rain")
    assert len(calls) > 3


def test_the_helpers_of_the_library_read_streams(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="tiny", messages=HELLO, response_format=Mood, max_tokens=200, seed=5
    ) as stream:
        kinds = {event.type for event in stream}
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(parsed, Mood)
    assert {"content.delta", "content.done", "chunk"} <= kinds
    with client.chat.completions.stream(
        model="tiny", messages=HELLO, tools=[FIND], tool_choice="required", max_tokens=300, seed=5
    ) as stream:
        kinds = {event.type for event in stream}
    assert "tool_calls.function.arguments.done" in kinds


def test_what_fails_before_the_first_token_has_a_status(http: httpx.Client) -> None:
    reply = http.post("/chat/completions", json=body(messages=[{"role": "user", "content": "a" * 2000}]))
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"


def test_what_fails_later_is_an_event_of_its_own() -> None:
    async def break_down() -> AsyncGenerator[dict[str, Any], None]:
        yield {"n": 1}
        raise UserError("constraint-failed", "nothing fits", hint="loosen it")

    async def read() -> list[bytes]:
        stream = await open_stream(break_down(), Request({"type": "http", "state": {"request_id": "req_1"}}), {})
        assert isinstance(stream, EventStream)
        return [bytes(part) async for part in stream.body_iterator if isinstance(part, bytes)]

    sent = asyncio.run(read())
    assert sent[0] == b'data: {"n":1}\n\n'
    assert json.loads(sent[1].removeprefix(b"data: "))["error"]["code"] == "constraint-failed"
    assert len(sent) == 2


def test_one_answer_on_a_connection_that_closes(http: httpx.Client) -> None:
    reply = http.post("/chat/completions", json=body(), headers={"connection": "close"})
    assert reply.text.endswith("data: [DONE]\n\n")


def running(server: RunningServer) -> int:
    return httpx.get(f"{server.root_url}/health").json()["pool"]["running"]


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.02)
    return False


LONG = {"n": 100, "max_tokens": 900, "logit_bias": {"0": -100, "1": -100, "2": -100}}


def test_a_stream_that_nobody_reads_is_not_computed(server: RunningServer, http: httpx.Client) -> None:
    started = time.monotonic()
    with http.stream("POST", "/chat/completions", json=body(**LONG)) as reply:
        lines = reply.iter_lines()
        assert next(lines).startswith("data: ")
        assert wait_until(lambda: running(server) > 8, 5)
    assert wait_until(lambda: running(server) == 0, 5)
    # The answers themselves would have taken far longer.
    assert time.monotonic() - started < 8


def test_a_client_that_takes_nothing_is_given_up() -> None:
    closed = []

    async def go_on() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"data: 1\n\n"
        finally:
            closed.append(True)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def read() -> None:
        scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
        async with asyncio.timeout(10):
            await EventStream(go_on(), {}, stalled_seconds=0.05)(scope, receive, send)

    with pytest.raises(ClientDisconnect):
        asyncio.run(read())
    assert closed == [True]


def test_an_answer_that_nobody_waits_for_is_not_computed(server: RunningServer) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.base_url}/chat/completions",
            json=body(**LONG) | {"stream": False},
            headers=server.headers,
            timeout=1,
        )
    assert wait_until(lambda: running(server) == 0, 5)


@pytest.fixture
def small_client(chat_model_folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    """A server in this process that holds two answers and lets two wait, for a project with 20,000 tokens a minute."""
    settings = ServeSettings(tmp_path, require_keys=False, base_model="tiny", models={"tiny": str(chat_model_folder)})
    with (
        closing(open_database(sqlite_url(tmp_path))) as database,
        closing(ModelPool(max_rows=2, max_waiting=2, memory_bytes=1 << 28)) as pool,
    ):
        ensure_defaults(database)
        with database.writing() as session:
            set_quotas(session.get_one(Project, DEFAULT_PROJECT), replace(NO_QUOTAS, max_tokens_per_minute=20_000))
        service = Service(settings, database, pool, Limits(), Counters())
        with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
            yield client


def post(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/chat/completions", json=body(**fields) | {"stream": False})


def left(reply: Any) -> int:
    return int(reply.headers["x-ratelimit-remaining-tokens"])


def test_the_server_refuses_more_than_it_can_hold(small_client: TestClient) -> None:
    refused = post(small_client, n=20)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert post(small_client).status_code == 200


def test_a_request_that_finds_no_place_uses_nothing(small_client: TestClient) -> None:
    before = left(post(small_client, max_tokens=1))
    prompt = [{"role": "user", "content": "word " * 150}]
    for _ in range(8):
        assert post(small_client, n=20, messages=prompt).status_code == 429
    assert left(post(small_client, max_tokens=1)) > before - 300


def test_what_a_client_read_before_it_left_is_counted(server: RunningServer) -> None:
    who = with_new_project(server)
    with closing(server.open_database()) as database, database.writing() as session:
        set_quotas(session.get_one(Project, who.project_id), replace(NO_QUOTAS, max_tokens_per_minute=2_000))
    with httpx.Client(base_url=who.base_url, headers=who.headers, timeout=60) as http:
        with http.stream("POST", "/chat/completions", json=body(**LONG | {"n": 1})) as reply:
            lines = (line for line in reply.iter_lines() if line)
            assert sum(1 for _ in zip(range(300), lines, strict=False)) == 300
        assert wait_until(lambda: running(server) == 0, 5)
        reply = http.post("/chat/completions", json=body(max_tokens=1) | {"stream": False})
    # What comes back meanwhile is 33 a second.
    assert left(reply) < 2_000 - 150


def test_tokens_are_counted_against_the_limit_as_they_were_used(small_client: TestClient) -> None:
    first = post(small_client, max_tokens=6)
    used = first.json()["usage"]["total_tokens"]
    assert abs(20_000 - used - left(post(small_client, max_tokens=1))) < 3 * used
    too_many = post(small_client, max_tokens=900, n=64)
    assert (too_many.status_code, too_many.headers["x-should-retry"]) == (429, "false")
