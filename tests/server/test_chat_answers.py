"""POST /chat/completions with OpenAI's own library against the real server: answers, forms, refusals."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from running import RunningServer, with_new_project

HELLO = [{"role": "user", "content": "Hello"}]
FIND = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Finds.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "kind": {"type": "string", "enum": ["sun", "rain"]},
                "day": {"type": "integer", "maximum": 9},
            },
            "required": ["kind", "day"],
            "additionalProperties": False,
        },
    },
}
STOP_ALL = {"type": "function", "function": {"name": "stop_all"}}


class Mood(BaseModel):
    """What an answer must look like."""

    mood: Literal["joy", "שמחה"]
    sure: bool


def ask(client: OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "max_tokens": 12, "seed": 5, **fields})


def refuse(client: OpenAI, **fields: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **fields)
    return refused.value


def text_of(reply: Any) -> str:
    return reply.choices[0].message.content


def test_an_answer_has_every_field_of_the_api(client: OpenAI) -> None:
    reply = ask(client, metadata={"k": "v"}, service_tier="auto", user="me", store=False)
    assert reply.id.startswith("chatcmpl-")
    assert (reply.object, reply.model, reply.service_tier) == ("chat.completion", "tiny", "default")
    assert abs(reply.created - time.time()) < 60
    assert reply.system_fingerprint.startswith("fp_")
    assert reply.to_dict()["metadata"] == {"k": "v"}
    choice = reply.choices[0]
    assert (choice.index, choice.message.role, choice.message.refusal, choice.logprobs) == (0, "assistant", None, None)
    assert (choice.finish_reason, reply.usage.completion_tokens) == ("length", 12)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 12


def test_the_same_seed_gives_the_same_answer_whatever_runs_beside_it(client: OpenAI) -> None:
    alone = text_of(ask(client))
    with ThreadPoolExecutor(6) as threads:
        beside = list(threads.map(lambda number: text_of(ask(client, seed=5 if number % 2 else number)), range(12)))
    assert set(beside[1::2]) == {alone}
    assert len(set(beside[::2])) > 1


def test_several_answers_differ_and_the_first_is_that_of_the_seed(client: OpenAI) -> None:
    reply = ask(client, n=5)
    texts = [choice.message.content for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3, 4]
    assert texts[0] == text_of(ask(client))
    assert len(set(texts)) == 5
    assert reply.usage.completion_tokens == 60
    assert texts == [choice.message.content for choice in ask(client, n=5).choices]


def test_temperature_0_and_top_p_0_take_the_best_token(client: OpenAI) -> None:
    best = text_of(ask(client, temperature=0))
    assert text_of(ask(client, temperature=0, seed=9)) == best
    assert text_of(ask(client, top_p=0, seed=1)) == text_of(ask(client, top_p=0, seed=2)) == best
    assert text_of(ask(client, seed=7)) != best


def test_a_bias_bans_and_forces_tokens(client: OpenAI) -> None:
    reply = ask(client, logit_bias={"40": 100}, logprobs=True, max_tokens=3)
    names = {token.token for token in reply.choices[0].logprobs.content}
    assert len(names) == 1
    penalised = text_of(ask(client, temperature=0, frequency_penalty=2, presence_penalty=2, max_tokens=40))
    assert penalised != text_of(ask(client, temperature=0, max_tokens=40))


def test_a_stop_text_is_cut_off_exactly(client: OpenAI) -> None:
    whole = text_of(ask(client, max_tokens=40))
    stop = whole[9:12]
    reply = ask(client, max_tokens=40, stop=[stop, "never in it"])
    assert text_of(reply) == whole[: whole.index(stop)]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens < 40
    assert reply.usage.prompt_tokens_details.cached_tokens > 0
    streamed = ask(client, max_tokens=40, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == text_of(reply)


def test_log_probabilities_are_those_of_the_tokens(client: OpenAI) -> None:
    reply = ask(client, logprobs=True, top_logprobs=3, temperature=0)
    content = reply.choices[0].logprobs.content
    assert len(content) == 12
    assert b"".join(bytes(token.bytes) for token in content).decode("utf-8", "replace") == text_of(reply)
    for token in content:
        best = token.top_logprobs[0]
        assert (best.token, best.logprob, best.bytes) == (token.token, token.logprob, token.bytes)
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (t.logprob for t in token.top_logprobs), reverse=True
        )
        assert -9999.0 <= token.logprob <= 0
    assert ask(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


def test_a_repeated_prompt_is_computed_once(client: OpenAI) -> None:
    messages = [{"role": "system", "content": "word " * 80}, *HELLO]
    assert ask(client, messages=messages).usage.prompt_tokens_details.cached_tokens < 80
    assert ask(client, messages=messages).usage.prompt_tokens_details.cached_tokens > 80


def test_nobody_learns_from_what_is_kept_that_another_project_sent_the_same_prompt(server: RunningServer) -> None:
    text = "secret " * 40

    def cached(client: OpenAI) -> tuple[int, int]:
        continued = client.completions.create(model="tiny", prompt=text, max_tokens=1)
        replies = ask(client, messages=[{"role": "user", "content": text}]), continued
        return tuple(reply.usage.prompt_tokens_details.cached_tokens for reply in replies)

    found = []
    for who in (with_new_project(server), with_new_project(server)):
        with OpenAI(base_url=who.base_url, api_key=who.key, max_retries=0) as client:
            found += [cached(client), cached(client)]
    first, again = found[:2]
    assert max(first) < 40 < min(again)
    assert found[2:] == found[:2]


def test_an_answer_has_the_form_of_a_pydantic_model(client: OpenAI) -> None:
    for seed in range(3):
        reply = client.chat.completions.parse(
            model="tiny", messages=HELLO, response_format=Mood, seed=seed, max_tokens=200
        )
        assert isinstance(reply.choices[0].message.parsed, Mood)
        assert reply.choices[0].finish_reason == "stop"


def test_an_answer_that_is_cut_says_so(client: OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="tiny", messages=HELLO, response_format=Mood, max_tokens=3)


def test_json_mode_gives_an_object(client: OpenAI) -> None:
    replies = [ask(client, response_format={"type": "json_object"}, max_tokens=80, seed=seed) for seed in range(3)]
    ended = [reply for reply in replies if reply.choices[0].finish_reason == "stop"]
    assert all(isinstance(json.loads(text_of(reply)), dict) for reply in ended)
    assert all(text_of(reply).startswith("{") for reply in replies)


def test_a_model_that_must_call_a_function_calls_it(client: OpenAI) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "find"}}):
        tools = [FIND] if choice == "required" else [STOP_ALL, FIND]
        reply = ask(client, tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=200)
        assert reply.choices[0].finish_reason == "tool_calls"
        assert reply.choices[0].message.content is None
        [call] = reply.choices[0].message.tool_calls
        assert (call.type, call.function.name) == ("function", "find")
        assert call.id.startswith("call_")
        arguments = json.loads(call.function.arguments)
        assert arguments["kind"] in ("sun", "rain")
        assert arguments["day"] <= 9


def test_only_allowed_functions_are_called(client: OpenAI) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "stop_all"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    for seed in range(3):
        reply = ask(client, tools=[FIND, STOP_ALL], tool_choice=choice, max_tokens=300, seed=seed)
        assert {call.function.name for call in reply.choices[0].message.tool_calls} == {"stop_all"}


def test_a_call_and_its_result_go_back_into_the_chat(client: OpenAI) -> None:
    reply = ask(client, tools=[FIND], tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    message = reply.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It rains."}
    again = ask(client, messages=[*HELLO, message, result], tools=[FIND], tool_choice="auto")
    assert again.usage.prompt_tokens > reply.usage.prompt_tokens
    assert again.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_tools_that_are_not_to_be_called_are_not_shown(client: OpenAI) -> None:
    without = ask(client)
    reply = ask(client, tools=[FIND], tool_choice="none")
    assert (text_of(reply), reply.usage.prompt_tokens) == (text_of(without), without.usage.prompt_tokens)
    assert ask(client, tools=[FIND], tool_choice="auto").usage.prompt_tokens > without.usage.prompt_tokens


def test_the_length_is_limited_by_the_context(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "a" * 1000}]
    reply = ask(client, messages=messages, max_tokens=500)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.total_tokens <= 1024
    refused = refuse(client, messages=[{"role": "user", "content": "a" * 1100}])
    assert (refused.code, refused.param) == ("context_length_exceeded", "messages")
    assert "This model's maximum context length is 1024 tokens" in str(refused)


BAD_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "not": {}}}}
LIST_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
TWICE = {"tools": [STOP_ALL, STOP_ALL]}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "functions": ({"functions": [{"name": "f"}]}, "functions"),
    "function_call": ({"function_call": "auto"}, "function_call"),
    "audio": ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
    "modalities": ({"modalities": ["text", "audio"]}, "modalities[1]"),
    "prediction": ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    "web_search_options": ({"web_search_options": {}}, "web_search_options"),
    "moderation": ({"extra_body": {"moderation": {"model": "x"}}}, "moderation"),
    "store": ({"store": True}, "store"),
    "service_tier": ({"service_tier": "flex"}, "service_tier"),
    "reasoning_effort": ({"reasoning_effort": "high"}, "reasoning_effort"),
    "verbosity": ({"verbosity": "low"}, "verbosity"),
    "unknown": ({"extra_body": {"min_p": 3}}, "min_p"),
    "two limits": ({"max_completion_tokens": 3}, "max_tokens"),
    "no room": ({"max_tokens": 0}, "max_tokens"),
    "temperature": ({"temperature": 2.1}, "temperature"),
    "n": ({"n": 129}, "n"),
    "five stops": ({"stop": list("abcde")}, "stop"),
    "empty stop": ({"stop": ""}, "stop"),
    "bias": ({"logit_bias": {"x": 1}}, "logit_bias"),
    "bias range": ({"logit_bias": {"5": 101}}, "logit_bias"),
    "bias token": ({"logit_bias": {"5000": 1}}, "logit_bias"),
    "top_logprobs": ({"top_logprobs": 2}, "logprobs"),
    "stream_options": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "metadata": ({"metadata": {"k": "v" * 513}}, "metadata"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "[0].type",
    ),
    "role": ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    "no message": ({"messages": []}, "messages"),
    "schema": ({"response_format": BAD_SCHEMA}, "response_format"),
    "tool schema": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
        "tools",
    ),
    "custom tool": ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    "tool name": ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    "two of a name": (TWICE, "tools[1].function.name"),
    "choice": ({"tool_choice": "required"}, "tool_choice"),
    "parallel": ({"parallel_tool_calls": True}, "parallel_tool_calls"),
    "other tool": ({"tools": [FIND], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_has_no_meaning_is_refused_by_name(client: OpenAI, name: str) -> None:
    fields, param = REFUSED[name]
    refused = refuse(client, **fields)
    assert refused.status_code == 400
    assert (refused.param or "").endswith(param)
    assert refused.type == "invalid_request_error"
    assert refused.message


def test_hints_that_change_nothing_are_taken(client: OpenAI) -> None:
    hints = {"safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h", "verbosity": "medium"}
    nothing = {"tools": [], "response_format": {"type": "text"}, "modalities": ["text"], "stop": None}
    assert text_of(ask(client, **hints, **nothing, reasoning_effort="none")) == text_of(ask(client))


def test_a_model_that_is_not_there_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        ask(client, model="nobody/knows")
    assert refused.value.code == "model_not_found"


def test_a_sign_in_a_message_is_text(client: OpenAI) -> None:
    def count(text: str) -> int:
        return ask(client, messages=[{"role": "user", "content": text}]).usage.prompt_tokens

    assert count("<|im_end|>") - count("x") >= 4


def test_many_at_once_with_the_asynchronous_library(server: RunningServer) -> None:
    async def ask_all() -> list[str]:
        async with AsyncOpenAI(base_url=server.base_url, api_key=server.key, max_retries=0) as client:
            replies = await asyncio.gather(
                *(
                    client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=8, seed=number % 3)
                    for number in range(24)
                )
            )
        return [str(reply.choices[0].message.content) for reply in replies]

    texts = asyncio.run(ask_all())
    assert [texts[number] for number in range(24)] == [texts[number % 3] for number in range(24)]


def test_every_answer_is_a_chat_completion_of_the_specification(server: RunningServer) -> None:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 3, "logprobs": True, "top_logprobs": 1, "n": 2}
    reply = httpx.post(f"{server.base_url}/chat/completions", json=body, headers=server.headers, timeout=60)
    assert reply.headers["content-type"] == "application/json"
    made = reply.json()
    assert set(made) == {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
    assert set(made["choices"][0]) == {"index", "message", "logprobs", "finish_reason"}
    assert set(made["choices"][0]["logprobs"]) == {"content", "refusal"}
