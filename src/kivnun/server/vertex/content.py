"""Google's `generateContent` in OpenAI's words and back: contents to messages, answers to candidates.

Reference: cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from kivnun.data.formats.fields import Problems
from kivnun.data.formats.gemini import read_turns
from kivnun.data.formats.openai_chat import write_messages
from kivnun.server.errors import ApiError
from kivnun.server.vertex.shapes import GoogleBody, Whole

FINISH_REASONS = {"stop": "STOP", "length": "MAX_TOKENS"}
JSON_TYPE = "application/json"
# Kinds of settings that say what may not be answered; nothing is filtered here, so that none changes an answer.
WITHOUT_EFFECT = ("safetySettings", "labels")


class ThinkingConfig(GoogleBody):
    """How long the model thinks; models here answer at once."""

    thinking_budget: Annotated[Whole, Field(ge=0, le=0)] | None = None
    include_thoughts: Literal[False] | None = None


class GenerationConfig(GoogleBody):
    """How answers are drawn and what they look like."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[float, Field(ge=1)] | None = None
    candidate_count: Annotated[Whole, Field(ge=1, le=8)] | None = None
    max_output_tokens: Annotated[Whole, Field(ge=1)] | None = None
    stop_sequences: Annotated[list[str], Field(max_length=4)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Whole | None = None
    response_mime_type: Literal["text/plain", "application/json"] | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    response_modalities: list[Literal["TEXT"]] | None = None
    thinking_config: ThinkingConfig | None = None


class GenerateContent(GoogleBody):
    """The body of `generateContent` and `streamGenerateContent`."""

    contents: Annotated[list[dict[str, Any]], Field(min_length=1)]
    system_instruction: dict[str, Any] | str | None = None
    generation_config: GenerationConfig = GenerationConfig()
    safety_settings: list[dict[str, Any]] | None = None
    labels: dict[str, str] | None = None

    @property
    def unused(self) -> list[str]:
        """Parts of the request that have no effect here."""
        return [name for name in WITHOUT_EFFECT if name in self.model_dump(by_alias=True, exclude_none=True)]


def to_chat(asked: GenerateContent, model: str, *, stream: bool) -> dict[str, Any]:
    """The same request as the body of POST /chat/completions.

    Args:
        asked: Google's.
        model: The model's name on this server.
        stream: Whether the answer shall come as it is made.

    Raises:
        ApiError: 400 for contents that cannot be read.
    """
    config = asked.generation_config
    body: dict[str, Any] = {
        "model": model,
        "messages": _read_messages(asked),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": None if config.top_k is None else int(config.top_k),
        "n": config.candidate_count,
        "max_completion_tokens": config.max_output_tokens,
        "stop": config.stop_sequences or None,
        "presence_penalty": config.presence_penalty,
        "frequency_penalty": config.frequency_penalty,
        "seed": config.seed,
        "response_format": _read_format(config),
        "stream": stream or None,
        "stream_options": {"include_usage": True} if stream else None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _read_messages(asked: GenerateContent) -> list[dict[str, object]]:
    # A turn without a role is the user's.
    contents = [{"role": "user", **content} for content in asked.contents]
    problems: Problems = []
    messages = read_turns({"contents": contents, "systemInstruction": asked.system_instruction}, problems)
    if problems:
        raise ApiError(400, ". ".join(message for _, message in problems[:3]))
    return write_messages(messages, weights=False)


def _read_format(config: GenerationConfig) -> dict[str, Any] | None:
    schema = config.response_json_schema
    if config.response_schema is not None:
        if schema is not None:
            raise ApiError(400, "Give one of responseSchema and responseJsonSchema.")
        schema = _read_schema(config.response_schema)
    if schema is None:
        return {"type": "json_object"} if config.response_mime_type == JSON_TYPE else None
    if config.response_mime_type != JSON_TYPE:
        raise ApiError(400, f"A response schema needs responseMimeType: {JSON_TYPE}.")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _read_schema(schema: Any) -> Any:
    """Google's schema as JSON Schema: types in small letters, `nullable` as a type, no properties but its own."""
    if isinstance(schema, list):
        return [_read_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    read = {name: _read_schema(value) for name, value in schema.items() if name not in ("nullable", "propertyOrdering")}
    read = {name: int(value) if name in _COUNTS and isinstance(value, str) else value for name, value in read.items()}
    kind: Any = read.get("type")
    if isinstance(kind, str):
        read["type"] = kind.lower()
    if read.get("type") == "object" and "properties" in read:
        read.setdefault("additionalProperties", False)
    if schema.get("nullable") is True:
        return {"anyOf": [read, {"type": "null"}]}
    return read


_COUNTS = ("minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength")


def to_response(completion: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """A whole answer as Google's clients read it.

    Args:
        completion: A `chat.completion`.
        head: From `make_head`.
    """
    candidates = [
        make_candidate(choice["index"], choice["message"]["content"] or "", choice["finish_reason"])
        for choice in completion["choices"]
    ]
    return {"candidates": candidates, "usageMetadata": make_usage(completion["usage"]), **head}


def make_head(model: str, response_id: str) -> dict[str, Any]:
    """What all parts of an answer have in common.

    Args:
        model: As the client called it.
        response_id: Of the answer.
    """
    created = datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z")
    return {"modelVersion": model, "createTime": created, "responseId": response_id}


def make_candidate(index: int, text: str, finish_reason: str | None = None) -> dict[str, Any]:
    """One answer, or a piece of one.

    Args:
        index: Of the answer.
        text: Of it.
        finish_reason: Why it ended, in OpenAI's words; None where it goes on.
    """
    parts = [{"text": text}] if text or finish_reason is None else []
    candidate: dict[str, Any] = {"index": index, "content": {"role": "model", "parts": parts}}
    return candidate if finish_reason is None else {**candidate, "finishReason": FINISH_REASONS[finish_reason]}


def make_usage(usage: Mapping[str, Any]) -> dict[str, int]:
    """What an answer took.

    Args:
        usage: In OpenAI's words.
    """
    told = {
        "promptTokenCount": usage["prompt_tokens"],
        "candidatesTokenCount": usage["completion_tokens"],
        "totalTokenCount": usage["total_tokens"],
    }
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {**told, "cachedContentTokenCount": cached} if cached else told


def to_chunk(chunk: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any] | None:
    """A piece of a streamed answer; None for one that tells Google's clients nothing.

    Args:
        chunk: A `chat.completion.chunk` with choices.
        head: From `make_head`.
    """
    candidates: Sequence[dict[str, Any]] = [
        make_candidate(choice["index"], choice["delta"]["content"])
        for choice in chunk["choices"]
        if choice["delta"].get("content")
    ]
    return {"candidates": candidates, **head} if candidates else None
