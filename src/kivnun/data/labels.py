"""The classes of a classification: the labels that rows answer with become numbers, in the order of the alphabet."""

import unicodedata
from collections.abc import Mapping, Sequence

from kivnun.data.conversation import Conversation
from kivnun.data.sources import first_problems
from kivnun.errors import UserError

MAX_LABELS_SHOWN = 20


def read_label(conversation: Conversation) -> str:
    """The label that a row answers with, in the form in which labels are compared: NFC, stripped."""
    return unicodedata.normalize("NFC", conversation.answer).strip()


def collect_classes(splits: Mapping[str, Sequence[Conversation]]) -> tuple[str, ...]:
    """The labels of the training rows, sorted: the number of a class is its place here.

    Raises:
        UserError: `nothing-to-learn` for fewer than two; `label-unknown` where a label stands in other splits only,
            which no model could learn.
    """
    classes = tuple(sorted({read_label(row) for row in splits["train"]}))
    if len(classes) < 2:
        raise UserError(
            "nothing-to-learn",
            f"every training row has the same label, {classes[0]!r}" if classes else "the training split has no rows",
            hint="give training rows of two labels or more, or check which field the template answers with",
        )
    unknown = [
        f"{row.where}: {label!r} in the {name} split"
        for name, part in splits.items()
        for row in part
        if (label := read_label(row)) not in classes
    ]
    if unknown:
        shown = ", ".join(map(repr, classes[:MAX_LABELS_SHOWN]))
        raise UserError(
            "label-unknown",
            f"{len(unknown)} row(s) have a label that no training row has",
            details=[
                *first_problems(unknown),
                f"labels of the training rows: {shown}{' ...' if len(classes) > MAX_LABELS_SHOWN else ''}",
            ],
            hint="add training rows with the label, mend its spelling, or set data.split.stratify_by to its column",
        )
    return classes
