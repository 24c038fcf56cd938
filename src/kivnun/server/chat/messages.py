"""The messages of a chat request, field by field as the API has them, and as conversations are kept here."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from kivnun.data.conversation import Message, ToolCall
from kivnun.server.bodies import RequestBody
from kivnun.server.errors import ApiError, invalid


class TextPart(RequestBody):
    """A piece of text; the only kind of part that models here read."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: Any = Field(None, description="Without effect: prefixes are kept by themselves.")


class RefusalPart(RequestBody):
    """A refusal that an assistant gave before."""

    type: Literal["refusal"]
    refusal: str


Parts = Annotated[list[TextPart], Field(min_length=1)]
Content = str | Parts


class SystemMessage(RequestBody):
    """What the model is told about itself; `developer`, the newer word, is written as in the rows of a training."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(RequestBody):
    """What a user says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(RequestBody):
    """A function that the model called."""

    name: str
    arguments: str
    parsed_arguments: Any = Field(None, description="Read and not needed: OpenAI's library sends it back.")


class AssistantCall(RequestBody):
    """A call that the model made."""

    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None


class AssistantMessage(RequestBody):
    """What the model said before, as it was answered."""

    role: Literal["assistant"]
    content: str | Annotated[list[TextPart | RefusalPart], Field(min_length=1)] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[AssistantCall] | None = None
    function_call: CalledFunction | None = None
    audio: None = None
    annotations: list[Any] | None = Field(None, description="Read and not needed: answers here have none.")
    parsed: Any = Field(None, description="Read and not needed: OpenAI's library sends it back.")


class ToolMessage(RequestBody):
    """What a called function gave."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = Field(None, description="The function's, as older programs write it.")


class FunctionMessage(RequestBody):
    """What a called function gave, in the API's older form."""

    role: Literal["function"]
    content: str | None
    name: str


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage, Field(discriminator="role")
]


def to_conversation(messages: Sequence[ChatMessage]) -> list[Message]:
    """Messages as conversations are kept here.

    Args:
        messages: Of a request.

    Raises:
        ApiError: 400, for a tool's message that answers no call, an assistant's that says nothing, or a message behind
            calls that were not answered.
    """
    open_calls: set[str] = set()
    made: list[Message] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in open_calls:
                told = "messages with role 'tool' must be a response to a preceding message with 'tool_calls'."
                raise invalid(f"{where}.role", f"Invalid parameter: {told}")
            open_calls.discard(message.tool_call_id)
        elif open_calls:
            told = "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            told += f"'tool_call_id'. These had no response: {', '.join(sorted(open_calls))[:200]}"
            raise invalid(f"{where}.role", told)
        if isinstance(message, AssistantMessage):
            open_calls = {call.id for call in message.tool_calls or []}
        made.append(_to_message(message, where))
    return made


def _to_message(message: ChatMessage, where: str) -> Message:
    if isinstance(message, SystemMessage):
        return Message(message.role, join_parts(message.content), trained=False, name=message.name or "")
    if isinstance(message, UserMessage):
        return Message("user", join_parts(message.content), trained=False, name=message.name or "")
    if isinstance(message, AssistantMessage):
        return _to_answer(message, where)
    if isinstance(message, ToolMessage):
        text, name = join_parts(message.content), message.name or ""
        return Message("tool", text, trained=False, tool_call_id=message.tool_call_id, name=name)
    return Message("tool", message.content or "", trained=False, name=message.name)


def _to_answer(message: AssistantMessage, where: str) -> Message:
    calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []]
    if message.function_call is not None:
        calls.append(ToolCall("", message.function_call.name, message.function_call.arguments))
    content = message.refusal if message.content is None else join_parts(message.content)
    if content is None and not calls:
        told = f"Invalid value for '{where}.content': expected a string, got null."
        raise ApiError(400, told, param=f"{where}.content")
    return Message("assistant", content or "", trained=False, name=message.name or "", tool_calls=tuple(calls))


def join_parts(content: str | Sequence[TextPart | RefusalPart]) -> str:
    """A message's text; parts are joined as they stand, as in data files.

    Args:
        content: A text or parts.
    """
    return content if isinstance(content, str) else "".join(_part_texts(content))


def _part_texts(parts: Sequence[TextPart | RefusalPart]) -> Iterator[str]:
    for part in parts:
        yield part.text if isinstance(part, TextPart) else part.refusal
