"""The grammar of answers that may, or must, call functions in the model's own form, with arguments by their schemas."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kivnun.server.chat.call_form import CallForm
from kivnun.serving.json_schema import schema_text
from kivnun.serving.text import Vocabulary

MAX_CALLS = 32
NO_ARGUMENTS: Mapping[str, object] = {"type": "object", "properties": {}, "additionalProperties": False}
_SPACES = r"/[ \n]{0,4}/"


@dataclass(frozen=True)
class Function:
    """A function that may be called.

    Attributes:
        name: Letters, digits, `_` and `-`.
        parameters: JSON Schema of its arguments.
        strict: Whether arguments must follow the schema in everything; else keywords that cannot be kept to are left
            out, as the API allows.
    """

    name: str
    parameters: Mapping[str, object]
    strict: bool


@dataclass(frozen=True)
class CallWish:
    """What of functions an answer should have.

    Attributes:
        functions: Those that may be called, at least one.
        mode: Whether the model may call, or must.
        parallel: Whether it may make several calls.
        answer: JSON Schema of an answer that calls nothing; None for any text.
    """

    functions: Sequence[Function]
    mode: Literal["auto", "required"]
    parallel: bool
    answer: Mapping[str, object] | None = None


def write_grammar(form: CallForm, wish: CallWish, vocabulary: Vocabulary) -> str:
    """A grammar in llguidance's Lark dialect.

    Args:
        form: Of the model's template.
        wish: What the answer should have.
        vocabulary: Tells which texts are special tokens, which no text can spell.

    Raises:
        UserError: schema-unsupported.
    """
    call = f"{_literal(form.opening, vocabulary)} function"
    rules = [
        "%llguidance {}",
        *_start(form, wish, vocabulary),
        f"again: {_between(form.separator, vocabulary)} {call}",
        f"tail: {_literal(form.tail, vocabulary)} {_SPACES}" if form.tail else f"tail: {_SPACES}",
        "function: " + " | ".join(f"function_{number}" for number in range(len(wish.functions))),
    ]
    for number, function in enumerate(wish.functions):
        schema = schema_text(function.parameters, lenient=not function.strict)
        before, after = _literal(function.name + form.middle, vocabulary), _literal(form.closing, vocabulary)
        rules.append(f"function_{number}: {before} %json {schema} {after}")
    return "\n".join(rules) + "\n"


def _start(form: CallForm, wish: CallWish, vocabulary: Vocabulary) -> list[str]:
    num_more = MAX_CALLS - 1 if wish.parallel and form.separator is not None else 0
    more = (f"again{{0,{num_more}}} " if num_more else "") + "tail"
    if wish.mode == "required":
        return [f"start: {_literal(form.lead + form.opening, vocabulary)} function {more}"]
    sign, after = form.sign, _literal(form.after_sign, vocabulary)
    first = (form.lead + form.opening)[:1] if not sign else ""
    answer = "ANSWER" if wish.answer is None else "answer"
    rules = [f"start: {answer} | first function {more}"]
    if wish.answer is not None:
        rules.append(f"answer: %json {schema_text(wish.answer)}")
    else:
        # Without a sign, what begins like a call is one.
        rules.append(f"ANSWER: /([^{re.escape(first)}](.|\\n)*)?/" if first else "ANSWER: /(.|\\n)*/")
    text = r"/(.|\n)*/" if wish.answer is None else '""'
    if not sign:
        return [*rules, f"first: {after}"]
    if vocabulary.special_id(sign) is not None:
        return [*rules, f"first: TEXT {_literal(sign, vocabulary)} {after}", f"TEXT: {text}"]
    return [*rules, f"first: sign {after}", f"sign[lazy]: TEXT {json.dumps(sign)}", f"TEXT: {text}"]


def _between(separator: str | None, vocabulary: Vocabulary) -> str:
    if separator is None or not separator.strip():
        return _SPACES
    return _literal(separator, vocabulary)


def _literal(text: str, vocabulary: Vocabulary) -> str:
    """A text that must stand so; special tokens in it by their numbers."""
    parts: list[str] = []
    for part in vocabulary.split_special(text):
        special = vocabulary.special_id(part)
        parts.append(json.dumps(part) if special is None else f"<[{special}]>")
    return " ".join(parts) or '""'
