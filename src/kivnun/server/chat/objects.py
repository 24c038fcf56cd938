"""Answers as the API writes them: chat.completion, chat.completion.chunk, and the log-probabilities of tokens."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kivnun.server.chat.answering import Delta
from kivnun.server.chat.answers import ChatChoice, ChatResult, new_call_id
from kivnun.serving.text import TextToken, Vocabulary

# The API's word for log-probabilities that are as good as minus infinity, which is no JSON.
LEAST_LOGPROB = -9999.0
OBFUSCATED_TO = 64


@dataclass(frozen=True)
class Head:
    """What all parts of one answer have in common.

    Attributes:
        id: Of the answer.
        created: When it was asked for, in seconds since 1970.
        model: As the client called it.
        fingerprint: Of the very weights, so that a seed means something.
        service_tier: Told where the client asked for one.
        vocabulary: Of the model.
        tells_logprobs: Whether the client asked for them.
    """

    id: str
    created: int
    model: str
    fingerprint: str
    service_tier: str | None
    vocabulary: Vocabulary
    tells_logprobs: bool

    def to_json(self, kind: str) -> dict[str, Any]:
        """The fields.

        Args:
            kind: `chat.completion` or `chat.completion.chunk`.
        """
        fields = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }
        return fields if self.service_tier is None else {**fields, "service_tier": "default"}


def completion_object(head: Head, result: ChatResult, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """All answers, whole.

    Args:
        head: Of the answer.
        result: The answers.
        metadata: As the client sent it.
    """
    choices = [_choice_object(head, choice) for choice in result.choices]
    made = {**head.to_json("chat.completion"), "choices": choices, "usage": result.usage}
    return made if metadata is None else {**made, "metadata": dict(metadata)}


def _choice_object(head: Head, choice: ChatChoice) -> dict[str, Any]:
    # An answer that only calls functions has no content, and one that says nothing has an empty one.
    content = None if choice.calls and not choice.text else choice.text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    if choice.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    return {
        "index": choice.index,
        "message": message,
        "logprobs": logprobs_object(head, choice.tokens),
        "finish_reason": choice.reason,
    }


def first_chunk(head: Head, index: int) -> dict[str, Any]:
    """The chunk that opens an answer.

    Args:
        head: Of the answer.
        index: Of the choice.
    """
    return _chunk(head, index, {"role": "assistant", "content": "", "refusal": None})


def delta_chunk(head: Head, delta: Delta, *, obfuscated: bool) -> dict[str, Any]:
    """The chunk of a delta.

    Args:
        head: Of the answer.
        delta: What came.
        obfuscated: Whether to pad it, so that its size tells nothing of its tokens.
    """
    fields: dict[str, Any] = {"content": delta.text} if delta.text or not delta.calls else {}
    if delta.calls:
        fields["tool_calls"] = [
            {
                "index": part.number,
                **({} if part.name is None else {"id": new_call_id(), "type": "function"}),
                "function": {**({} if part.name is None else {"name": part.name}), "arguments": part.arguments},
            }
            for part in delta.calls
        ]
    chunk = _chunk(head, delta.index, fields)
    chunk["choices"][0]["logprobs"] = logprobs_object(head, delta.tokens)
    if obfuscated:
        chunk["obfuscation"] = secrets.token_urlsafe(OBFUSCATED_TO)[: OBFUSCATED_TO - len(delta.text) % OBFUSCATED_TO]
    return chunk


def last_chunk(head: Head, index: int, reason: str) -> dict[str, Any]:
    """The chunk that ends an answer.

    Args:
        head: Of the answer.
        index: Of the choice.
        reason: Why it ended.
    """
    chunk = _chunk(head, index, {})
    chunk["choices"][0]["finish_reason"] = reason
    return chunk


def usage_chunk(head: Head, usage: Mapping[str, object]) -> dict[str, Any]:
    """The chunk behind all answers, where the client asked for it.

    Args:
        head: Of the answer.
        usage: Of the whole request.
    """
    return {**head.to_json("chat.completion.chunk"), "choices": [], "usage": dict(usage)}


def _chunk(head: Head, index: int, delta: Mapping[str, Any]) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    return {**head.to_json("chat.completion.chunk"), "choices": [choice]}


def logprobs_object(head: Head, tokens: Sequence[TextToken]) -> dict[str, Any] | None:
    """Log-probabilities of tokens, each with its bytes; None where the client did not ask.

    Args:
        head: Of the answer.
        tokens: In order.
    """
    if not head.tells_logprobs:
        return None
    content: list[dict[str, Any]] = []
    for each in tokens:
        token = each.token
        told = _token_object(head.vocabulary, token.token_id, token.logprob)
        told["top_logprobs"] = [_token_object(head.vocabulary, other, logprob) for other, logprob in token.top]
        content.append(told)
    return {"content": content, "refusal": None}


def _token_object(vocabulary: Vocabulary, token_id: int, logprob: float | None) -> dict[str, Any]:
    read = vocabulary.bytes_of(token_id)
    return {"token": read.decode("utf-8", "replace"), "logprob": floor_logprob(logprob), "bytes": list(read)}


def floor_logprob(logprob: float | None) -> float:
    """A log-probability as the API tells it.

    Args:
        logprob: May be minus infinity.
    """
    return LEAST_LOGPROB if logprob is None else max(logprob, LEAST_LOGPROB)
