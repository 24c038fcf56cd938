"""The seam between a model in memory and the scheduler that serves many answers at once: rows that begin and end alone.

An `Engine` answers a list of prompts and is done. A `RowModel` is the same model as a server needs it: each row is one
answer in the making; it begins when a client asks, takes part in the common step, and ends without the others noticing.
What a row computes must not depend on the rows beside it, beyond rounding.

Shapes: B rows of a step, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Row(Protocol):
    """One answer in the making; only its model looks inside.

    Attributes:
        num_tokens: How many tokens its cache holds.
        adapter: What it answers with; None for the model itself.
    """

    num_tokens: int
    adapter: str | None


class Prefix(Protocol):
    """What a model computed for some tokens of a row that stand side by side, kept to begin other rows with.

    Attributes:
        num_tokens: How many tokens.
        num_bytes: Of memory.
    """

    num_tokens: int
    num_bytes: int


class RowModel(Protocol):
    """A model that computes many answers side by side. Not thread-safe: one thread at a time calls it.

    Attributes:
        name: Shown in errors and reports.
    """

    name: str

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together; None for no limit."""
        ...

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that rows may name."""
        ...

    @property
    def num_bytes(self) -> int:
        """Memory that weights and adapters take; rows come on top."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """Memory that a row's cache takes for each token."""
        ...

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        """For how many tokens rows that step side by side take memory, padding included.

        Args:
            lengths: Of the rows, in tokens.
        """
        ...

    def add_adapter(self, name: str, source: str) -> None:
        """Make an adapter usable, without stopping rows of others.

        Args:
            name: What rows call it.
            source: Folder that it is read from.

        Raises:
            UserError: adapter-invalid, adapter-taken.
        """
        ...

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter that no row uses.

        Raises:
            UserError: adapter-unknown.
        """
        ...

    def begin(self, *, adapter: str | None = None, kept: Sequence[Prefix] = ()) -> Row:
        """An empty row, or one that begins with what others computed with the same adapter.

        Args:
            adapter: What it answers with.
            kept: By `keep` of this very model, the first from token 0 and each from where the one before it stops.

        Raises:
            UserError: adapter-unknown.
        """
        ...

    def feed(self, row: Row, token_ids: Sequence[int], *, every: bool = False) -> NDArray[np.float32]:
        """Append tokens of the prompt to a row, at once; a long prompt comes in several calls.

        Args:
            row: Takes part in no step yet.
            token_ids: One or more.
            every: Whether to give the logits after each of them.

        Returns:
            Finite logits after the last of them, shape (V,), or after each, shape (tokens, V).

        Raises:
            UserError: logits-not-finite.
        """
        ...

    def step(self, rows: Sequence[Row], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append one token to each of some rows.

        Args:
            rows: B of them, each fed or begun with what was kept, mixed in adapters and lengths; others wait.
            tokens: One each.

        Returns:
            Logits after each of them, shape (B, V); a row whose logits are not finite is the caller's to end.
        """
        ...

    def keep(self, row: Row, start: int, stop: int) -> Prefix:
        """A copy of what was computed for the tokens from `start` to before `stop` of a row.

        Args:
            row: Takes part in no step yet.
            start: Its first token.
            stop: Where they end; the row holds at least so many tokens.
        """
        ...

    def end(self, row: Row) -> None:
        """Give a row's memory free."""
        ...
