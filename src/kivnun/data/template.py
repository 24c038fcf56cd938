"""How a row becomes text, kept with the model so that serving can use nothing else.

Two kinds exist. `text`: a prompt text and an answer text with fields in braces, joined as they stand. `chat`: OpenAI
`messages`, rendered by the tokenizer's chat template. Either gives segments: pieces of text that are trained or not.
"""

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from kivnun.data.chat import RenderChat, Segment, render_conversation
from kivnun.data.conversation import Conversation
from kivnun.errors import UserError
from kivnun.recipe.rules import list_files
from kivnun.recipe.schema import DataSection
from kivnun.recipe.templates import template_fields

TEMPLATE_NAME = "template.json"
MESSAGES_HINT = 'write {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


@dataclass(frozen=True)
class PromptTemplate:
    """How prompts and answers are written.

    Attributes:
        kind: `text` for templates with fields, `chat` for messages, `document` for running text.
        prompt: Prompt template of kind `text`.
        answer: Answer template of kind `text`.
        column: Column of the messages, or of the running text.
        value_names: Names for the coded values of the fields, which the model knows by their names only.
    """

    kind: Literal["text", "chat", "document"]
    prompt: str = ""
    answer: str = ""
    column: str = "messages"
    value_names: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])

    @property
    def prompt_fields(self) -> tuple[str, ...]:
        """Fields that a prompt needs, in order, each once."""
        return tuple(dict.fromkeys(template_fields(self.prompt)))

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields that a row needs, in order, each once."""
        if self.kind == "text":
            return tuple(dict.fromkeys((*template_fields(self.prompt), *template_fields(self.answer))))
        return (self.column,)

    def render_prompt(self, fields: Mapping[str, str]) -> str:
        """The prompt of kind `text` with its fields filled in, codes by their names.

        Raises:
            UserError: `template-field` naming the fields that are not given.
        """
        missing = [name for name in self.prompt_fields if name not in fields]
        if missing:
            raise UserError(
                "template-field",
                f"the prompt needs {', '.join(missing)}",
                hint=f"give a value for each of: {', '.join(self.prompt_fields)}",
            )
        return fill(self.prompt, {name: self.name_value(name, fields[name]) for name in self.prompt_fields})

    def render_answer(self, fields: Mapping[str, str]) -> str:
        """The answer of kind `text` with its fields filled in."""
        return fill(self.answer, fields)

    def name_value(self, name: str, value: str) -> str:
        """The name of a coded value; what is a name already, or no known code, stays as it is."""
        names = self.value_names.get(name, {})
        return value if value in names.values() else names.get(value, value)

    def save(self, folder: Path) -> None:
        """Write the template beside a model."""
        (folder / TEMPLATE_NAME).write_text(json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n", "utf-8")


def fill(template: str, fields: Mapping[str, str]) -> str:
    """A template's text with its fields filled in; a column's name may hold dots or be a number, as in no f-string."""
    parts = string.Formatter().parse(template)
    return "".join(literal + ("" if name is None else fields[name]) for literal, name, _, _ in parts)


def load_template(folder: Path) -> PromptTemplate:
    """The template that a model folder was trained with; a folder without one is used as a chat model."""
    path = folder / TEMPLATE_NAME
    return PromptTemplate(**json.loads(path.read_text("utf-8"))) if path.is_file() else PromptTemplate("chat")


def choose_template(data: DataSection, objective: str, columns: Sequence[str]) -> PromptTemplate:
    """The template that a recipe asks for, with the names of coded values, checked against the columns of the data.

    Raises:
        UserError: `template-field` where the data lacks a column that the template names.
    """
    if objective == "text":
        template = PromptTemplate("document", column="text")
    elif data.text_template is not None:
        prompt, answer = split_text_template(data.text_template)
        template = PromptTemplate("text", prompt, answer)
    elif data.prompt_template is not None:
        template = PromptTemplate("text", data.prompt_template, data.answer_template or "")
    else:
        template = PromptTemplate("chat", column=data.messages or "messages")
    wanted = dict.fromkeys(template.fields, "the row's template")
    wanted |= {name: "data.value_names" for name in data.value_names if name not in wanted}
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise UserError(
            "template-field",
            f"{', '.join(list_files(data.train))}: no column {', '.join(map(repr, missing))}",
            details=[*(f"{name!r} is named in {wanted[name]}" for name in missing), f"columns: {', '.join(columns)}"],
            hint="name columns that are there in data.text_template, or in prompt_template and answer_template",
        )
    named = {name: names for name, names in data.value_names.items() if name in template.fields}
    return replace(template, value_names=named)


def split_text_template(text: str) -> tuple[str, str]:
    """Prompt and answer of a `text_template`: the answer begins at the last field and runs to the end.

    Raises:
        UserError: `template-field` for fewer than two fields, which leave no prompt or no answer.
    """
    fields = template_fields(text)
    if len(fields) < 2:
        raise UserError(
            "template-field",
            f"data.text_template has {len(fields)} field(s); it needs one for the prompt and a last one for the answer",
            hint='write it like "Question: {question}\\nAnswer: {answer}"',
        )
    halves = ["", ""]
    for literal, name, _, _ in string.Formatter().parse(text):
        # The field that completes the list is the last one; plain braces lost their doubling in parsing.
        halves[not fields] += literal.replace("{", "{{").replace("}", "}}")
        if name is not None:
            fields = fields[1:]
            halves[not fields] += "{" + name + "}"
    return halves[0], halves[1]


def render(conversation: Conversation, template: PromptTemplate, *, end: str, render_chat: RenderChat) -> list[Segment]:
    """A row's text in segments.

    Args:
        conversation: The row.
        template: How it is written.
        end: Text of the end-of-text token, which an answer of kind `text` and a document end with.
        render_chat: The tokenizer's chat template.

    Raises:
        UserError: As for `render_conversation`.
    """
    if template.kind == "document":
        return [Segment(end, trained=False), Segment(conversation.answer + end, trained=True)]
    if template.kind == "text":
        prompt, answer = conversation.messages
        return [Segment(prompt.content, trained=False), Segment(answer.content + end, trained=True)]
    return render_conversation(conversation, render_chat)
