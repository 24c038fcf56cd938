"""From messages to the tokens of a prompt, in the very form that the model was trained with.

A model of kind `chat` reads all messages through its own chat template. One that was trained on plain prompts knows no
roles: it is asked what the last user message says, through its own template where that has one field. What of a request
such a model cannot read is told to the client in a header.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from jinja2 import TemplateError

from kivnun.data.chat import Segment, choose_turns
from kivnun.data.conversation import Conversation, Message, ToolCall
from kivnun.data.encode import Encoder
from kivnun.errors import UserError
from kivnun.server.errors import ApiError, say_problem

if TYPE_CHECKING:
    from kivnun.serving.pool import OpenModel

# Code points that Unicode keeps free for use inside programs; where users' texts must be cut, one marks the place.
_MARKS = tuple(chr(point) for point in range(0xFDD0, 0xFDF0))


@dataclass(frozen=True)
class Prompt:
    """A prompt as a model reads it.

    Attributes:
        token_ids: At least one.
        unused: Parts of the request that this kind of model cannot read, such as `messages[0]`.
    """

    token_ids: tuple[int, ...]
    unused: tuple[str, ...] = ()


def render_messages(
    model: "OpenModel", messages: Sequence[Message], tools: Sequence[Mapping[str, object]] = ()
) -> Prompt:
    """The prompt that asks a model to answer some messages.

    What looks like a special token in a user's text stays text: it is cut in two before the tokenizer sees it.

    Args:
        model: Its template and tokenizer.
        messages: One or more.
        tools: Functions that may be called, as OpenAI writes them.

    Raises:
        ApiError: 400, for messages or tools that the template cannot write, and for a model of plain text that needs
            other values than a message has.
    """
    mark = _free_mark([*_message_texts(messages), *_texts(tools)])
    cut = _cutter(model.encoder, mark)
    messages = [_cut_message(message, cut) for message in messages]
    tools = cast("Sequence[Mapping[str, object]]", _cut_value(tools, cut))
    if model.template.kind == "chat":
        text, unused = _render_chat(model.encoder, messages, tools)
    else:
        text, unused = _render_plain(model, messages, tools)
    segments = [Segment(part, trained=False) for part in text.split(mark)]
    ids = tuple(model.encoder.encode(segments).input_ids)
    if not ids:
        raise ApiError(400, "The messages have no text for the model to read.", param="messages")
    return Prompt(ids, unused)


def require_room(model: "OpenModel", prompt: Prompt) -> int | None:
    """How many tokens the context leaves for an answer; None for a model without a limit.

    Args:
        model: That will answer.
        prompt: Its prompt.

    Raises:
        ApiError: 400 `context_length_exceeded`, in the hosted words.
    """
    limit, length = model.context_tokens, len(prompt.token_ids)
    if limit is None:
        return None
    if length >= limit:
        message = (
            f"This model's maximum context length is {limit} tokens. However, your messages resulted in {length} "
            "tokens. Please reduce the length of the messages."
        )
        raise ApiError(400, message, param="messages", code="context_length_exceeded")
    return limit - length


def _render_chat(
    encoder: Encoder, messages: Sequence[Message], tools: Sequence[Mapping[str, object]]
) -> tuple[str, tuple[str, ...]]:
    conversation = Conversation(tuple(messages), {}, "messages", tools=tuple(tools))
    try:
        turns = choose_turns(conversation, encoder.render_chat)
        text = encoder.render_chat(turns, open_turn=True, tools=tools)
    except UserError as error:
        param = "tools" if tools and "the tools" in error.problem else "messages"
        raise ApiError(400, say_problem(error), param=param, code=error.code) from error
    except (TemplateError, TypeError, ValueError) as error:
        told = f"The model's chat template refuses the messages: {str(error)[:300]}"
        raise ApiError(400, told, param="messages", code="messages-invalid") from error
    names = ((number, message.name) for number, message in enumerate(messages) if message.name)
    return text, tuple(f"messages[{number}].name" for number, name in names if name not in text)


def _render_plain(
    model: "OpenModel", messages: Sequence[Message], tools: Sequence[Mapping[str, object]]
) -> tuple[str, tuple[str, ...]]:
    """What a model without roles is asked: the last message of a user."""
    template = model.template
    if tools:
        raise _not_plain("tools", "it was trained on plain text and knows no tools; leave `tools` out")
    asked = [number for number, message in enumerate(messages) if message.role == "user"]
    if not asked:
        raise _not_plain("messages", "it was trained on plain text; send a message of role 'user'")
    unused = tuple(f"messages[{number}]" for number in range(len(messages)) if number != asked[-1])
    content = messages[asked[-1]].content
    if template.kind == "document":
        return model.encoder.end + content, unused
    fields = template.prompt_fields
    if len(fields) != 1:
        told = f"its prompts have {len(fields)} fields ({', '.join(fields)})"
        raise _not_plain("messages", f"{told}; write the prompt yourself and POST it to /completions")
    return template.render_prompt({fields[0]: content}), unused


def _not_plain(param: str, reason: str) -> ApiError:
    return ApiError(400, f"This model cannot chat so: {reason}.", param=param, code="model-not-chat")


def _free_mark(texts: Sequence[str]) -> str:
    """A mark that no text holds."""
    for mark in _MARKS:
        if not any(mark in text for text in texts):
            return mark
    told = "The messages hold every noncharacter from U+FDD0 to U+FDEF, which are no text (Unicode, 23.7)."
    raise ApiError(400, told, param="messages", code="prompt-invalid")


def _cutter(encoder: Encoder, mark: str) -> Callable[[str], str]:
    """Puts the mark into every special token of a text, so that it is read as its letters."""

    def cut(text: str) -> str:
        special = encoder.special_texts(text)
        if not special:
            return text
        if min(map(len, special)) == 1:
            told = f"The messages hold {special}, which the model reads as a sign and not as text."
            raise ApiError(400, told, param="messages", code="prompt-invalid")
        signs = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
        divided = signs.sub(lambda found: found[0][:1] + mark + found[0][1:], text)
        # Behind a cut another sign may begin that the first one hid.
        return mark.join(cut(part) for part in divided.split(mark))

    return cut


def _cut_message(message: Message, cut: Callable[[str], str]) -> Message:
    calls = tuple(ToolCall(cut(call.id), cut(call.name), cut(call.arguments)) for call in message.tool_calls)
    content, name, answers = (cut(text) for text in (message.content, message.name, message.tool_call_id))
    return replace(message, content=content, name=name, tool_call_id=answers, tool_calls=calls)


def _cut_value(value: Any, cut: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, Mapping):
        return {cut(str(key)): _cut_value(each, cut) for key, each in value.items()}
    return [_cut_value(each, cut) for each in value] if isinstance(value, Sequence) else value


def _message_texts(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        yield message.content
        yield message.name
        yield message.tool_call_id
        for call in message.tool_calls:
            yield call.id + call.name + call.arguments


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield str(key)
            yield from _texts(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)
