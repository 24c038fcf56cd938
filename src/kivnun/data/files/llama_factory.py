"""LLaMA-Factory's dataset_info.json: which file is what, and what its columns, keys and roles are called."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import orjson

INFO_NAME = "dataset_info.json"
_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "system": "system",
    "tools": "tools",
    "chosen": "chosen",
    "rejected": "rejected",
    "kto_tag": "label",
    "images": "images",
    "videos": "videos",
    "audios": "audios",
}
_SHAREGPT = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_OPENAI = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Entry:
    """One data set of a dataset_info.json.

    Attributes:
        name: What LLaMA-Factory calls it.
        file_name: File or folder, relative to dataset_info.json.
        renames: Conventional names of columns by their own.
        tags: Conventional names of a message's keys and roles by their own.
    """

    name: str
    file_name: str
    renames: Mapping[str, str]
    tags: Mapping[str, str]


def read_info(path: Path) -> list[Entry] | None:
    """The entries that name a file, or None if this is no dataset_info.json of LLaMA-Factory."""
    try:
        info = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    if not isinstance(info, dict) or not info or not all(isinstance(entry, dict) for entry in info.values()):
        return None
    entries = cast("dict[str, dict[str, object]]", info)
    sources = {"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"}
    if not all(sources & entry.keys() for entry in entries.values()):
        return None
    return list(_read_entries(entries))


def _read_entries(entries: Mapping[str, Mapping[str, object]]) -> Iterator[Entry]:
    for name, entry in entries.items():
        file_name = entry.get("file_name")
        if isinstance(file_name, str) and file_name:
            columns, tags = _texts(entry.get("columns")), _texts(entry.get("tags"))
            # Messages whose keys are OpenAI's are left as they are, for that is another conventional shape.
            is_openai = tags.get("role_tag") == "role" and tags.get("content_tag") == "content"
            names = _OPENAI if is_openai else _SHAREGPT
            messages = "messages" if is_openai else "conversations"
            renames = {own: {**_COLUMNS, "messages": messages}.get(column, column) for column, own in columns.items()}
            yield Entry(
                name,
                file_name,
                {own: conventional for own, conventional in renames.items() if own != conventional},
                {own: names[tag] for tag, own in tags.items() if tag in names and own != names[tag]},
            )


def rename_fields(
    fields: Mapping[str, object], renames: Mapping[str, str], tags: Mapping[str, str]
) -> dict[str, object]:
    """A row with conventional names of its columns, of its messages' keys and of their roles."""
    return {renames.get(name, name): _rename_messages(value, tags) for name, value in fields.items()}


def _rename_messages(value: object, tags: Mapping[str, str]) -> object:
    if not tags:
        return value
    if isinstance(value, list):
        return [_rename_messages(inner, tags) for inner in value]
    if not isinstance(value, dict):
        return value
    message = {tags.get(key, key): inner for key, inner in cast("dict[str, object]", value).items()}
    for key in ("from", "role"):
        role = message.get(key)
        if isinstance(role, str):
            message[key] = tags.get(role, role)
    return message


def _texts(value: object) -> dict[str, str]:
    pairs = cast("dict[object, object]", value) if isinstance(value, dict) else {}
    return {key: text for key, text in pairs.items() if isinstance(key, str) and isinstance(text, str)}
