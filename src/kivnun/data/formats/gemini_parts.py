"""The contents of Google's Gemini: turns of `role` and `parts`, which are texts, pictures, calls and results.

Names are read as the REST interface writes them (`functionCall`) and as the Python one does (`function_call`), and
written as the former.
"""

import json
import mimetypes
from collections.abc import Mapping, Sequence
from typing import cast

import orjson

from kivnun.data.conversation import Image, Message, ToolCall
from kivnun.data.formats.calls import number_calls
from kivnun.data.formats.fields import Fields, Problems, did_you_mean, refuse_unknown, show
from kivnun.data.formats.openai_chat import read_function

MODEL, USER = "model", "user"
_ROLES = (USER, MODEL, "function", "tool")
# The one key of a result that is plain text.
_OUTPUT = "output"
_PART_KINDS = {
    "text": "text",
    "inlineData": "inlineData",
    "inline_data": "inlineData",
    "fileData": "fileData",
    "file_data": "fileData",
    "functionCall": "functionCall",
    "function_call": "functionCall",
    "functionResponse": "functionResponse",
    "function_response": "functionResponse",
}


def read_contents(contents: Sequence[object], problems: Problems, *, name: str = "contents") -> tuple[Message, ...]:
    """The turns of `contents`; every model turn is trained.

    A turn that holds results and texts becomes several.

    Args:
        contents: The turns as they stand in the row.
        problems: Takes what is wrong; the turns that are returned count only where nothing is added.
        name: The field that they stand in, for messages.
    """
    prefix = "" if name == "contents" else f"{name}, "
    messages: list[Message] = []
    for number, content in enumerate(contents, start=1):
        messages += read_content(content, f"{prefix}turn {number}", problems)
    return number_calls(messages)


def read_content(content: object, place: str, problems: Problems) -> list[Message]:
    """One entry of `contents`; `place` is what messages call it."""
    if not isinstance(content, dict):
        problems.append(("message-type", f"{place} should be an object, got {show(content)}"))
        return []
    role = content.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        known = ", ".join(_ROLES)
        problems.append(("role-unknown", f"{place} has role {show(role)}{did_you_mean(role, _ROLES)} (known: {known})"))
        role = USER
    place = f"{place} ({role})"
    refuse_unknown(content, ("role", "parts"), place, problems)
    parts = content.get("parts")
    if parts is None or parts == []:
        problems.append(("content-missing", f"{place} has no parts"))
        return []
    if not isinstance(parts, list):
        problems.append(("content-type", f"{place}: parts should be a list, got {show(parts)}"))
        return []
    if role == MODEL:
        return [_read_model_turn(parts, place, problems)]
    return _read_user_turns(parts, place, problems)


def read_part_texts(parts: Sequence[object], place: str, problems: Problems) -> str:
    """Parts that can only be texts, joined."""
    text = ""
    for number, part in enumerate(parts, start=1):
        kind, value = _open_part(part, f"{place}, part {number}", problems)
        if kind == "text":
            text += str(value)
        elif kind:
            problems.append(("content-type", f"{place}, part {number} should be a text, got {kind}"))
    return text


def _open_part(part: object, place: str, problems: Problems) -> tuple[str, object]:
    """What a part is, and its value; "" for one that is nothing known."""
    found = [key for key in part if key in _PART_KINDS and part[key] is not None] if isinstance(part, dict) else []
    if not isinstance(part, dict) or len(found) != 1:
        problems.append(("content-type", f"{place} should be one text, picture, call or result, got {show(part)}"))
        return "", None
    # `false` in `thought` says nothing; a thought that is one would be lost.
    rest = {key: value for key, value in part.items() if value is not False}
    refuse_unknown(rest, found, place, problems)
    kind, value = _PART_KINDS[found[0]], part[found[0]]
    wanted = str if kind == "text" else dict
    if not isinstance(value, wanted):
        what = "text" if wanted is str else "an object"
        problems.append(("content-type", f"{place}: {found[0]} should be {what}, got {show(value)}"))
        return "", None
    return kind, value


