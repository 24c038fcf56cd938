"""The part of Go's text/template that Modelfiles here use: written, and read back to prove that it says the same.

Text in `{{ }}` is one of: a field (`.Prompt`, `.System`, `.Content`), a quoted text, `if` with a field or with
`eq .Role "..."`, `else`, `end`, and `range .Messages` (https://pkg.go.dev/text/template; Ollama's fields are described
in https://docs.ollama.com/modelfile).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Message = Mapping[str, str]

_ACTION = re.compile(r"\{\{ (.*?) \}\}", re.DOTALL)
_BRACES = re.compile(r"\{\{|\{\Z")
_NOTHING = ("end of the template", "")


@dataclass
class _Reader:
    """The pieces of a template and how far they are read."""

    pieces: Sequence[tuple[str, str]]
    place: int = 0

    def peek(self) -> tuple[str, str]:
        """The next piece."""
        return self.pieces[self.place] if self.place < len(self.pieces) else _NOTHING


def quote(text: str) -> str:
    """Text as it stands in a template: braces that would open an action, alone or with what follows, are quoted."""
    return _BRACES.sub(lambda braces: f'{{{{ "{braces[0]}" }}}}', text)


def render_go(template: str, *, system: str = "", prompt: str = "", messages: Sequence[Message] = ()) -> str:
    """What Ollama would send to the model.

    Args:
        template: The template.
        system: All system messages.
        prompt: The last user message.
        messages: All messages, with role and content.

    Raises:
        ValueError: For anything but the part of the language that is used here.
    """
    reader = _Reader(list(_cut(template)))
    text = _render(reader, {".System": system, ".Prompt": prompt}, messages)
    if reader.place != len(reader.pieces):
        raise ValueError("an `end` or `else` without its beginning")
    return text


def _cut(template: str) -> Iterator[tuple[str, str]]:
    """Texts and actions; as in Go, the first two braces open an action whatever follows them."""
    end = 0
    while (start := template.find("{{", end)) >= 0:
        action = _ACTION.match(template, start)
        if action is None:
            raise ValueError(f"`{template[start : start + 20]}` is no action that is known here")
        yield "text", template[end:start]
        yield "action", action[1]
        end = action.end()
    yield "text", template[end:]


def _render(reader: _Reader, fields: Mapping[str, str], messages: Sequence[Message]) -> str:
    """Everything up to the `else` or `end` of the block that is read."""
    out: list[str] = []
    while reader.peek() != _NOTHING:
        kind, text = reader.peek()
        if kind == "action" and text.split(" ")[0] in ("else", "end"):
            break
        reader.place += 1
        if kind == "text":
            out.append(text)
        elif text.startswith("if "):
            out.append(_render_if(reader, text.removeprefix("if "), fields, messages))
        elif text == "range .Messages":
            out.append(_render_range(reader, fields, messages))
        else:
            out.append(_value(text, fields))
    return "".join(out)


def _render_range(reader: _Reader, fields: Mapping[str, str], messages: Sequence[Message]) -> str:
    start, out = reader.place, ""
    for message in messages:
        reader.place = start
        out += _render(reader, {**fields, ".Role": message["role"], ".Content": message["content"]}, messages)
    if not messages:
        _render(reader, {**fields, ".Role": "", ".Content": ""}, messages)
    _expect(reader, "end")
    return out


def _render_if(reader: _Reader, condition: str, fields: Mapping[str, str], messages: Sequence[Message]) -> str:
    left, _, right = condition.removeprefix("eq ").partition(" ")
    holds = _value(left, fields) == _value(right, fields) if right else bool(_value(left, fields))
    chosen = _render(reader, fields, messages)
    other = ""
    if reader.peek() == ("action", "else"):
        reader.place += 1
        other = _render(reader, fields, messages)
    elif reader.peek()[1].startswith("else if "):
        condition = reader.peek()[1].removeprefix("else if ")
        reader.place += 1
        # One `end` closes the whole chain.
        other = _render_if(reader, condition, fields, messages)
        return chosen if holds else other
    _expect(reader, "end")
    return chosen if holds else other


def _expect(reader: _Reader, word: str) -> None:
    if reader.peek() != ("action", word):
        raise ValueError(f"no `{word}` where one belongs")
    reader.place += 1


def _value(text: str, fields: Mapping[str, str]) -> str:
    if text.startswith('"'):
        return str(json.loads(text))
    if text not in fields:
        raise ValueError(f"`{text}` is not known here")
    return fields[text]
