"""Every check that looks at one row alone, behind quick looks that let clean rows pass at once."""

from kivnun.data.checks.learning import (
    check_answers,
    check_disclaimer,
    check_leftovers,
    check_none_texts,
    check_reference,
    may_hold_leftovers,
    names_reference,
)
from kivnun.data.checks.personal import check_personal, may_hold_personal
from kivnun.data.checks.problem import Problem
from kivnun.data.checks.text import ascii_marks, check_text, looks_clean
from kivnun.data.checks.tools import check_tools
from kivnun.data.checks.turns import check_pictures, check_turns
from kivnun.data.conversation import Conversation
from kivnun.data.findings import Finding
from kivnun.data.rows import Row


def check_row(conversation: Conversation, row: Row, format_name: str = "") -> list[Finding]:
    """What is wrong with one row: its turns, calls, answers, characters and personal data.

    Args:
        conversation: The row as its format read it.
        row: The row, for its place.
        format_name: The format, where it is known; without it, rows for reinforcement and plain documents are told by
            their shape.
    """
    reinforcement = _is_reinforcement(conversation, format_name)
    problems = check_turns(conversation, reinforcement=reinforcement, document=_is_document(conversation, format_name))
    problems += check_answers(conversation, completion=format_name == "prompt-completion")
    problems += check_none_texts(conversation)
    if reinforcement:
        problems += check_reference(conversation.extra)
    special = [turn for turn in conversation.messages if turn.tool_calls or turn.images or turn.role == "tool"]
    if special or conversation.tools:
        problems += check_tools(conversation)
        problems += check_pictures(conversation)
    pieces = [turn.content for turn in conversation.messages]
    pieces += [call.arguments for turn in special for call in turn.tool_calls]
    if conversation.rejected is not None:
        pieces.append(conversation.rejected.content)
        pieces += [call.arguments for call in conversation.rejected.tool_calls]
    problems += _character_problems(conversation, "\n".join(pieces))
    return [Finding(code, row.file, row.line, message) for code, message in problems]


def _character_problems(conversation: Conversation, joined: str) -> list[Problem]:
    """What a look at the letters of all texts finds; each text for itself only where the whole calls for it."""
    marks = ascii_marks(joined)
    problems = check_disclaimer(conversation, joined)
    clean = looks_clean(joined, marks)
    personal = may_hold_personal(joined, marks)
    leftovers = may_hold_leftovers(joined, marks)
    if clean and not personal and not leftovers:
        return problems
    texts = _named_texts(conversation)
    problems += [] if clean else check_text(texts)
    problems += check_leftovers(texts) if leftovers else []
    return problems + (check_personal(texts) if personal else [])


def _named_texts(conversation: Conversation) -> list[tuple[str, str]]:
    """Every text of a row behind the words that say where it stands."""
    texts: list[tuple[str, str]] = []
    for number, turn in enumerate(conversation.messages, 1):
        texts.append((f"turn {number} ({turn.role})", turn.content))
        texts += [(f"turn {number}, call of `{call.name[:40]}`", call.arguments) for call in turn.tool_calls]
    if conversation.rejected is not None:
        texts.append(("rejected answer", conversation.rejected.content))
        texts += [("call of the rejected answer", call.arguments) for call in conversation.rejected.tool_calls]
    return texts


def _is_reinforcement(conversation: Conversation, format_name: str) -> bool:
    if format_name:
        return format_name == "openai-reinforcement"
    messages = conversation.messages
    if not conversation.extra or not messages or messages[-1].role != "user":
        return False
    return not any(turn.trained for turn in messages) and names_reference(conversation.extra)


def _is_document(conversation: Conversation, format_name: str) -> bool:
    if format_name:
        return format_name == "text"
    return len(conversation.messages) == 1 and set(conversation.fields) == {"text"}
