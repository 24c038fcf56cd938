"""POST /completions: prompts in all forms are continued, echoed and scored."""

import json
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from running import RunningServer


def ask(client: OpenAI, prompt: Any = "I am so", **fields: Any) -> Any:
    return client.completions.create(**{"model": "tiny", "prompt": prompt, "max_tokens": 6, "seed": 5, **fields})


def texts(reply: Any) -> list[str]:
    return [choice.text for choice in reply.choices]


def refuse(client: OpenAI, prompt: Any = "I am so", **fields: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, prompt, **fields)
    return refused.value


def test_a_prompt_is_continued(client: OpenAI) -> None:
    reply = ask(client)
    assert reply.id.startswith("cmpl-")
    assert (reply.object, reply.choices[0].finish_reason, reply.choices[0].logprobs) == (
        "text_completion",
        "length",
        None,
    )
    assert reply.usage.completion_tokens == 6
    assert client.completions.create(model="tiny", prompt="x").usage.completion_tokens <= 16
    assert ask(client, ["I am so"]).choices[0].text == reply.choices[0].text


def test_prompts_come_as_texts_or_tokens_and_are_answered_in_order(client: OpenAI) -> None:
    alone = [texts(ask(client, prompt, n=2)) for prompt in ("I am so", "שלום")]
    assert texts(ask(client, ["I am so", "שלום"], n=2)) == [*alone[0], *alone[1]]
    scored = ask(client, "I am so", echo=True, logprobs=0, max_tokens=0).choices[0].logprobs
    assert scored.tokens == ["I", " am", " so"]
    tokens = [[3 + number for number in range(4)], [9]]
    assert texts(ask(client, tokens)) == [*texts(ask(client, tokens[0])), *texts(ask(client, tokens[1]))]


def test_usage_counts_all_prompts_and_answers(client: OpenAI) -> None:
    reply = ask(client, [[5, 6, 7], [8, 9]], n=2)
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (5, 24)


def test_an_echo_is_the_prompt_with_its_tokens(client: OpenAI) -> None:
    choice = ask(client, "שלום am", echo=True, logprobs=2, temperature=0).choices[0]
    assert choice.text.startswith("שלום am")
    told = choice.logprobs
    assert told.token_logprobs[0] is None
    assert told.top_logprobs[0] is None
    assert all(logprob <= 0 for logprob in told.token_logprobs[1:])
    assert told.text_offset[0] == 0
    assert told.text_offset == sorted(told.text_offset)
    for token, start in zip(told.tokens, told.text_offset, strict=True):
        assert token.startswith("bytes:") or choice.text[start:].startswith(token)
    for token, logprob, top in list(zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True))[1:]:
        assert top[token] == logprob
        assert 2 <= len(top) <= 3
    by_tokens = ask(client, [40, 41], echo=True).choices[0].text
    assert by_tokens.startswith(ask(client, [40, 41], echo=True, max_tokens=0).choices[0].text)


def test_what_a_model_scores_is_what_it_would_say(client: OpenAI) -> None:
    said = ask(client, temperature=0, logprobs=1)
    told = said.choices[0].logprobs
    plain = [token for token in told.tokens if not token.startswith("bytes:")]
    if plain == told.tokens:
        again = ask(client, "I am so" + said.choices[0].text, echo=True, logprobs=1, max_tokens=0).choices[0].logprobs
        if again.tokens[3:] == told.tokens:
            assert again.token_logprobs[3:] == pytest.approx(told.token_logprobs, abs=1e-3)


def test_the_best_of_several_is_the_likeliest(client: OpenAI) -> None:
    def mean(choice: Any) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    all_of_them = ask(client, n=6, logprobs=0)
    ranked = sorted(all_of_them.choices, key=mean, reverse=True)
    best = ask(client, n=2, best_of=6, logprobs=0)
    assert texts(best) == [choice.text for choice in ranked[:2]]
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.usage.completion_tokens == 36
    assert ask(client, n=2, best_of=6).choices[0].logprobs is None


def test_a_stream_is_the_answer_in_pieces(client: OpenAI, server: RunningServer) -> None:
    fields: dict[str, Any] = {"n": 2, "echo": True, "logprobs": 1, "max_tokens": 8}
    whole = ask(client, **fields)
    body = {"model": "tiny", "prompt": "I am so", "seed": 5, "stream": True, "stream_options": {"include_usage": True}}
    reply = httpx.post(f"{server.base_url}/completions", json=body | fields, headers=server.headers)
    assert reply.text.endswith("\n\ndata: [DONE]\n\n")
    *chunks, last = [json.loads(line[6:]) for line in reply.text.split("\n\n")[:-2]]
    assert last["usage"] == whole.usage.model_dump(exclude_none=True) | {
        "prompt_tokens_details": last["usage"]["prompt_tokens_details"]
    }
    assert all(chunk["usage"] is None and chunk["object"] == "text_completion" for chunk in chunks)
    for choice in whole.choices:
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice.index]
        assert "".join(part["text"] for part in parts) == choice.text
        assert parts[-1]["finish_reason"] == choice.finish_reason
        assert [part["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [value for part in parts if part["logprobs"] for value in part["logprobs"][name]]
            assert joined == getattr(choice.logprobs, name)


def test_a_stop_text_ends_the_answer(client: OpenAI) -> None:
    whole = texts(ask(client, max_tokens=30))[0]
    reply = ask(client, max_tokens=30, stop=whole[8:10])
    assert texts(reply) == [whole[: whole.index(whole[8:10])]]
    assert reply.choices[0].finish_reason == "stop"


def test_text_that_spells_a_sign_is_read_as_that_sign(client: OpenAI) -> None:
    scored = ask(client, "a<|im_end|>b", echo=True, logprobs=0, max_tokens=0).choices[0]
    assert (scored.text, scored.logprobs.tokens) == ("a<|im_end|>b", ["a", "<|im_end|>", "b"])


def test_without_a_prompt_a_new_document_is_begun(client: OpenAI) -> None:
    empty = ask(client, "", echo=True)
    assert empty.usage.prompt_tokens == 1
    assert texts(ask(client, None)) == texts(empty)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1100}, "prompt"),
        ({"prompt": "a" * 1100}, "prompt"),
        ({"prompt": [5, 5000]}, "prompt"),
        ({"prompt": [[5], [5000]]}, "prompt[1]"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["x"] * 30, "n": 100}, "prompt"),
        ({"stop": ["a", ""]}, "stop"),
        ({"extra_body": {"tools": []}}, "tools"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_has_no_meaning_is_refused_by_name(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    refused = refuse(client, **fields)
    assert (refused.status_code, refused.param) == (400, param)


def test_a_prompt_may_fill_the_context_but_for_one_token(client: OpenAI) -> None:
    scored = ask(client, [5] * 1023, echo=True, logprobs=0, max_tokens=0)
    assert len(scored.choices[0].logprobs.tokens) == 1023
    assert refuse(client, [5] * 1024, max_tokens=None).code == "context_length_exceeded"
    assert ask(client, [5] * 1023, max_tokens=None).usage.completion_tokens == 1


def test_a_long_list_is_answered_in_turn(client: OpenAI) -> None:
    prompts = [[3 + number % 300] for number in range(90)]
    reply = ask(client, prompts, max_tokens=1)
    assert [choice.index for choice in reply.choices] == list(range(90))
