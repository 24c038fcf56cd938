"""Olive's files: JSON and YAML, whole or in the pieces that tutorials print, with the line of every key."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kivnun.errors import UserError
from kivnun.olive.export_keys import EXPORT_PASSES, REFUSED_PASSES
from kivnun.olive.method_keys import METHODS, REFUSED_METHODS
from kivnun.olive.other_tools import refuse_file
from kivnun.recipe.document import MalformedDocumentError, Value, read_document

OLIVE_GROUPS = (
    *("input_model", "model", "data_configs", "passes", "pass_flows", "engine", "systems", "evaluators"),
    *("search_strategy", "search_space", "training_config", "azureml_client", "workflow_id"),
)
"""What stands at the top of an Olive file and of no recipe."""
RECIPE_GROUPS = ("base_model", "data", "method", "training")

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
HINT = "docs/reference/olive.md lists every key of Olive's files and what it becomes"


@dataclass(frozen=True)
class OliveFile:
    """An Olive file as plain values."""

    path: Path
    """The file."""
    value: dict[str, Value]
    """What it says."""
    lines: dict[str, int]
    """The line of every key, by the dotted key."""

    def locate(self, key: str) -> str:
        """The file with the line of a key, or of the nearest group around it."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{self.path}:{self.lines.get(key, 1)}"


def is_olive(value: Value) -> bool:
    """Whether a document is an Olive file and not a recipe."""
    if not isinstance(value, dict) or any(name in value for name in RECIPE_GROUPS):
        return False
    return any(name in value for name in OLIVE_GROUPS) or any(map(is_pass, value.values()))


def is_pass(value: object) -> bool:
    """Whether a value is one pass, as tutorials print them without what is around."""
    kind = cast("dict[str, object]", value).get("type") if isinstance(value, dict) else None
    known = (*METHODS, *REFUSED_METHODS, *EXPORT_PASSES, *REFUSED_PASSES)
    return isinstance(kind, str) and kind.lower() in known


def read_olive_file(path: Path) -> OliveFile | None:
    """Read a file, if it is an Olive file; a recipe, or what cannot be read as either, is None.

    Raises:
        UserError: `olive-invalid` for an Olive file with keys that stand twice or are no text; `other-tool` for a file
            of AutoTrain or TRL.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    document = None
    for candidate in _readings(text):
        try:
            document = read_document(candidate)
        except MalformedDocumentError:
            continue
        break
    if document is not None:
        refuse_file(str(path), document)
    if document is None or not is_olive(document.value):
        return None
    if document.problems:
        details = [f"{path}:{line}: {'.'.join(map(str, key))}: {text}" for line, key, text in document.problems]
        count = f"{len(details)} problem{'s' if len(details) > 1 else ''}"
        raise UserError("olive-invalid", f"{count} in {path}", hint=HINT, details=details)
    lines = {".".join(map(str, key)): line for key, line in document.lines.items()}
    return OliveFile(path, cast("dict[str, Value]", _joined(document.value)), lines)


def _readings(text: str) -> list[str]:
    """The text as it is, or for JSON without its tabs, or with the braces that a piece of a file lacks."""
    if not text.lstrip().startswith(("{", '"')):
        return [text]
    # YAML, which gives the lines, has no tabs between values; those inside of strings stay.
    parts: list[str] = []
    end = 0
    for match in _STRING.finditer(text):
        parts += [text[end : match.start()].replace("\t", " "), match[0]]
        end = match.end()
    plain = "".join([*parts, text[end:].replace("\t", " ")])
    return [plain] if text.lstrip().startswith("{") else ["{" + plain + "}", plain]


def _joined(value: Value) -> Value:
    """Text with the halves of characters beyond 16 bits joined, as JSON escapes them."""
    if isinstance(value, dict):
        return {str(_joined(key)): _joined(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_joined(item) for item in value]
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value
