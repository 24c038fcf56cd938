"""How a row is asked: the one place where instruction, examples, passages and the row itself become a request."""

from collections.abc import Sequence

from kivnun.asking.request import Request
from kivnun.data.conversation import Conversation, Message
from kivnun.data.reading import ReadData, read_data
from kivnun.data.template import PromptTemplate, fill
from kivnun.errors import UserError
from kivnun.recipe.schema import DataSection

BLANK_LINE = "\n\n"
_SYSTEM_ROLES = {"system", "developer"}


def read_rows(path: str, *, template: PromptTemplate | None = None) -> ReadData:
    """Every row of a data file, in one split, `train`; none is set aside.

    Args:
        path: A file, a folder or the id of a data set, as in `data.train`.
        template: How rows are written; None where they are conversations, or a format that is found out.

    Raises:
        UserError: Whatever is wrong with the file or its fields.
    """
    return read_section(section_of(path, template))


def section_of(path: str, template: PromptTemplate | None) -> DataSection:
    """The data section of a file whose rows are all evaluated.

    Args:
        path: A file, a folder or the id of a data set.
        template: How rows are written; None to find it out.
    """
    fields: dict[str, object] = {"train": path, "split": {"validation": 0, "test": 0}}
    if template is not None and template.kind == "text":
        names = {column: dict(values) for column, values in template.value_names.items()}
        fields |= {"prompt_template": template.prompt, "answer_template": template.answer, "value_names": names}
    elif template is not None and template.kind == "chat" and template.column != "messages":
        fields["messages"] = template.column
    return DataSection.model_validate(fields)


def read_section(section: DataSection) -> ReadData:
    """The rows of a recipe's data section.

    Args:
        section: The section; paths as they are found from here.

    Raises:
        UserError: Whatever is wrong with files, fields or the split.
    """
    return read_data(section, "supervised")


def request_of(
    conversation: Conversation,
    template: PromptTemplate,
    *,
    instruction: str | None = None,
    shots: Sequence[Conversation] = (),
    context: tuple[str, str] | None = None,
) -> Request:
    """What a model is asked about a row.

    A model that continues text sees the instruction, a blank line, each example with its answer and a blank line, and
    then the prompt. A chat sees the instruction as system message, the examples as turns, and passages inside the last
    message. A row's own system message stays behind the instruction.

    Args:
        conversation: The row; its answer is left out.
        template: How rows are written.
        instruction: What the model is told before.
        shots: Examples that are shown before, with their answers.
        context: Passages, and a template with `{passages}` and `{prompt}`.

    Raises:
        UserError: `stage-unsupported` for running text, which asks nothing, and for rows with tools or pictures.
    """
    if template.kind == "document":
        raise UserError(
            "stage-unsupported",
            "rows of running text ask nothing",
            hint="name prompt and answer of each row in a template",
        )
    _require_words(conversation)
    told, turns = _asked_turns(conversation)
    prompt = turns[-1][1] if context is None else _with_passages(turns[-1][1], context)
    # Of what is shown before, only the instruction and the examples stand in every request alike.
    shared = [("system", instruction)] if instruction else []
    shown = [turn for shot in shots for turn in _shown_turns(shot)]
    # One system message, in front: many chat templates take no other.
    system = [("system", BLANK_LINE.join([text for _, text in shared] + told))] if shared or told else []
    messages = (*system, *shown, *turns[:-1], ("user", prompt))
    num_shared = len(system) + len(shown) if not told else 0
    text = _plain_text(instruction, shots, prompt) if template.kind == "text" else None
    return Request(messages, text, num_shared)


def _asked_turns(conversation: Conversation) -> tuple[list[str], list[tuple[str, str]]]:
    """A row's own system messages, and the turns before its answer."""
    before = conversation.messages[: conversation.answer_turn]
    told = [turn.content for turn in before if turn.role in _SYSTEM_ROLES]
    turns = [(turn.role, turn.content) for turn in before if turn.role not in _SYSTEM_ROLES]
    if not turns or turns[-1][0] != "user":
        raise UserError(
            "evaluation-invalid",
            f"{conversation.where}: no user turn comes before the answer",
            hint="let each row ask before it answers",
        )
    return told, turns


def _shown_turns(shot: Conversation) -> list[tuple[str, str]]:
    """An example as turns of a chat; its earlier turns belong to it."""
    _, turns = _asked_turns(shot)
    return [*turns, ("assistant", shot.answer.strip())]


def _with_passages(prompt: str, context: tuple[str, str]) -> str:
    passages, context_template = context
    return fill(context_template, {"passages": passages, "prompt": prompt})


def _plain_text(instruction: str | None, shots: Sequence[Conversation], prompt: str) -> str:
    before = [instruction] if instruction else []
    before += [shot.messages[0].content + shot.answer for shot in shots]
    return BLANK_LINE.join([*before, prompt])


def _require_words(conversation: Conversation) -> None:
    """Refuse rows that a request of words alone would change."""

    def has_more(turn: Message) -> bool:
        return bool(turn.tool_calls or turn.images or turn.role == "tool")

    if conversation.tools or any(map(has_more, conversation.messages)):
        raise UserError(
            "stage-unsupported",
            f"{conversation.where}: the row has tools or pictures, which cannot be asked for here",
            hint="take such rows out; only text is asked and answered",
        )
