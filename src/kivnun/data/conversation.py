"""The one shape that every row becomes, whatever its file looked like."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: system, developer, user, assistant or tool.
        content: Its text.
        trained: Whether the turn is learnt; only an assistant's turns can be.
    """

    role: str
    content: str
    trained: bool


@dataclass(frozen=True)
class Conversation:
    """A row: turns that end with the answer, and where they came from.

    Attributes:
        messages: The turns; the last trained one is the answer that is evaluated.
        fields: The row's own fields as text, for templates, labels and reports.
        where: `file:line` of the row.
    """

    messages: tuple[Message, ...]
    fields: Mapping[str, str]
    where: str

    @property
    def content_hash(self) -> str:
        """SHA-256 of what is said and learnt; the file, its order and unused columns do not matter."""
        turns = [[message.role, message.content, message.trained] for message in self.messages]
        return hashlib.sha256(orjson.dumps(turns)).hexdigest()

    @property
    def answer_turn(self) -> int:
        """Index of the answer: the last turn that is trained."""
        return max(index for index, message in enumerate(self.messages) if message.trained)

    @property
    def answer(self) -> str:
        """The answer's text."""
        return self.messages[self.answer_turn].content
