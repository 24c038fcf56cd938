"""A conversation through a model's own chat template: pieces that are trained or not, and nothing of the row lost.

Templates disagree on how a call is written down: most want its arguments as an object, some as JSON text, and some
write calls only of turns that have no content. Each of these spellings is tried until the template writes everything.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import orjson
from jinja2 import TemplateError

from kivnun.data.conversation import Conversation, Message, ToolCall
from kivnun.errors import UserError

Turn = Mapping[str, object]
RenderChat = Callable[[Sequence[Turn], bool, Sequence[Turn]], str]
"""Messages, whether a new assistant turn is opened, and tools -> text; the tokenizer's chat template."""

OPEN, CLOSED = True, False
# What a template's own code raises on turns of a kind that it does not know.
_REFUSALS = (TemplateError, TypeError, ValueError)


@dataclass(frozen=True)
class Segment:
    """A piece of a row's text that is trained or not, and how much each of its tokens counts if it is."""

    text: str
    trained: bool
    weight: float = 1.0


@dataclass(frozen=True)
class _Spelling:
    """One way to write down what chat templates disagree on."""

    arguments_as_text: bool = False
    leave_out_content: bool = False
    developer_role: str = "developer"


_SPELLINGS = (
    _Spelling(),
    _Spelling(arguments_as_text=True),
    _Spelling(leave_out_content=True),
    _Spelling(arguments_as_text=True, leave_out_content=True),
)


def render_conversation(conversation: Conversation, render_chat: RenderChat) -> list[Segment]:
    """A row's text in segments; each trained turn, with the sign that ends it, is a segment of its own.

    Raises:
        UserError: `nothing-to-learn` where no turn is trained; `messages-invalid` where the chat template refuses the
            turns, leaves out what the row has, or rewrites earlier turns, so that no prefix of the conversation is
            what the model would see when it is used.
    """
    if not any(message.trained for message in conversation.messages):
        raise UserError(
            "nothing-to-learn",
            f"{conversation.where}: no turn is trained",
            hint="add an answer, or give an assistant's turn weight 1; rows with a prompt only are for reinforcement",
        )
    turns = choose_turns(conversation, render_chat)
    try:
        return _cut_turns(conversation, turns, render_chat)
    except _REFUSALS as error:
        raise _refused(conversation, error) from error


def render_untrained(conversation: Conversation, render_chat: RenderChat) -> str:
    """The text of a row that nothing is learnt from; where it ends with a question, the answer's turn is opened.

    Raises:
        UserError: `messages-invalid`, as for `render_conversation`.
    """
    turns = choose_turns(conversation, render_chat)
    is_answered = conversation.messages[-1].role == "assistant"
    try:
        return render_chat(turns, CLOSED if is_answered else OPEN, conversation.tools)
    except _REFUSALS as error:
        raise _refused(conversation, error) from error


def choose_turns(conversation: Conversation, render_chat: RenderChat) -> list[Turn]:
    """A row's messages in a form that this chat template writes whole.

    Raises:
        UserError: `messages-invalid` where there is none, or where the row has pictures.
    """
    if not conversation.tools and all(map(_is_plain, conversation.messages)):
        return [{"role": message.role, "content": message.content} for message in conversation.messages]
    if any(message.images for message in conversation.messages):
        raise UserError(
            "messages-invalid",
            f"{conversation.where}: the row has a picture, and only text can be trained here",
            hint="take rows with pictures out, or train them with a service that reads pictures",
        )
    problems: list[str] = []
    for spelling in _spellings_of(conversation, render_chat):
        turns = [_write_turn(message, spelling) for message in conversation.messages]
        try:
            lost = list(_find_lost(conversation, turns, render_chat))
        except _REFUSALS as error:
            problems.append(f"refuses the turns: {error}")
            continue
        if not lost:
            return turns
        problems.append(f"leaves out {', '.join(lost)}")
    # What comes nearest to the whole row is what its author has to know.
    problem = min(problems, key=lambda text: (text.startswith("refuses"), len(text)))
    raise UserError(
        "messages-invalid",
        f"{conversation.where}: the model's chat template {problem}",
        hint="use a model whose chat template knows tools and these roles, or take them out of the rows",
    )


def row_texts(conversation: Conversation) -> Iterator[tuple[str, str]]:
    """Every text that a row brings into a chat, with a name for it."""
    for number, message in enumerate(conversation.messages, start=1):
        turn = f"turn {number} ({message.role})"
        yield turn, message.content
        if message.name:
            yield f"the name of {turn}", message.name
        for call in message.tool_calls:
            yield f"a call in {turn}", f"{call.name}({call.arguments})"
    if conversation.rejected is not None:
        yield "the rejected answer", conversation.rejected.content
    for tool in conversation.tools:
        yield f"tool {tool_name(tool)!r}", orjson.dumps(tool).decode()


def tool_name(tool: Mapping[str, object]) -> str:
    """The name of a declared function."""
    function = tool.get("function")
    return str(cast("Mapping[str, object]", function).get("name", "")) if isinstance(function, Mapping) else ""


def _is_plain(message: Message) -> bool:
    """Whether role and content are all that a turn has, and its role is one that every template knows."""
    return not (
        message.tool_calls
        or message.name
        or message.tool_call_id
        or message.images
        or message.role in {"developer", "tool"}
    )


