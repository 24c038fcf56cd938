"""The texts of a contrastive row: an anchor, what belongs to it, and perhaps a third one that does not.

The anchor is the prompt's text and the second one the answer's, as the templates write them; a chat template has no
part in it. The third one is a column, or the rejected answer of a preference row.
"""

from collections.abc import Mapping, Sequence

from kivnun.data.chat import Segment
from kivnun.data.conversation import Conversation
from kivnun.data.encode import Encoder
from kivnun.data.sources import first_problems
from kivnun.data.tokens import TokenizedRow
from kivnun.errors import UserError
from kivnun.recipe.objectives import ContrastiveObjective

UNLIKE, ALIKE = 1.0, 0.0
_PAIR_LABELS = {"1": UNLIKE, "1.0": UNLIKE, "true": UNLIKE, "0": ALIKE, "0.0": ALIKE, "false": ALIKE}


def write_prompt(conversation: Conversation) -> str:
    """The text before the answer; of several turns each with its role."""
    asked = conversation.messages[: conversation.answer_turn]
    return asked[0].content if len(asked) == 1 else "\n".join(f"{turn.role}: {turn.content}" for turn in asked)


def read_texts(conversation: Conversation, objective: ContrastiveObjective) -> tuple[str, ...]:
    """Anchor, positive and, where the row has one, the hard negative."""
    texts = (write_prompt(conversation), conversation.answer)
    if objective.loss == "margin":
        return texts
    if objective.negative is not None:
        return (*texts, conversation.fields.get(objective.negative, ""))
    return texts if conversation.rejected is None else (*texts, conversation.rejected.content)


def encode_pairs(
    conversations: Sequence[Conversation], objective: ContrastiveObjective, encoder: Encoder
) -> list[tuple[TokenizedRow, ...]]:
    """A document for each text of each row, none of it trained token by token."""
    texts = [read_texts(row, objective) for row in conversations]
    documents = iter(encoder.encode_batch([[Segment(text, trained=False)] for row in texts for text in row]))
    return [tuple(next(documents) for _ in row) for row in texts]


def read_pair_label(conversation: Conversation, objective: ContrastiveObjective) -> float | None:
    """Whether a pair is unlike (1) or alike (0), for the loss `margin`."""
    if objective.loss != "margin":
        return None
    return ALIKE if objective.pair_label is None else _PAIR_LABELS[_label_text(conversation, objective.pair_label)]


def require_pairs(
    splits: Mapping[str, Sequence[Conversation]], objective: ContrastiveObjective, encoder: Encoder
) -> None:
    """Refuse rows without a text that is needed, with a wrong pair label, or with words that are signs of the model.

    Raises:
        UserError: `data-field`, naming the rows; `nothing-to-learn` where no training pair is alike.
    """
    rows = [row for part in splits.values() for row in part]
    has_third = any(len(read_texts(row, objective)) > 2 for row in rows)
    problems = [problem for row in rows for problem in _find_problems(row, objective, encoder, has_third=has_third)]
    if problems:
        raise UserError(
            "data-field",
            f"{len(problems)} problem(s) in the pairs of {len(rows)} row(s)",
            details=first_problems(problems),
            hint="fill these fields, or leave the rows out; every row needs the same texts",
        )
    if not any(read_pair_label(row, objective) != UNLIKE for row in splits["train"]):
        raise UserError(
            "nothing-to-learn",
            "no training pair is alike: nothing would hold the embeddings together",
            hint="in the column of training.objective.pair_label, 1 means unlike and 0 alike",
        )


def _find_problems(
    row: Conversation, objective: ContrastiveObjective, encoder: Encoder, *, has_third: bool
) -> list[str]:
    names = ("anchor", "positive", "negative")
    texts = read_texts(row, objective)
    problems = [
        f"{row.where}: the {name} is empty" for name, text in zip(names, texts, strict=False) if not text.strip()
    ]
    if has_third and len(texts) == 2:
        problems.append(f"{row.where}: there is no negative, as other rows have")
    problems += [
        f"{row.where}: the {name} holds the special token {', '.join(found)}"
        for name, text in zip(names, texts, strict=False)
        if (found := encoder.special_texts(text))
    ]
    column = objective.pair_label
    if column is not None and (label := _label_text(row, column)) not in _PAIR_LABELS:
        problems.append(f"{row.where}: {column} is {label!r}; it must be 1 (unlike) or 0 (alike)")
    return problems


def _label_text(row: Conversation, column: str) -> str:
    return row.fields.get(column, "").strip().lower()
