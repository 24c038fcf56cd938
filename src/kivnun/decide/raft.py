"""Training rows for a model that reads passages: the right one among wrong ones, and sometimes wrong ones alone.

Reference: Zhang et al. 2024, "RAFT: Adapting Language Model to Domain Specific RAG", arXiv:2403.10131, section 3: a
share of the rows has the right document and k distractors, the others distractors alone, so that what is learnt is to
read and not to copy whatever stands there. Unlike there, rows without the right passage have one distractor more, so
that the number of passages gives nothing away; answers stay the user's own, without written chains of thought.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from kivnun.data.conversation import Conversation
from kivnun.data.template import fill
from kivnun.decide.context import Context
from kivnun.decide.passages import Passages
from kivnun.decide.prompting import Prompter, write_passages
from kivnun.decide.rows import DecideRow
from kivnun.decide.trained import with_prompt
from kivnun.retrieval.passages import Chunk


@dataclass(frozen=True)
class RaftRow:
    """A training row with passages.

    Attributes:
        row: The row that it was made from.
        chunks: Its passages in the order in which they are shown.
        gold: The right one; None where it is left out on purpose.
        conversation: The row as it is trained.
        left_out: Wrong passages that did not fit the context.
    """

    row: DecideRow
    chunks: tuple[Chunk, ...]
    gold: Chunk | None
    conversation: Conversation
    left_out: int = 0


@dataclass(frozen=True)
class RaftRows:
    """All of them, and what could not be made.

    Attributes:
        rows: The rows.
        unknown: Training rows without a known right passage, which are left out.
        too_long: Training rows that do not fit the context with the right passage alone, which are left out.
    """

    rows: tuple[RaftRow, ...]
    unknown: int
    too_long: int


def make_raft_rows(context: Context, passages: Passages, prompter: Prompter) -> RaftRows:
    """Rewrite the training rows with passages.

    Args:
        context: The comparison.
        passages: The index.
        prompter: How the model will be asked, for what fits its context.
    """
    settings = context.settings
    known = [(row, gold) for row in context.rows["train"] if (gold := passages.gold(row)) is not None]
    without = choose_without_gold(len(known), settings.without_gold, seed=settings.seed)
    made: list[RaftRow] = []
    too_long = 0
    for number, (row, gold) in enumerate(known):
        raft = _make(row, None if number in without else gold, passages, prompter, context)
        made += [] if raft is None else [raft]
        too_long += raft is None
    return RaftRows(tuple(made), len(context.rows["train"]) - len(known), too_long)


def choose_without_gold(count: int, share: float, *, seed: int) -> frozenset[int]:
    """Which of some rows are left without the right passage: their share, rounded."""
    return frozenset(random.Random(seed).sample(range(count), round(share * count)))  # noqa: S311 - a draw, no secret


def show_retrieved(rows: Sequence[DecideRow], passages: Passages, prompter: Prompter) -> list[Conversation]:
    """Rows with what the index finds for them, as they are asked when it counts: for validation while training."""
    return [_converse(row, prompter.write(row, chunks=passages.shown(row)).chunks, prompter) for row in rows]


def _make(
    row: DecideRow, gold: Chunk | None, passages: Passages, prompter: Prompter, context: Context
) -> RaftRow | None:
    """A row with its passages in an order of its own; None where not even the right passage fits."""
    settings = context.settings
    wrong = passages.distractors(row, settings.distractors + (gold is None))
    num_wrong = len(wrong)
    while True:
        chunks = [*([] if gold is None else [gold]), *wrong]
        random.Random(f"{settings.seed} {row.id}").shuffle(chunks)  # noqa: S311 - an order, no secret
        if len(prompter.write(row, chunks=chunks).chunks) == len(chunks):
            conversation = _converse(row, chunks, prompter)
            return RaftRow(row, tuple(chunks), gold, conversation, num_wrong - len(wrong))
        if not wrong:
            return None
        wrong = wrong[:-1]


def _converse(row: DecideRow, chunks: Sequence[Chunk], prompter: Prompter) -> Conversation:
    if not chunks or prompter.retrieval is None:
        return row.conversation
    before = row.conversation.messages[: row.conversation.answer_turn]
    asked = next(turn.content for turn in reversed(before) if turn.role == "user")
    fields = {"passages": write_passages(chunks, prompter.retrieval), "prompt": asked}
    return with_prompt(row.conversation, fill(prompter.retrieval.context_template, fields))
