"""The rows of a comparison: what is asked, what is right, what is searched with, and which of them a pilot sees."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import orjson

from kivnun.data.conversation import Conversation
from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError
from kivnun.evaluation.scoring import ScoredRow
from kivnun.recipe.schema import EvaluationSection

INSTRUCTIONS = ("system", "developer")


@dataclass(frozen=True)
class DecideRow:
    """A row as every arm sees it.

    Attributes:
        conversation: The row.
        scored: The same row for scoring.
        query: What passages are searched with.
        gold: The document or the passage that answers it, as its column names it; "" where that is unknown.
    """

    conversation: Conversation
    scored: ScoredRow
    query: str
    gold: str = ""

    @property
    def id(self) -> str:
        """Its content hash."""
        return self.scored.row_id

    @property
    def references(self) -> tuple[str, ...]:
        """Every right answer, the row's own first."""
        return self.scored.references


@dataclass(frozen=True)
class RowColumns:
    """Columns with a meaning of their own.

    Attributes:
        query: What is searched with; the row's own prompt if not given.
        gold: What names or holds the right passage.
    """

    query: str | None = None
    gold: str | None = None


def make_rows(
    conversations: Sequence[Conversation], scored: Sequence[ScoredRow], template: PromptTemplate, columns: RowColumns
) -> list[DecideRow]:
    """The rows of a split.

    Args:
        conversations: The split.
        scored: The same rows for scoring.
        template: How prompts are written.
        columns: What is searched with, and what is right.

    Raises:
        UserError: `template-field` where a row lacks the column that is searched with.
    """
    return [
        DecideRow(row, each, _query(row, template, columns.query), _gold(row, columns.gold))
        for row, each in zip(conversations, scored, strict=True)
    ]


def asked_words(conversation: Conversation, template: PromptTemplate) -> str:
    """What a row asks, without the words that its template adds to every row: the best query and the fairest look."""
    names = template.prompt_fields if template.kind == "text" else ()
    if names:
        return "\n".join(template.name_value(name, conversation.fields[name]) for name in names)
    turns = [turn for turn in conversation.messages[: conversation.answer_turn] if turn.role not in INSTRUCTIONS]
    return turns[-1].content if turns else ""


def _query(conversation: Conversation, template: PromptTemplate, column: str | None) -> str:
    if column is None:
        return asked_words(conversation, template)
    if not conversation.fields.get(column, "").strip():
        raise UserError(
            "template-field",
            f"{conversation.where}: no text in {column!r}, the column that is searched with",
            details=[f"columns: {', '.join(conversation.fields)}"],
            hint="name a column that every row has in retrieval.query, or leave it out to search with the prompt",
        )
    return conversation.fields[column]


def _gold(conversation: Conversation, column: str | None) -> str:
    return "" if column is None else conversation.fields.get(column, "").strip()


def require_gold(rows: Mapping[str, Sequence[DecideRow]], column: str | None) -> None:
    """Refuse a column of right passages that no row has: the setting would change nothing, silently.

    Raises:
        UserError: `template-field`.
    """
    if column is None or any(row.gold for part in rows.values() for row in part):
        return
    known = next((row.conversation.fields for part in rows.values() for row in part), {})
    raise UserError(
        "template-field",
        f"no row has text in {column!r}, the column of the right passages",
        details=[f"columns: {', '.join(known)}"],
        hint="name a column that is there in retrieval.gold, or leave it out",
    )


def sample(rows: Sequence[DecideRow], limit: int, *, seed: int) -> list[DecideRow]:
    """At most `limit` rows, drawn by a seed and in their own order: files are often sorted by label."""
    if len(rows) <= limit:
        return list(rows)
    chosen = random.Random(seed).sample(range(len(rows)), limit)  # noqa: S311 - a sample, no secret
    return [rows[number] for number in sorted(chosen)]


def score_rows_of(conversations: Sequence[Conversation], evaluation: EvaluationSection) -> list[ScoredRow]:
    """Rows as they are scored: what is right is the label where one is named, else the answer, and what counts too.

    Args:
        conversations: The rows.
        evaluation: The recipe's section.

    Raises:
        UserError: `evaluation-invalid` where a row lacks a column that the section names.
    """
    return [_scored(row, evaluation) for row in conversations]


def _scored(row: Conversation, evaluation: EvaluationSection) -> ScoredRow:
    named = {"label": evaluation.label, "references": evaluation.references, "tests": evaluation.tests}
    for name, column in named.items():
        if column is not None and column not in row.fields:
            raise UserError(
                "evaluation-invalid",
                f"{row.where}: no column {column!r}, which evaluation.{name} names",
                details=[f"columns: {', '.join(row.fields)}"],
                hint=f"name a column that every row has in evaluation.{name}",
            )
    right = row.fields[evaluation.label] if evaluation.label else row.answer
    further = _further(row, evaluation.references) if evaluation.references else []
    references = tuple(dict.fromkeys((right, *further)))
    asked = "\n".join(turn.content for turn in row.messages[: row.answer_turn])
    return ScoredRow(row.content_hash, row.where, asked, references, row.fields)


def _further(row: Conversation, column: str) -> list[str]:
    text = row.fields[column]
    try:
        values = orjson.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError(
            "evaluation-invalid",
            f"{row.where}: {column!r} is no JSON list of texts: {text[:60]!r}",
            hint='write further right answers like ["three", "3"]',
        )
    return cast("list[str]", values)