def _read_model_turn(parts: Sequence[object], place: str, problems: Problems) -> Message:
    text = ""
    calls: list[ToolCall] = []
    for number, part in enumerate(parts, start=1):
        where = f"{place}, part {number}"
        kind, value = _open_part(part, where, problems)
        if kind == "text":
            text += str(value)
            if calls and value:
                problems.append(("content-type", f"{where} is text behind a call; text comes before calls"))
        elif kind == "functionCall":
            calls.append(_read_call(cast("Fields", value), where, problems))
        elif kind == "functionResponse":
            problems.append(("content-type", f"{where} is a result of a function; results belong to user turns"))
        elif kind:
            problems.append(("image-on-answer", f"{where} is a picture or file; only user turns hold them"))
    return Message("assistant", text, trained=True, tool_calls=tuple(calls))


def _read_call(value: Fields, place: str, problems: Problems) -> ToolCall:
    refuse_unknown(value, ("id", "name", "args"), place, problems)
    arguments = value.get("args")
    function = {"name": value.get("name"), "arguments": {} if arguments is None else arguments}
    if not isinstance(function["arguments"], dict):
        problems.append(("field-type", f"{place}: args should be an object, got {show(arguments)}"))
        function["arguments"] = {}
    return read_function(function, _read_id(value), place, problems)


def _read_user_turns(parts: Sequence[object], place: str, problems: Problems) -> list[Message]:
    messages: list[Message] = []
    text, images, is_open = "", list[Image](), False
    for number, part in enumerate(parts, start=1):
        where = f"{place}, part {number}"
        kind, value = _open_part(part, where, problems)
        if kind == "functionResponse":
            if is_open:
                messages.append(Message("user", text, trained=False, images=tuple(images)))
                text, images, is_open = "", [], False
            messages.append(_read_result(cast("Fields", value), where, problems))
        elif kind == "functionCall":
            problems.append(("content-type", f"{where} is a call; calls belong to model turns"))
        elif kind == "text":
            text, is_open = text + str(value), True
        elif kind:
            image = _read_file(kind, cast("Fields", value), len(text), where, problems)
            images, is_open = [*images, *image], True
    return [*messages, Message("user", text, trained=False, images=tuple(images))] if is_open else messages


def _read_file(kind: str, value: Fields, position: int, place: str, problems: Problems) -> list[Image]:
    """A picture, as a list of one; [] where it is none."""
    is_inline = kind == "inlineData"
    source_keys = ("data",) if is_inline else ("fileUri", "file_uri")
    refuse_unknown(value, (*source_keys, "mimeType", "mime_type"), place, problems)
    mime_type = value.get("mimeType") or value.get("mime_type") or ""
    source = next((value[key] for key in source_keys if value.get(key)), None)
    if not isinstance(source, str) or not isinstance(mime_type, str) or (is_inline and not mime_type):
        problems.append(("content-type", f"{place}: {kind} should have mimeType and {source_keys[0]}"))
        return []
    if mime_type and not mime_type.startswith("image/"):
        problems.append(("content-type", f"{place} is {mime_type}; only pictures are read"))
        return []
    url = f"data:{mime_type};base64,{source}" if is_inline else source
    # What the address tells anyway is no news, and other formats could not hold it.
    return [Image(position, url, mime_type="" if mime_type == _guess_type(url) else mime_type)]


def _guess_type(url: str) -> str:
    """The type that an address ends in; "" where it ends in none, or is a data URL."""
    return "" if url.startswith("data:") else mimetypes.guess_type(url.partition("?")[0])[0] or ""


def _read_result(value: Fields, place: str, problems: Problems) -> Message:
    refuse_unknown(value, ("id", "name", "response"), place, problems)
    name, response = value.get("name"), value.get("response")
    if not isinstance(name, str) or not name:
        problems.append(("field-missing", f"{place} does not name its function"))
        name = ""
    if not isinstance(response, dict):
        problems.append(("content-type", f"{place}: response should be an object, got {show(response)}"))
        response = {}
    only = response.get(_OUTPUT) if len(response) == 1 else None
    text = only if isinstance(only, str) else json.dumps(response, ensure_ascii=False)
    return Message("tool", text, trained=False, name=name, tool_call_id=_read_id(value))


def _read_id(value: Fields) -> str:
    found = value.get("id")
    return found if isinstance(found, str) else ""


