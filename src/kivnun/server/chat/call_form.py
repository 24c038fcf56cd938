"""How a model writes calls of functions: learnt from its own chat template, which is let write a known call.

Templates agree on JSON for the arguments and on little else: Hermes and Qwen put `<tool_call>` around each call,
Mistral one sign before a list of them, Llama 3.1 nothing at all. What stands around a known name and known arguments is
the form; answers are held to it (`call_grammar`) and read by it (`call_reader`).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from jinja2 import TemplateError

from kivnun.data.chat import Turn, choose_turns
from kivnun.data.conversation import Conversation, Message, ToolCall
from kivnun.data.encode import Encoder
from kivnun.errors import UserError

_NAME, _KEY, _VALUE = "kivnun_probe_name", "kivnun_probe_key", "kivnun_probe_value"
_CALL = ToolCall("", _NAME, f'{{"{_KEY}": "{_VALUE}"}}')
_TOOL: Mapping[str, object] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A function.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "A value."}}},
    },
}
_WRITTEN = re.compile(rf'{_NAME}(?P<middle>.{{0,200}}?)\{{\s*"{_KEY}"\s*:\s*"{_VALUE}"\s*\}}', re.DOTALL)


@dataclass(frozen=True)
class CallForm:
    """What stands around calls: lead, opening, NAME, middle, ARGUMENTS, closing, separator, opening, ..., tail.

    Attributes:
        lead: Before the first call.
        opening: Before each function's name.
        middle: Between name and arguments.
        closing: After the arguments.
        separator: Between two calls; None where a turn can have one call alone.
        tail: After the last call.
    """

    lead: str
    opening: str
    middle: str
    closing: str
    separator: str | None
    tail: str

    @property
    def sign(self) -> str:
        """What tells that a call begins, in the middle of text; "" where calls begin like any JSON."""
        of_each = _before_json(self.opening)
        return of_each or _before_json(self.lead + self.opening)

    @property
    def after_sign(self) -> str:
        """From the sign to the first function's name; with no sign, all that stands before the name."""
        before = self.lead + self.opening
        return before[before.rindex(self.sign) + len(self.sign) :] if self.sign else before

    @property
    def texts(self) -> str:
        """Everything that the form writes, one after the other."""
        return "".join((self.lead, self.opening, self.middle, self.closing, self.separator or "", self.tail))


def learn_form(encoder: Encoder, stop_ids: Collection[int]) -> CallForm:
    """The form of a model's template.

    Args:
        encoder: With the chat template.
        stop_ids: Tokens that end a turn.

    Raises:
        UserError: messages-invalid, for a template that writes no tools or calls, or writes them in a way that cannot
            be read back.
    """
    stops = [str(encoder.tokenizer.decode([token], skip_special_tokens=False)) for token in stop_ids]
    one = _write(encoder, 1, stops)
    written = list(_WRITTEN.finditer(one))
    if len(written) != 1:
        raise _unreadable()
    before, after = one[: written[0].start()], one[written[0].end() :]
    middle = written[0]["middle"]
    try:
        two = _write(encoder, 2, stops)
    except (UserError, TemplateError):
        return CallForm("", before.lstrip(), middle, after, None, "")
    pair = list(_WRITTEN.finditer(two))
    if len(pair) != 2:
        raise _unreadable()
    return _split(before, middle, two[pair[0].end() : pair[1].start()], after)


def _split(before: str, middle: str, between: str, after: str) -> CallForm:
    """What belongs to each call, of what stands before, between and after two of them."""
    opening = _common_start(before[::-1], between[::-1])[::-1].lstrip()
    rest = between[: len(between) - len(opening)]
    closing = _common_start(rest, after)
    lead = before[: len(before) - len(opening)]
    return CallForm(lead.lstrip(), opening, middle, closing, rest[len(closing) :], after[len(closing) :].rstrip())


def _write(encoder: Encoder, num_calls: int, stops: Sequence[str]) -> str:
    """An assistant's turn with some calls, as the template writes it, up to the sign that ends the turn."""
    asked = Message("user", "A question.", trained=False)
    calls = Message("assistant", "", trained=False, tool_calls=(_CALL,) * num_calls)
    turns: list[Turn] = choose_turns(
        Conversation((asked, calls), {}, "the template", tools=(_TOOL,)), encoder.render_chat
    )
    opened = encoder.render_chat(turns[:1], open_turn=True, tools=[_TOOL])
    closed = encoder.render_chat(turns, open_turn=False, tools=[_TOOL])
    if not closed.startswith(opened):
        raise _unreadable()
    answer = closed[len(opened) :]
    return answer[: min((answer.find(stop) for stop in stops if stop and stop in answer), default=len(answer))]


def _common_start(one: str, other: str) -> str:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(sign for sign, _ in pairs)


def _before_json(text: str) -> str:
    return text.lstrip().partition("{")[0].rstrip(" \n\t[")


def _unreadable() -> UserError:
    return UserError(
        "messages-invalid",
        "the model's chat template writes calls of functions in a form that cannot be read back",
        hint='leave `tools` out, or send "tool_choice": "none"',
    )
