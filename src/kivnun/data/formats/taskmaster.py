"""Taskmaster-4's rewards: a dialogue with calls of an API, the agent's next turn, and whether it was a good one."""

import json
from collections.abc import Mapping
from typing import cast

from kivnun.data.conversation import Conversation, Message, ToolCall
from kivnun.data.formats.base import Format
from kivnun.data.formats.calls import number_calls
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    parse_cell,
    read_list,
    read_object,
    refuse,
    refuse_unknown,
    require,
    show,
    text_fields,
)
from kivnun.data.formats.openai_chat import read_function, untrain
from kivnun.data.rows import Row

_KEYS = ("context", "generation", "reward")
_ROLES = {"agent": "assistant", "user": "user", "api": "tool"}


def _recognise(fields: Fields) -> str | None:
    return "has `context`, `generation` and `reward`" if all(key in fields for key in _KEYS) else None


def _read(row: Row) -> Conversation:
    problems: Problems = []
    context = read_list(row.fields, "context", problems) if require(row.fields, "context", problems) else []
    turns = [_read_turn(turn, f"context, turn {number}", problems) for number, turn in enumerate(context, start=1)]
    generation = read_object(row.fields, "generation", problems)
    answer = _read_turn(generation, "generation", problems) if generation else Message("assistant", "", trained=True)
    if answer.role not in ("assistant", ""):
        problems.append(("role-unknown", f"generation should be the agent's, got {show(generation.get('role'))}"))
    reward = row.fields.get("reward")
    if require(row.fields, "reward", problems) and _read_reward(reward) is None:
        problems.append(("label-invalid", f"field `reward` should be 1.0 or 0.0, got {show(reward)}"))
    refuse(row, problems)
    messages = number_calls((*untrain(_name_results(turns)), answer))
    extra = further_fields(row.fields, _KEYS)
    return Conversation(messages, text_fields(row.fields), row.where, desirable=_read_reward(reward), extra=extra)


def _read_reward(reward: object) -> bool | None:
    """Whether the answer is a good one; None where the reward does not say so."""
    try:
        number = float(cast("str", reward))
    except (TypeError, ValueError):
        return None
    return {1.0: True, 0.0: False}.get(number)


def _read_turn(turn: object, place: str, problems: Problems) -> Message:
    if not isinstance(turn, dict):
        problems.append(("message-type", f"{place} should be an object, got {show(turn)}"))
        return Message("", "", trained=False)
    name = turn.get("role")
    role = _ROLES.get(name, "") if isinstance(name, str) else ""
    if not role:
        problems.append(("role-unknown", f"{place} has role {show(name)} (known: {', '.join(_ROLES)})"))
    refuse_unknown(turn, ("role", "text", "api", "response"), place, problems)
    text, calls, response = turn.get("text"), turn.get("api"), turn.get("response")
    if text is None and calls is None and response is None:
        problems.append(("content-missing", f"{place} has neither text nor a call nor a response"))
    if calls is not None and role not in ("assistant", ""):
        problems.append(("field-unknown", f"{place} has `api`, which belongs to the agent's turns"))
    if response is not None and (role not in ("tool", "") or text is not None):
        problems.append(("field-unknown", f"{place} has `response`, which stands alone in turns of the api"))
    wrong = [key for key, kind in (("text", str), ("api", dict), ("response", dict)) if not _is(turn.get(key), kind)]
    problems += [("content-type", f"{place}: `{key}` has the wrong type: {show(turn[key])}") for key in wrong]
    if wrong:
        return Message(role, "", trained=False)
    made = [
        read_function({"name": function, "arguments": arguments}, "", f"{place}, call {function!r}", problems)
        for function, arguments in cast("Mapping[str, object]", calls or {}).items()
    ]
    said = str(text or "") if response is None else json.dumps(response, ensure_ascii=False)
    return Message(role, said, trained=role == "assistant", tool_calls=tuple(made))


def _is(value: object, kind: type) -> bool:
    return value is None or isinstance(value, kind)


def _name_results(turns: list[Message]) -> list[Message]:
    """The turns with what a function returned in place of {function: what it returned}, where that is the open call."""
    named: list[Message] = []
    opened: ToolCall | None = None
    for turn in turns:
        opened = turn.tool_calls[0] if len(turn.tool_calls) == 1 else opened
        if turn.role != "tool":
            named.append(turn)
            continue
        # A turn of the API may also be a plain text.
        response = parse_cell(turn.content)
        content = turn.content
        if opened is not None and isinstance(response, dict) and list(response) == [opened.name]:
            content = json.dumps(response[opened.name], ensure_ascii=False)
        named.append(Message("tool", content, trained=False))
        opened = None
    return named


TASKMASTER = Format(
    "taskmaster",
    'Taskmaster-4 rewards, only read: {"context": "[...]", "generation": "{...}", "reward": 1.0}',
    _recognise,
    _read,
)
"""Read only: as KTO rows, whose label says whether the reward is 1."""
