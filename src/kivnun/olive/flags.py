"""The flags of Olive's commands: read in full or refused, never shortened, and never ignored.

Olive's own parser takes `--max_step` for `--max_steps` and then loses it, and reads `--add_special_tokens False` as
true. Here a flag has its whole name, with `_` or `-` between the words, and a truth is a word.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isfinite
from typing import Literal, NamedTuple

from kivnun.errors import UserError

Kind = Literal["text", "texts", "whole", "number", "truth", "scalar"]
"""What a flag takes: text, texts with commas between them, a whole number, a number, `true` or `false`, or any one of \
these, whose meaning is somebody else's."""
Value = str | int | float | bool | tuple[str, ...]

TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_SHOWN = {"text": "TEXT", "texts": "A,B", "whole": "N", "number": "X", "truth": "[true|false]", "scalar": "VALUE"}


@dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
        name: With `_` between the words and no dashes.
        kind: What it takes; a `truth` and a `scalar` may stand alone and then are true.
        meaning: One line for `--help`.
        short: A single letter that stands for it.
    """

    name: str
    kind: Kind
    meaning: str
    short: str = ""

    @property
    def shown(self) -> str:
        """As it is typed, such as `-m, --model_name_or_path TEXT`."""
        short = f"-{self.short}, " if self.short else ""
        return f"{short}--{self.name} {_SHOWN[self.kind]}"


@dataclass(frozen=True)
class Given:
    """What stood on a command line.

    Attributes:
        command: Name of the command.
        values: Values by the flag's name.
        argument: The word that belongs to no flag, if there is one.
    """

    command: str
    values: Mapping[str, Value] = field(default_factory=dict[str, Value])
    argument: str | None = None

    def text(self, name: str) -> str | None:
        """The value of a flag that takes text, if it is given."""
        value = self.values.get(name)
        return None if value is None else str(value)

    def is_true(self, name: str) -> bool:
        """Whether a truth is given as true."""
        return self.values.get(name) is True


class _Word(NamedTuple):
    """A flag as it was typed, with the text behind its `=`."""

    typed: str
    name: str
    value: str | None


def read_flags(
    command: str, words: Sequence[str], flags: Sequence[Flag], *, argument: str | None = None, hint: str = ""
) -> Given:
    """Read the words behind a command.

    Args:
        command: Its name.
        words: What stands behind it.
        flags: Every flag that it has.
        argument: What a word without a flag is, such as `RUN`; None where there is none.
        hint: What to do about a flag that does not exist, in place of naming the help.

    Raises:
        UserError: `olive-invalid` with everything that is wrong.
    """
    by_name = {flag.name: flag for flag in flags} | {flag.short: flag for flag in flags if flag.short}
    values: dict[str, Value] = {}
    loose: list[str] = []
    problems: list[str] = []
    place = 0
    while place < len(words):
        word = _read_word(words[place], by_name)
        place += 1
        if word is None:
            loose.append(words[place - 1])
            continue
        flag = by_name.get(word.name)
        if flag is None:
            problems.append(_say_unknown(word, by_name))
            place += _num_values(words[place:])
            continue
        text = word.value
        if text is None and place < len(words) and _takes(flag, words[place], by_name):
            text = words[place]
            place += 1
        problem = "is given twice" if flag.name in values else _put(flag, text, values)
        problems += [f"{word.typed}: {problem}"] if problem else []
    named = 0 if argument is None else 1
    problems += [f"{text!r} belongs to no flag" for text in loose[named:]]
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        hint = hint or f"`kivnun {command} --help` lists every flag; names are not shortened"
        raise UserError("olive-invalid", f"{count} in the flags of `kivnun {command}`", details=problems, hint=hint)
    return Given(command, values, loose[0] if loose else None)


def unescape(text: str) -> str:
    r"""Text from a shell, in which line ends and tabs are spelled `\n` and `\t`, as they are meant."""
    signs = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}
    return re.sub(r"\\[ntr\\]", lambda match: signs[match[0]], text)


def say_help(command: str, about: str, usage: str, flags: Sequence[Flag]) -> str:
    """The text of `--help`."""
    width = max(len(flag.shown) for flag in flags) + 2
    lines = [f"  {flag.shown:<{width}}{flag.meaning}" for flag in flags]
    return "\n".join(
        [f"Usage: kivnun {command} {usage}", "", f"  {about}", "", "Flags (`-` may stand for `_`):", *lines]
    )


def _read_word(text: str, by_name: Mapping[str, Flag]) -> _Word | None:
    """A flag, or None for a word that is none."""
    if not text.startswith("-") or _is_number(text) or text == "-":
        return None
    if not text.startswith("--"):
        # One letter alone: several in one word, or with their value stuck to them, could be a long name misspelt.
        return _Word(text, text[1:], None)
    typed, equals, value = text.partition("=")
    return _Word(typed, typed[2:].replace("-", "_"), value if equals else None)


def _takes(flag: Flag, text: str, by_name: Mapping[str, Flag]) -> bool:
    """Whether the next word is the flag's value."""
    if flag.kind == "truth":
        return text.lower() in TRUTHS
    return _read_word(text, by_name) is None


def _num_values(rest: Sequence[str]) -> int:
    """Words to pass over behind a flag that is not known, so that its value is not complained of as well."""
    return 1 if rest and not rest[0].startswith("-") else 0


def _put(flag: Flag, text: str | None, values: dict[str, Value]) -> str | None:
    """Keep a flag's value, or say what is wrong with it."""
    if text is None:
        if flag.kind not in ("truth", "scalar"):
            return "has no value; one that begins with - is written behind ="
        values[flag.name] = True
        return None
    value = _convert(flag.kind, text)
    if value is None:
        wanted = {"whole": "a whole number", "number": "a finite number", "truth": "true or false"}
        return f"should be {wanted.get(flag.kind, 'text that is not empty')} (got {text!r})"
    values[flag.name] = value
    return None


def _convert(kind: Kind, text: str) -> Value | None:
    if kind == "truth":
        return TRUTHS.get(text.lower())
    if kind == "texts":
        parts = tuple(part.strip() for part in text.split(","))
        return parts if all(parts) else None
    if kind == "text":
        return text or None
    if kind == "scalar":
        return _read_scalar(text)
    if kind == "whole":
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else None
    return float(text) if _is_number(text) else None


def _read_scalar(text: str) -> Value:
    """True, false or a number where the text is one; NaN stays text, which no number's rule takes."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    return float(text) if _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def _say_unknown(word: _Word, by_name: Mapping[str, Flag]) -> str:
    names = [name for name in by_name if len(name) > 1]
    longer = [name for name in names if name.startswith(word.name)] if len(word.name) > 2 else []
    close = longer[:1] if len(longer) == 1 else get_close_matches(word.name, names, n=1)
    return f"{word.typed}: unknown flag" + (f"; did you mean --{close[0]}?" if close else "")
