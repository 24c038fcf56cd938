"""Slices of rows, `train[:4096]` elsewhere: the rows of a source that are taken, before any are split off."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from kivnun.data.files.dataset import DataFile
from kivnun.data.rows import Row
from kivnun.errors import UserError
from kivnun.recipe.schema import DataSection

Parts: TypeAlias = Sequence[tuple[DataFile, Sequence[Row]]]
"""The files of one split with their rows."""

LEFT_OUT = "outside data.train_rows or data.validation_rows"


def take_ranges(rows: Mapping[str, Parts], data: DataSection) -> tuple[dict[str, Parts], int]:
    """The rows by split that `data.train_rows` and `data.validation_rows` leave, and how many they leave out.

    Raises:
        UserError: `split-too-small` for rows that are not there; `recipe-invalid` for rows in both splits.
    """
    if data.train_rows is None and data.validation_rows is None:
        return dict(rows), 0
    total = sum(len(part) for parts in rows.values() for _, part in parts)
    taken = dict(rows)
    train = rows["train"]
    num_rows = sum(len(part) for _, part in train)
    wanted = set(range(num_rows))
    if data.train_rows is not None:
        wanted = _numbers("data.train_rows", data.train_rows, num_rows)
    # A data set that `train` names may hold validation rows of its own: a range without `validation` is not of those.
    if data.validation_rows is not None and data.validation is not None:
        count = sum(len(part) for _, part in rows["validation"])
        numbers = _numbers("data.validation_rows", data.validation_rows, count)
        taken["validation"] = _keep(rows["validation"], numbers)
    elif data.validation_rows is not None:
        numbers = _numbers("data.validation_rows", data.validation_rows, num_rows)
        wanted = _without(wanted, numbers, data)
        taken["validation"] = _keep(train, numbers)
    taken["train"] = _keep(train, wanted)
    return taken, total - sum(len(part) for parts in taken.values() for _, part in parts)


def _without(wanted: set[int], validating: set[int], data: DataSection) -> set[int]:
    """The rows that train beside those that validate."""
    if data.train_rows is None:
        return wanted - validating
    both = len(wanted & validating)
    if both:
        raise UserError(
            "recipe-invalid",
            f"{both} row(s) are in data.train_rows ({data.train_rows}) and in data.validation_rows "
            f"({data.validation_rows})",
            hint="write ranges that share no row, such as :80% and 80%:",
        )
    return wanted


def _numbers(field: str, text: str, num_rows: int) -> set[int]:
    """The numbers of the rows in a range.

    Args:
        field: The field that says it.
        text: The range.
        num_rows: Rows that there are.
    """
    first, last = text.split(":")
    start, end = _position(first or "0", num_rows), _position(last or "100%", num_rows)
    if start >= end or end > num_rows:
        raise UserError(
            "split-too-small",
            f"{field} ({text}) asks for rows {start} to {end} of {num_rows}",
            hint="name rows that are there, or a share of them such as :80%",
        )
    return set(range(start, end))


def _position(text: str, num_rows: int) -> int:
    return round(num_rows * int(text[:-1]) / 100) if text.endswith("%") else int(text)


def _keep(parts: Parts, numbers: set[int]) -> Parts:
    """The rows with these numbers, counted through all files; a file without any is left out."""
    kept: list[tuple[DataFile, Sequence[Row]]] = []
    start = 0
    for file, rows in parts:
        part = [row for number, row in enumerate(rows, start) if number in numbers]
        start += len(rows)
        kept += [(file, part)] if part else []
    return kept
