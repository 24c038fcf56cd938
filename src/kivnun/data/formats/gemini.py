"""Google's Gemini tuning rows: `contents`, `systemInstruction` and `tools` with function declarations."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from kivnun.data.conversation import Conversation, Message
from kivnun.data.formats.base import Format
from kivnun.data.formats.fields import (
    Fields,
    Problems,
    further_fields,
    parse_cell,
    read_list,
    refuse,
    refuse_losses,
    refuse_unknown,
    require,
    show,
    text_fields,
)
from kivnun.data.formats.gemini_parts import lower_types, read_contents, read_part_texts, write_contents
from kivnun.data.formats.losses import Room, find_losses
from kivnun.data.rows import Row

SYSTEM_KEYS = ("systemInstruction", "system_instruction")
_KEYS = frozenset({*SYSTEM_KEYS, "contents", "tools"})
# Keys that Gemini's own rows may have beside the turns: what a grader compares with, and settings of a request.
_KNOWN_EXTRA = frozenset({"references", "toolConfig", "generationConfig", "safetySettings", "labels"})
_FUNCTION_KEYS = ("name", "description", "parameters")
_ROOM = Room(tools=True, call_ids=False)


def read_system(fields: Fields, problems: Problems) -> tuple[Message, ...]:
    """The system instruction as a turn, or nothing; a plain text is taken too."""
    found = [key for key in SYSTEM_KEYS if fields.get(key) not in (None, "")]
    if not found:
        return ()
    if len(found) > 1:
        problems.append(("field-unknown", f"the row has both {found[0]} and {found[1]}"))
    value = parse_cell(fields[found[0]])
    if isinstance(value, str):
        return (Message("system", value, trained=False),)
    if not isinstance(value, dict) or not isinstance(value.get("parts"), list):
        problems.append(("field-type", f'field `{found[0]}` should be {{"parts": [...]}}, got {show(value)}'))
        return ()
    # The role of a system instruction is ignored by the service; any stands there.
    refuse_unknown(value, ("role", "parts"), found[0], problems)
    return (Message("system", read_part_texts(value["parts"], found[0], problems), trained=False),)


def read_turns(fields: Fields, problems: Problems) -> tuple[Message, ...]:
    """The system instruction and the contents of a row."""
    contents = read_list(fields, "contents", problems)
    if require(fields, "contents", problems) and not contents and not problems:
        problems.append(("messages-empty", "field `contents` has no turns"))
    return (*read_system(fields, problems), *read_contents(contents, problems))


def write_turns(conversation: Conversation, system_key: str, losses: list[str]) -> dict[str, object]:
    """The system instruction, under its key, and the contents.

    Args:
        conversation: The turns.
        system_key: `systemInstruction`, or its other spelling.
        losses: Takes what the format cannot hold.
    """
    messages = conversation.messages
    written: dict[str, object] = {}
    if messages and messages[0].role == "system":
        written[system_key] = {"role": "system", "parts": [{"text": messages[0].content}]}
        if messages[0].images:
            losses.append("the system turn has pictures")
        messages = messages[1:]
    if not messages:
        losses.append("it has no turns")
    losses += [
        f"a turn of the {message.role} has pictures"
        for message in messages
        if message.images and message.role != "user"
    ]
    written["contents"] = write_contents(messages, losses)
    return written


def without_images(conversation: Conversation) -> Conversation:
    """The conversation for `find_losses`: Gemini names the type of every picture, which other formats cannot."""
    messages = tuple(replace(message, images=()) if message.images else message for message in conversation.messages)
    return replace(conversation, messages=messages)


def _read_tools(fields: Fields, problems: Problems) -> tuple[Mapping[str, object], ...]:
    wrong: Problems = []
    entries = read_list(fields, "tools", wrong)
    problems += [("tools-invalid", message) for _, message in wrong]
    tools: list[Mapping[str, object]] = []
    for number, entry in enumerate(entries, start=1):
        place = f"tools, entry {number}"
        names = ("functionDeclarations", "function_declarations")
        found = next((entry[key] for key in names if key in entry), None) if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(found, list):
            problems.append(("tools-invalid", f"{place} should have functionDeclarations, got {show(entry)}"))
            continue
        _refuse_tool_keys(entry, names, place, problems)
        tools += _read_declarations(found, place, problems)
    return tuple(tools)


def _read_declarations(found: list[object], place: str, problems: Problems) -> list[Mapping[str, object]]:
    tools: list[Mapping[str, object]] = []
    for number, function in enumerate(found, start=1):
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            problems.append(("tools-invalid", f"{place}, function {number} has no name: {show(function)}"))
            continue
        _refuse_tool_keys(function, _FUNCTION_KEYS, f"{place}, function {function['name']!r}", problems)
        kept = {key: function[key] for key in _FUNCTION_KEYS if function.get(key) is not None}
        if "parameters" in kept:
            kept["parameters"] = lower_types(kept["parameters"])
        tools.append({"type": "function", "function": kept})
    return tools


def _refuse_tool_keys(item: Fields, known: tuple[str, ...], place: str, problems: Problems) -> None:
    wrong: Problems = []
    refuse_unknown(item, known, place, wrong)
    problems += [("tools-invalid", message) for _, message in wrong]


def _write_tools(conversation: Conversation, losses: list[str]) -> dict[str, object]:
    declarations: list[dict[str, object]] = []
    for tool in conversation.tools:
        function = tool.get("function")
        if not isinstance(function, dict) or any(key not in ("type", "function") for key in tool):
            losses.append(f"a tool is no function: {show(tool)}")
            continue
        declaration = {key: value for key, value in cast("Fields", function).items() if value is not None}
        # `strict: false` is what every function is without it.
        if declaration.get("strict") is False:
            del declaration["strict"]
        losses += [
            f"function {show(function.get('name'))} has the key `{key}`"
            for key in declaration
            if key not in _FUNCTION_KEYS
        ]
        if lower_types(declaration.get("parameters")) != declaration.get("parameters"):
            losses.append(f"function {show(function.get('name'))} has types in capitals")
        declarations.append(declaration)
    return {"tools": [{"functionDeclarations": declarations}]} if declarations else {}


def _recognise(fields: Fields) -> str | None:
    if "contents" not in fields:
        return None
    contents = parse_cell(fields["contents"])
    first = contents[0] if isinstance(contents, list) and contents else None
    return (
        "has `contents` with `role` and `parts`" if isinstance(first, dict) and "parts" in first else "has `contents`"
    )


def _read(row: Row) -> Conversation:
    problems: Problems = []
    messages = read_turns(row.fields, problems)
    tools = _read_tools(row.fields, problems)
    refuse(row, problems)
    return Conversation(messages, text_fields(row.fields), row.where, tools, extra=further_fields(row.fields, _KEYS))


def _write(conversation: Conversation) -> dict[str, object]:
    known = {key: value for key, value in conversation.extra.items() if key in _KNOWN_EXTRA}
    rest = {key: value for key, value in conversation.extra.items() if key not in _KNOWN_EXTRA}
    losses = find_losses(replace(without_images(conversation), extra=rest), _ROOM)
    written = write_turns(conversation, SYSTEM_KEYS[0], losses)
    written |= _write_tools(conversation, losses)
    refuse_losses(conversation, losses)
    return {**written, **known}


GEMINI = Format(
    "gemini",
    'Gemini tuning: {"contents": [{"role": "user", "parts": [{"text": "..."}]}, {"role": "model", "parts": [...]}]}',
    _recognise,
    _read,
    _write,
)
