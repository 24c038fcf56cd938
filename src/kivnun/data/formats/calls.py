"""Calls in formats that number none, or that hold arguments as objects."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from kivnun.data.conversation import Message, ToolCall
from kivnun.data.formats.fields import is_deep


def number_calls(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns with an id at every call that has none, and with the call that every result answers.

    A result without an id answers the first open call, of its own function where it names one. What already has an id
    keeps it, and a result that answers nothing keeps none.
    """
    taken = {call.id for message in messages for call in message.tool_calls}
    opened: list[ToolCall] = []
    numbered: list[Message] = []
    count = 0
    for message in messages:
        turn = message
        if message.tool_calls:
            calls: list[ToolCall] = []
            for call in message.tool_calls:
                count += 1
                calls.append(call if call.id else replace(call, id=_free_id(count, taken)))
            opened += calls
            turn = replace(message, tool_calls=tuple(calls))
        elif message.role == "tool":
            turn = _link_result(message, opened)
        numbered.append(turn)
    return tuple(numbered)


def _free_id(count: int, taken: set[str]) -> str:
    name = f"call_{count}"
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _link_result(message: Message, opened: list[ToolCall]) -> Message:
    for call in opened:
        is_meant = message.tool_call_id == call.id if message.tool_call_id else message.name in ("", call.name)
        if is_meant:
            opened.remove(call)
            return replace(message, tool_call_id=call.id, name=message.name or call.name)
    return message


def links_follow_order(messages: Sequence[Message]) -> bool:
    """Whether nothing is lost when ids and the names of results are left out and `number_calls` makes them again."""
    return _links(messages) == _links(number_calls(leave_out_ids(messages)))


def leave_out_ids(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns without call ids and without the names of the functions that results come from."""
    return tuple(
        replace(message, name="", tool_call_id="")
        if message.role == "tool"
        else replace(message, tool_calls=tuple(replace(call, id="") for call in message.tool_calls))
        if message.tool_calls
        else message
        for message in messages
    )


def _links(messages: Sequence[Message]) -> list[tuple[str, list[int]]]:
    """For every result, the function and the numbers of the calls that it answers."""
    calls = [call for message in messages for call in message.tool_calls]
    links: list[tuple[str, list[int]]] = []
    for message in messages:
        if message.role == "tool":
            answered = [number for number, call in enumerate(calls) if call.id == message.tool_call_id and call.id]
            name = message.name or (calls[answered[0]].name if answered else "")
            links.append((name, answered))
    return links


def parse_arguments(arguments: str) -> Mapping[str, object] | None:
    """A call's arguments as an object, or None where that would lose something or they are no object."""
    try:
        value = json.loads(arguments, object_pairs_hook=_refuse_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and not is_deep(value) else None


def write_arguments(arguments: Mapping[str, object]) -> str:
    """An object of arguments as JSON text."""
    return json.dumps(arguments, ensure_ascii=False)


def _refuse_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