def write_contents(messages: Sequence[Message], losses: list[str]) -> list[dict[str, object]]:
    """Turns as `contents`; results that follow each other share one, as Gemini wants it.

    Args:
        messages: The turns, without the system turn.
        losses: Takes what the format cannot hold.
    """
    contents: list[dict[str, object]] = []
    is_after_result = False
    # A result without a name has that of its call.
    for message in number_calls(messages):
        parts = _write_parts(message, losses)
        if message.role == "tool" and is_after_result:
            cast("list[object]", contents[-1]["parts"]).extend(parts)
        else:
            contents.append({"role": MODEL if message.role == "assistant" else USER, "parts": parts})
        is_after_result = message.role == "tool"
    return contents


def _write_parts(message: Message, losses: list[str]) -> list[dict[str, object]]:
    if message.role == "tool":
        return [_write_result(message, losses)]
    calls = [_write_call(call, losses) for call in message.tool_calls]
    texts: list[dict[str, object]] = (
        [{"text": message.content}] if message.content or not (calls or message.images) else []
    )
    return [*_write_with_images(message, losses), *calls] if message.images else [*texts, *calls]


def _write_with_images(message: Message, losses: list[str]) -> list[dict[str, object]]:
    parts: list[dict[str, object]] = []
    start = 0
    for image in message.images:
        if image.position > start:
            parts.append({"text": message.content[start : image.position]})
        parts.append(_write_image(image, losses))
        start = image.position
    if start < len(message.content):
        parts.append({"text": message.content[start:]})
    return parts


def _write_image(image: Image, losses: list[str]) -> dict[str, object]:
    if image.detail not in ("", "auto"):
        losses.append(f"a picture has the detail {show(image.detail)}")
    head, comma, data = image.url.partition(",")
    mime_type, is_base64, rest = head.removeprefix("data:").partition(";base64")
    if head.startswith("data:"):
        if not comma or not is_base64 or rest or not mime_type:
            losses.append(f"a picture is no base64 data URL with a type: {show(image.url)}")
        return {"inlineData": {"mimeType": mime_type, "data": data}}
    known = image.mime_type or _guess_type(image.url)
    if not known.startswith("image/"):
        losses.append(f"a picture's address does not tell its type, which Gemini needs: {show(image.url)}")
    return {"fileData": {"mimeType": known, "fileUri": image.url}}


def _write_call(call: ToolCall, losses: list[str]) -> dict[str, object]:
    arguments = parse_object(call.arguments)
    if arguments is None:
        losses.append(f"the arguments of {show(call.name)} are no JSON object that can be kept: {show(call.arguments)}")
    return {"functionCall": {"name": call.name, "args": arguments}}


def _write_result(message: Message, losses: list[str]) -> dict[str, object]:
    if not message.name:
        losses.append(f"a result names no function: {show(message.content)}")
    response = parse_object(message.content)
    if response is None or (list(response) == [_OUTPUT] and isinstance(response[_OUTPUT], str)):
        response = {_OUTPUT: message.content}
    return {"functionResponse": {"name": message.name, "response": response}}


def parse_object(text: str) -> dict[str, object] | None:
    """The object that a JSON text stands for; None where it is no object, or where writing it again would change it."""
    try:
        value = orjson.loads(text)
        # orjson rounds integers of more than 64 bits and keeps the last of equal keys.
        exact = json.loads(text, object_pairs_hook=_refuse_repeated)
        orjson.dumps(value)
    except (ValueError, TypeError, RecursionError):
        return None
    return value if isinstance(value, dict) and value == exact else None


def _refuse_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def lower_types(schema: object) -> object:
    """A schema with types as JSON Schema writes them; Gemini writes `STRING` for `string`."""
    if not isinstance(schema, Mapping):
        return schema
    lowered = dict(cast("Fields", schema))
    if isinstance(lowered.get("type"), str):
        lowered["type"] = str(lowered["type"]).lower()
    for key in ("items", "additionalProperties"):
        if key in lowered:
            lowered[key] = lower_types(lowered[key])
    if isinstance(lowered.get("properties"), dict):
        properties = cast("Fields", lowered["properties"])
        lowered["properties"] = {name: lower_types(value) for name, value in properties.items()}
    if isinstance(lowered.get("anyOf"), list):
        lowered["anyOf"] = [lower_types(value) for value in cast("list[object]", lowered["anyOf"])]
    return lowered
