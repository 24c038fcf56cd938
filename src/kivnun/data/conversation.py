"""The one shape that every row becomes, whatever its file looked like."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant makes.

    Attributes:
        id: What the answer to the call names; "" where the file has none.
        name: The function.
        arguments: Its arguments as JSON text, as they stand in the file.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture inside a message.

    Attributes:
        position: Number of characters of the message's content that stand before it.
        url: Where it lies: http, gs or data URL.
        detail: How closely it is looked at (OpenAI: auto, low, high), or "".
        mime_type: Its type where the file tells it, or "".
    """

    position: int
    url: str
    detail: str = ""
    mime_type: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: system, developer, user, assistant or tool.
        content: Its text; the parts of list content joined as they stand.
        trained: Whether the turn is learnt; only an assistant's turns can be.
        name: Who speaks, or which function answers; "" for none.
        tool_calls: Calls of an assistant's turn.
        tool_call_id: The call that a tool's turn answers; "" where the file names none.
        images: Pictures, by their place in the content.
        weight: How much each token of a trained turn counts, above 0 and at most 1.
    """

    role: str
    content: str
    trained: bool
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    images: tuple[Image, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Conversation:
    """A row: turns that end with the answer, and where they came from.

    Attributes:
        messages: The turns; the last trained one is the answer that is evaluated. Of a preference row, the last one is
            the preferred answer. A row for reinforcement ends with the user and has no trained turn.
        fields: The row's own fields as text, for templates, labels and reports.
        where: `file:line` of the row.
        tools: The functions that may be called, as OpenAI writes them: {"type": "function", "function": {...}}.
        parallel_tool_calls: Whether several may be called at once, where the row says so.
        rejected: The answer that is not wanted in place of the last message, of a preference row.
        desirable: Whether the answer is a good one, of a KTO row.
        extra: The row's further keys, which are no part of its format (OpenAI's reinforcement rows: `item.*`).
    """

    messages: tuple[Message, ...]
    fields: Mapping[str, str]
    where: str
    tools: tuple[Mapping[str, object], ...] = ()
    parallel_tool_calls: bool | None = None
    rejected: Message | None = None
    desirable: bool | None = None
    extra: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def content_hash(self) -> str:
        """SHA-256 of what is said and learnt; the file, its order and unused columns do not matter."""
        turns: list[object] = [_turn_key(message) for message in self.messages]
        if self.tools:
            turns.append({"tools": self.tools})
        if self.rejected is not None:
            turns.append({"rejected": _turn_key(self.rejected)})
        if self.desirable is not None:
            turns.append({"desirable": self.desirable})
        return hashlib.sha256(orjson.dumps(turns)).hexdigest()

    @property
    def answer_turn(self) -> int:
        """Index of the answer: the last turn that is trained.

        Raises:
            ValueError: If no turn is trained.
        """
        return max(index for index, message in enumerate(self.messages) if message.trained)

    @property
    def answer(self) -> str:
        """The answer's text."""
        return self.messages[self.answer_turn].content


def _turn_key(message: Message) -> list[object]:
    """What of a turn counts: role, content and how much it is trained, then what only some turns have."""
    trained = message.weight if message.trained and message.weight != 1 else message.trained
    key: list[object] = [message.role, message.content, trained]
    if message.name or message.tool_calls or message.tool_call_id or message.images:
        calls = [[call.name, call.arguments] for call in message.tool_calls]
        images = [[image.position, image.url] for image in message.images]
        key.append({"name": message.name, "calls": calls, "images": images})
    return key
