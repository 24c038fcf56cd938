"""Labels made equal in number: rows of frequent ones left out, or rows of rare ones repeated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kivnun.data.checks.labels import MAX_LABEL_CHARACTERS, MAX_LABELS, read_label
from kivnun.data.duplicates.fingerprint import fingerprint
from kivnun.data.repair.rewrite import Change, Repair, Target, rewrite
from kivnun.data.repair.source import Show, Source, read_conversations, scale
from kivnun.data.rows import Row
from kivnun.errors import UserError

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class BalanceOptions:
    """How labels are made equal.

    Attributes:
        by: `down` leaves out rows of labels with more than `rows`, `up` repeats rows of labels with fewer.
        rows: Rows that a label then has at most, or at least; None is the number of the rarest, or the most frequent.
        column: The column that holds the label; None is the answer.
        seed: Another seed leaves out or repeats others.
    """

    by: Literal["down", "up"] = "down"
    rows: int | None = None
    column: str | None = None
    seed: int = 0


def balance(source: Source, target: Target, options: BalanceOptions, *, show: Show | None = None) -> Repair:
    """Write a file in which every label has equally many rows, in their order.

    Rows are chosen by a hash of their content, so that every machine chooses the same ones.

    Args:
        source: The file.
        target: Where to.
        options: How.
        show: Is told again and again how far the work is.

    Raises:
        UserError: `data-field` if the rows have no labels, and what `rewrite` raises.
    """
    labels, names, hashes = _read_labels(source, options, scale(show, 0, 0.6))
    sizes = np.bincount(labels, minlength=len(names))
    wanted = options.rows or int(sizes.min() if options.by == "down" else sizes.max())
    copies = choose_copies(labels, hashes ^ np.uint64(options.seed), by=options.by, rows=wanted)
    reason = f"label has {'more' if options.by == 'down' else 'fewer'} than {wanted:,} rows"

    def decide(index: int, _: Row) -> Change | None:
        count = int(copies[index])
        if count == 1:
            return None
        log = {"label": names[labels[index]], **({"times": count} if count else {})}
        return Change("copied" if count else "dropped", reason, log, copies=count)

    after = np.bincount(labels, weights=copies, minlength=len(names)).astype(np.int64)
    notes = [f"{name!r}: {before:,} -> {now:,} rows" for name, before, now in zip(names, sizes, after, strict=True)]
    return rewrite(source, target, decide, notes=notes, show=scale(show, 0.6, 1))


def choose_copies(
    labels: NDArray[np.int64], hashes: NDArray[np.uint64], *, by: Literal["down", "up"], rows: int
) -> NDArray[np.int64]:
    """How often each row is written.

    Args:
        labels: The number of each row's label.
        hashes: The rows with the smallest hashes of a label are kept, or repeated once more than the others.
        by: `down` or `up`.
        rows: Rows of a label at most, or at least.
    """
    order = np.lexsort((_mix(hashes), labels))
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(starts, sizes)
    size = sizes[labels]
    if by == "down":
        return (rank < rows).astype(np.int64)
    return np.where(size >= rows, 1, rows // size + (rank < rows % size))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers that look random, each from its value (SplitMix64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _read_labels(
    source: Source, options: BalanceOptions, show: Show | None
) -> tuple[NDArray[np.int64], Sequence[str], NDArray[np.uint64]]:
    """The number of each row's label, the labels, and the rows' hashes."""
    numbers: dict[str, int] = {}
    labels: list[int] = []
    hashes: list[NDArray[np.uint64]] = []
    batch = []
    for row, conversation in read_conversations(source, show):
        label = read_label(conversation) if options.column is None else _read_column(row, options.column)
        if label is None or len(label) > MAX_LABEL_CHARACTERS or len(numbers) > MAX_LABELS:
            raise _no_labels(row, options.column)
        labels.append(numbers.setdefault(label, len(numbers)))
        batch.append(conversation)
        if len(batch) == _BATCH_ROWS:
            hashes.append(fingerprint(batch, range(len(batch)), file=0, near=False).row)
            batch = []
    hashes.append(fingerprint(batch, range(len(batch)), file=0, near=False).row)
    return np.array(labels, dtype=np.int64), list(numbers), np.concatenate(hashes)


def _read_column(row: Row, column: str) -> str | None:
    value = row.fields.get(column)
    if column not in row.fields:
        raise UserError(
            "data-field",
            f"{row.where}: no column {column!r}",
            details=[f"columns: {', '.join(row.fields)}"],
            hint="name the column of the labels with --column",
        )
    return None if value is None or isinstance(value, dict | list) else str(value)


def _no_labels(row: Row, column: str | None) -> UserError:
    what = "the answers are" if column is None else f"the values of {column!r} are"
    return UserError(
        "data-field",
        f"{row.where}: {what} no labels",
        details=[f"labels are at most {MAX_LABELS} different texts of at most {MAX_LABEL_CHARACTERS} characters"],
        hint="name the column of the labels with --column",
    )