def _spellings_of(conversation: Conversation, render_chat: RenderChat) -> Iterator[_Spelling]:
    """The spellings that make a difference to a row, the likeliest first."""
    has_calls = any(message.tool_calls for message in conversation.messages)
    roles = ("developer",)
    if any(message.role == "developer" for message in conversation.messages):
        roles = ("developer", "system") if _knows_developer(render_chat) else ("system", "developer")
    for role in roles:
        for spelling in _SPELLINGS if has_calls else _SPELLINGS[:1]:
            yield _Spelling(spelling.arguments_as_text, spelling.leave_out_content, role)


def _knows_developer(render_chat: RenderChat) -> bool:
    """Whether a template has a form of its own for developer turns.

    One that writes down any role alike has never shown its model this one: there the turn is written as the system's,
    so that rows and requests with either word, which mean the same, are the same prompt.
    """

    def shown(role: str) -> str:
        turns = [{"role": role, "content": "x"}, {"role": "user", "content": "x"}]
        return render_chat(turns, CLOSED, ()).replace(role, "*")

    try:
        return shown("developer") != shown("stranger")
    except _REFUSALS:
        # Who refuses strangers and not developers knows them; who refuses both is tried in either case.
        return True


def _write_turn(message: Message, spelling: _Spelling) -> Turn:
    role = spelling.developer_role if message.role == "developer" else message.role
    turn: dict[str, object] = {"role": role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [_write_call(call, spelling) for call in message.tool_calls]
        if spelling.leave_out_content and not message.content:
            del turn["content"]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.name:
        turn["name"] = message.name
    return turn


def _write_call(call: ToolCall, spelling: _Spelling) -> dict[str, object]:
    arguments = None if spelling.arguments_as_text else _read_arguments(call)
    function = {"name": call.name, "arguments": call.arguments if arguments is None else arguments}
    written: dict[str, object] = {"type": "function", "function": function}
    return {"id": call.id, **written} if call.id else written


def _read_arguments(call: ToolCall) -> dict[str, object] | None:
    """A call's arguments as an object; None where they are no JSON text of one."""
    try:
        value = orjson.loads(call.arguments)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def _find_lost(conversation: Conversation, turns: Sequence[Turn], render_chat: RenderChat) -> Iterator[str]:
    """What of a row does not stand in its text: a template that knows no tools leaves them out without a word."""
    text = render_chat(turns, CLOSED, conversation.tools)
    missing = [tool_name(tool) for tool in conversation.tools if tool_name(tool) not in text]
    # A tool's name may stand in the turns as well: only a text that changes with the tools holds them.
    if conversation.tools and (missing or render_chat(turns, CLOSED, ()) == text):
        yield f"the tools ({', '.join(missing or map(tool_name, conversation.tools))})"
    for number, message in enumerate(conversation.messages, start=1):
        for call in message.tool_calls:
            if not _holds_call(text, call):
                yield f"the call of {call.name} in turn {number}"
        if message.role in {"tool", "developer"} and not _holds_text(text, message.content):
            yield f"turn {number} ({message.role})"
    bare = [{key: value for key, value in turn.items() if key != "tool_calls"} for turn in turns]
    if bare != turns and _renders_alike(bare, text, conversation, render_chat):
        yield "all calls"


def _renders_alike(bare: Sequence[Turn], text: str, conversation: Conversation, render_chat: RenderChat) -> bool:
    """Whether turns without their calls give the same text; a template that refuses them does not."""
    try:
        return render_chat(bare, CLOSED, conversation.tools) == text
    except _REFUSALS:
        return False


def _holds_call(text: str, call: ToolCall) -> bool:
    """Whether a call's name and arguments stand in a text, and stand there as JSON rather than as Python writes it."""
    if call.name not in text:
        return False
    arguments = _read_arguments(call)
    return not arguments or (repr(arguments) not in text and all(_holds_text(text, name) for name in arguments))


def _holds_text(text: str, content: str) -> bool:
    """Whether a turn's words stand in a text as they are, or as a JSON string."""
    words = content.strip()
    return words in text or orjson.dumps(words).decode()[1:-1] in text


def _cut_turns(conversation: Conversation, turns: Sequence[Turn], render_chat: RenderChat) -> list[Segment]:
    segments: list[Segment] = []
    done = ""
    tools = conversation.tools
    for index, message in enumerate(conversation.messages):
        if not message.trained:
            continue
        opened, closed = render_chat(turns[:index], OPEN, tools), render_chat(turns[: index + 1], CLOSED, tools)
        if not (opened.startswith(done) and closed.startswith(opened)):
            raise UserError(
                "messages-invalid",
                f"{conversation.where}: the model's chat template changes earlier turns when turn {index + 1} is added",
                hint="train on the last turn only: set weight 0 on the earlier assistant messages",
            )
        answer = closed[len(opened) :]
        # What a template writes between turns stands behind the end-of-turn token, and nobody has to learn it.
        body = answer.rstrip()
        segments += [Segment(opened[len(done) :], trained=False), Segment(body, trained=True, weight=message.weight)]
        segments += [Segment(answer[len(body) :], trained=False)] if body != answer else []
        done = closed
    return segments


def _refused(conversation: Conversation, error: Exception) -> UserError:
    return UserError(
        "messages-invalid",
        f"{conversation.where}: the model's chat template refuses the turns: {error}",
        hint="order and name the turns as this model expects them",
    )
