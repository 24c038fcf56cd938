"""Conversations for the tests of checks on one row."""

from kivnun.data.checks.row import check_row
from kivnun.data.conversation import Conversation, Message, ToolCall
from kivnun.data.rows import Row

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


def turn(role: str, content: str, **more: object) -> Message:
    """A turn that is trained where it is an assistant's."""
    return Message(role, content, bool(more.pop("trained", role == "assistant")), **more)


def talk(*turns: tuple[str, str] | Message, **more: object) -> Conversation:
    """A row of turns, each a message or its role and content."""
    messages = tuple(each if isinstance(each, Message) else turn(*each) for each in turns)
    return Conversation(messages, dict(more.pop("fields", {})), "rows.jsonl:7", **more)


def ask(question: str, answer: str = "Yes, of course.", **more: object) -> Conversation:
    """A row of a question and its answer."""
    return talk(("user", question), ("assistant", answer), **more)


def calls(*named: tuple[str, str, str]) -> Message:
    """An assistant's turn of calls, each an id, a name and arguments."""
    return turn("assistant", "", tool_calls=tuple(ToolCall(*each) for each in named))


def result(call_id: str = "", content: str = "12 degrees") -> Message:
    """A tool's turn."""
    return turn("tool", content, tool_call_id=call_id)


def codes(conversation: Conversation, format_name: str = "") -> list[str]:
    """The codes of what is found in a row."""
    return [finding.code for finding in check_row(conversation, Row({}, "rows.jsonl", 7), format_name)]


def message(conversation: Conversation, code: str) -> str:
    """What is said of the only finding of a code."""
    findings = check_row(conversation, Row({}, "rows.jsonl", 7))
    (found,) = [finding.message for finding in findings if finding.code == code]
    return found
