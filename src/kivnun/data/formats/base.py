"""The seam of data formats: how a row of one shape becomes a `Conversation`, and back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kivnun.data.conversation import Conversation
from kivnun.data.rows import Row


@dataclass(frozen=True)
class Format:
    """One shape of rows.

    Attributes:
        name: What `--to` and `--from` call it.
        summary: What a row looks like, on one line.
        recognise: Why some fields look like this format ("has `messages` with `role` and `content`"), or None.
        read: A row as a conversation. Raises `RowError` with everything that is wrong with it.
        write: A conversation as a row that `read` turns into the same conversation again. Raises `RowError` with code
            `format-loss` for whatever the format cannot hold. None where the format is only read.
    """

    name: str
    summary: str
    recognise: Callable[[Mapping[str, object]], str | None]
    read: Callable[[Row], Conversation]
    write: Callable[[Conversation], dict[str, object]] | None = None
