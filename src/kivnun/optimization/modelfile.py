"""Ollama's Modelfile, with the model's own prompt template in Go's template language where it can be said in it.

A chat template is a program in Jinja; Ollama wants one in Go. It is not translated but measured: conversations of
marked texts are rendered, what stands between the marks becomes the Go template, and that one is rendered again beside
the first on other conversations. Only a template that gives the same text every time is written.
"""

import os.path
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from kivnun.data.chat import CLOSED, OPEN
from kivnun.data.encode import Encoder
from kivnun.data.template import PromptTemplate, fill
from kivnun.models.types import Tokenizer
from kivnun.optimization.go_template import Message, quote, render_go

RenderChat = Callable[[Sequence[Message], bool], str]
"""Messages, and whether the answer's turn is opened -> text."""

_REFUSALS = (TemplateError, TypeError, ValueError, KeyError, IndexError)
_TEXTS = ("Hello, world!", 'שלום "עולם" {{ .Prompt }}', "one\n\n two\nthree", "{% if %} 100% 'x'", "לילה טוב.")


@dataclass(frozen=True)
class Modelfile:
    """What Ollama is told, and what goes into the GGUF file beside it.

    Attributes:
        text: The Modelfile.
        chat_template: The chat template in Jinja for the GGUF file; None where the model has none.
        more_stop_ids: Tokens besides the end-of-text token that end an answer.
        notes: What could not be said, and what differs.
    """

    text: str
    chat_template: str | None
    more_stop_ids: tuple[int, ...]
    notes: tuple[str, ...]


def make_modelfile(
    gguf_file: str, tokenizer: Tokenizer, template: PromptTemplate, *, stop_ids: Sequence[int], adds_begin: bool
) -> Modelfile:
    """The Modelfile of a GGUF file in the same folder.

    Args:
        gguf_file: The file's name.
        tokenizer: The model's tokenizer, with its chat template.
        template: How prompts are written.
        stop_ids: Tokens that end an answer.
        adds_begin: Whether llama.cpp puts the begin-of-text token before a prompt by itself.
    """
    begin = str(tokenizer.bos_token) if adds_begin else ""
    chat_template, notes = None, []
    if template.kind == "chat":
        chat_template = str(tokenizer.chat_template)
        go, notes = derive_chat(Encoder(tokenizer).render_chat, begin)
    elif template.kind == "text":
        go, chat_template, notes = _write_text(template)
    else:
        go = "{{ .Prompt }}"
    if go is not None and '"""' in go:
        go, notes = None, [*notes, "TEMPLATE is left out: the prompt template holds three quotation marks"]
    more = tuple(number for number in dict.fromkeys(stop_ids) if number != tokenizer.eos_token_id)
    stops = [str(tokenizer.eos_token), *(str(tokenizer.convert_ids_to_tokens(number)) for number in more)]
    lines = [f"FROM ./{gguf_file}"]
    if go is not None:
        lines.append(f'TEMPLATE """{go}"""')
    unsaid = [stop for stop in stops if '"' in stop or "\n" in stop]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if stop not in unsaid]
    notes = [*notes, *(f"the Modelfile cannot name the stop token {stop!r}" for stop in unsaid)]
    if len(more) > 1:
        notes.append(
            f"the GGUF file names the stop tokens {' and '.join(stops[:2])}; the Modelfile alone names the others"
        )
    # The answers that were evaluated are the most probable ones; Ollama draws them, and punishes repeated words.
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    return Modelfile("\n".join(lines) + "\n", chat_template, more, tuple(notes))


def derive_chat(render: RenderChat, begin: str) -> tuple[str | None, list[str]]:
    """A chat template in Go that gives the same texts as the one in Jinja, or None, with what must be said about it.

    Args:
        render: The chat template in Jinja.
        begin: Text of the begin-of-text token, where it is added to every prompt and so must not stand in the template.
    """

    def ask(messages: Sequence[Message], open_turn: bool) -> str:  # noqa: FBT001
        return render(messages, open_turn).removeprefix(begin)

    try:
        go = _cut_turns(ask)
        wrong = _find_difference(ask, go)
    except _REFUSALS as error:
        return None, [f"TEMPLATE is left out: the chat template cannot be cut into turns ({error})"]
    if wrong is not None:
        return None, ["TEMPLATE is left out: no template of Ollama says what the model's chat template does"]
    notes = [] if "{{ .System }}" in go else ["the chat template takes no system message; Ollama will leave it out"]
    spaced = [{"role": "user", "content": " a \n"}]
    if ask(spaced, OPEN) != render_go(go, messages=spaced):
        notes.append("the chat template trims the ends of messages, and Ollama does not")
    return go, notes


