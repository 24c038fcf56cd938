"""Whether the calls of a row fit the functions that it declares and the results that it gives."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from jsonschema import Draft202012Validator, SchemaError, ValidationError, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

from kivnun.data.checks.problem import Problem, cut_value
from kivnun.data.conversation import Conversation, Message, ToolCall

_NUMBER_LIMIT = 8


def _no_pattern(*_: object) -> Iterator[ValidationError]:
    """Patterns of data are never run: one of them could take for ever."""
    yield from ()


_Validator = validators.extend(Draft202012Validator, {"pattern": _no_pattern})


@dataclass(frozen=True)
class _Declared:
    """A row's functions, read once for all the rows that declare the same.

    Attributes:
        problems: What is not well formed.
        parameters: Each function's name and the validator of its arguments; None where nothing can be said.
    """

    problems: tuple[Problem, ...]
    parameters: Mapping[str, Draft202012Validator | None]


def check_tools(conversation: Conversation) -> list[Problem]:
    """What is wrong with a row's declared functions, calls and results."""
    declared = _declared_functions(conversation.tools)
    problems = list(declared.problems)
    spoken = [*conversation.messages, *([conversation.rejected] if conversation.rejected else [])]
    for number, turn in enumerate(spoken, 1):
        for call in turn.tool_calls:
            problems += _call_problems(call, f"turn {number}", declared)
    problems += _repeated_ids(conversation.messages)
    problems += _unmatched_results(conversation.messages)
    return problems[:_NUMBER_LIMIT]


def _declared_functions(tools: Sequence[Mapping[str, object]]) -> _Declared:
    if not tools:
        return _Declared((), {})
    try:
        return _read_declarations(orjson.dumps(tools))
    except TypeError:
        return _Declared((("tools-invalid", "tools that cannot be written as JSON"),), {})


@lru_cache(maxsize=512)
def _read_declarations(tools_json: bytes) -> _Declared:
    problems: list[Problem] = []
    parameters: dict[str, Draft202012Validator | None] = {}
    for number, tool in enumerate(orjson.loads(tools_json), 1):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name.strip():
            problems.append(("tools-invalid", f"tool {number} has no function with a name"))
            continue
        if tool.get("type", "function") != "function":
            problems.append(("tools-invalid", f"tool {number} is of type {_shown(tool['type'])}, not function"))
        if name in parameters:
            problems.append(("tools-invalid", f"function `{name}` is declared twice"))
        reason, parameters[name] = _read_schema(function.get("parameters"))
        if reason:
            problems.append(("tools-invalid", f"parameters of function `{name}`: {reason}"))
    return _Declared(tuple(problems), parameters)


def _read_schema(schema: object) -> tuple[str, Draft202012Validator | None]:
    """What is wrong with a JSON schema, and its validator where arguments can be judged by it."""
    if schema is None or schema == {}:
        return "", None
    if not isinstance(schema, dict):
        return f"{_shown(schema)} is no JSON schema", None
    try:
        _Validator.check_schema(schema)
    except SchemaError as error:
        return f"no JSON schema ({_reason(error)})", None
    except (RecursionError, re.error, OverflowError):
        return "a JSON schema that cannot be read", None
    if b'"patternProperties"' in orjson.dumps(schema):
        return "", None
    # An empty registry: a schema's references are never fetched.
    return "", _Validator(schema, registry=Registry())


def _call_problems(call: ToolCall, where: str, declared: _Declared) -> list[Problem]:
    problems: list[Problem] = []
    if call.name not in declared.parameters:
        known = ", ".join(sorted(declared.parameters)[:5]) or "none"
        problems.append(("tool-unknown", f"{where} calls `{cut_value(call.name)}`; declared: {cut_value(known)}"))
    try:
        arguments = orjson.loads(call.arguments)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        shown = cut_value(call.arguments) or "nothing"
        problems.append(("tool-arguments", f"{where}: arguments of `{cut_value(call.name)}` are no JSON: {shown}"))
        return problems
    if not isinstance(arguments, dict):
        problems.append(
            ("tool-arguments", f"{where}: arguments of `{cut_value(call.name)}` are {_shown(arguments)}, not an object")
        )
        return problems
    validator = declared.parameters.get(call.name)
    reason = _misfit(validator, arguments) if validator is not None else ""
    if reason:
        problems.append(("tool-arguments-schema", f"{where}: arguments of `{cut_value(call.name)}`: {reason}"))
    return problems


def _misfit(validator: Draft202012Validator, arguments: dict[str, Any]) -> str:
    """Why arguments do not fit, or "" where they do or where the schema cannot tell."""
    try:
        error = next(iter(validator.iter_errors(arguments)), None)
    except (Unresolvable, RecursionError, re.error, OverflowError, ValueError, TypeError):
        return ""
    return _reason(error) if error is not None else ""


def _repeated_ids(messages: Sequence[Message]) -> Iterator[Problem]:
    counts = Counter(call.id for turn in messages for call in turn.tool_calls if call.id)
    for name, number in counts.items():
        if number > 1:
            yield "tool-call-id", f"{number} calls have the id `{cut_value(name)}`"


def _unmatched_results(messages: Sequence[Message]) -> Iterator[Problem]:
    """Calls without results and results without calls; calls that end a row are its answer and need none."""
    waiting: list[str] = []
    for number, turn in enumerate(messages, 1):
        if turn.role == "tool":
            if not _take_call(waiting, turn.tool_call_id):
                named = f"call `{cut_value(turn.tool_call_id)}`" if turn.tool_call_id else "a call"
                yield "tool-result-orphan", f"turn {number} answers {named}, which no turn before it makes"
            continue
        if waiting:
            yield "tool-result-missing", f"{_not_answered(waiting)} before turn {number} ({turn.role})"
        waiting = [call.id for call in turn.tool_calls]
    if waiting and messages[-1].role == "tool":
        yield "tool-result-missing", f"{_not_answered(waiting)} before the row ends"


def _not_answered(waiting: Sequence[str]) -> str:
    return "1 call is not answered" if len(waiting) == 1 else f"{len(waiting)} calls are not answered"


def _take_call(waiting: list[str], answered: str) -> bool:
    """Takes the call that a result answers from those that wait: by its id, or the first one where ids are missing."""
    if answered in waiting:
        waiting.remove(answered)
        return True
    if waiting and (not answered or "" in waiting):
        waiting.remove("" if "" in waiting else waiting[0])
        return True
    return False


def _reason(error: ValidationError | SchemaError) -> str:
    place = ".".join(str(part) for part in list(error.absolute_path)[:8])
    return cut_value(f"{place}: {error.message}" if place else error.message)


def _shown(value: object) -> str:
    return cut_value(orjson.dumps(value).decode())
