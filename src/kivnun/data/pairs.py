"""Rows that are judged: two answers of which one is preferred, or one answer that is good or bad.

A preference row becomes two documents that share their prompt. KTO, which learns from single answers, takes a
preference row for two rows: one good answer and one bad one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kivnun.data.conversation import Conversation
from kivnun.data.sources import first_problems
from kivnun.errors import UserError

PREFERENCE_KINDS = ("dpo", "orpo", "kto")
TEST = "test"
PAIR_HINT = 'write {"prompt": ..., "chosen": ..., "rejected": ...}, or set training.objective: supervised'
KTO_HINT = 'write {"prompt": ..., "completion": ..., "label": true}, or set training.objective: supervised'
UNWANTED = "bad answers of the test split, which no model should be compared with"


def arrange_rows(
    conversations: Mapping[str, list[Conversation]], kind: str
) -> tuple[dict[str, list[Conversation]], dict[str, int]]:
    """The rows that an objective learns and is tested on, and how many were left out, by reason.

    For KTO a preference row becomes a good and a bad one, except in the test split: there its two answers are compared,
    and what is bad alone is left out.

    Args:
        conversations: Rows by split.
        kind: The objective's kind.

    Raises:
        UserError: `preference-invalid` for rows that are not judged, or that weigh a message, where the objective
            learns from judgements.
    """
    if kind not in PREFERENCE_KINDS:
        return dict(conversations), {}
    rows = [row for part in conversations.values() for row in part]
    _require_judged(rows, kind)
    _require_whole_weights(rows, kind)
    if kind != "kto":
        return dict(conversations), {}
    arranged = {
        name: _keep_good(part) if name == TEST else [each for row in part for each in split_pair(row)]
        for name, part in conversations.items()
    }
    left_out = len(conversations.get(TEST, ())) - len(arranged.get(TEST, ()))
    return arranged, {UNWANTED: left_out} if left_out else {}


def _keep_good(rows: Sequence[Conversation]) -> list[Conversation]:
    """Rows with a right answer: pairs where all are pairs, and single answers where some are."""
    good = [row for row in rows if row.desirable is not False]
    return good if are_pairs(good) else [replace(row, rejected=None) for row in good]


def are_pairs(rows: Sequence[Conversation]) -> bool:
    """Whether every row has a rejected answer."""
    return all(row.rejected is not None for row in rows)


def split_pair(row: Conversation) -> tuple[Conversation, ...]:
    """A preference row as a row with a good answer and one with a bad answer; any other row as it is."""
    if row.rejected is None:
        return (row,)
    good = replace(row, rejected=None, desirable=True)
    return good, replace(with_rejected(row), rejected=None, desirable=False)


def with_rejected(row: Conversation) -> Conversation:
    """A preference row with its rejected answer in place of the preferred one, and as much trained."""
    if row.rejected is None:
        raise ValueError(f"{row.where}: the row has no rejected answer")
    return replace(row, messages=(*row.messages[:-1], replace(row.rejected, trained=True)))


def require_different(documents: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    """Refuse pairs whose two answers are the same tokens: there is nothing to prefer.

    Args:
        documents: The place of each row, and the ids of its two documents.

    Raises:
        UserError: `preference-invalid`.
    """
    equal = [where for where, chosen, rejected in documents if list(chosen) == list(rejected)]
    if equal:
        raise UserError(
            "preference-invalid",
            f"the two answers of {len(equal)} row(s) are the same tokens, so that there is nothing to prefer",
            details=first_problems(equal),
            hint="take these rows out, or write another rejected answer",
        )


def _require_judged(rows: Sequence[Conversation], kind: str) -> None:
    takes_labels = kind == "kto"
    plain = [row.where for row in rows if row.rejected is None and not (takes_labels and row.desirable is not None)]
    if plain:
        wanted = "neither a label, good or bad, nor a rejected answer" if takes_labels else "no rejected answer"
        raise UserError(
            "preference-invalid",
            f"{len(plain)} of {len(rows)} row(s) have {wanted}, which the objective {kind} learns from",
            details=first_problems(plain),
            hint=KTO_HINT if takes_labels else PAIR_HINT,
        )


def _require_whole_weights(rows: Sequence[Conversation], kind: str) -> None:
    """Refuse weights between 0 and 1: of one answer they would tip the balance that is learnt from."""
    weighted = [
        f"{row.where}: {message.role} has weight {message.weight:g}"
        for row in rows
        for message in (*row.messages, *((row.rejected,) if row.rejected is not None else ()))
        if message.weight != 1
    ]
    if weighted:
        raise UserError(
            "preference-invalid",
            f"{len(weighted)} message(s) have a weight between 0 and 1, but {kind} compares whole answers",
            details=first_problems(weighted),
            hint="leave `weight` out of these messages",
        )