def _write_text(template: PromptTemplate) -> tuple[str | None, str | None, list[str]]:
    """The prompt of kind `text` in Go and in Jinja, where one field alone makes it."""
    fields = template.prompt_fields
    if len(fields) != 1:
        what = f"the prompt has {len(fields)} fields ({', '.join(fields)}), and Ollama gives one text"
        return None, None, [f"TEMPLATE is left out: {what}; send the whole prompt with `raw`"]
    mark = _mark()
    before, *between, after = fill(template.prompt, {fields[0]: mark}).split(mark)
    literals = [before, *between, after]
    go = "{{ .Prompt }}".join(map(quote, literals))
    jinja = "{{ messages[-1]['content'] }}".join("{{ " + repr(text) + " }}" if text else "" for text in literals)
    coded = [name for name in fields if template.value_names.get(name)]
    notes = [f"Ollama does not replace the codes of {name} by their names: send the name" for name in coded]
    return go, jinja, notes


def _cut_turns(ask: RenderChat) -> str:
    """A template made of what stands around the messages of marked conversations."""
    system, first, answer, second = (_mark() for _ in range(4))
    turns = [("user", first), ("assistant", answer), ("user", second)]
    opening, before_answer, between, closing = _split(ask(_messages(turns), OPEN), first, answer, second)
    _, after_user = _split(ask(_messages([("user", first)]), CLOSED), first)
    if not closing.startswith(after_user) or not before_answer.startswith(after_user):
        after_user = _common_start(closing, before_answer)
    # What opens a user's turn stands at the start, behind an answer and behind a system message alike.
    before_user = _common_ending(opening, between)
    with_system = _render_system(ask, system, first)
    if with_system is not None:
        before_user = _common_ending(before_user, with_system[1])
    start = quote(opening.removesuffix(before_user) if before_user else opening)
    if with_system is not None:
        before_system, behind = (quote(text) for text in with_system)
        behind = behind.removesuffix(quote(before_user)) if before_user else behind
        head = f"{before_system}{{{{ .System }}}}{behind}"
        start = f"{{{{ if .System }}}}{head}{{{{ else }}}}{start}{{{{ end }}}}"
    after_answer = between.removesuffix(before_user) if before_user else between
    user = f"{quote(before_user)}{{{{ .Content }}}}{quote(after_user)}"
    given = f"{quote(before_answer.removeprefix(after_user))}{{{{ .Content }}}}{quote(after_answer)}"
    either = f'{{{{ if eq .Role "user" }}}}{user}{{{{ else if eq .Role "assistant" }}}}{given}{{{{ end }}}}'
    return f"{start}{{{{ range .Messages }}}}{either}{{{{ end }}}}{quote(closing.removeprefix(after_user))}"


def _render_system(ask: RenderChat, system: str, first: str) -> tuple[str, str] | None:
    """What stands before and behind a system message; None where the template takes none."""
    try:
        text = ask(_messages([("system", system), ("user", first)]), OPEN)
        before, behind, _ = _split(text, system, first)
    except _REFUSALS:
        return None
    return before, behind


def _find_difference(ask: RenderChat, go: str) -> str | None:
    """The first conversation that the two templates write differently."""
    a, b, c, d, e = _TEXTS
    turns = [("user", a), ("assistant", b), ("user", c), ("assistant", d), ("user", e)]
    chats = [[("user", text)] for text in _TEXTS] + [turns[:3], turns]
    if "{{ .System }}" in go:
        chats += [[("system", b), *turns[:1]], [("system", c), *turns]]
    for chat in chats:
        system = "".join(text for role, text in chat if role == "system")
        wanted = ask(_messages(chat), OPEN)
        if render_go(go, system=system, messages=_messages(chat)) != wanted:
            return wanted
    return None


def _split(text: str, *marks: str) -> list[str]:
    """What stands before, between and behind marks that each occur once, in order."""
    parts: list[str] = []
    for mark in marks:
        if text.count(mark) != 1:
            raise ValueError("a message is not written once")
        before, text = text.split(mark)
        parts.append(before)
    return [*parts, text]


def _messages(turns: Sequence[tuple[str, str]]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in turns]


def _common_ending(first: str, second: str) -> str:
    return _common_start(first[::-1], second[::-1])[::-1]


def _common_start(first: str, second: str) -> str:
    # The name of the function is about paths, and what it does is about characters.
    return os.path.commonprefix([first, second])  # noqa: RUF071


def _mark() -> str:
    return f"mark{uuid.uuid4().hex}"
