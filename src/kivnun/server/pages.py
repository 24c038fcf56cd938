"""Lists in pages: rows in the order of their `number`, cut after the row that a client names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Mapped, Session

from kivnun.server.errors import ApiError

Order = Literal["asc", "desc"]


class Listed(Protocol):
    """A table whose rows clients list."""

    number: Mapped[int]
    id: Mapped[str]


T = TypeVar("T", bound=Listed)


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows of a list.

    Attributes:
        rows: In order.
        has_more: Whether others follow.
    """

    rows: Sequence[T]
    has_more: bool


def page(
    session: Session,
    statement: Select[T],
    table: type[T],
    *,
    after: str | None,
    limit: int,
    order: Order = "desc",
) -> Page[T]:
    """The rows of a list that follow one of them.

    Args:
        session: Open for reading.
        statement: Selects the whole rows of `table` that the caller may see, unordered.
        table: What it selects from.
        after: The `id` of the last row that the client has; None for the beginning.
        limit: Most rows of a page.
        order: Oldest first or newest first.

    Raises:
        ApiError: 400 for an `after` that names no row of the list.
    """
    if after is not None:
        cursor = session.scalar(statement.with_only_columns(table.number).where(table.id == after))
        if cursor is None:
            # A server that ignored it would send the first page again and again to a client that asks on.
            raise ApiError(400, f"No such object to list after: {after}", param="after", code="invalid_value")
        statement = statement.where(table.number > cursor if order == "asc" else table.number < cursor)
    by = table.number.asc() if order == "asc" else table.number.desc()
    rows = session.scalars(statement.order_by(by).limit(limit + 1)).all()
    return Page(rows[:limit], len(rows) > limit)


def list_object(rows: Sequence[dict[str, Any]], has_more: bool, ids: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
    """The reply to a list.

    Args:
        rows: The objects of the page as clients see them.
        has_more: Whether others follow.
        ids: Whether this list names its first and last object.
    """
    # OpenAI's schema takes no null there.
    ends = (rows[0]["id"], rows[-1]["id"]) if rows else ("", "")
    named = {"first_id": ends[0], "last_id": ends[1]} if ids else {}
    return {"object": "list", "data": list(rows), **named, "has_more": has_more}
